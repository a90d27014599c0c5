from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import paper_costs, paper_tables
from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.recipe import PAPERS
from pipeline.reproduce.table import Compared, Number, Table
from pipeline.reproduce.writing import write
from stages.errors import DataError
from stages.evaluate.cells import Answer, Difference

PAGE = """\
# A page

```sh
# no heading
```

## Tables

before

<!-- table tan2017-fusion -->
<!-- end -->

<!-- table dagnet-table2 -->
<!-- end -->

after
"""


def write_table(folder: Path, name: str, value: float = 0.5) -> Table:
    """A recipe's files in a folder, all cells of one value."""
    recipe = recipes.load(name)
    numbers: dict[tuple[str, str], Number] = {}
    for row in recipe.rows:
        for column in recipe.columns:
            cell = recipe.cell(row, column)
            if cell.empty:
                continue
            ours = None if cell.quoted else Answer(value, value - 0.1, value + 0.1, 40, 1, None, False)
            numbers[row.name, column] = Number(row.name, column, cell.paper, cell.quoted, ours)
    compared = tuple(Compared(pair, None, Difference(0.0, -0.1, 0.1, 40), "undetermined") for pair in recipe.pairs)
    table = Table(recipe, numbers, compared)
    write(table, folder, name, ("drawn photos",))
    return table


def test_a_table_goes_between_its_markers(tmp_path: Path) -> None:
    table = write_table(tmp_path, "tan2017-fusion")
    page = paper_tables.filled(PAGE, {"tan2017-fusion": (tmp_path / "tan2017-fusion.md").read_text()})
    found = paper_tables.places(page)
    text = found["tan2017-fusion"]
    assert re.findall(r"^#+ .*", text, re.M) == [
        f"### {table.recipe.table}: {table.recipe.title}",
        "#### The paper's order",
        "#### What differs",
    ]
    assert "| Aligned | 80.2 | 50.0 [40.0, 60.0] (n 40) |" in text
    assert text.count(": undetermined\n") == len(table.compared) == 3
    assert "- drawn photos\n" in text
    assert PAPERS["tan2017"] not in text
    assert "\n\n\n" not in page
    assert found["dagnet-table2"] == ""
    assert page.replace(text, "") == PAGE  # nothing else is touched


def test_the_numbers_test_reads_what_is_written(tmp_path: Path) -> None:
    """What the test of the real pages looks for is there once a table is: paper numbers, quoted ones, order."""
    write_table(tmp_path, "dagnet-table2")
    page = paper_tables.filled(PAGE, {"dagnet-table2": (tmp_path / "dagnet-table2.md").read_text()})
    text = paper_tables.places(page)["dagnet-table2"]
    assert "| Zhang et al. | 28.42 (quoted) | - |" in text
    assert "| DAG-Net | 29.96 | 50.0 [40.0, 60.0] (n 40) |" in text


def test_filling_twice_changes_nothing_and_new_numbers_replace_old_ones(tmp_path: Path) -> None:
    (pages := tmp_path / "pages").mkdir()
    (pages / "tan.md").write_text(PAGE)
    for name in ("tan2017-fusion", "dagnet-table2"):
        write_table(tmp_path, name)
    said = paper_tables.fill(tmp_path, pages)
    assert said == ["tan.md: tan2017-fusion: filled", "tan.md: dagnet-table2: filled"]
    once = (pages / "tan.md").read_text()
    assert once.count("\n### ") == 2  # the second is no deeper for the headings of the first
    paper_tables.fill(tmp_path, pages)
    assert (pages / "tan.md").read_text() == once
    write_table(tmp_path, "tan2017-fusion", 0.25)
    paper_tables.fill(tmp_path, pages)
    again = (pages / "tan.md").read_text()
    assert "25.0 [15.0, 35.0]" in again
    dagnet, before = (paper_tables.places(page)["dagnet-table2"] for page in (again, once))
    assert dagnet == before != ""


def test_places_without_a_table_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pages := tmp_path / "pages").mkdir()
    (pages / "tan.md").write_text(PAGE)
    write_table(tmp_path, "tan2017-fusion")
    paper_tables.main([str(tmp_path), "--pages", str(pages)])
    first = paper_tables.places((pages / "tan.md").read_text())["tan2017-fusion"]
    assert capsys.readouterr().out.splitlines()[1] == "tan.md: dagnet-table2: no table, left as it is"
    (tmp_path / "tan2017-fusion.md").unlink()
    write_table(tmp_path, "dagnet-table2")
    paper_tables.fill(tmp_path, pages)
    assert paper_tables.places((pages / "tan.md").read_text())["tan2017-fusion"] == first


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .* has no table of .*kuleshov reproduce run NAME --to"):
        paper_tables.main([str(tmp_path)])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("<!-- end -->\n\n<!--", "<!--"), "not one of a pair"),
        (("<!-- table dagnet-table2 -->\n", ""), "not one of a pair"),
        (("<!-- table dagnet-table2 -->", "<!--table dagnet-table2-->"), "not one of a pair"),
        (("dagnet-table2", "tan2017-fusion"), "has two places"),
    ],
)
def test_markers_out_of_order_are_refused(tmp_path: Path, damage: tuple[str, str], words: str) -> None:
    (pages := tmp_path / "pages").mkdir()
    (pages / "tan.md").write_text(PAGE.replace(*damage, 1))
    write_table(tmp_path, "tan2017-fusion")
    with pytest.raises(DataError, match=rf"tan\.md: .*{words}"):
        paper_tables.fill(tmp_path, pages)


def test_the_page_of_the_papers_has_the_counts() -> None:
    """One small network is counted again; of all, the page has a row."""
    page = (paper_tables.PAGES / "README.md").read_text(encoding="utf-8").splitlines()
    for name in paper_costs.NETWORKS:
        assert sum(line.startswith(f"| {name} | ") for line in page) == 1, name
    name = "ResNet-34, 48 px"
    cost = paper_costs.cost_of(*paper_costs.NETWORKS[name])
    assert paper_costs.row(name, cost) in page
    assert cost.parameters == 21_284_672
    assert paper_costs.row("x", replace(cost, flop=2.5e9, kept=2**20)) == "| x | 21.3 | 2.50 | 1.0 |"
