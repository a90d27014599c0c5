"""The block manifest: which items it names, and its bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.keys import BlockSpec, item_key
from cache.store import Store
from stages.blocks import BlockRow, Counts, block_rows, write_block_rows

SPEC = BlockSpec("net", "embedding", "face", (2,), 1, numerics={"dtype": "float32"})
KEYS = [b"\1" * 16, b"\2" * 15 + b"\0", b"\3" * 16, item_key("ab" * 32)]


def test_rows_name_what_the_block_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writer(SPEC) as writer:
        writer.add(KEYS[1], np.zeros((3, 2), np.float32))
        writer.add(KEYS[0], None, status="no_face")
    rows = block_rows(store.open(SPEC), [*reversed(KEYS), KEYS[1]])
    name = f"net/embedding@{SPEC.key[:32]}"
    assert rows == [BlockRow(name, "01" * 16, "no_face", 0), BlockRow(name, "02" * 15 + "00", "ok", 3)]
    assert block_rows(store.open(SPEC), np.array(KEYS, dtype="S16")) == rows
    assert block_rows(store.open(SPEC), []) == []


def test_bytes_do_not_depend_on_how_rows_came(tmp_path: Path) -> None:
    rows = [BlockRow("b", "02", "ok", 10), BlockRow("b", "01", "ok", 2), BlockRow("a", "03", "no_face", 0)]
    write_block_rows(tmp_path / "one" / "x.csv", rows)
    write_block_rows(tmp_path / "two" / "x.csv", [*reversed(rows), rows[0]])
    wanted = b"block,item,status,rows\na,03,no_face,0\nb,01,ok,2\nb,02,ok,10\n"
    assert (tmp_path / "one" / "x.csv").read_bytes() == (tmp_path / "two" / "x.csv").read_bytes() == wanted
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["x.csv"]


def test_what_was_neither_computed_nor_failed_was_cached() -> None:
    assert Counts(total=10, computed=3, failed=2).cached == 5
    assert Counts(total=1, computed=1, failed=1).cached == 0
