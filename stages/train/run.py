"""Training: every head of the settings, once per seed, over cached features.

No photo is opened and no backbone runs: features come from the store, in one read per set of blocks. A head with a grid
is the best of its candidates, which never see the split that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages import device as devices
from stages import predictions as prediction_files
from stages.errors import SettingError
from stages.heads.shares import require_shares
from stages.ledger import Ledger
from stages.predictions import Predictions
from stages.progress import counter
from stages.tables import write_csv
from stages.train import attention as attention_files
from stages.train import choosing
from stages.train.answering import Answered, answers_of
from stages.train.choosing import NO_CHOICE, Choice
from stages.train.features import HELD_BYTES, Features
from stages.train.held_out import SeenBlocks
from stages.train.models import HeadModel, save_head
from stages.train.overlaps import overlapping, require_none, require_trainable, trained_by_some
from stages.train.population.processes import Processes
from stages.train.prepared import Prepared, need_two_classes, prepare, shared
from stages.train.settings import HeadSettings, TrainSettings
from stages.train.sources import Inputs, blocks_of, check, used, weights_of
from stages.train.starts import HeadStart, read_start, require_starts_held_out
from stages.train.tasks import Task
from stages.train.timing import expected, number_of_processes
from stages.train.training import Job, Trained, require_finite, train_jobs
from stages.whole import replaced

FOLDERS = ("predictions/heads", "predictions/folds", "attention/heads", "models/heads", "candidates/heads")
"""What the stage writes, under `artifacts`."""

FOLD_COLUMNS = ("head", "sample_id", "fold")
"""Of `predictions/folds/folds.csv`: without which of the folds a sample was answered; -1: it never was held out."""

LEFT_OUT = "left out"
"""What the samples of split train that a head leaves out are called in its accuracies."""

MANY, LONG = 500, 30.0
"""So many heads, or so many seconds of training, are said before it begins."""


@dataclass(frozen=True)
class TrainedHead:
    """A line of the stage's summary.

    Attributes:
        name: `HEAD-sSEED`.
        head: its name without the seed.
        loss: mean training loss of the last epoch.
        epoch: whose weights it has, counted from 1, where it could stop early; None: the last one's.
        accuracy: split -> share of right answers among its samples of one label that have features; but for split
            train without those that a fine-tune behind the features has seen. None of a head of several labels. Samples
            of split train that `leave_out` keeps from training are a split of their own here, `LEFT_OUT`, without
            those that share a group or a file with a training sample.
        left_out: split -> how many of those there are, and of how many samples; splits without any are not in it.
        choice: of a head with a grid: what was tried.
    """

    name: str
    head: str
    loss: float
    accuracy: dict[str, float]
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)
    choice: Choice | None = None
    epoch: int | None = None


def run(
    inputs: Inputs,
    settings: TrainSettings,
    artifacts: Path,
    ledger: Ledger,
    judged: str = "test",
    processes: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[TrainedHead]:
    """Train all heads; write their predictions, attention, candidates and model folders under `artifacts`.

    What an earlier run wrote there stays until all is trained.

    Args:
        judged: the split that `evaluate` scores, of which no fine-tune behind the features may have seen a sample.
        processes: that train, each on one thread; None: one, and one for each core where that is worth it. Results
            do not depend on it.
        say: is told how many heads there are and how long they will take, where they are many.

    Raises:
        SettingError: a head asks for a role or tap that is not extracted, for imported features that the settings do
            not name, or a kind that does not exist; it has no features of a level that it reads, or some of one that it
            does not; its loss is not finite; or candidates would be chosen by what is reported.
        DataError: fewer than two classes in the training split, or no face where a head reads nothing else; a loss of
            shares, and no training sample with any; a fine-tune has seen samples of `judged`, or of what is held out;
            or training and judged samples share groups; or a head leaves out all training samples.
        MissingInputError: features that are not cached or not imported, or of a fine-tune of which it is not known what
            it has seen; the message names the command.
        WeightsError: a fine-tune that a head starts from is damaged.
    """
    settings.require_apart(judged)
    device = devices.resolve(settings.device)
    devices.require("train", device)
    tasks = _tasks(inputs, settings, ledger, judged)
    jobs = [job for task in tasks for job in (*task.tries(settings.choose), *task.finals(), *task.folded())]
    classes = tuple(inputs.manifest.classes)
    took = expected(jobs, classes, device, MANY)
    number = number_of_processes(len(jobs), device, processes, took)
    if took is not None and (len(jobs) >= MANY or took / number > LONG):
        where = f"{number} process" + ("es" if number > 1 else "")
        say(f"train: {len(jobs)} heads ({_made_of(tasks, settings)}): about {_duration(took / number)} in {where}")
    with (
        replaced(artifacts, FOLDERS) as out,
        Processes(number) as workers,
        counter(total=len(jobs), desc="train", unit="head") as bar,
    ):

        def trained(some: list[Job]) -> Iterator[Trained]:
            for one in train_jobs(some, classes, device, workers):
                yield one
                bar.update()

        for task in tasks:
            task.choose(trained, settings.choose, classes)
        by_name = {task.name: task for task in tasks}
        lines: dict[tuple[str, int], TrainedHead] = {}
        for one in trained([job for task in tasks for job in task.finals()]):
            # written now: all heads of many tasks would not fit in memory
            require_finite(one)
            lines[one.job.head, one.job.seed] = _finish(inputs, one, by_name[one.job.head], classes, out)
        for task in tasks:
            choosing.write(out / "candidates" / "heads" / f"{task.name}.csv", task.choice or NO_CHOICE)
            if task.folds is not None:
                _write_folded(out, task, trained(task.folded()), classes)
        write_csv(out / "predictions" / "folds" / "folds.csv", FOLD_COLUMNS, _folds(tasks))
    return [lines[task.name, seed] for task in tasks for seed in settings.seeds]


def _tasks(inputs: Inputs, settings: TrainSettings, ledger: Ledger, judged: str) -> list[Task]:
    """Every head with its features at hand; what cannot be trained is refused before any is read, where possible."""
    blocks = blocks_of(inputs, settings)
    every = {name: _candidates(name, head) for name, head in settings.heads.items()}
    for name, candidates in every.items():
        for candidate in candidates:
            check(name, candidate, blocks, inputs.extract.views)
    seen = SeenBlocks(inputs.store, blocks, inputs.extract)
    seen.require_held_out(settings.heads, inputs.manifest.samples, judged)
    require_trainable(inputs.manifest.samples, settings.heads)
    overlap = overlapping(inputs.manifest.samples, settings.judging(judged))
    if settings.overlap == "refuse":
        require_none(trained_by_some(inputs.manifest.samples, overlap, settings.heads))
    classes = tuple(inputs.manifest.classes)
    need_two_classes({label for s in inputs.manifest if s.split == "train" for label in s.labels}, "labels")
    distinct = {shared(one): one for candidates in every.values() for one in candidates}
    held = HELD_BYTES // max(len(distinct), 1)
    ready = {of: prepare(inputs, head, blocks, seen, classes, overlap, ledger, held) for of, head in distinct.items()}
    for name, candidates in every.items():
        for of in {shared(one): one for one in candidates if one.loss.kind == "soft"}:
            training = [ready[of].features.samples[i] for i in ready[of].rows]
            require_shares(training, classes, f"train.heads.{name}.loss.kind is soft")
    starts = {name: _start(inputs, name, candidates, ready, classes) for name, candidates in every.items()}
    require_starts_held_out(starts, inputs.manifest.samples, judged)
    return [
        Task(name, head, every[name], settings.seeds, settings.folds, ready, starts[name])
        for name, head in settings.heads.items()
    ]


def _candidates(name: str, head: HeadSettings) -> list[HeadSettings]:
    """The settings of every candidate.

    Raises:
        SettingError: values of the grid do not go together.
    """
    try:
        return [head.candidate(values) for values in head.chosen()]
    except ValueError as error:
        raise SettingError(f"train.heads.{name}.{error}: values of its grid do not go together") from None


def _start(
    inputs: Inputs,
    name: str,
    candidates: Sequence[HeadSettings],
    ready: Mapping[tuple[object, ...], Prepared],
    classes: tuple[str, ...],
) -> HeadStart | None:
    """What all candidates of a head start from, see `read_start`; it must fit each of them."""
    if candidates[0].start is None:
        return None
    shaped = {(one.kind, repr(one.options), shared(one)): one for one in candidates}
    found = [read_start(name, one, inputs.finetunes, ready[shared(one)].shapes, classes) for one in shaped.values()]
    return found[0]


def _made_of(tasks: list[Task], settings: TrainSettings) -> str:
    candidates = sum(len(task.candidates) for task in tasks)
    return f"{candidates} candidates, {len(settings.seeds)} seeds"


def _duration(took: float) -> str:
    return f"{took:.0f} s" if took < 100 else f"{took / 60:.0f} min" if took < 6000 else f"{took / 3600:.1f} h"


def _finish(inputs: Inputs, trained: Trained, task: Task, classes: tuple[str, ...], artifacts: Path) -> TrainedHead:
    """Answer all samples, and write what a head leaves."""
    job, ready = trained.job, task.ready
    name = f"{job.head}-s{job.seed}"
    probabilities, said = answers_of(trained.module, ready.features, job.settings.loss.several, ready.mirrored)
    seen = ready.seen if task.start is None else ready.seen | task.start.has_seen(ready.features.samples)
    every = np.arange(len(ready.features))
    path = artifacts / "predictions" / "heads" / f"{name}.csv"
    prediction_files.write(path, _predictions(job, ready, every, classes, probabilities, seen))
    attention_files.write(artifacts / "attention" / "heads" / f"{name}.csv", _attention_rows(ready.features, said))
    if said.looks is not None:
        ids = [s.sample_id for s in ready.features.samples]
        attention_files.write_looks(artifacts / "attention" / "heads" / f"{name}.safetensors", ids, said.looks)
    model = HeadModel(
        name=name,
        classes=classes,
        settings=job.settings,
        seed=job.seed,
        detect=inputs.detect,
        extract=used(inputs, job.settings),
        weights=weights_of(inputs, job.settings),
        shapes=ready.shapes,
        scales=ready.scales,
        head=trained.module,
        input_scales=ready.input_scales,
    )
    save_head(artifacts / "models" / "heads" / name, model)
    right = {} if job.settings.loss.several else _accuracy(probabilities, ready, seen)
    loss, left_out = trained.outcome.losses[-1], _left_out(ready, seen)
    epoch = trained.outcome.best + 1 if job.settings.patience is not None else None
    return TrainedHead(name, task.name, loss, right, left_out, task.choice, epoch)


def _write_folded(artifacts: Path, task: Task, trained: Iterable[Trained], classes: tuple[str, ...]) -> None:
    """Answers to training samples by heads that have not seen them, a file for each seed."""
    ready, several = task.ready, task.settings.loss.several
    values = {seed: np.empty((len(ready.features), len(classes))) for seed in task.seeds}
    for one in trained:
        require_finite(one)
        if (held := one.job.held_out) is not None:
            values[one.job.seed][held] = answers_of(one.module, ready.features, several, ready.mirrored, held)[0]
    answered, none = ready.rows[task.fold_of >= 0], np.zeros(len(ready.features), np.bool_)
    for seed in task.seeds:
        mine = Job(task.name, task.best, task.settings, seed, ready, ready.rows)
        found = _predictions(mine, ready, answered, classes, values[seed][answered], none)
        prediction_files.write(artifacts / "predictions" / "folds" / f"{task.name}-s{seed}.csv", found)


def _folds(tasks: list[Task]) -> Iterator[tuple[str, str, int]]:
    for task in tasks:
        if task.folds is not None:
            for row, fold in zip(task.ready.rows.tolist(), task.fold_of.tolist(), strict=True):
                yield task.name, task.ready.features.samples[row].sample_id, fold


def _accuracy(probabilities: np.ndarray, ready: Prepared, seen: np.ndarray) -> dict[str, float]:
    """See `TrainedHead`."""
    hits = probabilities.argmax(1) == ready.labels
    found: dict[str, float] = {}
    for split, mine in _splits(ready).items():
        counted = mine & ~(seen & (split != "train"))
        if counted.any():
            found[split] = float(hits[counted].mean())
    return found


def _left_out(ready: Prepared, seen: np.ndarray) -> dict[str, tuple[int, int]]:
    """See `TrainedHead`."""
    found: dict[str, tuple[int, int]] = {}
    for split, mine in _splits(ready).items():
        if split != "train" and (mine & seen).any():
            found[split] = int((mine & seen).sum()), int(mine.sum())
    return found


def _splits(ready: Prepared) -> dict[str, np.ndarray]:
    """Split, or `LEFT_OUT` -> which of the samples of one label are its own, (n,) bool."""
    labelled = ready.labels >= 0
    names = map(str, np.unique(ready.splits[labelled]))
    found = {split: labelled & (ready.splits == split) & ~ready.left_out for split in names}
    return {split: mine for split, mine in (found | {LEFT_OUT: labelled & ready.apart}).items() if mine.any()}


def _predictions(
    job: Job, ready: Prepared, rows: np.ndarray, classes: tuple[str, ...], probabilities: np.ndarray, seen: np.ndarray
) -> Predictions:
    """Of the samples at `rows`, to which the probabilities are; `seen` is of all samples."""
    samples = [ready.features.samples[i] for i in rows]
    return Predictions(
        name=f"{job.head}-s{job.seed}",
        kind="head",
        head=job.head,
        seed=job.seed,
        sample_ids=tuple(s.sample_id for s in samples),
        splits=tuple(s.split for s in samples),
        labels=tuple(s.labels for s in samples),
        classes=classes,
        probabilities=probabilities,
        seen=seen[rows],
        several=job.settings.loss.several,
    )


def _attention_rows(features: Features, said: Answered) -> Iterator[attention_files.Row]:
    owner = np.repeat(np.arange(len(features)), np.diff(features.offsets))
    for i, (frame, face), weight in zip(owner.tolist(), features.places.tolist(), said.attention.tolist(), strict=True):
        yield features.samples[i].sample_id, frame, face, weight
