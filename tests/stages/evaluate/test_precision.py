"""Average precision and its bootstrap against scikit-learn's, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from stages.evaluate.precision import mean_of, precisions, shares
from stages.evaluate.statistics import Bootstrap, Floats, Ints


def plain(actual: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """scikit-learn's, with weights; NaN where the class is not there."""
    there = weights > 0
    if not (actual & there).any():
        return np.nan
    return float(average_precision_score(actual[there], scores[there], sample_weight=weights[there]))


def weights_of(boot: Bootstrap) -> Floats:
    """(resamples, n): how often each sample is drawn in each resample."""
    unit, _ = boot.numbered()
    return np.concatenate(list(boot.times()))[:, unit]


def make(n: int, k: int, seed: int, steps: int = 0) -> tuple[np.ndarray, Floats]:
    """Labels and scores; with `steps` the scores are that many values, so that there are ties."""
    rng = np.random.default_rng(seed)
    actual = rng.random((n, k)) < rng.uniform(0.05, 0.6, k)
    scores = rng.random((n, k)) + 0.4 * actual
    return actual, np.floor(scores * steps) / steps / 2 if steps else scores / 2


def units(n: int, groups: int) -> Ints:
    return np.random.default_rng(n).integers(0, groups, n) * 7 if groups else np.arange(n)


@given(st.integers(1, 25), st.integers(0, 10_000), st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 4]))
@settings(max_examples=40, deadline=None)
def test_each_draw_is_scikit_learns_with_weights(n: int, seed: int, steps: int, groups: int) -> None:
    actual, scores = make(n, 3, seed, steps)
    boot = Bootstrap(units(n, groups), 8, seed)
    found = precisions(actual, scores, boot)
    weights = weights_of(boot)
    expected = [[plain(actual[:, c], scores[:, c], row) for c in range(3)] for row in weights]
    np.testing.assert_allclose(found.draws, expected, rtol=1e-12, atol=1e-12)
    ones = [plain(actual[:, c], scores[:, c], np.ones(n)) for c in range(3)]
    np.testing.assert_allclose(found.values, ones, rtol=1e-12)
    assert found.counts.tolist() == actual.sum(0).tolist()


def test_what_is_drawn_together_is_drawn_whole_and_resamples_are_complete() -> None:
    grouped, alone = Bootstrap(np.array([5, 5, 9, 9, 9]), 400, 3), Bootstrap(np.arange(7), 400, 3)
    weights = weights_of(grouped)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [2, 2]] == weights[:, 3:]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    assert (weights_of(alone).sum(1) == 7).all()
    assert weights_of(alone).mean() == pytest.approx(1)


def test_a_known_ranking() -> None:
    actual = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]])
    found = precisions(actual, scores, Bootstrap(np.arange(4), 200))
    assert found.values[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(found.values[1])
    assert np.isnan(found.draws[:, 1]).all()
    assert found.by_class("xy")["y"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found.mean["value"] == round(5 / 6, 6)  # of the one class that occurs
    assert (found.mean["n"], found.by_class("xy")["x"]["n"]) == (4, 2)


def test_one_score_for_all_is_the_share_of_the_class() -> None:
    actual, _ = make(60, 4, 1)
    actual[:, 3] = False
    boot = Bootstrap(units(60, 20), 300, 2)
    base, constant = shares(actual, boot), precisions(actual, np.full((60, 4), 0.5), boot)
    np.testing.assert_allclose(base.values, constant.values, rtol=1e-12)
    np.testing.assert_allclose(base.draws, constant.draws, rtol=1e-12)
    assert base.values[0] == actual[:, 0].mean()
    assert constant.over(base)["value"] == 0
    assert constant.over(base)["low"] is None  # a difference that is always 0 tells of no uncertainty


def test_members_on_the_same_samples_are_resampled_together() -> None:
    actual, scores = make(80, 3, 5)
    boot = Bootstrap(np.arange(80), 500, 0)
    better, worse = precisions(actual, scores + 0.3 * actual, boot), precisions(actual, scores, boot)
    gain, alone = better.over(worse), worse.mean
    assert gain["value"] == pytest.approx((better.mean["value"] or 0) - (worse.mean["value"] or 0), abs=2e-6)
    assert None not in (gain["low"], gain["high"], alone["low"], alone["high"])
    low, high = (gain[end] or 0 for end in ("low", "high"))
    weights = weights_of(boot)
    by_hand = [
        np.nanmean([plain(actual[:, c], (scores + 0.3 * actual)[:, c], row) for c in range(3)])
        - np.nanmean([plain(actual[:, c], scores[:, c], row) for c in range(3)])
        for row in weights[:40]
    ]
    draws = np.nanmean(better.draws, 1) - np.nanmean(worse.draws, 1)
    np.testing.assert_allclose(draws[:40], by_hand, atol=1e-12)
    value = gain["value"] or 0
    mirrored = 2 * value - np.quantile(draws, [0.975, 0.025])
    assert (low, high) == pytest.approx(mirrored, abs=3e-6)


def test_the_mean_over_members_is_the_mean_of_their_draws() -> None:
    actual, scores = make(50, 3, 8)
    boot = Bootstrap(np.arange(50), 100, 0)
    pair = [precisions(actual, scores, boot), precisions(actual, scores[:, ::-1], boot)]
    both = mean_of(pair)
    np.testing.assert_allclose(both.values, (pair[0].values + pair[1].values) / 2)
    np.testing.assert_allclose(both.draws, (pair[0].draws + pair[1].draws) / 2)
    assert both.n == 50


def test_the_interval_is_that_of_plain_resampling() -> None:
    actual, scores = make(120, 1, 4)
    found = precisions(actual, scores, Bootstrap(np.arange(120), 4000, 0)).by_class("x")["x"]
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(1000):
        rows = rng.integers(0, 120, 120)
        draws.append(average_precision_score(actual[rows, 0], scores[rows, 0]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)


def test_the_interval_of_a_mean_covers_the_truth_about_9_times_of_10() -> None:
    """Twenty normal classes, whose average precisions are known. Percentiles hold the truth 2 or 3 times of 10."""
    shares_of, skill = np.linspace(0.02, 0.4, 20), 0.6
    at = np.linspace(9, -9, 4001)
    found, false = norm.sf(at - skill), norm.sf(at)
    truth = np.mean([trapezoid(p * found / (p * found + (1 - p) * false), found) for p in shares_of])
    rng = np.random.default_rng(0)
    basic = percentiles = 0
    for trial in range(40):
        actual = rng.random((300, 20)) < shares_of
        said = precisions(actual, rng.normal(size=(300, 20)) + skill * actual, Bootstrap(np.arange(300), 200, trial))
        basic += bool((said.mean["low"] or 0) <= truth <= (said.mean["high"] or 0))
        low, high = np.quantile(np.nanmean(said.draws, axis=1), [0.025, 0.975])
        percentiles += bool(low <= truth <= high)
    assert basic >= 32
    assert percentiles <= 16


def test_an_interval_stays_where_the_score_can_be() -> None:
    actual = np.zeros((40, 1), bool)
    actual[7] = True
    scores = np.linspace(0, 1, 40)[:, None]
    found = precisions(actual, scores, Bootstrap(np.arange(40), 500, 0))
    assert found.mean["low"] == 0.0
    assert found.mean["value"] == round(1 / 33, 6)


def test_nothing_to_score() -> None:
    none, boot = np.zeros((0, 2), bool), Bootstrap(np.zeros(0, np.int64))
    for found in (precisions(none, np.zeros((0, 2)), boot), shares(none, boot)):
        assert found.mean == {"value": None, "low": None, "high": None, "n": 0}
        assert found.by_class("xy")["x"] == found.mean


@given(arrays.arrays(np.bool_, (12, 2)), arrays.arrays(np.float64, (12, 2), elements=st.floats(0, 1)))
@settings(max_examples=30, deadline=None)
def test_only_the_order_counts(actual: np.ndarray, scores: np.ndarray) -> None:
    boot = Bootstrap(np.arange(12), 20, 0)
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
    found, other = precisions(actual, scores, boot), precisions(actual, ranks / 100, boot)
    np.testing.assert_array_equal(found.draws, other.draws)
    assert ((found.draws >= 0) & (found.draws <= 1) | np.isnan(found.draws)).all()
