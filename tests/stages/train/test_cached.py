from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cache.block import Block
from cache.errors import MissingRowsError
from cache.keys import BlockSpec, item_key
from cache.store import Store
from stages.train.cached import CachedRows

COUNTS = [2, 0, 3, 1, 5, 4]
KEYS = [item_key(f"{i:02x}") for i in range(len(COUNTS))]


def rows_of(i: int) -> np.ndarray:
    return np.arange(COUNTS[i] * 3, dtype=np.float16).reshape(-1, 3) + 100 * i


@pytest.fixture
def block(tmp_path: Path) -> Block:
    spec = BlockSpec("net", "embedding", "face", (3,), 1, numerics={"dtype": "float16"})
    store = Store(tmp_path)
    with store.writer(spec, flush_rows=4) as writer:
        for i, key in enumerate(KEYS):
            writer.add(key, rows_of(i))
    return store.open(spec)


def test_a_batch_is_padded_float32_with_its_mask(block: Block) -> None:
    values, mask = CachedRows(block, KEYS).batch([3, 1, 0])
    assert (values.shape, values.dtype) == ((3, 2, 3), torch.float32)
    assert mask.tolist() == [[True, False], [False, False], [True, True]]
    assert values[0, 0].tolist() == rows_of(3)[0].tolist()
    assert values[2].tolist() == rows_of(0).tolist()
    assert not values[~mask].any()


def test_an_epoch_has_every_item_once_and_the_seed_decides_the_order(block: Block) -> None:
    data = CachedRows(block, KEYS)
    drawn = [numbers for numbers, _, _ in data.epoch(4, seed=1)]
    assert [len(numbers) for numbers in drawn] == [4, 2]
    assert sorted(np.concatenate(drawn).tolist()) == list(range(6))
    assert np.array_equal(np.concatenate(drawn), np.concatenate([n for n, _, _ in data.epoch(3, seed=1)]))
    assert not np.array_equal(np.concatenate(drawn), np.concatenate([n for n, _, _ in data.epoch(4, seed=2)]))
    for numbers, values, mask in data.epoch(4, seed=1):
        assert mask.sum(1).tolist() == [COUNTS[i] for i in numbers]
        assert values[mask].tolist() == np.concatenate([rows_of(i) for i in numbers]).tolist()


def test_width_bounds_items_and_the_dtype_may_stay(block: Block) -> None:
    data = CachedRows(block, KEYS, width=2, dtype=None)
    values, mask = data.batch([4, 1])
    assert (values.shape, values.dtype, mask.sum().item()) == ((2, 2, 3), torch.float16, 2)
    assert data[4].tolist() == rows_of(4)[:2].tolist()


def test_torch_loads_it_as_any_data_set(block: Block) -> None:
    data = CachedRows(block, KEYS[2:])
    assert len(data) == 4
    loaded = list(DataLoader(data, batch_size=None))
    assert [rows.tolist() for rows in loaded] == [rows_of(i).tolist() for i in range(2, 6)]


def test_missing_items_are_said_at_once(block: Block) -> None:
    with pytest.raises(MissingRowsError, match="1 of the items"):
        CachedRows(block, [KEYS[0], item_key("ff")])
