"""docs/datasets.md has each adapter, each of its options with its default, and what its layout shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.index import registry
from stages.settings import Settings

PAGE = (Path(__file__).parents[4] / "docs" / "datasets.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(re.findall(r"^## [^\n]*\(`(\w+)`\)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def test_every_data_set_has_a_section() -> None:
    assert set(SECTIONS) == set(registry.data_sets())


@pytest.mark.parametrize("name", registry.data_sets())
def test_its_options_are_those_of_the_adapter(name: str) -> None:
    written = {
        option: default.strip("`")
        for option, default in re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", SECTIONS[name], re.M)
    }
    fields = registry.data_set(name).Options.model_fields
    defaults = {None: "null", True: "true", False: "false"}
    assert written == {
        option: defaults.get(field.default, str(field.default))
        if field.default is None or isinstance(field.default, bool)
        else str(field.default)
        for option, field in fields.items()
    }


@pytest.mark.parametrize("name", registry.data_sets())
def test_a_file_has_what_the_registry_promises(name: str) -> None:
    module = registry.data_set(name)
    assert all(isinstance(getattr(module, part), str) for part in ("TITLE", "SOURCE", "LAYOUT"))
    assert module.FACES in ("found", "given", "whole")
    assert issubclass(module.Options, Settings)
    assert registry.find_adapter(name) is module.read
    drawn = registry.stand_in(name)
    assert issubclass(drawn.Sizes, Settings)
    drawn.Sizes()
    assert callable(drawn.write)
