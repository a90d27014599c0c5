"""The trials of all tables, in one folder, as `kuleshov reproduce run NAME --small` runs them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.projects import jobs_of
from pipeline.reproduce.recipe import load
from pipeline.reproduce.run import run
from pipeline.reproduce.table import table_of

MINUTES = 10  # on two cores

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * MINUTES + 300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one recipe has computed or trained serves the next, as for a person who runs them all."""
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("name", recipes.names())
def test_a_table_has_all_of_its_numbers(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    lines = run(name, {}, folder, small=True, say=print)
    minutes = (time.monotonic() - start) / 60
    with capsys.disabled():
        print("\n".join(lines))
    recipe = load(name)
    table = table_of(recipe, {job.name: folder / job.name for job in jobs_of(name, small=True)})
    asked = {
        (row.name, column) for row in recipe.rows for column in recipe.columns if not recipe.cell(row, column).empty
    }
    assert table.numbers.keys() == asked
    ours = {place: one.ours for place, one in table.numbers.items() if not one.quoted}
    assert not [place for place, one in ours.items() if one is None or one.value is None], "no number"
    assert not [place for place, one in ours.items() if one is not None and one.constant], "a constant"
    assert not [(place, one.copy_of) for place, one in table.numbers.items() if one.copy_of], "a copy"
    assert len(table.compared) == len(recipe.pairs)
    assert {one.verdict for one in table.compared} <= {"same", "reversed", "undetermined"}
    assert (folder / f"{name}.md").exists()
    assert minutes < MINUTES


def test_what_was_computed_serves_a_table_of_the_same_projects(folder: Path) -> None:
    name = "aminbeidokhti2019-table2"
    run(name, {}, folder, small=True, say=print)
    assert run(name, {}, folder, small=True, say=print)[-2].endswith("; 0 forward passes now, " + _all_of(folder, name))


def _all_of(folder: Path, name: str) -> str:
    """What the line ends with when nothing was computed."""
    needed = 0
    for job in jobs_of(name, small=True):
        for path in (folder / job.name / "artifacts" / "blocks" / "extract").glob("*.csv"):
            blocks = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
            needed += max(map(blocks.count, set(blocks)), default=0)
    return f"{needed} saved by the store"
