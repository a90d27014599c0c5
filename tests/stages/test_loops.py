"""When compiled loops are taken, and that they are there where nothing may be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages import loops
from stages.loops import Loops

NAME = "stages.extract.plane_loops"
COMPUTE = (
    "import numpy as np; from stages.extract.plane_loops import planes;"
    "print(planes(np.full((1, 2, 2, 3), 7, np.uint8), np.arange(768, dtype=np.float32).reshape(3, 256)).tolist())"
)


def test_the_module_is_imported_once_enough_was_asked() -> None:
    pytest.importorskip("numba")
    some = Loops(NAME, after=2)
    assert [some.get() is None for _ in range(4)] == [True, True, False, False]
    assert Loops(NAME, after=0).get().__name__ == NAME


def test_without_numba_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.installed.cache_clear()
    try:
        some = Loops(NAME, after=0)
        assert [some.get() for _ in range(3)] == [None] * 3
    finally:
        loops.installed.cache_clear()


@pytest.mark.parametrize(("value", "expected"), [("0", True), ("", True), ("1", False)])
def test_loops_that_python_would_run_are_not_taken(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
    loops.installed.cache_clear()
    try:
        assert loops.installed() is expected
    finally:
        loops.installed.cache_clear()


def test_where_nothing_may_be_written_loops_are_compiled_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    file = tmp_path / "file"
    file.touch()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(file / "folder")}
    done = subprocess.run(
        [sys.executable, "-c", COMPUTE], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert done.stdout.strip() == str([[[[256.0 * c + 7] * 2] * 2 for c in range(3)]])
