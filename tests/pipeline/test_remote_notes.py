"""Notes of a block go along with `kuleshov cache push` and `pull`, also to a block that is there without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cache import notes
from cache.keys import BlockSpec, item_key
from cache.store import Store
from pipeline import remote
from pipeline.remote import Moved, pull, push
from pipeline.remote_files import RemoteFiles

Run = Callable[..., tuple[int, str, str]]
SPEC = BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})
NOTE = b'{"trained": []}\n'


def fill(store: Store, said: bytes | None = NOTE) -> Store:
    with store.writer(SPEC, notes=None if said is None else {"seen.json": said}) as writer:
        writer.add(item_key("00"), np.ones((2, 4)))
    return store


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_there_and_back(tmp_path: Path, other: Store, scheme: str) -> None:
    url = f"{scheme}{tmp_path}/place"
    store = fill(Store(tmp_path / "own"))
    assert list(push(store, url)) == [Moved("net/embedding", SPEC.key, 1, store_size(store), 1, 0, 1)]
    assert list(pull(other, url)) == [Moved("net/embedding", SPEC.key, 1, store_size(store), 1, 0, 1)]
    assert other.open(SPEC).note("seen.json") == NOTE
    assert other.open(SPEC).has([item_key("00")]).all()
    for again in (push(store, url), pull(other, url)):
        assert [(one.notes, one.shards, one.skipped) for one in again] == [(0, 0, 1)]
    MemoryFileSystem.store.clear()


def store_size(store: Store) -> int:
    return sum(info.size for info in store.blocks())


def test_a_block_that_is_there_without_its_note_gets_it(tmp_path: Path, there: Path, other: Store) -> None:
    list(push(fill(Store(tmp_path / "old"), None), str(there)))
    list(pull(other, str(there)))
    assert other.note(SPEC, "seen.json") is None
    store = Store(tmp_path / "old")
    store.writer(SPEC, notes={"seen.json": NOTE})
    for move, expected in ((push(store, str(there)), there), (pull(other, str(there)), other.root)):
        assert [(one.notes, one.shards, one.skipped, one.problems) for one in move] == [(1, 0, 1, [])]
        assert Store(expected).note(SPEC, "seen.json") == NOTE


def test_a_shared_stores_note_is_pushed_with_the_own_rows(tmp_path: Path, there: Path) -> None:
    fill(Store(tmp_path / "shared"))
    store = fill(Store(tmp_path / "own", [tmp_path / "shared"]), None)
    list(push(store, str(there)))
    assert Store(there).note(SPEC, "seen.json") == NOTE


def test_another_note_is_left_as_it_is(tmp_path: Path, there: Path, other: Store) -> None:
    list(push(fill(Store(tmp_path / "own")), str(there)))
    list(push(fill(Store(tmp_path / "second"), b"other"), str(there)))
    assert Store(there).note(SPEC, "seen.json") == NOTE
    fill(other, b"mine")
    list(pull(other, str(there)))
    assert other.note(SPEC, "seen.json") == b"mine"


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, there: Path, other: Store) -> None:
    store = fill(Store(tmp_path / "own"))
    assert [one.notes for one in push(store, str(there), dry_run=True)] == [1]
    assert not there.exists()
    list(push(store, str(there)))
    assert [one.notes for one in pull(other, str(there), dry_run=True)] == [1]
    assert list(other.blocks()) == []


def test_the_note_is_here_before_the_rows_are(
    tmp_path: Path, there: Path, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(push(fill(Store(tmp_path / "own")), str(there)))

    def cut_short(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RemoteFiles, "fetch", cut_short)
    with pytest.raises(KeyboardInterrupt):
        list(pull(other, str(there)))
    assert other.note(SPEC, "seen.json") == NOTE
    assert len(other.open(SPEC)) == 0


def test_what_is_no_note_or_too_large_stays_there(
    tmp_path: Path, there: Path, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(push(fill(Store(tmp_path / "own")), str(there)))
    place = Store(there).place(SPEC)
    for name in ("run.sh", "Seen.JSON", ".hidden.json"):
        (place / name).write_text("{}")
    (place / "folder.json").mkdir()
    monkeypatch.setattr(remote.notes, "LIMIT", len(NOTE))
    (place / "large.json").write_bytes(NOTE + b" ")
    [moved] = pull(other, str(there))
    assert [problem.rpartition("/")[2] for problem in moved.problems] == [
        "folder.json: too large for a note; it was left out",
        "large.json: too large for a note; it was left out",
    ]
    assert notes.names([other.place(SPEC)]) == ["seen.json"]
    assert len(other.open(SPEC)) == 1


def test_the_command_says_it(tmp_path: Path, there: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(Store(tmp_path / "own"))
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "own"))
    status, said, err = kuleshov("cache", "push", there)
    assert (status, err) == (0, "")
    assert said.startswith(f"net/embedding {SPEC.key[:16]}: 1 shard and 1 note sent (")
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "third"))
    status, said, err = kuleshov("cache", "pull", there)
    assert (status, err) == (0, "")
    assert said.startswith(f"net/embedding {SPEC.key[:16]}: 1 shard and 1 note received (")
    for command in (("ls",), ("verify",), ("gc",), ("why", "net/embedding")):
        status, _, err = kuleshov("cache", *command)
        assert (status, err) == (0, ""), command
    assert Store(tmp_path / "third").note(SPEC, "seen.json") == NOTE
