"""One flipped bit anywhere in a shard or in the journal: found before first use, never returned as a feature."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from cache import shard
from cache.errors import CacheError
from cache.keys import BlockSpec, item_key
from cache.store import Store

KEYS = [item_key(f"{i:02x}") for i in range(6)]


def rows(i: int) -> np.ndarray:
    return np.random.default_rng(i).normal(size=(i % 3, 4)).astype(np.float16)


@pytest.fixture
def store(tmp_path: Path, spec: BlockSpec) -> Store:
    store = Store(tmp_path)
    for half in (range(3), range(3, 6)):
        with store.writer(spec) as writer:
            for i in half:
                writer.add(KEYS[i], rows(i), status="ok" if i % 3 else "no_face", detail=f"item {i}")
    return store


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def hunt(store: Store, spec: BlockSpec, folder: str, flips: int, seed: int) -> int:
    """Flip one bit at a time; how many flips were found. A flip that is not found must change nothing."""
    chance = random.Random(seed)
    found = 0
    for _ in range(flips):
        path = chance.choice(sorted((store.place(spec) / folder).iterdir()))
        bit = chance.randrange(8 * path.stat().st_size)
        flip(path, bit)
        shard._checked.clear()  # as in a new process: a shard is checked once in each
        try:
            block = store.open(spec)
            got = [block.item(key) for key in KEYS]
        except CacheError:
            found += 1
        else:
            assert folder == "journal", f"bit {bit} of a shard was not found"
            for i, (values, status, detail) in enumerate(got):
                assert np.array_equal(values, rows(i))
                assert (status, detail) == ("ok" if i % 3 else "no_face", f"item {i}")
        flip(path, bit)
    shard._checked.clear()
    assert np.array_equal(store.open(spec).rows(KEYS)[0], np.concatenate([rows(i) for i in range(6)]))
    return found


def test_a_flipped_bit_in_a_shard_is_always_found(store: Store, spec: BlockSpec) -> None:
    assert hunt(store, spec, "shards", flips=150, seed=1) == 150


def test_a_flipped_bit_in_the_journal_is_found_or_changes_nothing(store: Store, spec: BlockSpec) -> None:
    assert hunt(store, spec, "journal", flips=150, seed=2) > 140


@pytest.mark.soak
def test_thousands_of_flipped_bits(store: Store, spec: BlockSpec) -> None:
    shards, journal = hunt(store, spec, "shards", 5000, seed=3), hunt(store, spec, "journal", 5000, seed=4)
    print(
        f"5000 bits flipped in shards: {shards} found; 5000 in the journal: {journal} found, the rest changed nothing"
    )
    assert shards == 5000


def test_a_journal_cut_at_every_byte_is_said(store: Store, spec: BlockSpec) -> None:
    path = min((store.place(spec) / "journal").iterdir())
    text = path.read_bytes()
    for length in range(len(text) - 1):  # without its last byte, a line break, it still is whole
        path.write_bytes(text[:length])
        with pytest.raises(CacheError, match="journal record"):
            store.open(spec)


def test_a_foreign_file_among_the_shards_is_no_shard(store: Store, spec: BlockSpec) -> None:
    (store.place(spec) / "shards" / "mine.h5").write_bytes(b"not recorded")
    (store.root / "blocks" / "my notes").mkdir()
    assert len(store.open(spec)) == 6
    assert [info.items for info in store.blocks()] == [6]
