"""Heads that are to be trained, in populations: those that can be stacked are trained together.

Large grids do not fit in memory as modules: jobs are trained some at a time, and handed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from stages.errors import SettingError
from stages.finetune.settings import ScheduleSettings
from stages.heads import registry
from stages.heads.batch import HeadBatch
from stages.heads.losses import chances, loss_of, sample_weights, targets_of
from stages.heads.shares import share_targets
from stages.train.answering import BATCH, one_thread
from stages.train.features import Features
from stages.train.models import build_head
from stages.train.population.engine import together, train_population
from stages.train.population.members import Member, Outcome, Plan
from stages.train.population.processes import Processes
from stages.train.prepared import Prepared, plain
from stages.train.settings import HeadSettings
from stages.train.starts import HeadStart

PARAMETERS = 1 << 26
"""Of all heads that are in memory at once; of one candidate's seeds all are."""

_SHARES = 4
"""In how many blocks a population is cut at least, so that it can be shared out. The blocks are the same for every
number of processes: who is trained beside a member changes its last digits."""


@dataclass(frozen=True)
class Job:
    """One head to train.

    Attributes:
        head: its name.
        candidate: its number in the head's grid, from 0.
        settings: the candidate's.
        seed: of its weights, shuffles, views and dropout.
        ready: its features.
        rows: positions of its training samples.
        held_out: positions of the samples that it is to answer, if not all.
        start: what it starts from; None: weights of its own.
        stops: positions of the samples that its `patience` looks at; None: it has none.
    """

    head: str
    candidate: int
    settings: HeadSettings
    seed: int
    ready: Prepared
    rows: np.ndarray
    held_out: np.ndarray | None = None
    start: HeadStart | None = None
    stops: np.ndarray | None = None


class Trained(NamedTuple):
    """A job that is done: its head, in eval mode, and its losses."""

    job: Job
    module: nn.Module
    outcome: Outcome


def schedule_of(head: HeadSettings) -> tuple[int, ScheduleSettings]:
    """Epochs, and how the learning rate falls: as its paper has it where the settings leave it open."""
    module, variant = registry.find(head.kind)
    paper = module.SCHEDULES[variant]
    steps = ScheduleSettings(kind="steps", every=head.step or paper["step"], gamma=head.gamma)
    if head.gamma == 1:
        steps = ScheduleSettings()
    return head.epochs or paper["epochs"], head.schedule or steps


def train_jobs(
    jobs: Sequence[Job], classes: Sequence[str], device: Literal["cpu", "cuda"], processes: Processes
) -> Iterator[Trained]:
    """Train every job; those of one candidate follow each other.

    Raises:
        SettingError: a head is given what it cannot read.
        TrainingProcessError: a process died.
    """
    for some in kinds(jobs):
        ordered = sorted(some, key=lambda job: (job.head, job.candidate))
        for part in _parts(ordered, classes):
            yield from train_alike(part, classes, device, processes)


def kinds(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs of each population: what they have in common is the same. In the order of the first job of each."""
    found: dict[tuple[tuple[str, ...], int], list[Job]] = {}
    for job in jobs:  # not sorted: where features lie in memory is another place each time
        found.setdefault((_kind(job.settings), id(job.ready)), []).append(job)
    return list(found.values())


def _kind(settings: HeadSettings) -> tuple[str, ...]:
    """What heads of one population have in common beside their features, as text."""
    parts = (
        *(settings.kind, sorted(settings.options.items()), settings.dropout, settings.batch_size, settings.optimiser),
        *(settings.momentum, settings.loss.model_dump_json(), settings.views),
    )
    return tuple(map(str, parts))


def _parts(jobs: Sequence[Job], classes: Sequence[str]) -> Iterator[list[Job]]:
    """Jobs of one kind in parts that fit in memory, those of one candidate in one part."""
    size = max(_size(jobs[0], classes), 1)
    part: list[Job] = []
    for _, some in groupby(jobs, key=lambda job: (job.head, job.candidate)):
        candidate = list(some)
        if part and (len(part) + len(candidate)) * size > PARAMETERS:
            yield part
            part = []
        part += candidate
    yield part


def _size(job: Job, classes: Sequence[str]) -> int:
    """Parameters of its head."""
    with torch.device("meta"):
        head = build_head(job.settings, job.ready.shapes, len(classes))
    return sum(parameter.numel() for parameter in head.parameters())


def number_together(jobs: Sequence[Job], classes: Sequence[str], device: str) -> int:
    """How many are trained at once: fewer where there are few, so that several processes have something to do."""
    if registry.alone(jobs[0].settings.kind) or registry.fitter(jobs[0].settings.kind) is not None:
        return 1
    with torch.device("meta"):
        most = together(build_head(jobs[0].settings, jobs[0].ready.shapes, len(classes)), device)
    return max(min(most, -(-len(jobs) // _SHARES)), min(most, 4)) if device == "cpu" else most


def train_alike(
    jobs: Sequence[Job], classes: Sequence[str], device: Literal["cpu", "cuda"], processes: Processes
) -> list[Trained]:
    """Train jobs of one of `kinds`."""
    modules = [_built(job, classes) for job in jobs]
    first = jobs[0]
    if (fit := registry.fitter(first.settings.kind)) is not None:
        fitted = zip(jobs, modules, strict=True)
        return [Trained(job, module, _fitted(fit, job, module, classes)) for job, module in fitted]
    plan = Plan(
        batch_size=first.settings.batch_size,
        optimiser=first.settings.optimiser,
        momentum=first.settings.momentum,
        loss=loss_of(first.settings.loss),
        device=device,
        together=number_together(jobs, classes, device),
        alone=registry.alone(first.settings.kind),
    )
    features = first.ready.features if first.settings.views == "drawn" else plain(first.ready.features)
    if first.settings.loss.kind == "soft":
        targets = share_targets(features.samples, classes)
    else:
        targets = targets_of([s.labels for s in features.samples], classes, first.settings.loss)
    members = [_member(job, module, len(classes)) for job, module in zip(jobs, modules, strict=True)]
    outcomes = train_population(members, features, targets, plan, processes)
    return [Trained(*one) for one in zip(jobs, modules, outcomes, strict=True)]


def _built(job: Job, classes: Sequence[str]) -> nn.Module:
    torch.manual_seed(job.seed)
    head = build_head(job.settings, job.ready.shapes, len(classes))
    if job.start is not None:
        job.start.fill(head)
    return head


def _member(job: Job, module: nn.Module, classes: int) -> Member:
    settings, labels = job.settings, job.ready.labels
    epochs, schedule = schedule_of(settings)
    weights = None
    if settings.class_weights == "balanced":
        weights = np.ones(len(labels), np.float32)
        weights[job.rows] = sample_weights(labels[job.rows], classes)
    return Member(
        head=module,
        seed=job.seed,
        learning_rate=settings.learning_rate,
        rows=job.rows,
        epochs=epochs,
        schedule=schedule,
        weight_decay=settings.weight_decay,
        judged=job.stops,
        patience=settings.patience,
        weights=weights,
        chances=chances(labels[job.rows], classes) if settings.sampling == "balanced" else None,
    )


def _fitted(fit: registry.Fitter, job: Job, module: nn.Module, classes: Sequence[str]) -> Outcome:
    """Train a head whose file has a way of its own."""
    settings, labels = job.settings, job.ready.labels[job.rows]
    weights = None
    if settings.class_weights == "balanced":
        weights = torch.from_numpy(sample_weights(labels, len(classes)))
    options = registry.options_of(settings.kind, settings.options)
    with one_thread():
        batches = batches_of(plain(job.ready.features), job.rows)
        loss = fit(module, batches, torch.from_numpy(labels), weights, options, job.seed)
    return Outcome([loss], [], 0)


def batches_of(features: Features, rows: np.ndarray) -> Iterator[HeadBatch]:
    """Samples at positions `rows` in their order, a few at a time, for heads that are solved at once."""
    return (features.batch(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))


def require_finite(trained: Trained) -> None:
    """Refuse a head whose training did not go well.

    Raises:
        SettingError: names it and the epoch.
    """
    losses, job = trained.outcome.losses, trained.job
    if not np.isfinite(losses).all():
        epoch = int(np.argmin(np.isfinite(losses))) + 1
        rate = f"learning_rate ({job.settings.learning_rate:g})"
        raise SettingError(
            f"train.heads: the loss of {job.head}-s{job.seed} is {losses[epoch - 1]} in epoch {epoch}; lower its {rate}"
        )
