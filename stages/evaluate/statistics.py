"""Scores with their uncertainty.

Point values come from scikit-learn. Intervals are percentile bootstrap intervals (Efron, 1979; Efron & Tibshirani, An
Introduction to the Bootstrap, 1993, section 13.3), resampled by sample, or by group where samples hang together
(photos of one person, frames of one film): resampling such samples one by one would give intervals that are too
narrow.

A score depends only on how many samples fall in each cell (actual, predicted). So drawing n samples with replacement is
one multinomial draw over the cells: exactly the bootstrap's distribution, at the same cost for a hundred and for a
million samples. Groups are drawn one by one, each with its counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

LEVEL = 0.95
RESAMPLES = 2000
"""Enough that the ends of a 95 % interval move by about a tenth of its half width from seed to seed."""
DIGITS = 6
_CHUNK = 1 << 22  # entries of one block of draws: 32 MiB

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Estimate = dict[str, float | int | None]
"""`{"value", "low", "high", "n"}`: fractions in [0, 1] rounded to 6 digits, or None where not defined."""


def rounded(value: float | None) -> float | None:
    """`value` to 6 digits as a plain float; None for None and NaN, so that JSON has no NaN."""
    return None if value is None or not np.isfinite(value) else round(float(value), DIGITS) + 0.0


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """How to resample n samples.

    Attributes:
        units: int64 (n,), which unit (sample or group) each sample belongs to; any integers.
        resamples: number of draws, 1 or more.
        seed: 0 or more; equal seeds give equal draws.
    """

    units: Ints
    resamples: int = RESAMPLES
    seed: int = 0

    def counts(self, codes: Ints, size: int) -> Floats:
        """Resample and count.

        Args:
            codes: int64 (n,), the cell of each sample, in [0, size).
            size: number of cells.

        Returns:
            float64 (resamples, size) of whole numbers: samples in each cell of each resample. (0, size) for n = 0.
        """
        if len(codes) == 0:
            return np.zeros((0, size))
        unit, n_units = self.numbered()
        if n_units == len(codes):
            found = np.bincount(codes, minlength=size)
            rng = np.random.default_rng(self.seed)
            return rng.multinomial(n_units, found / n_units, size=self.resamples).astype(np.float64)
        # Products in float64 are exact for whole numbers of this size, and far faster than those of integers.
        per_unit = np.bincount(unit * size + codes, minlength=n_units * size).reshape(n_units, size).astype(np.float64)
        return np.concatenate([times @ per_unit for times in self.times()])

    def numbered(self) -> tuple[Ints, int]:
        """The unit of each sample as a number from 0 on, int64 (n,), and how many units there are."""
        names, unit = np.unique(self.units, return_inverse=True)
        return unit.astype(np.int64), len(names)

    def times(self) -> Iterator[Floats]:
        """How often each unit is drawn, as `numbered` numbers them: float64 (r, units) of whole numbers, for some of
        the resamples at a time. Only for 1 sample or more."""
        _, n_units = self.numbered()
        rng = np.random.default_rng(self.seed)
        step = max(1, _CHUNK // n_units)
        for start in range(0, self.resamples, step):
            yield _times_drawn(rng, n_units, min(step, self.resamples - start))

    def take(self, rows: NDArray[np.bool_] | Ints) -> Bootstrap:
        """The same resampling for some of the samples."""
        return Bootstrap(self.units[rows], self.resamples, self.seed)


def _times_drawn(rng: np.random.Generator, n_units: int, resamples: int) -> Floats:
    """How often each unit is drawn in `n_units` draws with replacement; float64 (resamples, n_units)."""
    drawn = rng.integers(0, n_units, size=(resamples, n_units)) + np.arange(resamples)[:, None] * n_units
    times = np.bincount(drawn.ravel(), minlength=resamples * n_units)
    return times.reshape(resamples, n_units).astype(np.float64)


def exact_interval(successes: int, n: int) -> tuple[float, float]:
    """The Clopper-Pearson (1934) 95 % interval of `successes` of `n` (n >= 1)."""
    alpha = 1 - LEVEL
    low = 0.0 if successes == 0 else float(beta.ppf(alpha / 2, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - alpha / 2, successes + 1, n - successes))
    return low, high


def estimate(value: float, draws: Floats, n: int, n_units: int | None = None) -> Estimate:
    """A value with its interval.

    A bootstrap without spread knows nothing of the uncertainty: three of three right would give [1, 1]. So a
    proportion (`n_units` given) of 0 or 1 gets the exact binomial interval over its units, and any other score
    without spread gets none (None).

    Args:
        value: the score on the samples themselves; NaN where it is not defined.
        draws: float64 (resamples,), the score of each resample, NaN where it is not defined there (left out).
        n: samples behind the value.
        n_units: for a proportion, the units behind the value.
    """
    low: float | None
    high: float | None
    low = high = None
    known = draws[np.isfinite(draws)]
    if np.isfinite(value) and known.size:
        if np.ptp(known) > 1e-12:
            low, high = (float(end) for end in np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        elif n_units and value in (0.0, 1.0):
            low, high = exact_interval(n_units if value == 1.0 else 0, n_units)
    return {"value": rounded(value), "low": rounded(low), "high": rounded(high), "n": n}


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where whole is 0, without a warning."""
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def mean_of_known(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN (NaN where nothing is)."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def mean_correct(hits: Ints, of: int, bootstrap: Bootstrap) -> Estimate:
    """Accuracy over `of` answers to each sample (one, or one per seed).

    Args:
        hits: int64 (n,), right answers of each sample, in [0, of].
        of: answers per sample, 1 or more.
        bootstrap: how the n samples are resampled.
    """
    n = len(hits)
    counts = bootstrap.counts(hits, of + 1)
    draws = ratio(counts @ np.arange(of + 1), counts.sum(axis=1) * of)
    value = float(hits.sum()) / (n * of) if n else np.nan
    return estimate(value, draws, n, len(np.unique(bootstrap.units)))


def difference(hits: Ints, of: int, other: NDArray[np.bool_], bootstrap: Bootstrap) -> Estimate:
    """Accuracy minus another one on the same samples, resampled together (paired). In [-1, 1].

    Args:
        hits: int64 (n,), right answers of each sample, in [0, of].
        of: answers per sample, 1 or more.
        other: bool (n,), whether the other one is right.
        bootstrap: how the n samples are resampled.
    """
    n = len(hits)
    cells = np.arange(2 * (of + 1))
    gain = cells // 2 - cells % 2 * of  # of a sample in this cell, times `of`
    counts = bootstrap.counts(hits * 2 + other, len(cells))
    draws = ratio(counts @ gain, counts.sum(axis=1) * of)
    value = float((hits - other * of).sum()) / (n * of) if n else np.nan
    return estimate(value, draws, n)


def scores(actual: Ints, predicted: Ints, classes: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """Every score of one member.

    Args:
        actual: int64 (n,), index into `classes`.
        predicted: int64 (n,), index into `classes`.
        classes: k names.
        bootstrap: how the n samples are resampled.

    Returns:
        `n`; `accuracy`, `balanced_accuracy` (mean recall) and `macro_f1` (mean F1), both over the classes that occur in
        `actual` (a resample: that occur in it), each an `Estimate`; `recall` {class: Estimate, n = samples of the
        class}; `precision` {class: {"value", "n"}, n = times predicted}; `confusion` k rows (actual) of k counts
        (predicted).
    """
    n, k = len(actual), len(classes)
    if n == 0:
        return _no_scores(classes)
    cells = bootstrap.counts(actual * k + predicted, k * k).reshape(-1, k, k)
    hits, support, answers = np.diagonal(cells, axis1=1, axis2=2), cells.sum(axis=2), cells.sum(axis=1)
    recall_draws = ratio(hits, support)
    f1_draws = np.where(support > 0, ratio(2 * hits, support + answers), np.nan)
    # With one label scikit-learn warns, whatever is passed: give it two and cut.
    table = confusion_matrix(actual, predicted, labels=np.arange(max(k, 2)))[:k, :k]
    precision, recall, f1, _ = precision_recall_fscore_support(
        actual,
        predicted,
        labels=np.arange(k),
        average=None,
        zero_division=0.0,  # pyright: ignore[reportArgumentType]  # scikit-learn has no types; its default is text
    )
    n_actual, n_predicted = table.sum(axis=1), table.sum(axis=0)
    there = n_actual > 0
    units_of = [len(np.unique(bootstrap.units[actual == c])) for c in range(k)]
    accuracy_draws = ratio(hits.sum(axis=1), support.sum(axis=1))
    n_units = len(np.unique(bootstrap.units))
    recalls = np.where(there, recall, np.nan)
    return {
        "n": n,
        "accuracy": estimate(float(accuracy_score(actual, predicted)), accuracy_draws, n, n_units),
        "balanced_accuracy": estimate(float(recalls[there].mean()), mean_of_known(recall_draws), n),
        "macro_f1": estimate(float(np.asarray(f1)[there].mean()), mean_of_known(f1_draws), n),
        "recall": {
            name: estimate(float(recalls[c]), recall_draws[:, c], int(n_actual[c]), units_of[c])
            for c, name in enumerate(classes)
        },
        "precision": _precisions(classes, np.asarray(precision), n_predicted),
        "confusion": table.tolist(),
    }


def _precisions(classes: Sequence[str], values: Floats, times: Ints) -> dict[str, dict[str, float | int | None]]:
    """Precision of each class; None where it is never predicted (scikit-learn says 0)."""
    return {
        name: {"value": rounded(float(value)) if n else None, "n": int(n)}
        for name, value, n in zip(classes, values, times, strict=True)
    }


def _no_scores(classes: Sequence[str]) -> dict[str, Any]:
    """`scores` of no sample at all: the same keys, nothing known."""
    nothing: Estimate = {"value": None, "low": None, "high": None, "n": 0}
    return {
        "n": 0,
        **{name: dict(nothing) for name in ("accuracy", "balanced_accuracy", "macro_f1")},
        "recall": {name: dict(nothing) for name in classes},
        "precision": {name: {"value": None, "n": 0} for name in classes},
        "confusion": [[0] * len(classes) for _ in classes],
    }
