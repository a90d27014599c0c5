from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stages.errors import SettingError
from stages.index import folder, table
from stages.index.raw import Source
from stages.index.registry import find_adapter, names
from stages.ledger import Ledger


def test_adapters_are_found_by_name() -> None:
    assert find_adapter("folder") is folder.read
    assert find_adapter("csv") is table.read
    assert all(callable(find_adapter(name)) for name in names())


def test_unknown_adapter_lists_those_there_are() -> None:
    with pytest.raises(SettingError, match="'emotik': choose one of csv, folder"):
        find_adapter("emotik")


def test_only_the_one_asked_for_is_imported_and_nothing_heavy() -> None:
    code = (
        "import sys; from stages.index import run, registry; registry.find_adapter('folder');"
        "print([m for m in ('torch','PIL','numpy','sklearn','pandas','stages.index.table') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", names())
def test_no_adapter_passes_over_an_option_that_it_does_not_know(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.options\.colour is 'red': .*; options here: "):
        find_adapter(name)(Source(tmp_path, options={"colour": "red"}), Ledger("index"))
