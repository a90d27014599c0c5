"""Notes of a block: written once and whole, read from the own store before shared ones, carried along everywhere."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import collect, notes
from cache.collect import GRACE_SECONDS, debris, remove, whole
from cache.errors import DamagedError, StorePlaceError
from cache.export import write_h5, write_npz
from cache.keys import BlockSpec, item_key
from cache.retry import forget_failed
from cache.store import Store
from cache.why import select

KEYS = [item_key(f"{i:02x}") for i in range(3)]
NOTE = {"seen.json": b'{"x": 1}\n'}


def fill(store: Store, spec: BlockSpec, said: dict[str, bytes] | None = None) -> Store:
    with store.writer(spec, notes=said) as writer:
        for i, key in enumerate(KEYS):
            writer.add(key, np.full((1, 4), i))
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_note_is_read_from_the_block_and_is_no_part_of_its_key(store: Store, spec: BlockSpec) -> None:
    key = spec.key
    block = fill(store, spec, NOTE).open(spec)
    assert (block.note("seen.json"), store.note(spec, "seen.json")) == (NOTE["seen.json"],) * 2
    assert block.note("other.json") is None
    assert spec.key == key
    assert block.has(KEYS).all()
    assert sorted(path.name for path in store.place(spec).iterdir()) == ["block.json", "journal", "seen.json", "shards"]
    assert [info.items for info in store.blocks()] == [3]


def test_it_is_there_before_the_first_row(store: Store, spec: BlockSpec) -> None:
    store.writer(spec, notes=NOTE)
    block = store.open(spec)
    assert len(block) == 0
    assert block.note("seen.json") == NOTE["seen.json"]


def test_a_block_of_before_gets_one_and_the_first_stays(store: Store, spec: BlockSpec) -> None:
    fill(store, spec)
    assert store.open(spec).note("seen.json") is None
    store.writer(spec, notes=NOTE)
    store.writer(spec, notes={"seen.json": b"another", "more.json": b"2"})
    assert store.note(spec, "seen.json") == NOTE["seen.json"]
    assert store.note(spec, "more.json") == b"2"
    assert notes.names(store.places(spec)) == ["more.json", "seen.json"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_one_wins_and_its_note_is_whole(
    store: Store, spec: BlockSpec, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    texts = [bytes([65 + i]) * (1 << 16) for i in range(16)]
    found: list[bytes | None] = []
    with ThreadPoolExecutor(16) as pool:
        for job in [pool.submit(store.writer, spec, notes={"seen.json": text}) for text in texts]:
            job.result()
            found.append(store.note(spec, "seen.json"))
    assert set(found) <= set(texts)
    if links:
        assert len(set(found)) == 1
    assert not list(store.place(spec).glob(".*"))


def test_who_comes_second_in_a_race_loses(store: Store, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    store.writer(spec)
    real = os.link

    def overtaken(source: Path, target: Path) -> None:
        target.write_bytes(b"the first")
        real(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    store.writer(spec, notes={"seen.json": b"the second"})
    assert store.note(spec, "seen.json") == b"the first"
    assert not list(store.place(spec).glob(".*"))


def test_the_own_note_comes_before_a_shared_one(tmp_path: Path, spec: BlockSpec) -> None:
    fill(Store(tmp_path / "a"), spec)
    fill(Store(tmp_path / "b"), spec, {"seen.json": b"b"})
    fill(Store(tmp_path / "c"), spec, {"seen.json": b"c"})
    store = Store(tmp_path / "own", [tmp_path / name for name in "abc"])
    assert store.open(spec).note("seen.json") == b"b"
    store.writer(spec, notes={"seen.json": b"own"})
    assert store.open(spec).note("seen.json") == store.note(spec, "seen.json") == b"own"
    assert store.open(spec).has(KEYS).all()
    assert Store(tmp_path / "b").note(spec, "seen.json") == b"b"


@given(st.text(max_size=12))
def test_no_name_leaves_the_block_or_hides_its_files(name: str) -> None:
    for one in (name, f"{name}.json"):
        if notes.is_note(one):
            assert Path(one).name == one != "block.json"
            assert one.isascii()
            assert one[0] not in ".-_"
            assert one.endswith(".json")


@pytest.mark.parametrize(
    "name", ["block.json", "../seen.json", "a/b.json", ".json", ".a.json", "seen.txt", "Seen.json", "", "a\n.json"]
)
def test_what_is_no_notes_name_is_refused(store: Store, spec: BlockSpec, name: str) -> None:
    with pytest.raises(ValueError, match="note"):
        store.writer(spec, notes={name: b""})
    with pytest.raises(ValueError, match="note"):
        store.note(spec, name)
    assert notes.names(store.places(spec)) == []


def test_the_size_is_bounded(store: Store, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "LIMIT", 8)
    store.writer(spec, notes={"seen.json": b"12345678"})
    assert store.note(spec, "seen.json") == b"12345678"
    with pytest.raises(ValueError, match="of 9 bytes cannot be a note"):
        store.writer(spec, notes={"more.json": b"123456789"})
    (store.place(spec) / "more.json").write_bytes(b"123456789")
    with pytest.raises(DamagedError, match=r"more\.json: larger than a note may be \(8 bytes\); delete this file"):
        store.note(spec, "more.json")


def test_what_cannot_be_read_or_written_is_one_line(store: Store, spec: BlockSpec, tmp_path: Path) -> None:
    store.writer(spec)
    (store.place(spec) / "seen.json").mkdir()
    with pytest.raises(StorePlaceError, match=r"seen\.json: cannot be read \("):
        store.note(spec, "seen.json")
    other = Store(tmp_path / "other")
    other.place(spec).write_bytes(b"a file where the block's folder goes")
    with pytest.raises(StorePlaceError, match="cannot be written"):
        other.writer(spec, notes=NOTE)


def test_gc_leaves_notes_and_takes_what_a_writer_left_half(store: Store, spec: BlockSpec) -> None:
    place = fill(store, spec, NOTE).place(spec)
    half = place / ".seen.json-12-abcd.tmp"
    half.write_bytes(b"ha")
    then = time.time() - GRACE_SECONDS - 60
    for path in (half, place / "seen.json"):
        os.utime(path, (then, then))
    assert [piece.path for piece in debris(store)] == [half]
    assert notes.names([place]) == ["seen.json"]


def test_a_block_goes_with_its_notes_and_not_before_its_rows(
    store: Store, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(store, spec, NOTE).place(spec)
    [info] = store.blocks()
    assert whole(info).size == sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    mine = place / "shards" / "mine.h5"
    mine.write_bytes(b"somebody's own")
    remove(whole(info))
    assert sorted(path.name for path in place.rglob("*") if path.is_file()) == ["block.json", "mine.h5", "seen.json"]
    mine.unlink()
    seen_last: list[bool] = []
    original = collect._remove_empty

    def watched(folder: Path) -> bool:
        if folder.name == "shards":
            seen_last.append((place / "seen.json").exists())
        return original(folder)

    monkeypatch.setattr(collect, "_remove_empty", watched)
    remove(whole(info))
    assert seen_last == [True]
    assert not place.exists()


def test_retry_leaves_notes(store: Store, spec: BlockSpec) -> None:
    with store.writer(spec, notes=NOTE) as writer:
        writer.add(KEYS[0], None, status="truncated")
        writer.add(KEYS[1], np.zeros((1, 4)))
    [info] = store.blocks()
    assert forget_failed(info) == {KEYS[0]: "truncated"}
    assert store.open(spec).note("seen.json") == NOTE["seen.json"]


def test_exports_carry_notes(tmp_path: Path, spec: BlockSpec) -> None:
    fill(Store(tmp_path / "shared"), spec, NOTE)
    store = Store(tmp_path / "own", [tmp_path / "shared"])
    specs = [info.spec for info in select(store, (), shared=True)]
    write_h5(tmp_path / "out.h5", store, specs)
    write_npz(tmp_path / "out.npz", store, specs)
    name = "face/net/embedding/notes/seen.json"
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.asarray(file[name]).tobytes() == NOTE["seen.json"]
    with np.load(tmp_path / "out.npz") as archive:
        assert archive[name].tobytes() == NOTE["seen.json"]
        assert len(archive["face/net/embedding/features"]) == 3
