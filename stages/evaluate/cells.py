"""One number of a table: a score of one member, all of its seeds together, with its interval; and two of them paired.

Members are judged on the samples that every seed of them answers; of two members, on those that both answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from stages.errors import DataError
from stages.evaluate.precision import Precisions, mean_of, precisions
from stages.evaluate.scoring import units_of
from stages.evaluate.statistics import Bootstrap, Estimate, Floats, Ints, estimate, mean_correct, ratio, rounded
from stages.index.manifest import Manifest, Sample
from stages.predictions import Predictions, require_held_out

Metric = Literal["accuracy", "recall", "average_precision", "mean_average_precision"]


@dataclass(frozen=True)
class Question:
    """What is asked of a member.

    Attributes:
        split: of the samples.
        metric: `recall` and `average_precision` are of class `label`.
        label: see `metric`; None for the others.
        subset: only samples of it; None: all.
    """

    split: str
    metric: Metric
    label: str | None = None
    subset: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a member has.

    Attributes:
        value, low, high: fractions in [0, 1], the mean over seeds and its 95 % interval over samples or groups; None
            where not defined.
        n: samples.
        seeds: how many.
        sd: over seeds; None for one.
        constant: every sample has the same answer, whatever it shows.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    seeds: int
    sd: float | None
    constant: bool


@dataclass(frozen=True)
class Difference:
    """A score less another one, on the same samples: fractions in [-1, 1]; None where not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Judged:
    """A member's seeds on the samples of a question.

    Args:
        members: the seeds of one head or fine-tune, or an ensemble alone.
        manifest: whose labels and groups count.
        question: what is asked.

    Raises:
        DataError: it has seen samples of the split, or answers none of them, or lacks the class.
    """

    def __init__(self, members: Sequence[Predictions], manifest: Manifest, question: Question) -> None:
        self.members, self.question = members, question
        name = members[0].head
        for one in members:
            require_held_out(f"{name} in split {question.split}", one.sample_ids, one.splits, one.seen, question.split)
        shared = set.intersection(*(set(one.sample_ids) for one in members))
        several = question.metric.endswith("average_precision")
        self.samples: dict[str, Sample] = {
            one.sample_id: one
            for one in manifest
            if one.split == question.split
            and one.sample_id in shared
            and (question.subset is None or one.subset == question.subset)
            and (bool(one.labels) if several else len(one.labels) == 1)
            and (question.metric != "recall" or one.labels == (question.label,))
        }
        self.classes = members[0].classes
        if question.label is not None and question.label not in self.classes:
            raise DataError(f"{name} has no class {question.label!r}: it answers {', '.join(self.classes)}")
        if not self.samples:
            what = f"sample of class {question.label!r}" if question.metric == "recall" else "labelled sample"
            of_subset = "" if question.subset is None else f" of subset {question.subset!r}"
            raise DataError(f"{name} answers no {what}{of_subset} of split {question.split}")

    @cached_property
    def rows(self) -> list[Ints]:
        """Of each seed, the row of each sample."""
        places = [{name: row for row, name in enumerate(one.sample_ids)} for one in self.members]
        return [np.array([of[name] for name in self.samples], np.int64) for of in places]

    @cached_property
    def units(self) -> Ints:
        """What is resampled together."""
        return units_of(list(self.samples.values()))[0]

    def on(self, names: Iterable[str]) -> Judged:
        """The same on some of the samples, in the order of their names."""
        part = object.__new__(Judged)
        part.members, part.question, part.classes = self.members, self.question, self.classes
        part.samples = {name: self.samples[name] for name in names}
        return part

    def answers(self) -> list[Ints]:
        """Of each seed, the class of the highest probability of each sample."""
        return [one.probabilities[rows].argmax(axis=1) for one, rows in zip(self.members, self.rows, strict=True)]

    def hits(self) -> Ints:
        """How many seeds are right about each sample, int64 (n,)."""
        actual = [self.classes.index(s.labels[0]) if s.labels[0] in self.classes else -1 for s in self.samples.values()]
        return np.sum([found == np.array(actual) for found in self.answers()], axis=0).astype(np.int64)

    def of_seeds(self) -> list[float]:
        """The score of each seed."""
        if self.question.metric in ("accuracy", "recall"):
            alone = [self._alone(i).hits() for i in range(len(self.members))]
            return [float(found.mean()) for found in alone]
        return [self._value(one) for one in self._precisions(Bootstrap(self.units, 1, 0))]

    def _alone(self, seed: int) -> Judged:
        part = self.on(self.samples)
        part.members = [self.members[seed]]
        return part

    def _of_label(self, found: Precisions) -> tuple[float, Floats]:
        """The value and the draws of the class that is asked for."""
        column = self.classes.index(self.question.label or "")
        return float(found.values[column]), found.draws[:, column]

    def _value(self, found: Precisions) -> float:
        if self.question.label is not None:
            return self._of_label(found)[0]
        value = found.mean["value"]
        return float("nan") if value is None else float(value)

    def _precisions(self, bootstrap: Bootstrap) -> list[Precisions]:
        actual = np.array([[name in one.labels for name in self.classes] for one in self.samples.values()])
        scores = [one.probabilities[rows] for one, rows in zip(self.members, self.rows, strict=True)]
        return [precisions(actual, of, bootstrap) for of in scores]

    def precision(self, bootstrap: Bootstrap) -> Precisions:
        """Average precisions, the mean over seeds."""
        return mean_of(self._precisions(bootstrap))

    @property
    def constant(self) -> bool:
        """Whether every sample has the same answer: of one label the same class, of several the same scores. One sample
        alone does not tell."""
        if self.question.metric in ("accuracy", "recall"):
            return all(len(found) > 1 and len(np.unique(found)) == 1 for found in self.whole())
        parts = zip(self.members, self.rows, strict=True)
        return len(self.samples) > 1 and all(np.ptp(one.probabilities[rows], axis=0).max() == 0 for one, rows in parts)

    def whole(self) -> list[Ints]:
        """The answers to all samples of the split: those of one class may well be the same."""
        found = []
        for one in self.members:
            inside = np.array([split == self.question.split for split in one.splits])
            found.append(one.probabilities[inside].argmax(axis=1))
        return found


def ask(judged: Judged, resamples: int, seed: int = 0) -> Answer:
    """The score, with a bootstrap interval of `resamples` resamples."""
    bootstrap = Bootstrap(judged.units, resamples, seed)
    question, of = judged.question, len(judged.members)
    found: Estimate
    if question.metric in ("accuracy", "recall"):
        found = mean_correct(judged.hits(), of, bootstrap)
    else:
        all_of = judged.precision(bootstrap)
        found = all_of.mean if question.label is None else all_of.by_class(judged.classes)[question.label]
    values = judged.of_seeds()
    sd = rounded(float(np.std(values, ddof=1))) if of > 1 else None
    value, low, high = (None if (x := found[key]) is None else float(x) for key in ("value", "low", "high"))
    return Answer(value, low, high, len(judged.samples), of, sd, judged.constant)


def less(one: Judged, other: Judged, resamples: int, seed: int = 0) -> Difference:
    """A score less another, on the samples that both answer, resampled together.

    Raises:
        DataError: no sample has an answer of both, or what is asked of them differs.
    """
    if (one.question.metric, one.question.label) != (other.question.metric, other.question.label):
        raise DataError(f"{one.question} and {other.question} cannot be compared")
    both = set(one.samples) & set(other.samples)
    if not both:
        raise DataError(f"{one.members[0].head} and {other.members[0].head} answer no sample in common")
    one, other = one.on(sorted(both)), other.on(sorted(both))
    bootstrap = Bootstrap(one.units, resamples, seed)
    if one.question.metric in ("accuracy", "recall"):
        found = _gain(one.hits(), len(one.members), other.hits(), len(other.members), bootstrap)
    elif one.question.label is None:
        found = one.precision(bootstrap).over(other.precision(bootstrap))
    else:
        (a, drawn), (b, others) = (of._of_label(of.precision(bootstrap)) for of in (one, other))
        found = estimate(a - b, drawn - others, len(both))
    value, low, high = (None if (x := found[key]) is None else float(x) for key in ("value", "low", "high"))
    return Difference(value, low, high, len(both))


def same_answers(one: Judged, other: Judged) -> bool:
    """Whether two members have the very same numbers for all samples of the question: one is a copy."""
    if len(one.members) != len(other.members) or list(one.samples) != list(other.samples):
        return False
    numbers = [[a.probabilities[rows] for a, rows in zip(of.members, of.rows, strict=True)] for of in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*numbers, strict=True))


def _gain(hits: Ints, of: int, others: Ints, of_others: int, bootstrap: Bootstrap) -> Estimate:
    """Mean over samples of hits / of - others / of_others."""
    width = of_others + 1
    cells = np.arange((of + 1) * width)
    gain: Floats = cells // width / of - cells % width / of_others
    counts = bootstrap.counts(hits * width + others, len(cells))
    draws = ratio(counts @ gain, counts.sum(axis=1))
    return estimate(float((hits / of - others / of_others).mean()), draws, len(hits))
