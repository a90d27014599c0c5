from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.keys import BlockSpec, item_key
from cache.store import Store
from pipeline.reproduce.passes import Passes, counted, passes_of


def write(project: Path, role: str, *rows: tuple[str, int]) -> None:
    path = project / "artifacts" / "blocks" / "extract" / f"{role}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{block},{item:032x},ok,1" for block, count in rows for item in range(count)]
    path.write_text("\n".join(["block,item,status,rows", *lines, ""]))


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ({}, {"net@a": 10}, 10),
        ({"net@a": 4}, {"net@a": 10}, 6),
        ({"net@a": 10}, {"net@a": 10}, 0),
        ({}, {"net@a": 500}, 10),  # another process wrote as well
        ({}, {}, 0),  # all is in a shared store
    ],
)
def test_what_is_new_was_run(tmp_path: Path, before: dict[str, int], after: dict[str, int], new: int) -> None:
    write(tmp_path, "net", ("net@a", 10))
    found = passes_of(tmp_path, before, after)
    assert (found, found.saved) == (Passes(10, new), 10 - new)


def test_several_taps_are_one_pass_and_a_new_tap_is_one(tmp_path: Path) -> None:
    write(tmp_path, "net", ("net@map", 10), ("net@pooled", 10))
    assert passes_of(tmp_path, {}, {"net@map": 10, "net@pooled": 10}) == Passes(10, 10)
    assert passes_of(tmp_path, {"net@map": 10}, {"net@map": 10, "net@pooled": 10}) == Passes(10, 10)


def test_two_roles_of_one_block_share_its_passes(tmp_path: Path) -> None:
    for role in ("one", "other"):
        write(tmp_path, role, ("net@a", 10))
    found = passes_of(tmp_path, {}, {"net@a": 10})
    assert (found, found.saved) == (Passes(20, 10), 10)
    assert found + Passes(1, 1) == Passes(21, 11)


def test_a_project_without_rows_needs_nothing(tmp_path: Path) -> None:
    assert passes_of(tmp_path, {}, {"net@a": 3}) == Passes(0, 0)
    write(tmp_path, "net")
    assert passes_of(tmp_path, {}, {"net@a": 3}) == Passes(0, 0)


def test_items_of_a_store_are_counted_by_block(tmp_path: Path) -> None:
    spec = BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})
    store = Store(tmp_path)
    assert counted(store) == {}
    with store.writer(spec) as writer:
        for name in ("aa", "bb"):
            writer.add(item_key(name), np.ones((2, 4)))
    assert counted(Store(tmp_path)) == {f"{spec.name}@{spec.key[:32]}": 2}
