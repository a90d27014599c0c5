"""A head of the settings on its way: its candidates, the one that is chosen, and what is to be trained for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stages.errors import DataError, SettingError
from stages.heads.losses import targets_of
from stages.index.folds import folds_of
from stages.train.answering import answers_of
from stages.train.choosing import Choice, Tried, best_of, score_name
from stages.train.judging import judge
from stages.train.prepared import Prepared, shared
from stages.train.settings import ChooseSettings, HeadSettings
from stages.train.starts import HeadStart
from stages.train.training import Job, Trained


@dataclass
class Task:
    """One head.

    Attributes:
        name: of the head.
        head: its settings.
        candidates: the settings of each; one without a grid.
        seeds: it is trained once for each.
        folds: it is trained without each of so many folds as well; None: it is not.
        features: by what heads share.
        start: what it starts from; None: weights of its own.
        best: number of the candidate that it is; 0 until it is chosen.
        choice: how that came about; None: there was nothing to choose.
    """

    name: str
    head: HeadSettings
    candidates: Sequence[HeadSettings]
    seeds: Sequence[int]
    folds: int | None
    features: Mapping[tuple[object, ...], Prepared]
    start: HeadStart | None = None
    best: int = 0
    choice: Choice | None = field(default=None)
    _kept: dict[object, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def settings(self) -> HeadSettings:
        """Of the candidate that it is."""
        return self.candidates[self.best]

    @property
    def ready(self) -> Prepared:
        """Its features."""
        return self.features[shared(self.settings)]

    @property
    def fold_of(self) -> np.ndarray:
        """The fold of each training sample, below 0 of one that is never held out, in the order of `ready.rows`."""
        return self._folds(self.ready, self.folds or 2)

    def finals(self) -> list[Job]:
        """The head itself, trained on the whole training split."""
        return [self._job(self.best, seed, self.ready.rows, None) for seed in self.seeds]

    def folded(self) -> list[Job]:
        """The head without each of its folds."""
        if self.folds is None:
            return []
        return [job for seed in self.seeds for job in self._without(self.best, seed, self.folds)]

    def tries(self, settings: ChooseSettings) -> list[Job]:
        """Every candidate, where there are several.

        Raises:
            DataError: there is nothing to judge them by.
            SettingError: nothing to compare them by.
        """
        if len(self.candidates) == 1:
            return []
        self._score(settings)
        jobs: list[Job] = []
        for number, candidate in enumerate(self.candidates):
            ready = self.features[shared(candidate)]
            for seed in self.seeds:
                if settings.by == "folds":
                    jobs += self._without(number, seed, settings.folds, compared=True)
                else:
                    jobs.append(self._job(number, seed, ready.rows, self._val(ready, candidate, "grid")))
        return jobs

    def choose(
        self, train: Callable[[list[Job]], Iterable[Trained]], settings: ChooseSettings, classes: Sequence[str]
    ) -> None:
        """Train every candidate, and take the best.

        Raises:
            SettingError: training broke down for all of them.
        """
        jobs = self.tries(settings)
        if not jobs:
            return
        score = self._score(settings)
        tried, judged = [Tried(values) for values in self.head.chosen()], set[str]()
        for one in train(jobs):
            job, mine = one.job, tried[one.job.candidate]
            samples, loss = job.ready.features.samples, job.settings.loss
            rows = np.empty(0, np.int64) if job.held_out is None else job.held_out
            targets = targets_of([samples[i].labels for i in rows], classes, loss)
            answers, said = answers_of(one.module, job.ready.features, loss.several, job.ready.mirrored, rows)
            found, value = judge(score, answers, targets, said.logits, loss)
            mine.scores.append(found)
            mine.losses.append(value)
            judged.update(samples[i].sample_id for i in rows)
        self.best = best_of(self.name, tried, score, by_loss=not self.head.loss.several or len(self._losses) == 1)
        where = "split val" if settings.by == "val" else f"{settings.folds} folds of split train"
        self.choice = Choice(tried, self.best, score, where, len(judged))

    @property
    def _losses(self) -> set[str]:
        return {candidate.loss.kind for candidate in self.candidates}

    def _score(self, settings: ChooseSettings) -> str:
        return score_name(self.name, settings, self.head.loss.several, self._losses)

    @cached_property
    def _common(self) -> set[str] | None:
        """Ids of the samples that all candidates have the features of; None: they have them of the same."""
        every = {id(self.features[of]): self.features[of] for of in map(shared, self.candidates)}
        ids = [{sample.sample_id for sample in ready.features.samples} for ready in every.values()]
        return None if all(one == ids[0] for one in ids) else set.intersection(*ids)

    def _comparable(self, ready: Prepared, rows: np.ndarray) -> np.ndarray:
        """Those of the rows by which any candidate can be judged."""
        common = self._common
        if common is None:
            return rows
        return np.array([row for row in rows if ready.features.samples[row].sample_id in common], np.int64)

    def _seen(self, ready: Prepared) -> np.ndarray:
        """(n,) bool, which samples a fine-tune has seen: one behind the features, or that the head starts from."""
        if self.start is None:
            return ready.seen
        if ("seen", id(ready)) not in self._kept:
            self._kept["seen", id(ready)] = ready.seen | self.start.has_seen(ready.features.samples)
        return self._kept["seen", id(ready)]

    def _job(self, number: int, seed: int, rows: np.ndarray, held_out: np.ndarray | None) -> Job:
        settings = self.candidates[number]
        ready = self.features[shared(settings)]
        stops = self._val(ready, settings, "patience") if settings.patience is not None else None
        return Job(self.name, number, settings, seed, ready, rows, held_out, self.start, stops)

    def _without(self, number: int, seed: int, count: int, compared: bool = False) -> list[Job]:
        """A candidate without each of the folds; `compared`: judged by what every candidate can answer.

        Raises:
            DataError: a fine-tune behind the features, or the one the head starts from, has seen what is held out.
        """
        ready = self.features[shared(self.candidates[number])]
        folds, seen = self._folds(ready, count), self._seen(ready)
        jobs = []
        for fold in range(count):
            held = ready.rows[folds == fold]
            if seen[held].any():
                first = ready.features.samples[held[seen[held]][0]].sample_id
                raise DataError(
                    f"train.heads.{self.name}: fold {fold} of {count} would be held out, and a fine-tune that the head "
                    f"stands on has seen {int(seen[held].sum())} of its {len(held)} samples (first {first}): use "
                    "train.choose.by: val, leave train.folds out, or read features that have not seen them"
                )
            if compared and not len(held := self._comparable(ready, held)):
                raise DataError(
                    f"train.heads.{self.name}.grid: no sample of fold {fold} of {count} has the features of every "
                    "candidate; make a head of each, or use fewer folds"
                )
            jobs.append(self._job(number, seed, ready.rows[folds != fold], held))
        return jobs

    def _folds(self, ready: Prepared, count: int) -> np.ndarray:
        """The folds of its training samples, see `fold_of`.

        Raises:
            SettingError: there are fewer groups than folds.
        """
        if ("folds", id(ready), count) not in self._kept:
            try:
                found = np.array(folds_of([ready.features.samples[i] for i in ready.rows], count))
            except SettingError as error:
                raise SettingError(f"train.heads.{self.name}: {error} (train.folds, train.choose.folds)") from None
            self._kept["folds", id(ready), count] = found
        return self._kept["folds", id(ready), count]

    def _val(self, ready: Prepared, candidate: HeadSettings, what: str) -> np.ndarray:
        """Samples of split val that `what`, `grid` or `patience`, looks at."""
        several = candidate.loss.several
        if ("val", id(ready), several, what) not in self._kept:
            rows = np.flatnonzero((ready.splits == "val") & ready.labelled(several) & ~self._seen(ready))
            self._kept["val", id(ready), several, what] = self._comparable(ready, rows) if what == "grid" else rows
        rows = self._kept["val", id(ready), several, what]
        if not len(rows):
            use = "use train.choose.by: folds" if what == "grid" else "leave it out"
            every = " of which every candidate has the features and" if self._common is not None else ""
            raise DataError(
                f"train.heads.{self.name}.{what} chooses by split val, which has no labelled sample{every} that no "
                f"fine-tune has seen: give it some, or {use}"
            )
        return rows
