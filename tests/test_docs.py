"""The documentation does what it says: commands parse, links lead somewhere, code runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from cache.keys import BlockSpec, item_key
from cache.store import Store
from pipeline.cli import main_group

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(language: str) -> list[tuple[str, str]]:
    return [(page.name, code) for page in PAGES for found, code in FENCE.findall(page.read_text()) if found == language]


COMMANDS = sorted(
    {
        (page, line.split("#")[0].strip())
        for page, code in blocks("sh")
        for line in code.replace("\\\n", " ").splitlines()
        if line.startswith("kuleshov ")
    }
)


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_every_command_in_the_docs_parses(page: str, line: str) -> None:
    arguments = shlex.split(line)[1:]
    command: click.Command = main_group
    context = click.Context(main_group)
    while isinstance(command, click.Group) and arguments:
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: {line}"
        command = found
    command.make_context("kuleshov", arguments)


def test_the_docs_were_found() -> None:
    assert len(COMMANDS) >= 4
    assert len(PAGES) >= 7


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_the_docs_name_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:stages|cache|pipeline|tests)/[\w/.]+\.(?:py|yaml))`", page.read_text()):
        if "NAME" not in name and "FAMILY" not in name:
            assert (ROOT / name).exists(), name


def test_the_python_in_the_docs_runs(tmp_path: Path) -> None:
    spec = BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})
    with Store(tmp_path).writer(spec) as writer:
        writer.add(item_key("aa"), np.ones((2, 4)))
    shard = next((Store(tmp_path).place(spec) / "shards").glob("*.h5"))
    codes = blocks("python")
    assert codes
    for page, code in codes:
        scope: dict[str, object] = {"path": shard, "place": tmp_path}
        exec(compile(code, page, "exec"), scope)  # noqa: S102 - our own documentation
        if "first_item" in scope:
            assert np.array_equal(np.asarray(scope["first_item"]), np.ones((2, 4)))
        if "rows" in scope and "offsets" in scope and "block" in scope:
            assert np.array_equal(np.asarray(scope["offsets"]), [0, 2])


def test_make_help_lists_what_the_readme_uses() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(code for _, code in blocks("sh")), re.M):
        assert re.search(rf"^{target}:.*##", makefile, re.M), target


def test_the_licence_is_apache_2() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "license = Apache-2.0" in (ROOT / "setup.cfg").read_text()
