"""The pages of docs/papers name what there is, and print the papers' numbers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.paper_tables import PAGES, places
from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.recipe import PAPERS, Cell
from stages.finetune.presets import PRESETS
from stages.heads import registry as heads

ROOT = Path(__file__).parent.parent
ALL = sorted(PAGES.glob("*.md"))
NAMES = recipes.names()
SYMBOL = re.compile(r"((?:stages|pipeline|cache)/[\w/]+\.py): (\w+(?:\.\w+)*)")
HEAD = re.compile(r"(?:gupta2018|tan2017|aminbeidokhti2019|meen|dagnet|ours|baselines):\w+")
DASHED = re.compile(r"(?:gupta|tan|aminbeidokhti|meen|dagnet)\d*-[\w-]+")


def code_in(page: Path) -> list[str]:
    """What stands in backticks outside blocks of code and outside the tables of recipes."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^<!-- table .*?^<!-- end -->$", "", text, flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


def names_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a module or class defines at its own level."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id: node for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return found


def resolves(path: str, symbol: str) -> bool:
    """Whether a file defines a name, or a class of it a name of its own."""
    file = ROOT / path
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    for part in symbol.split("."):
        node = names_in(body).get(part)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def test_a_name_resolves_only_where_it_is_defined() -> None:
    assert resolves("stages/heads/gupta2018.py", "GuptaHead._scores")
    assert resolves("stages/finetune/presets.py", "PRESETS")
    assert not resolves("stages/heads/gupta2018.py", "GuptaHead._score")
    assert not resolves("stages/heads/gupta2018.py", "nn")  # imported, not defined
    assert not resolves("stages/heads/gupta2019.py", "GuptaHead")


@pytest.mark.parametrize("page", ALL, ids=lambda p: p.name)
def test_files_and_symbols_are_there(page: Path) -> None:
    named = [code for code in code_in(page) if ".py:" in code]
    assert len(named) >= 5
    for code in named:
        found = SYMBOL.fullmatch(code)
        assert found, f"{code}: write `path.py: symbol`"
        assert resolves(found[1], found[2]), code


@pytest.mark.parametrize("page", ALL, ids=lambda p: p.name)
def test_heads_presets_and_recipes_are_there(page: Path) -> None:
    codes = code_in(page)
    kinds = [code for code in codes if HEAD.fullmatch(code)]
    dashed = [code for code in codes if DASHED.fullmatch(code)]
    assert dashed
    assert set(kinds) <= set(heads.names())
    projects = {project for name in NAMES for project in recipes.load(name).projects}
    assert set(dashed) <= {*PRESETS, *NAMES, *projects}


def test_each_paper_has_a_page_and_each_recipe_one_place_on_it() -> None:
    assert {page.stem for page in ALL} == {*PAPERS, "README"}
    where = [(name, page.stem) for page in ALL for name in places(page.read_text(encoding="utf-8"))]
    assert sorted(where) == [(name, recipes.load(name).paper) for name in NAMES]


def test_the_index_links_every_page_and_names_every_recipe() -> None:
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)\.md\)", text)) == set(PAPERS)
    assert set(NAMES) <= set(code_in(PAGES / "README.md"))
    for paper in PAPERS:
        own = {name for name in NAMES if recipes.load(name).paper == paper}
        opening = (PAGES / f"{paper}.md").read_text(encoding="utf-8").partition("\n## ")[0]
        assert {code for code in re.findall(r"`([^`]+)`", opening) if code in NAMES} == own


@pytest.mark.parametrize("name", NAMES)
def test_a_table_prints_the_papers_numbers(name: str) -> None:
    recipe = recipes.load(name)
    content = places((PAGES / f"{recipe.paper}.md").read_text(encoding="utf-8"))[name]
    rows = [cells(line) for line in content.splitlines() if line.startswith("|")]
    wanted = ["row", *(f"{column}: {which}" for column in recipe.columns for which in ("paper", "ours"))]
    assert rows[0] == wanted
    assert [row[0] for row in rows[2:]] == [row.name for row in recipe.rows]
    for row, printed in zip(recipe.rows, rows[2:], strict=True):
        for at, column in enumerate(recipe.columns):
            paper, ours = printed[1 + 2 * at : 3 + 2 * at]
            cell = recipe.cell(row, column)
            assert paper_of(paper) == (cell.paper, cell.quoted), f"{row.name}, {column}: {paper}"
            assert bool(re.match(r"\d+\.\d ", ours)) == is_run(cell), f"{row.name}, {column}: {ours}"
    order = [line for line in content.splitlines() if line.endswith((": same", ": reversed", ": undetermined"))]
    assert len(order) == len(recipe.pairs)
    for line, pair in zip(order, recipe.pairs, strict=True):
        assert line.startswith(f"- {pair.higher} over {pair.lower} ({pair.column}): ")
    assert all(f"- {line}" in content.splitlines() for line in recipe.differs)


def cells(line: str) -> list[str]:
    """Of a row of a table in Markdown."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def is_run(cell: Cell) -> bool:
    return not (cell.empty or cell.quoted)


def paper_of(text: str) -> tuple[float | None, bool]:
    """The number that is printed, and whether the paper quotes it."""
    number, _, quoted = text.partition(" (")
    assert quoted in ("", "quoted)")
    return None if number in ("", "-") else float(number), bool(quoted)
