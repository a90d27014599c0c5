from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache import dtypes
from cache.errors import RangeError
from cache.keys import BlockSpec, item_key
from cache.pack import Style
from cache.store import Store

FLOATS = hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32))


@pytest.fixture
def wide(spec: BlockSpec) -> BlockSpec:
    return replace(spec, numerics={"dtype": "bfloat16"})


@given(FLOATS)
def test_bfloat16_is_rounded_as_torch_does(values: np.ndarray) -> None:
    ours = dtypes.from_bfloat16(dtypes.to_bfloat16(values))
    np.testing.assert_array_equal(ours, torch.from_numpy(values).bfloat16().float().numpy())


@given(hnp.arrays(np.uint16, 8))
def test_what_is_bfloat16_is_kept_bit_for_bit(bits: np.ndarray) -> None:
    values = dtypes.from_bfloat16(bits)
    again = dtypes.to_bfloat16(values)
    assert np.array_equal(again[~np.isnan(values)], bits[~np.isnan(values)])


@pytest.mark.parametrize(("name", "error"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 0.0)])
def test_the_documented_error_holds(tmp_path: Path, spec: BlockSpec, name: str, error: float) -> None:
    spec = replace(spec, numerics={"dtype": name})
    rng = np.random.default_rng(0)
    rows = np.exp2(rng.uniform(-14, 15.9, (500, 4))).astype(np.float32) * rng.choice([-1, 1], (500, 4))
    rows = rows.astype(np.float32)
    store = Store(tmp_path)
    with store.writer(spec) as writer:
        writer.add(item_key("a"), rows)
    kept = store.open(spec).rows([item_key("a")])[0].astype(np.float64)
    worst = float((np.abs(kept - rows) / np.abs(rows)).max())
    assert worst <= error
    assert worst > error / 2 or error == 0


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_bfloat16_rows_come_back_as_float32(tmp_path: Path, wide: BlockSpec, compression: str) -> None:
    rows = np.array([[1, -2.5, 3e38, 1e-30], [0, np.inf, 65_505, -7]], np.float32)
    store, keys = Store(tmp_path), [item_key("a"), item_key("b")]
    with store.writer(wide, style=Style(compression)) as writer:
        writer.add(keys[0], rows)
        writer.add(keys[1], None, status="no_face")
    block = store.open(wide)
    expected = torch.from_numpy(rows).bfloat16().float().numpy()
    for found in (block.rows(keys)[0], block.item(keys[0])[0], block.all_rows()[1], block.batch(keys)[0][0]):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert block.item(keys[1])[0].shape == (0, 4)
    with h5py.File(next((store.place(wide) / "shards").iterdir())) as file:  # plain h5py sees the same numbers
        np.testing.assert_array_equal(np.asarray(file["rows"]), expected)


def test_bfloat16_takes_two_bytes(tmp_path: Path, wide: BlockSpec) -> None:
    sizes = {}
    for name in ("bfloat16", "float16", "float32"):
        spec = replace(wide, numerics={"dtype": name})
        store = Store(tmp_path / name)
        with store.writer(spec) as writer:
            writer.add(item_key("a"), np.ones((10_000, 4), np.float32))
        [info] = store.blocks()
        sizes[name] = info.size
    assert sizes["bfloat16"] == sizes["float16"] == sizes["float32"] - 80_000


def test_a_value_bfloat16_cannot_hold_is_refused(tmp_path: Path, wide: BlockSpec) -> None:
    largest = np.finfo(np.float32).max  # rounds to 2^128
    with Store(tmp_path).writer(wide) as writer:
        with pytest.raises(RangeError, match="does not fit bfloat16"):
            writer.add(item_key("a"), np.full((1, 4), largest))
        writer.add(item_key("b"), np.full((1, 4), 3.38e38, np.float32))
    assert Store(tmp_path).open(wide).has([item_key("a"), item_key("b")]).tolist() == [False, True]
