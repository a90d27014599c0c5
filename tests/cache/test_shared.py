"""A shared store that is only read, under a private one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cache.errors import DamagedError, MissingRowsError, SchemaError, StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.store import Store
from cache.why import select


def put(store: Store, spec: BlockSpec, values: dict[str, float]) -> None:
    with store.writer(spec) as writer:
        for name, value in values.items():
            writer.add(item_key(name), np.full((2, 4), value, np.float16))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_rows_come_from_both_and_new_ones_go_to_the_private_store(tmp_path: Path, spec: BlockSpec) -> None:
    put(Store(tmp_path / "group"), spec, {"a": 1, "b": 2})
    before = tree(tmp_path / "group")
    store = Store(tmp_path / "own", [tmp_path / "group"])
    assert store.open(spec).has([item_key("a"), item_key("c")]).tolist() == [True, False]
    put(store, spec, {"c": 3})
    rows, offsets = store.open(spec).rows([item_key(name) for name in "cab"])
    assert rows[:, 0].tolist() == [3, 3, 1, 1, 2, 2]
    assert offsets.tolist() == [0, 2, 4, 6]
    assert tree(tmp_path / "group") == before
    assert Store(tmp_path / "own").open(spec).keys.tolist() == [item_key("c")]


def test_of_two_the_private_row_is_taken(tmp_path: Path, spec: BlockSpec) -> None:
    for name, value in (("first", 1), ("second", 2), ("own", 3)):
        put(Store(tmp_path / name), spec, {"a": value})
    shared = [tmp_path / "first", tmp_path / "second"]
    assert Store(tmp_path / "own", shared).open(spec).item(item_key("a"))[0][0, 0] == 3
    assert Store(tmp_path / "empty", shared).open(spec).item(item_key("a"))[0][0, 0] == 1


def test_blocks_are_listed_with_the_store_they_are_in(tmp_path: Path, spec: BlockSpec) -> None:
    put(Store(tmp_path / "group"), spec, {"a": 1})
    store = Store(tmp_path / "own", [tmp_path / "group"])
    assert list(store.blocks()) == []
    assert [info.shared for info in store.blocks(shared=True)] == [True]
    put(store, spec, {"b": 1})
    assert [info.shared for info in store.blocks(shared=True)] == [False, True]
    assert [info.shared for info in select(store, [spec.name], shared=True)] == [False]


def test_a_damaged_description_hides_no_other_block(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    other = BlockSpec("other", "pooled", "global", (4,), 1, numerics={"dtype": "float16"})
    put(store, spec, {"a": 1})
    put(store, other, {"a": 1})
    (store.place(spec) / "block.json").write_text("{")
    damaged: list[DamagedError] = []
    assert [info.spec for info in store.blocks(damaged=damaged)] == [other]
    assert "block.json" in str(damaged[0])
    with pytest.raises(DamagedError, match=r"block\.json"):
        list(store.blocks())


def test_a_shared_store_to_which_nothing_was_pushed_yet_has_no_block(tmp_path: Path, spec: BlockSpec) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "store.json").write_text('{"schema":1}')  # what a push of an empty store makes
    store = Store(tmp_path / "own", [tmp_path / "group"])
    put(store, spec, {"a": 1})
    assert [info.shared for info in store.blocks(shared=True)] == [False]


def test_a_store_that_is_shared_with_itself_or_twice_counts_once(tmp_path: Path, spec: BlockSpec) -> None:
    group, own = tmp_path / "group", tmp_path / "own"
    for place in (group, own):
        put(Store(place), spec, {place.name: 1})
    (tmp_path / "link").symlink_to(own)
    store = Store(own, [own, group, tmp_path / "link", own / ".." / "group"])
    assert store.shared == (group,)
    assert [info.shared for info in store.blocks(shared=True)] == [False, True]


def test_a_block_that_only_a_shared_store_has_is_said_to_be_only_read(tmp_path: Path, spec: BlockSpec) -> None:
    put(Store(tmp_path / "group"), spec, {"a": 1})
    with pytest.raises(MissingRowsError, match=r"lists them \(those of shared stores are only read\)$"):
        select(Store(tmp_path / "own", [tmp_path / "group"]), [spec.name])
    with pytest.raises(MissingRowsError, match=r"lists them$"):
        select(Store(tmp_path / "own"), [spec.name])


def test_a_folder_that_is_no_store_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(StorePlaceError, match=r"photos/store\.json: no shared feature store \(No such file"):
        Store(tmp_path / "own", [tmp_path / "photos"])


def test_a_shared_store_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorePlaceError, match="KULESHOV_STORE_SHARED"):
        Store(tmp_path / "own", [tmp_path / "nothing"])
    assert not (tmp_path / "nothing").exists()


def test_a_shared_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "group")
    (tmp_path / "group" / "store.json").write_text('{"schema": 99}')
    with pytest.raises(SchemaError, match="group"):
        Store(tmp_path / "own", [tmp_path / "group"])


def test_places_are_separated_as_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: BlockSpec) -> None:
    from pipeline.places import open_store

    put(Store(tmp_path / "a"), spec, {"x": 1})
    put(Store(tmp_path / "b"), spec, {"y": 2})
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "own"))
    monkeypatch.setenv("KULESHOV_STORE_SHARED", f"{tmp_path / 'a'}{os.pathsep}{os.pathsep}{tmp_path / 'b'}")
    assert open_store().open(spec).has([item_key("x"), item_key("y")]).tolist() == [True, True]


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_failed_item_hides_no_good_one(tmp_path: Path, spec: BlockSpec, failed_first: bool) -> None:
    """Also within one store, where a failed item was forgotten, computed, and brought back by a pull."""
    own, group = Store(tmp_path / "own"), Store(tmp_path / "group")
    bad, good = (own, group) if failed_first else (group, own)
    with bad.writer(spec) as writer:
        writer.add(item_key("a"), None, status="truncated")
        writer.add(item_key("b"), None, status="empty")
    put(good, spec, {"a": 4})
    block = Store(tmp_path / "own", [tmp_path / "group"]).open(spec)
    assert block.statuses([item_key("a"), item_key("b")]) == ["ok", "empty"]
    assert block.item(item_key("a"))[0].tolist() == [[4] * 4] * 2
    assert block.rows([item_key("a"), item_key("b")])[1].tolist() == [0, 2, 2]
