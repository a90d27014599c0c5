from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import journal, pack
from cache.errors import DamagedError, MissingRowsError, RangeError, SchemaError, StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.store import Store


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float16)


def fill(store: Store, spec: BlockSpec, counts: list[int], **limits: Any) -> list[bytes]:
    keys = [item_key(f"{i:02x}") for i in range(len(counts))]
    with store.writer(spec, **limits) as writer:
        for i, (key, count) in enumerate(zip(keys, counts, strict=True)):
            writer.add(key, rows(count, i), status="ok" if count else "no_face")
    return keys


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=12), flush=st.integers(1, 8), data=st.data())
def test_what_was_written_is_read_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, spec: BlockSpec, counts: list[int], flush: int, data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    keys = fill(store, spec, counts, flush_rows=flush)
    order = data.draw(st.permutations(range(len(keys))))
    got, offsets = store.open(spec).rows([keys[i] for i in order])
    assert got.dtype == np.float16
    assert np.array_equal(np.diff(offsets), [counts[i] for i in order])
    assert np.array_equal(got, np.concatenate([rows(counts[i], i) for i in order]))


def test_a_block_nobody_wrote_is_empty(tmp_path: Path, spec: BlockSpec) -> None:
    block = Store(tmp_path).open(spec)
    assert len(block) == 0
    assert not block.has([item_key("aa")]).any()
    assert block.rows([])[0].shape == (0, 4)


def test_status_and_detail_of_failed_items(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    with store.writer(spec) as writer:
        writer.add(item_key("aa"), None, status="truncated", detail="ends at byte 7")
        writer.add(item_key("bb"), rows(2))
    block = store.open(spec)
    got, status, detail = block.item(item_key("aa"))
    assert (got.shape, status, detail) == ((0, 4), "truncated", "ends at byte 7")
    assert block.item(item_key("bb"))[1:] == ("ok", "")
    assert block.count([item_key("bb"), item_key("aa"), item_key("cc")]).tolist() == [2, 0, -1]


def test_missing_items_are_named_not_filled(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    fill(store, spec, [1])
    with pytest.raises(MissingRowsError, match="1 of the items"):
        store.open(spec).rows([item_key("00"), item_key("99")])


def test_a_value_float16_cannot_hold_is_refused(tmp_path: Path, spec: BlockSpec) -> None:
    with Store(tmp_path).writer(spec) as writer, pytest.raises(RangeError, match=r"70000.*float16.*float32"):
        writer.add(item_key("aa"), np.full((1, 4), 70_000.0, np.float32))
    assert len(Store(tmp_path).open(spec)) == 0


def test_rows_of_another_shape_are_refused(tmp_path: Path, spec: BlockSpec) -> None:
    with Store(tmp_path).writer(spec) as writer, pytest.raises(ValueError, match="shape"):
        writer.add(item_key("aa"), np.zeros((1, 5), np.float16))


def test_the_same_item_twice_is_recorded_once(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    fill(store, spec, [2])
    fill(store, spec, [2, 1])
    block = store.open(spec)
    assert sum(info.items for info in store.blocks()) == 2
    assert len(block) == 2
    assert np.array_equal(block.rows([item_key("00")])[0], rows(2, 0))


def _interrupted(store: Store, spec: BlockSpec) -> None:
    with store.writer(spec) as writer:
        writer.add(item_key("aa"), rows(1))
        raise KeyboardInterrupt


def test_an_interrupted_writer_keeps_what_it_flushed(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(store, spec)
    assert store.open(spec).has([item_key("aa")]).all()


def test_an_unrecorded_shard_does_not_exist(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    fill(store, spec, [3])
    for record in (store.place(spec) / "journal").iterdir():
        record.unlink()
    assert len(store.open(spec)) == 0


@pytest.mark.parametrize("position", [0, 600, 2048, -1])
def test_one_flipped_bit_in_a_shard_is_found_before_use(tmp_path: Path, spec: BlockSpec, position: int) -> None:
    store = Store(tmp_path)
    fill(store, spec, [3])
    path = next((store.place(spec) / "shards").iterdir())
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="hash"):
        store.open(spec)


def test_a_lost_shard_is_said(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    fill(store, spec, [3])
    next((store.place(spec) / "shards").iterdir()).unlink()
    with pytest.raises(DamagedError, match="gone"):
        store.open(spec)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "list"])
def test_a_damaged_journal_record_is_said(tmp_path: Path, spec: BlockSpec, damage: str) -> None:
    store = Store(tmp_path)
    fill(store, spec, [3])
    path = next((store.place(spec) / "journal").iterdir())
    text = path.read_text()
    path.write_text(
        {"cut": text[:40], "flip": text.replace('"items":1', '"items":3'), "empty": "", "list": "[]"}[damage]
    )
    with pytest.raises(DamagedError, match="journal record"):
        store.open(spec)


def test_a_shard_of_a_newer_schema_is_refused(tmp_path: Path, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(pack, "SCHEMA", pack.SCHEMA + 1)
    fill(store, spec, [1])
    monkeypatch.undo()
    with pytest.raises(SchemaError, match="upgrade"):
        store.open(spec)


def test_a_shard_of_another_block_is_refused(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    fill(store, spec, [1])
    place = store.place(spec)
    path = next((place / "shards").iterdir())
    with h5py.File(path, "r+") as file:
        file.attrs["key"] = "f" * 64
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    next((place / "journal").iterdir()).unlink()
    journal.append(place / "journal", journal.Record(path.name, digest, path.stat().st_size, 1, 1))
    with pytest.raises(DamagedError, match="belongs to block"):
        store.open(spec)


def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path)
    (tmp_path / "store.json").write_text('{"schema": 99}')
    with pytest.raises(SchemaError, match="99"):
        Store(tmp_path)


def test_a_store_where_none_can_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorePlaceError, match="KULESHOV_STORE"):
        Store(tmp_path / "file" / "store")


def test_a_path_with_spaces_and_non_ascii(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path / "mein Ärger 感情")
    keys = fill(store, spec, [2])
    assert len(store.open(spec).rows(keys)[0]) == 2


def test_plain_h5py_reads_a_shard(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    keys = fill(store, spec, [2, 0, 1])
    with h5py.File(next((store.place(spec) / "shards").iterdir())) as file:
        assert set(file) == {"rows", "offsets", "item_keys", "item_status", "item_detail"}
        assert file["offsets"][()].tolist() == [0, 2, 2, 3]  # pyright: ignore
        assert [bytes(k) for k in file["item_keys"][()]] == keys  # pyright: ignore
        assert file["item_status"][()].tolist() == [b"ok", b"no_face", b"ok"]  # pyright: ignore
        assert file["rows"].chunks is None  # pyright: ignore
        assert spec.source in str(file.attrs["spec"])


def test_no_temporary_files_stay(tmp_path: Path, spec: BlockSpec) -> None:
    fill(Store(tmp_path), spec, [1, 2, 3], flush_rows=1)
    left = [name for _, _, names in os.walk(tmp_path) for name in names if name.endswith(".tmp")]
    assert left == []


def test_blocks_are_listed_with_their_sizes(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    fill(store, spec, [2, 1], flush_rows=1)
    [info] = store.blocks()
    assert (info.spec.key, info.shards, info.items, info.rows) == (spec.key, 2, 2, 3)
    assert info.size == sum(p.stat().st_size for p in (info.path / "shards").iterdir())
