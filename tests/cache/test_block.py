from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import block as block_module
from cache import journal, maps, shard
from cache.block import Block
from cache.errors import DamagedError, MissingRowsError, StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.store import Store

ROOT = Path(__file__).parent.parent.parent
Counts = list[int]


def block_spec(shape: tuple[int, ...] = (4,), dtype: str = "float16") -> BlockSpec:
    return BlockSpec("net", "embedding", "face", shape, 1, numerics={"dtype": dtype})


def rows_of(count: int, spec: BlockSpec, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 100, (count, *spec.shape))
    return drawn.astype(str(spec.numerics["dtype"]))


def key_of(i: int) -> bytes:
    return item_key(f"{i:04x}")


def fill(root: Path, spec: BlockSpec, counts: Counts, flush: int) -> Block:
    """Item i has `counts[i]` rows drawn from seed i; a shard every `flush` items."""
    store = Store(root)
    with store.writer(spec) as writer:
        for i, count in enumerate(counts):
            writer.add(key_of(i), rows_of(count, spec, i))
            if i % flush == flush - 1:
                writer.flush()
    return store.open(spec)


def expected(spec: BlockSpec, counts: Counts, items: list[int]) -> np.ndarray:
    parts = [rows_of(counts[i], spec, i) for i in items]
    return np.concatenate([np.empty((0, *spec.shape), str(spec.numerics["dtype"])), *parts])


SHAPES = st.sampled_from(
    [((4,), "float16"), ((3,), "uint8"), ((2, 3, 5), "float32"), ((), "float64"), ((0,), "float32")]
)


@settings(max_examples=40, deadline=None)
@given(
    kind=SHAPES,
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=15),
    flush=st.integers(1, 15),
    limits=st.sampled_from([(1 << 16, 1 << 25, 256), (1, 1 << 25, 0), (1 << 16, 8, 0), (1 << 16, 1 << 25, 0)]),
    mapped=st.booleans(),
    data=st.data(),
)
def test_rows_are_those_written_on_every_way_to_read_them(
    tmp_path_factory: pytest.TempPathFactory,
    kind: tuple[tuple[int, ...], str],
    counts: Counts,
    flush: int,
    limits: tuple[int, int, int],
    mapped: bool,
    data: st.DataObject,
) -> None:
    spec = block_spec(*kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "_LONG_RUN", limits[0])
        patch.setattr(maps, "_CHUNK_BYTES", limits[1])
        patch.setattr(block_module, "_FEW", limits[2])
        patch.setattr(block_module, "SUPPORTED", mapped)
        block = fill(tmp_path_factory.mktemp("store"), spec, counts, flush)
        asked = data.draw(st.lists(st.sampled_from(range(len(counts))), max_size=20))  # any order, also twice
        got, offsets = block.rows([key_of(i) for i in asked])
        keys, everything, ends = block.all_rows()
    want = expected(spec, counts, asked)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == want.tobytes()
    assert got.flags.writeable
    assert np.diff(offsets).tolist() == [counts[i] for i in asked]
    number = {key_of(i): i for i in range(len(counts))}
    stored = [number[bytes(key).ljust(16, b"\0")] for key in keys]
    assert sorted(stored) == list(range(len(counts)))
    assert everything.tobytes() == expected(spec, counts, stored).tobytes()
    assert np.diff(ends).tolist() == [counts[i] for i in stored]
    for i in asked:
        assert block.item(key_of(i))[0].tobytes() == rows_of(counts[i], spec, i).tobytes()


def test_one_shard_is_read_whole_without_a_copy(tmp_path: Path) -> None:
    spec, counts = block_spec(), [2, 0, 3]
    block = fill(tmp_path, spec, counts, 3)
    keys, rows, offsets = block.all_rows()
    assert keys.tolist() == [key_of(i) for i in range(3)]
    assert rows.tobytes() == expected(spec, counts, [0, 1, 2]).tobytes()
    assert offsets.tolist() == [0, 2, 2, 5]
    assert not rows.flags.writeable
    assert np.shares_memory(rows, block.item(key_of(2))[0])


def test_several_shards_are_read_whole_as_a_copy(tmp_path: Path) -> None:
    assert fill(tmp_path, block_spec(), [1, 1], 1).all_rows()[1].flags.writeable


def test_a_map_cannot_be_written(tmp_path: Path) -> None:
    rows = fill(tmp_path, block_spec(), [2], 1).item(key_of(0))[0]
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 1


def test_rows_outlive_their_block(tmp_path: Path) -> None:
    spec = block_spec()
    rows = fill(tmp_path, spec, [3], 1).item(key_of(0))[0]  # nothing else refers to the map
    assert rows.tobytes() == rows_of(3, spec, 0).tobytes()


def test_keys_with_equal_beginnings_and_zero_ends_are_told_apart(tmp_path: Path) -> None:
    keys = [b"A" * 8 + bytes(8), b"A" * 8 + bytes(7) + b"\1", b"A" * 8 + b"\xff" * 8, bytes(16)]
    spec, store = block_spec(()), Store(tmp_path)
    with store.writer(spec) as writer:
        for i, key in enumerate(keys):
            writer.add(key, np.full(1, i, np.float16))
    block = store.open(spec)
    assert block.rows([keys[i] for i in (2, 0, 3, 1)])[0].tolist() == [2, 0, 3, 1]
    assert block.has([b"A" * 8 + b"\2" * 8, *keys]).tolist() == [False, True, True, True, True]
    assert block.find([b"\xff" * 16]).tolist() == [-1]


def test_missing_items_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    block = fill(tmp_path, block_spec(), [1], 1)
    with pytest.raises(MissingRowsError, match=f"2 of the items .*{item_key('ff').hex()}"):
        block.batch([key_of(0), item_key("ff"), item_key("ee")])


def test_batches_are_padded_and_masked(tmp_path: Path) -> None:
    spec, counts = block_spec(), [2, 0, 3]
    block = fill(tmp_path, spec, counts, 1)
    values, mask = block.batch([key_of(2), key_of(1), key_of(0)])
    assert (values.shape, values.dtype) == ((3, 3, 4), np.float16)
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert values[mask].tobytes() == expected(spec, counts, [2, 0]).tobytes()
    assert not values[~mask].any()
    narrow, narrow_mask = block.batch(block.keys, width=1)
    assert narrow.shape == (3, 1, 4)
    assert narrow_mask.sum() == 2
    with pytest.raises(ValueError, match="width is 0"):
        block.batch([key_of(0)], width=0)


def test_no_file_stays_open(tmp_path: Path) -> None:
    fill(tmp_path, block_spec(), [1] * 40, 1)
    before = len(list(Path("/dev/fd").iterdir()))
    blocks = [Store(tmp_path).open(block_spec()) for _ in range(3)]
    assert [int(block.rows(block.keys)[1][-1]) for block in blocks] == [40] * 3
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    spec = block_spec()
    fill(tmp_path, spec, [1] * 60, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 20, hard))
    try:
        blocks = [Store(tmp_path).open(spec) for _ in range(2)]
        assert [len(one.rows(one.keys)[0]) for one in blocks] == [60, 60]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_compressed_shards_are_read(tmp_path: Path) -> None:
    spec, counts = block_spec(), [2, 0, 3]
    fill(tmp_path, spec, counts, 2)
    place = Store(tmp_path).place(spec)
    for record in journal.read(place / "journal"):
        path = place / "shards" / record.shard
        compress(path)
        digest = shard._hash(path)
        (place / "journal" / f"{path.stem}.json").unlink()
        size = path.stat().st_size
        journal.append(place / "journal", journal.Record(path.name, digest, size, record.items, record.rows))
    block = Store(tmp_path).open(spec)
    assert block.rows([key_of(2), key_of(0)])[0].tobytes() == expected(spec, counts, [2, 0]).tobytes()
    assert block.item(key_of(2))[0].tobytes() == rows_of(3, spec, 2).tobytes()
    assert not block.item(key_of(2))[0].flags.writeable


def compress(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        rows = np.asarray(file["rows"])
        del file["rows"]
        file.create_dataset("rows", data=rows, chunks=rows.shape, compression="gzip")


def test_a_shard_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    spec = block_spec()
    fill(tmp_path, spec, [1], 1)
    path = next((Store(tmp_path).place(spec) / "shards").iterdir())
    path.unlink()
    path.mkdir()  # to read it fails for every user, also for root
    shard._checked.clear()
    with pytest.raises(StorePlaceError, match="cannot be read"):
        Store(tmp_path).open(spec)


def test_a_file_cut_short_after_its_check_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(100))
    with pytest.raises(DamagedError, match="cut short"):
        maps.RowSpace([maps.Extent(path, 40, 16, 4)], 4)
    space = maps.RowSpace([maps.Extent(path, 40, 15, 4)], 4)
    assert len(space.view(int(space.starts[0]), 15)) == 60


def test_a_shard_is_hashed_once_a_process(tmp_path: Path) -> None:
    spec = block_spec()
    fill(tmp_path, spec, [1, 1], 1)
    path = next((Store(tmp_path).place(spec) / "shards").iterdir())
    content = bytearray(path.read_bytes())
    content[600] ^= 1  # after the check: a process trusts what it checked
    path.write_bytes(content)
    assert len(Store(tmp_path).open(spec)) == 2
    shard._checked.clear()
    with pytest.raises(DamagedError, match="hash"):
        Store(tmp_path).open(spec)


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_threads_find_the_damaged_one_of_many(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_WORTH_THREADS", 0)
    monkeypatch.setattr(shard.os, "cpu_count", lambda: 4)
    spec = block_spec()
    fill(tmp_path, spec, [1] * 8, 1)
    shard._checked.clear()
    path = sorted((Store(tmp_path).place(spec) / "shards").iterdir())[5]
    if damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(DamagedError, match=path.name):
        Store(tmp_path).open(spec)


def test_pages_are_handed_back_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "RESIDENT_BYTES", 8192)
    handed: list[int] = []
    real: Callable[[maps._Range], None] = maps._Range.hand_back
    monkeypatch.setattr(maps._Range, "hand_back", lambda self: (handed.append(self.size), real(self))[1])
    spec, counts = block_spec((1024,), "float32"), [1] * 12
    block = fill(tmp_path, spec, counts, 4)
    for i in [3, 11, 0, 7, 3, 0]:
        assert block.rows([key_of(i)])[0].tobytes() == rows_of(1, spec, i).tobytes()
    assert len(handed) >= 6


_PEAK = """
import sys
from pathlib import Path
from cache import maps
from cache.store import Store
from cache.keys import BlockSpec
maps.RESIDENT_BYTES = int(sys.argv[2])
block = Store(Path(sys.argv[1])).open(BlockSpec("net", "embedding", "face", (65536,), 1, numerics={"dtype": "uint8"}))
def peak():  # ru_maxrss would begin with the parent's
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
for start in range(0, len(block), 4):
    if sys.argv[3] == "rows":
        block.rows(block.keys[start : start + 4])
    else:
        for place in range(start, start + 4):
            block.item_at(place).max()
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("way", ["rows", "items"])
def test_memory_stays_bounded_however_large_the_block(tmp_path: Path, way: str) -> None:
    spec = block_spec((65536,), "uint8")
    store = Store(tmp_path)
    with store.writer(spec) as writer:
        for i in range(96):
            writer.add(key_of(i), np.full((8, 65536), i, np.uint8))  # 48 MiB in all
    command = [sys.executable, "-c", _PEAK, str(tmp_path)]
    tight, loose = (
        int(subprocess.run([*command, str(limit), way], check=True, capture_output=True, text=True, cwd=ROOT).stdout)
        for limit in (4 << 20, 1 << 30)
    )
    assert loose > 40 << 10  # without a bound every page of the map counts
    assert tight < 16 << 10
