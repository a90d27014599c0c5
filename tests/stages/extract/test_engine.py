"""Packing: the same rows as one by one, in full batches, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.extract.engine import Packer, Run, each
from stages.extract.forward import Forward, Taps
from stages.timing import Timings


def packed(items: Iterable[tuple[bytes, np.ndarray]], forward: Forward, batch: int) -> Iterator[tuple[bytes, Taps]]:
    """Items through one packer, one by one."""
    packer = Packer(forward, batch)
    for key, rows in items:
        for run in packer.push(key, rows):
            yield from each(run)
    for run in packer.finish():
        yield from each(run)


def linear(calls: list[int]) -> Forward:
    """Sums of a row's pixels, and their first channel."""

    def forward(pixels: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(len(pixels))
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return {"sum": flat.sum(1, keepdims=True), "first": pixels[:, 0, :, 0].astype(np.float32)}

    return forward


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 7))
def test_packed_is_one_by_one(sizes: list[int], batch: int) -> None:
    rng = np.random.default_rng(0)
    items = [(bytes([i]), rng.integers(0, 256, (n, 2, 3, 3), dtype=np.uint8)) for i, n in enumerate(sizes)]
    calls: list[int] = []
    found = list(packed(iter(items), linear(calls), batch))
    assert [key for key, _ in found] == [key for key, _ in items]
    assert set(calls) <= {batch}
    assert len(calls) == -(-sum(sizes) // batch)
    for (_, taps), (_, pixels) in zip(found, items, strict=True):
        alone = linear([])(pixels)
        assert taps.keys() == alone.keys()
        for tap, rows in alone.items():
            assert np.array_equal(taps[tap], rows)


def test_rows_come_as_soon_as_their_batch_is_full() -> None:
    taken: list[int] = []

    def items() -> Iterator[tuple[bytes, np.ndarray]]:
        for i in range(10):
            taken.append(i)
            yield bytes([i]), np.zeros((2, 1, 1, 3), np.uint8)

    rows = packed(items(), linear([]), 4)
    next(rows)
    assert taken == [0, 1]
    next(rows)
    next(rows)
    assert taken == [0, 1, 2, 3]


def pixels_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 3, 3), dtype=np.uint8)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), max_size=6), st.integers(1, 7), st.booleans())
def test_an_item_may_come_in_pieces(items: list[list[int]], batch: int, ahead: bool) -> None:
    calls: list[int] = []
    forward = Ahead(calls) if ahead else linear(calls)
    packer, runs = Packer(forward, batch), list[Run]()
    whole = {bytes([i]): pixels_of(sum(pieces), i) for i, pieces in enumerate(items)}
    for (key, rows), pieces in zip(whole.items(), items, strict=True):
        for part in np.split(rows, np.cumsum(pieces)[:-1]):
            runs += packer.push(key, part, len(rows))
    runs += packer.finish()
    found = {key: taps for run in runs for key, taps in each(run)}
    assert list(found) == list(whole)
    assert set(calls) <= {batch}
    for key, rows in whole.items():
        for tap, values in linear([])(rows).items():
            assert np.array_equal(found[key][tap], values)


class Ahead:
    """As `linear`, a batch ahead: what is waited for is computed from a copy that was taken at once."""

    def __init__(self, calls: list[int]) -> None:
        self._forward, self.waited = linear(calls), 0

    def __call__(self, pixels: np.ndarray) -> Taps:
        raise AssertionError("it has submit")

    def submit(self, pixels: np.ndarray) -> Callable[[], Taps]:
        taken = pixels.copy()

        def wait() -> Taps:
            self.waited += 1
            return self._forward(taken)

        return wait


def test_one_batch_is_computed_while_the_next_is_gathered() -> None:
    forward = Ahead([])
    packer = Packer(forward, 2)
    assert packer.push(b"a", pixels_of(2)) == []
    assert packer.push(b"b", pixels_of(1)) == []
    assert forward.waited == 0
    assert [run.keys for run in packer.push(b"c", pixels_of(1))] == [(b"a",)]
    assert forward.waited == 1
    assert [run.keys for run in packer.finish()] == [(b"b", b"c")]
    assert packer.finish() == []


def test_whole_items_of_a_batch_are_handed_back_together_and_rows_are_counted() -> None:
    timings = Timings()
    packer = Packer(linear([]), 4, timings, "forward/face")
    sizes = [1, 2, 2, 1, 1, 1]
    runs = [run for i, size in enumerate(sizes) for run in packer.push(bytes([i]), pixels_of(size, i))]
    runs += packer.finish()
    assert [(list(run.keys), list(run.counts)) for run in runs] == [
        ([b"\0", b"\1"], [1, 2]),
        ([b"\2"], [2]),
        ([b"\3", b"\4", b"\5"], [1, 1, 1]),
    ]
    assert timings.spent["forward/face"].items == 8
    assert timings.spent["forward/face"].seconds > 0


def test_the_last_batch_is_filled_with_black() -> None:
    seen: list[np.ndarray] = []

    def forward(pixels: np.ndarray) -> Taps:
        seen.append(pixels.copy())
        return {"sum": pixels.reshape(len(pixels), -1).sum(1, dtype=np.float32)}

    packer = Packer(forward, 3)
    packer.push(b"a", np.full((4, 1, 1, 3), 255, np.uint8))
    packer.finish()
    assert seen[0].min() == 255
    assert seen[1].reshape(3, -1).max(1).tolist() == [255, 0, 0]
