"""Scores of known tables, the bootstrap against scipy's, and the cases with nothing to score."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score

from stages.evaluate.statistics import (
    Bootstrap,
    Ints,
    difference,
    estimate,
    exact_interval,
    mean_correct,
    rounded,
    scores,
)


def ints(values: list[int] | str) -> Ints:
    return np.array([int(value) for value in values], dtype=np.int64)


def macro_f1(actual: Ints, predicted: Ints) -> float:
    """scikit-learn's, over the classes that occur in `actual`."""
    present = np.unique(actual)
    found = f1_score(
        actual,
        predicted,
        labels=present,
        average="macro",
        zero_division=0.0,  # pyright: ignore[reportArgumentType]  # scikit-learn has no types; its default is text
    )
    return float(np.mean(found))


def apart(n: int, resamples: int = 2000, seed: int = 0) -> Bootstrap:
    return Bootstrap(np.arange(n), resamples, seed)


def test_scores_of_a_known_table() -> None:
    actual, predicted = ints("00001112"), ints("00011102")
    found = scores(actual, predicted, ("x", "y", "z", "w"), apart(8))
    assert found["n"] == 8
    assert found["confusion"] == [[3, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found["accuracy"]["value"] == 0.75
    assert found["balanced_accuracy"]["value"] == round((3 / 4 + 2 / 3 + 1) / 3, 6)
    assert found["macro_f1"]["value"] == round((6 / 8 + 4 / 6 + 1) / 3, 6)
    assert [(found["recall"][c]["value"], found["recall"][c]["n"]) for c in "xyzw"] == [
        (0.75, 4),
        (0.666667, 3),
        (1.0, 1),
        (None, 0),
    ]
    assert found["precision"] == {
        "x": {"value": 0.75, "n": 4},
        "y": {"value": 0.666667, "n": 3},
        "z": {"value": 1.0, "n": 1},
        "w": {"value": None, "n": 0},
    }


@given(st.integers(2, 5), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_scores_agree_with_scikit_learn_and_are_json(k: int, pairs: list[tuple[int, int]]) -> None:
    actual, predicted = (ints([pair[i] % k for pair in pairs]) for i in (0, 1))
    found = scores(actual, predicted, [str(c) for c in range(k)], apart(len(pairs), 50))
    present = np.unique(actual)
    assert found["macro_f1"]["value"] == pytest.approx(macro_f1(actual, predicted), abs=1e-6)
    if set(predicted.tolist()) <= set(present.tolist()) and len(present) > 1:
        assert found["balanced_accuracy"]["value"] == pytest.approx(
            balanced_accuracy_score(actual, predicted), abs=1e-6
        )
    text = json.dumps(found, allow_nan=False)
    assert text == json.dumps(scores(actual, predicted, [str(c) for c in range(k)], apart(len(pairs), 50)))
    for one in [found["accuracy"], *found["recall"].values()]:
        if one["low"] is not None:
            assert 0 <= one["low"] <= one["high"] <= 1


def test_the_interval_is_that_of_scipy() -> None:
    hits = (np.random.default_rng(5).random(150) < 0.7).astype(np.int64)
    found = mean_correct(hits, 1, apart(150, 20_000))
    expected = stats.bootstrap(
        (hits,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found["value"] == round(float(hits.mean()), 6)
    assert found["low"] == pytest.approx(expected.low, abs=0.007)
    assert found["high"] == pytest.approx(expected.high, abs=0.007)


def test_the_macro_f1_interval_is_that_of_plain_resampling() -> None:
    rng = np.random.default_rng(2)
    actual = rng.integers(0, 3, 60)
    predicted = np.where(rng.random(60) < 0.6, actual, rng.integers(0, 3, 60))
    found = scores(actual, predicted, "xyz", apart(60, 4000))["macro_f1"]
    draws = []
    for _ in range(1000):
        rows = rng.integers(0, 60, 60)
        draws.append(macro_f1(actual[rows], predicted[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)


def test_the_interval_covers_the_truth_about_95_times_of_100() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(400):
        found = mean_correct((rng.random(120) < 0.7).astype(np.int64), 1, apart(120, 400, trial))
        inside += bool((found["low"] or 0) <= 0.7 <= (found["high"] or 0))
    assert 365 <= inside <= 395


def test_groups_widen_the_interval() -> None:
    """Ten copies of each of 20 samples know no more than the 20."""
    few = ints([1] * 13 + [0] * 7)
    many = np.repeat(few, 10)
    by_group = mean_correct(many, 1, Bootstrap(np.repeat(np.arange(20), 10), 4000, 0))
    alone = mean_correct(few, 1, apart(20, 4000))
    naive = mean_correct(many, 1, apart(200, 4000))
    assert (by_group["value"], by_group["n"]) == (0.65, 200)
    assert by_group["low"] == pytest.approx(alone["low"], abs=0.051)
    assert by_group["high"] == pytest.approx(alone["high"], abs=0.051)
    assert (by_group["high"] or 0) - (by_group["low"] or 0) > 2.5 * ((naive["high"] or 0) - (naive["low"] or 0))


def test_resampled_groups_stay_whole() -> None:
    units, codes = ints("0001123"), ints("0120112")
    draws = Bootstrap(units, 500, 3).counts(codes, 3)
    per_unit = {(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 1)}
    sums = {tuple(sum(column) for column in zip(a, b, c, d, strict=True))
            for a in per_unit for b in per_unit for c in per_unit for d in per_unit}  # fmt: skip
    assert draws.shape == (500, 3)
    assert {tuple(map(int, row)) for row in draws} <= sums
    assert len({tuple(row) for row in draws}) > 10


def test_counts_are_whole_and_seeded() -> None:
    codes = np.random.default_rng(0).integers(0, 6, 90)
    for boot, other in ((apart(90, 300, 7), apart(90, 300, 8)), _grouped(7), _grouped(8)):
        draws = boot.counts(codes, 6)
        assert draws.shape == (300, 6)
        assert (draws == draws.round()).all()
        np.testing.assert_array_equal(draws, boot.counts(codes, 6))
        assert not np.array_equal(draws, other.counts(codes, 6))
        np.testing.assert_allclose(draws.mean(axis=0), np.bincount(codes), atol=1.5)
    assert (apart(90, 300).counts(codes, 6).sum(axis=1) == 90).all()


def _grouped(seed: int) -> tuple[Bootstrap, Bootstrap]:
    units = np.arange(90) // 3
    return Bootstrap(units, 300, seed), Bootstrap(units, 300, seed + 1)


def test_many_groups_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 groups of one cell each: what is drawn has the mean and variance of a bootstrap, in blocks or not."""
    units, codes = np.repeat(np.arange(30), 2), np.repeat(np.arange(30) % 2, 2)
    monkeypatch.setattr("stages.evaluate.statistics._CHUNK", 30 * 7)
    draws = Bootstrap(units, 4000, 3).counts(codes, 2)
    assert draws.shape == (4000, 2)
    assert set(np.unique(draws.sum(axis=1))) == {60}
    assert draws[:, 0].mean() == pytest.approx(30, abs=0.5)
    assert draws[:, 0].var() == pytest.approx(4 * 30 * 0.25, rel=0.1)


def test_exact_interval_is_the_textbook_one() -> None:
    assert exact_interval(3, 3) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert exact_interval(0, 10) == (0.0, pytest.approx(0.3084971))
    expected = stats.binomtest(7, 20).proportion_ci(method="exact")
    assert exact_interval(7, 20) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_all_right_is_not_certainty() -> None:
    found = scores(ints("0011"), ints("0011"), "xy", apart(4))
    assert found["accuracy"] == {"value": 1.0, "low": round(0.025**0.25, 6), "high": 1.0, "n": 4}
    assert found["recall"]["x"] == {"value": 1.0, "low": round(0.025**0.5, 6), "high": 1.0, "n": 2}
    assert found["macro_f1"] == {"value": 1.0, "low": None, "high": None, "n": 4}
    # Four photos of one person are one unit.
    grouped = scores(ints("0011"), ints("0011"), "xy", Bootstrap(ints("0000")))
    assert (grouped["accuracy"]["low"], grouped["accuracy"]["n"]) == (0.025, 4)
    # One unit with a mixed result has no spread and no exact interval either.
    mixed = scores(ints("0011"), ints("0010"), "xy", Bootstrap(ints("0000")))
    assert mixed["accuracy"] == {"value": 0.75, "low": None, "high": None, "n": 4}


def test_degenerate_cases_are_null_not_nan() -> None:
    nothing = scores(ints(""), ints(""), "xy", apart(0))
    assert nothing["accuracy"] == {"value": None, "low": None, "high": None, "n": 0}
    assert nothing["confusion"] == [[0, 0], [0, 0]]
    one = scores(ints("1"), ints("0"), "xy", apart(1))
    assert one["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.975, "n": 1}
    assert one["recall"]["x"]["value"] is None
    single_class = scores(ints("000"), ints("000"), "x", apart(3))
    assert single_class["accuracy"]["value"] == single_class["macro_f1"]["value"] == 1.0
    constant = scores(ints("001122"), ints("000000"), "xyz", apart(6))
    assert constant["balanced_accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert constant["precision"]["y"] == {"value": None, "n": 0}
    assert set(nothing) == set(one)
    json.dumps([nothing, one, single_class, constant], allow_nan=False)


def test_mean_over_answers() -> None:
    found = mean_correct(ints("3310"), 3, apart(4))
    assert (found["value"], found["n"]) == (round(7 / 12, 6), 4)
    assert 0 <= (found["low"] or 0) < 7 / 12 < (found["high"] or 0) <= 1
    assert mean_correct(ints("33"), 3, apart(2))["low"] == round(0.025**0.5, 6)


def test_difference_is_paired() -> None:
    a, b = ints([1, 1, 1, 0] * 10), np.array([1, 1, 0, 0] * 10, dtype=np.bool_)
    found = difference(a, 1, b, apart(40))
    # Only the ten samples on which they differ matter: the sd of the mean is sqrt(.25 * .75 / 40).
    assert found["value"] == 0.25
    assert (found["high"] or 0) - (found["low"] or 0) == pytest.approx(2 * 1.96 * (0.1875 / 40) ** 0.5, abs=0.03)
    assert difference(a * 3, 3, b, apart(40)) == found
    assert difference(ints("310"), 3, np.array([True, False, True]), apart(3))["value"] == round((0 + 1 / 3 - 1) / 3, 6)
    assert difference(a, 1, a.astype(np.bool_), apart(40)) == {"value": 0.0, "low": None, "high": None, "n": 40}


def test_rounded_and_estimate() -> None:
    assert rounded(float("nan")) is None
    assert rounded(None) is None
    assert str(rounded(-0.0)) == "0.0"
    assert rounded(1 / 3) == 0.333333
    draws = np.array([0.2, np.nan, 0.4, 0.6])
    assert estimate(0.4, draws, 9) == {"value": 0.4, "low": 0.21, "high": 0.59, "n": 9}
