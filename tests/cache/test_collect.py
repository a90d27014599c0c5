from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import collect, journal
from cache.collect import GRACE_SECONDS, Piece, debris, older, remove, whole
from cache.errors import DamagedError, StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.store import Store

KEYS = [item_key(f"{i:02x}") for i in range(4)]


@pytest.fixture
def store(tmp_path: Path, spec: BlockSpec) -> Store:
    """Two blocks of two shards each."""
    store = Store(tmp_path / "store")
    for one in (spec, replace(spec, tap="pooled")):
        with store.writer(one, flush_rows=2) as writer:
            for i, key in enumerate(KEYS):
                writer.add(key, np.full((1, 4), i))
    return store


def age(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def files(store: Store) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_a_whole_store_has_no_debris(store: Store) -> None:
    assert list(debris(store, now=time.time() + 1e6)) == []


def test_unrecorded_shards_temporary_files_and_locks_go_and_nothing_else(store: Store, spec: BlockSpec) -> None:
    before = files(store)
    place = store.place(spec)
    made = {
        place / "shards" / f"{'a' * 24}-0123abcd.h5": "unrecorded shard",
        place / "shards" / ".12-ab.tmp": "temporary file",
        place / "journal" / ".12-cd.tmp": "temporary file",
        place / ".block.json-12-ef.tmp": "temporary file",
        place / "commit.lock": "lock of a writer that died",
        place / "commit.lock-abcdef.tmp": "temporary file",
        store.root / ".store.json-12-ab.tmp": "temporary file",
    }
    for path in made:
        path.write_bytes(b"123")
        age(path, GRACE_SECONDS + 60)
    kept = place / "shards" / "mine.h5"
    age(kept, 0) if kept.exists() else kept.write_bytes(b"somebody's own")
    age(kept, 1e6)
    found = list(debris(store))
    assert {piece.path: piece.what for piece in found} == made
    assert {piece.size for piece in found} == {3}
    for piece in found:
        remove(piece)
    assert files(store) == {**before, kept: b"somebody's own"}
    assert store.open(spec).has(KEYS).all()


@pytest.mark.parametrize("seconds", [0, GRACE_SECONDS - 60, -1e6])
def test_young_files_and_those_from_the_future_stay(store: Store, spec: BlockSpec, seconds: float) -> None:
    for path in (store.place(spec) / "shards" / f"{'a' * 24}.h5", store.place(spec) / "shards" / ".1-a.tmp"):
        path.write_bytes(b"")
        age(path, seconds)
    assert list(debris(store)) == []


def test_shards_of_a_damaged_journal_stay(store: Store, spec: BlockSpec) -> None:
    record = next((store.place(spec) / "journal").iterdir())
    record.write_text("{")
    assert list(debris(store, now=time.time() + 1e6)) == []


def test_dropping_a_block_drops_it_alone(store: Store, spec: BlockSpec) -> None:
    [info] = [info for info in store.blocks() if info.spec.key == spec.key]
    size = sum(len(content) for path, content in files(store).items() if info.path in path.parents)
    piece = whole(info)
    assert piece == Piece(info.path, size, "block net/embedding (4 items, 4 rows)")
    remove(piece)
    assert not info.path.exists()
    assert [left.spec.tap for left in store.blocks()] == ["pooled"]
    assert len(store.open(spec)) == 0
    with store.writer(spec) as writer:
        writer.add(KEYS[0], np.zeros((1, 4)))
    assert len(store.open(spec)) == 1


def test_what_somebody_put_into_a_block_stays(store: Store, spec: BlockSpec) -> None:
    [info] = [info for info in store.blocks() if info.spec.key == spec.key]
    note = info.path / "shards" / "notes.txt"
    note.write_text("mine")
    remove(whole(info))
    assert note.read_text() == "mine"
    assert len(store.open(spec)) == 0


def fail_at(step: int) -> Callable[..., None]:
    """`Path.unlink` that ends the process, as it were, at its n-th call."""
    unlink, calls = Path.unlink, iter(range(10_000))

    def stand_in(path: Path, missing_ok: bool = False) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    return stand_in


@pytest.mark.parametrize("step", range(6))
def test_cut_short_anywhere_no_record_is_without_its_shard(
    store: Store, spec: BlockSpec, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = store.place(spec)
    piece = whole(next(info for info in store.blocks() if info.spec.key == spec.key))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail_at(step))
        with pytest.raises(KeyboardInterrupt):
            remove(piece)
    shards = {path.name for path in (place / "shards").glob("*.h5")}
    assert {record.shard for record in journal.read(place / "journal")} <= shards
    store.open(spec)
    remove(piece)
    assert not place.exists()


def test_age_is_that_of_the_newest_record(store: Store, spec: BlockSpec) -> None:
    for path in (store.place(spec) / "journal").glob("*.json"):
        age(path, 40 * 86_400)
    blocks = list(store.blocks())
    assert [info.spec.tap for info in older(blocks, 39)] == ["embedding"]
    assert older(blocks, 41) == []
    age(next((store.place(spec) / "journal").glob("*.json")), 1)
    assert older(list(store.blocks()), 39) == []


def test_an_empty_block_counts_from_its_start(store: Store, spec: BlockSpec) -> None:
    empty = replace(spec, tap="empty")
    store.writer(empty)
    assert older([i for i in store.blocks() if i.spec.tap == "empty"], 1) == []
    age(store.place(empty) / "block.json", 2 * 86_400)
    assert [i.spec.tap for i in older(list(store.blocks()), 1)] == ["empty"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(store: Store, spec: BlockSpec) -> None:
    folder = store.place(spec) / "shards"
    path = folder / ".1-a.tmp"
    path.write_bytes(b"")
    folder.chmod(0o500)
    try:
        with pytest.raises(StorePlaceError, match="cannot be removed"):
            remove(Piece(path, 0, "temporary file"))
    finally:
        folder.chmod(0o700)


def test_a_folder_in_the_place_of_a_record_is_an_error_of_the_store(store: Store, spec: BlockSpec) -> None:
    place = store.place(spec)
    piece = collect.whole(next(info for info in store.blocks() if info.spec.key == spec.key))
    (place / "journal" / "folder").mkdir()
    with pytest.raises(StorePlaceError, match="cannot be removed"):
        remove(piece)
    try:
        store.open(spec)
    except DamagedError:
        pytest.fail("a record is without its shard")
