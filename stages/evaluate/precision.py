"""Average precision of each class, and their mean, with their uncertainty: the scores of members of several labels.

The average precision of a class is the mean, over its samples, of the precision among what is ranked at least as high:
sum_k (R_k - R_(k-1)) P_k over the distinct scores from the highest on, as scikit-learn has it, without interpolation. A
score that all samples share has the class's share of them.

Intervals of one class are those of the percentiles, as of all other scores. The average precision of few samples is too
high, the more so the fewer have the class, and that of a resample is higher still. Of one class this is small beside
its spread, of a mean over many it is not: with 25 classes of 400 or of 3000 drawn samples, percentiles held the truth
23 to 70 times of 100. So means, and differences of them, have the interval of the basic bootstrap (Davison & Hinkley,
Bootstrap Methods and their Application, 1997, section 5.2), which takes off what resampling adds: 88 to 94 times of
100. A mean may lie near its upper end, or with very rare classes above it.

A resample changes what samples count, not their order. So each class is sorted once, and all resamples are two products
of sparse matrices: how many samples, and how many of the class, each resample has between one score and the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score

from stages.evaluate.statistics import Bootstrap, Estimate, Floats, Ints, estimate, mean_of_known, ratio


@dataclass(frozen=True, eq=False)
class Precisions:
    """Average precisions of K classes.

    Attributes:
        values: float64 (K,), on the samples themselves; NaN for a class that none of them has.
        draws: float64 (resamples, K), those of each resample; NaN likewise.
        counts: int64 (K,), samples of each class.
        n: samples.
    """

    values: Floats
    draws: Floats
    counts: Ints
    n: int

    @property
    def mean(self) -> Estimate:
        """Mean over the classes that occur; in a resample, over those that occur in it."""
        return _basic(float(mean_of_known(self.values)), mean_of_known(self.draws), self.n, 0)

    def by_class(self, classes: Sequence[str]) -> dict[str, Estimate]:
        """Each class's, with how many samples have it."""
        return {
            name: estimate(float(self.values[c]), self.draws[:, c], int(self.counts[c]))
            for c, name in enumerate(classes)
        }

    def over(self, other: Precisions) -> Estimate:
        """The mean less that of another member on the same samples, resampled together. In [-1, 1]."""
        value = float(mean_of_known(self.values) - mean_of_known(other.values))
        return _basic(value, mean_of_known(self.draws) - mean_of_known(other.draws), self.n, -1)


def _basic(value: float, draws: Floats, n: int, least: float) -> Estimate:
    """A value in [least, 1] with the interval of the basic bootstrap: the percentiles of the draws mirrored at it."""
    return estimate(value, np.clip(2 * value - draws, least, 1), n)


def precisions(actual: NDArray[np.bool_], scores: Floats, bootstrap: Bootstrap) -> Precisions:
    """Of one member.

    Args:
        actual: bool (n, K), which labels each sample has.
        scores: float64 (n, K), the member's.
        bootstrap: how the n samples are resampled.
    """
    n, k = actual.shape
    counts = actual.sum(axis=0)
    there = np.flatnonzero(counts)
    values = np.full(k, np.nan)
    for c in there:
        values[c] = average_precision_score(actual[:, c], scores[:, c])
    if not n:
        return Precisions(values, np.zeros((0, k)), counts, n)
    unit, n_units = bootstrap.numbered()
    steps = {c: _steps(actual[:, c], scores[:, c], unit, n_units) for c in there}
    parts = []
    for times in bootstrap.times():
        drawn, part = np.ascontiguousarray(times.T), np.full((len(times), k), np.nan)
        for c, (every, own) in steps.items():
            part[:, c] = _drawn(every @ drawn, own @ drawn)
        parts.append(part)
    return Precisions(values, np.concatenate(parts), counts, n)


def _steps(actual: NDArray[np.bool_], scores: Floats, unit: Ints, n_units: int) -> tuple[csr_matrix, csr_matrix]:
    """What is counted of one class: (steps, units) samples, and those of the class. A step goes down to the next score
    that a sample of the class has, with all samples of that score."""
    order = np.argsort(-scores, kind="stable")
    hits, ordered = actual[order], scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    found = np.cumsum(hits, dtype=np.int64)[ends]
    kept = np.diff(found, prepend=0) > 0
    every = _counting(unit[order], ends[kept] + 1, n_units)
    return every, _counting(unit[order[hits]], found[kept], n_units)


def _counting(unit: Ints, ends: Ints, n_units: int) -> csr_matrix:
    """(steps, units): how many samples of each unit lie between one end and the next."""
    rows = np.append(0, ends)
    return csr_matrix((np.ones(rows[-1]), unit[: rows[-1]], rows), shape=(len(ends), n_units))


def _drawn(every: Floats, own: Floats) -> Floats:
    """(resamples,) average precisions of (steps, resamples) counts; NaN where none of the class is drawn."""
    total = np.zeros(own.shape[1])
    found, above, part = np.zeros_like(total), np.zeros_like(total), np.empty_like(total)
    for more, hits in zip(every, own, strict=True):  # row by row: numpy sums along columns more slowly
        above += more
        total += hits
        np.multiply(hits, total, out=part)
        part /= np.maximum(above, 1, out=more)  # where none is drawn yet, none of the class is
        found += part
    return ratio(found, total)


def shares(actual: NDArray[np.bool_], bootstrap: Bootstrap) -> Precisions:
    """Of one score for all samples, which ranks nothing: each class's share of them.

    Args:
        actual, bootstrap: as for `precisions`.
    """
    n, k = actual.shape
    counts = actual.sum(axis=0)
    if not n:
        return Precisions(np.full(k, np.nan), np.zeros((0, k)), counts, n)
    unit, n_units = bootstrap.numbered()
    per_unit = np.zeros((n_units, k + 1))
    np.add.at(per_unit, unit, np.column_stack([actual, np.ones(n)]))
    drawn = np.concatenate([times @ per_unit for times in bootstrap.times()])
    values = np.where(counts > 0, counts / n, np.nan)
    return Precisions(values, np.where(drawn[:, :k] > 0, drawn[:, :k] / drawn[:, k:], np.nan), counts, n)


def mean_of(members: Sequence[Precisions]) -> Precisions:
    """Mean over members that answer the same samples, resampled together."""
    first = members[0]
    values = np.mean([one.values for one in members], axis=0)
    return Precisions(values, np.mean([one.draws for one in members], axis=0), first.counts, first.n)


def as_scores(found: Precisions, classes: Sequence[str]) -> dict[str, Any]:
    """`n`, `mean_average_precision` (an `Estimate`) and `average_precision` {class: Estimate, n = samples of it}."""
    return {"n": found.n, "mean_average_precision": found.mean, "average_precision": found.by_class(classes)}
