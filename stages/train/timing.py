"""How long training will take, and in how many processes it is worth it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from stages.errors import KuleshovError
from stages.heads import registry
from stages.train.population.processes import Processes
from stages.train.training import Job, kinds, number_together, schedule_of, train_alike

PROBED = 8
"""Steps that tell how long training will take."""

PROBE_SECONDS = 5.0
"""After so long no other heads are tried, but taken to be as fast as those that were."""

SLOW = 1.0
"""Seconds of a step of two samples that are enough to tell."""

MANY_SECONDS = 20.0
"""Training that takes longer is worth the two to four seconds that other processes need to start."""

_SURELY_QUICK = 500_000
"""Samples that all heads together see in less than that, unless they read maps or pixels."""

_FITTED_ROWS = 256
"""Samples of a step of a head that is solved at once, which has none."""


def seconds(jobs: Sequence[Job], classes: Sequence[str], device: Literal["cpu", "cuda"]) -> float:
    """About how long `train_jobs` will take in one process, from some steps of copies of some heads.

    Takes some seconds itself, however many heads there are.
    """
    alike: dict[tuple[object, ...], list[list[Job]]] = {}
    for some in kinds(jobs):
        alike.setdefault(_like(some[0]), []).append(some)
    work = {of: float(sum(_asked(job) for some in groups for job in some)) for of, groups in alike.items()}
    start, rates = time.perf_counter(), dict[tuple[object, ...], float]()
    for of in sorted(alike, key=lambda of: -work[of]):
        if not rates or time.perf_counter() - start < PROBE_SECONDS:
            largest = max(alike[of], key=len)
            rate = _rate(largest[: number_together(largest, classes, device)], classes, device)
            if rate is not None:
                rates[of] = rate
    known = sum(work[of] for of in rates)
    mean = sum(work[of] * rate for of, rate in rates.items()) / known if known else 0.0
    return sum(amount * rates.get(of, mean) for of, amount in work.items())


def expected(jobs: Sequence[Job], classes: Sequence[str], device: Literal["cpu", "cuda"], many: int) -> float | None:
    """What `seconds` says; None: they are fewer than `many`, and surely quick."""
    large = any(registry.inputs_of(kind) for kind in {job.settings.kind for job in jobs})
    if len(jobs) < many and not large and sum(_asked(job) for job in jobs) < _SURELY_QUICK:
        return None
    return seconds(jobs, classes, device)


def number_of_processes(jobs: int, device: Literal["cpu", "cuda"], asked: int | None, took: float | None) -> int:
    """How many processes train: as many as are asked for, else one, and on a CPU as many as there are cores where one
    would need more than `MANY_SECONDS`.

    Args:
        jobs: how many there are.
        took: what `expected` says.
    """
    if asked is not None or device != "cpu":
        return asked or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if jobs > 1 and took is not None and took > MANY_SECONDS else 1


def _like(job: Job) -> tuple[object, ...]:
    """What decides on how long a sample takes."""
    settings = job.settings
    options = tuple(sorted(settings.options.items()))
    steps = (settings.batch_size, settings.optimiser, settings.loss.kind, settings.dropout > 0, settings.views)
    return settings.kind, options, steps, id(job.ready)


def _asked(job: Job) -> float:
    """Samples that a head sees in all of its epochs; those it is judged by are seen forward only, a third each."""
    judged = 0 if job.stops is None else len(job.stops)
    return schedule_of(job.settings)[0] * (len(job.rows) + judged / 3)


def _rate(jobs: Sequence[Job], classes: Sequence[str], device: Literal["cpu", "cuda"]) -> float | None:
    """Seconds of a sample and head; None: they cannot be trained on a few samples."""
    fitted = registry.fitter(jobs[0].settings.kind) is not None
    size = _FITTED_ROWS if fitted else jobs[0].settings.batch_size
    many = PROBED * size
    for rows, first in ((2, True), (2, False), (many, False)):  # the first time loads what later ones find loaded
        short = [_short(job, rows) for job in jobs]
        start = time.perf_counter()
        try:
            with Processes(1) as alone:
                train_alike(short, classes, device, alone)
        except KuleshovError:  # a solver that does not end, say: training will tell
            return None
        took = time.perf_counter() - start
        if rows == many or (took > SLOW and not first):
            return took / sum(len(job.rows) for job in short)
    return None


def _short(job: Job, number: int) -> Job:
    """A job of one epoch over a few samples, of all classes in their shares."""
    order = job.rows[np.argsort(job.ready.labels[job.rows], kind="stable")]
    rows = order[np.unique(np.linspace(0, len(order) - 1, min(max(number, 2), len(order))).round().astype(np.int64))]
    settings = job.settings.model_copy(update={"epochs": 1, "patience": None})
    return replace(job, rows=rows, settings=settings, stops=None)
