"""A member's numbers: as described, whoever asks and whatever was asked before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.train.population.draws import Draws, rate_used

seeds = st.integers(0, 2**63 - 1)
rates = st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9])


@given(seed=seeds, step=st.integers(0, 10**6), layer=st.integers(0, 50), size=st.integers(0, 300), rate=rates)
@settings(deadline=None)
def test_a_longer_mask_begins_with_the_shorter_one(seed: int, step: int, layer: int, size: int, rate: float) -> None:
    draws = Draws()
    short = draws.kept(seed, step, layer, size, rate)
    draws.order(3, 1, np.arange(7))
    long = Draws().kept(seed, step, layer, size + 77, rate)
    assert short.dtype == np.uint8
    assert len(short) == size
    assert np.array_equal(long[:size], short)
    assert np.array_equal(draws.kept(seed, step, layer, size, rate), short)


@given(seed=seeds, epoch=st.integers(0, 1000), n=st.integers(0, 50))
@settings(deadline=None)
def test_an_order_has_every_row_once(seed: int, epoch: int, n: int) -> None:
    rows = np.arange(n) * 3
    found = Draws().order(seed, epoch, rows)
    assert sorted(found.tolist()) == rows.tolist()
    assert np.array_equal(found, Draws().order(seed, epoch, rows))


def test_numbers_are_those_of_philox(numbers: Callable[..., np.random.Philox]) -> None:
    draws = Draws()
    words = numbers(11, 3, 5, 2).random_raw(4)
    assert np.array_equal(draws.kept(11, 5, 2, 200, 0.5), np.unpackbits(words.view(np.uint8))[:200])
    assert np.array_equal(draws.kept(11, 5, 2, 32, 0.25), words.view(np.uint8) >= 64)
    assert np.array_equal(draws.kept(11, 5, 2, 16, 0.3), words.view(np.uint16) >= round(0.3 * 65536))
    expected = np.random.Generator(numbers(11, 1, 4)).permutation(np.arange(20))
    assert np.array_equal(draws.order(11, 4, np.arange(20)), expected)
    views = draws.views(11, 4, 20, 3)
    assert np.array_equal(views, np.random.Generator(numbers(11, 2, 4)).integers(3, size=20))
    assert set(draws.views(11, 4, 200, 3).tolist()) == {0, 1, 2}


@given(seed=seeds, epoch=st.integers(0, 9), counts=st.lists(st.integers(0, 9), max_size=6), number=st.integers(1, 5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_are_drawn_without_putting_back(
    chosen: Callable[..., np.ndarray], seed: int, epoch: int, counts: list[int], number: int
) -> None:
    found = Draws().frames(seed, epoch, np.array(counts, np.int64), number)
    assert np.array_equal(found, chosen(seed, epoch, counts, number))
    for frames, count in zip(found.tolist(), counts, strict=True):
        real = frames[: min(count, number)]
        assert sorted(set(real)) == real  # ascending, each once
        assert all(0 <= frame < count for frame in real)
        assert frames[len(real) :] == [-1] * (number - len(real))


def test_every_choice_of_frames_is_as_likely() -> None:
    """Two of four: six pairs, each within five standard deviations of 6,000 / 6."""
    found = Draws().frames(5, 0, np.full(6000, 4), 2)
    pairs, times = np.unique(found, axis=0, return_counts=True)
    assert len(pairs) == 6
    assert np.abs(times - 1000).max() < 5 * (6000 * 5 / 36) ** 0.5
    assert not np.array_equal(found, Draws().frames(5, 1, np.full(6000, 4), 2))
    assert not np.array_equal(found, Draws().frames(6, 0, np.full(6000, 4), 2))


def test_everything_that_names_a_mask_changes_it() -> None:
    draws = Draws()
    masks = [draws.kept(*key, 256, 0.5).tobytes() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]]
    assert len(set(masks)) == 5
    orders = [draws.order(*key, np.arange(99)).tobytes() for key in [(0, 0), (1, 0), (0, 1)]]
    assert len(set(orders)) == 3


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.999])
def test_as_many_are_dropped_as_the_rate_says(rate: float) -> None:
    """Within five standard deviations, of 200,000; and the rate used is the rate asked for to 1 / 131,072."""
    n = 200_000
    dropped = 1 - Draws().kept(3, 1, 4, n, rate).mean()
    assert abs(rate_used(rate) - rate) <= 1 / 131_072
    assert dropped == pytest.approx(rate_used(rate), abs=5 * (rate * (1 - rate) / n) ** 0.5 + 1e-12)
