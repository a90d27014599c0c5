"""Packing: the same rows as one by one, in full batches, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.backbones import weights
from stages.backbones.registry import get_spec
from stages.errors import SettingError
from stages.extract.engine import Forward, load_forward, packed


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


@pytest.fixture(scope="module")
def resnet29(weights_folder: Path) -> Forward:
    return load_forward("resnet29", weights_folder, "cpu")


@pytest.mark.parametrize("name", ["resnet29", "expression", "mini_xception", "effnet_lite0"])
def test_bits_of_a_row_do_not_depend_on_its_neighbours_or_threads(name: str, weights_folder: Path) -> None:
    spec = get_spec(name)
    if not weights.status(spec.weights, weights_folder).present:
        pytest.skip(f"the weights of {name} are not here")
    forward, tap = load_forward(name, weights_folder, "cpu"), spec.taps[0]
    rows = np.random.default_rng(0).integers(0, 256, (6, *spec.input_size, 3), dtype=np.uint8)
    items = [(b"a", rows[:1]), (b"b", rows[1:6])]
    together = np.concatenate([taps[tap.name] for _, taps in packed(items, forward, 4)])
    assert together.shape == (6, *tap.shape)
    assert together.dtype == np.float32
    for i in range(6):
        [(_, alone)] = packed([(b"x", rows[i : i + 1])], forward, 4)
        assert alone[tap.name].tobytes() == together[i].tobytes()
    [(_, one)] = packed([(b"x", rows)], forward, 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - threads if threads in {1, 2} else 1)
    try:
        [(_, other)] = packed([(b"x", rows)], forward, 16)
    finally:
        torch.set_num_threads(threads)
    assert one[tap.name].tobytes() == other[tap.name].tobytes()


def test_read_only_crops_are_taken(resnet29: Forward, pixels: Callable[[int, int], np.ndarray]) -> None:
    crops = pixels(0, 1)
    crops.flags.writeable = False  # as a map of a shard: torch would warn, and warnings are errors here
    [(_, taps)] = packed([(b"x", crops)], resnet29, 1)
    assert np.isfinite(taps["embedding"]).all()


def test_a_gpu_that_is_not_there(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingError, match="set device to cpu"):
        load_forward("resnet29", weights_folder, "cuda")


def test_a_batch_that_does_not_fit(
    resnet29: Forward, pixels: Callable[[int, int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: torch.nn.Module, pixels: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "__call__", full)
    with pytest.raises(SettingError, match=r"resnet29: extract\.batch_size 2 does not fit the memory of cpu; lower it"):
        resnet29(pixels(0, 2))
