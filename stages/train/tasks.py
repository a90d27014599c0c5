"""A head of the settings on its way: its candidates, the one that is chosen, and what is to be trained for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.errors import DataError
from stages.heads.losses import targets_of
from stages.index.folds import folds_of
from stages.train.answering import answers_of
from stages.train.choosing import Choice, Tried, best_of, judge, score_name
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
        """
        if len(self.candidates) == 1:
            return []
        jobs: list[Job] = []
        for number, candidate in enumerate(self.candidates):
            ready = self.features[shared(candidate)]
            for seed in self.seeds:
                if settings.by == "folds":
                    jobs += self._without(number, seed, settings.folds)
                else:
                    jobs.append(self._job(number, seed, ready.rows, self._val(ready, candidate)))
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
        score = score_name(settings, self.head.loss.several)
        tried, judged = [Tried(values) for values in self.head.chosen()], set[int]()
        for one in train(jobs):
            job, mine = one.job, tried[one.job.candidate]
            features, several = job.ready.features, job.settings.loss.several
            rows = np.empty(0, np.int64) if job.held_out is None else job.held_out
            targets = targets_of([features.samples[i].labels for i in rows], classes, job.settings.loss)
            answers, _ = answers_of(one.module, features, several, job.ready.mirrored, rows)
            found, loss = judge(score, answers, targets)
            mine.scores.append(found)
            mine.losses.append(loss)
            judged.update(rows.tolist())
        self.best = best_of(self.name, tried, score)
        where = "split val" if settings.by == "val" else f"{settings.folds} folds of split train"
        self.choice = Choice(tried, self.best, score, where, len(judged))

    def _job(self, number: int, seed: int, rows: np.ndarray, held_out: np.ndarray | None) -> Job:
        settings = self.candidates[number]
        return Job(self.name, number, settings, seed, self.features[shared(settings)], rows, held_out, self.start)

    def _without(self, number: int, seed: int, count: int) -> list[Job]:
        """A candidate without each of the folds.

        Raises:
            DataError: a fine-tune behind the features, or the one the head starts from, has seen what is held out.
        """
        ready = self.features[shared(self.candidates[number])]
        folds = self._folds(ready, count)
        seen = ready.seen if self.start is None else ready.seen | self.start.has_seen(ready.features.samples)
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
            jobs.append(self._job(number, seed, ready.rows[folds != fold], held))
        return jobs

    def _folds(self, ready: Prepared, count: int) -> np.ndarray:
        return np.array(folds_of([ready.features.samples[i] for i in ready.rows], count))

    def _val(self, ready: Prepared, candidate: HeadSettings) -> np.ndarray:
        rows = ready.of_split("val", candidate.loss.several)
        if not len(rows):
            raise DataError(
                f"train.heads.{self.name}.grid is to be chosen by split val, which has no labelled sample that no "
                "fine-tune has seen: give it some, or use train.choose.by: folds"
            )
        return rows
