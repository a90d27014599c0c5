from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.batches import join_runs, pad


def places_of(places: list[int], counts: list[int], step: int) -> list[int]:
    return [place + i * step for place, count in zip(places, counts, strict=True) for i in range(count)]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=12),
    step=st.integers(1, 3),
)
def test_runs_hold_the_same_rows_in_the_same_order(pairs: list[tuple[int, int]], step: int) -> None:
    places, counts = [p for p, _ in pairs], [c for _, c in pairs]
    got_places, got_counts = join_runs(np.array(places, np.int64), np.array(counts, np.int64), step)
    assert places_of(got_places.tolist(), got_counts.tolist(), step) == places_of(places, counts, step)
    assert (got_counts > 0).all()
    ends = got_places[:-1] + got_counts[:-1] * step
    assert (got_places[1:] != ends).all()  # no two runs could be one


def test_neighbours_are_joined_over_items_without_rows() -> None:
    places, counts = join_runs(np.array([4, 0, 8, 0, 20]), np.array([2, 0, 1, 0, 2]), 2)
    assert (places.tolist(), counts.tolist()) == ([4, 20], [3, 2])


def test_nothing_is_no_runs() -> None:
    places, counts = join_runs(np.empty(0, np.int64), np.empty(0, np.int64), 1)
    assert (len(places), len(counts)) == (0, 0)


@given(counts=st.lists(st.integers(0, 5), max_size=6), width=st.none() | st.integers(1, 7))
def test_padding_keeps_every_row_in_its_place(counts: list[int], width: int | None) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.arange(1, int(offsets[-1]) * 2 + 1, dtype=np.float32).reshape(-1, 2)
    values, mask = pad(rows, offsets, width)
    wide = max([1, *counts]) if width is None else width
    assert (values.shape, mask.shape, values.dtype) == ((len(counts), wide, 2), (len(counts), wide), np.float32)
    for i, count in enumerate(counts):
        kept = min(count, wide)
        assert mask[i].tolist() == [True] * kept + [False] * (wide - kept)
        assert np.array_equal(values[i, :kept], rows[offsets[i] : offsets[i] + kept])
        assert not values[i, kept:].any()


@pytest.mark.parametrize("width", [0, -3])
def test_a_width_below_one_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"width is {width}"):
        pad(np.zeros((1, 2)), np.array([0, 1]), width)
