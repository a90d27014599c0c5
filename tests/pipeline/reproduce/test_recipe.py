"""The recipes themselves: each loads, its settings are fit, and its numbers are the papers'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.params import parse
from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.merging import filled, joined, laid_over
from pipeline.reproduce.projects import THERE, Job, jobs_of
from pipeline.reproduce.recipe import (
    PAPERS,
    Cell,
    DataSetNeed,
    Pair,
    ProjectRecipe,
    Recipe,
    Row,
    SmallProject,
    load,
    load_project,
)
from pipeline.reproduce.selection import needed
from stages.errors import SettingError
from stages.index.registry import data_set, stand_in

ROOT = Path(__file__).parents[3]
NAMES = recipes.names()
KINDS = [pytest.param(name, small, id=f"{name}{'-small' if small else ''}") for name in NAMES for small in (0, 1)]
PROJECTS = sorted({project for name in NAMES for project in load(name).projects})

# Typed off the papers, row by row; None where the paper has nothing.
PAPER: dict[str, list[tuple[float | None, ...]]] = {
    "gupta2018-table1": [
        (69.50, 70.80),
        (70.40, 70.20),
        (71.18, 72.40),
        (71.51, 74.20),
        (68.96, 69.90),
        (73.03, 73.90),
        (73.18, 73.00),
        (73.75, 75.10),
        (74.26, 75.20),
        (74.38, 75.00),
        (73.66, 76.20),
    ],
    "gupta2018-table2": [(78.20, 66.59, 57.97, 58.87, 61.84), (80.90, 71.33, 60.48, 59.71, 64.83)],
    "tan2017-faces": [(73.8, 79.7, 70.73), (74.1, 80.19, 69.97)],
    "tan2017-global": [(67.2, None), (70.6, 73.2), (60.54, None), (65.3, 67.3), (71.04, 74.7), (None, 73.2)],
    "tan2017-fusion": [(80.2,), (81.0,), (82.7,), (78.4,)],
    "tan2017-submissions": [
        (82.7, 82.0, 57.6, 76.7, 79.9),
        (81.7, 82.3, 57.0, 74.7, 79.1),
        (None, 85.2, 63.6, 67.6, 78.9),
        (None, 85.2, 64.84, 66.6, 78.8),
        (83.7, 83.9, 58.8, 76.4, 80.9),
        (83.8, 83.9, 58.2, 74.0, 79.8),
        (None, 85.5, 59.4, 70.0, 79.1),
    ],
    "aminbeidokhti2019-table1": [(46.4,), (45.0,), (47.6,), (48.9,), (49.0,), (48.3,), (48.6,)],
    "aminbeidokhti2019-table2": [(46.2,), (46.0,), (46.4,), (49.0,)],
    "meen-table1": [(72.61,), (72.9,), (73.1,), (73.08,), (72.69,), (73.35,), (73.08,), (72.97,), (73.59,)],
    "dagnet-table1": [
        (27.85, 31.92, 46.89, 34.03),
        (9.49, 13.94, 10.87, 15.55),
        (14.06, 17.42, 11.23, 19.1),
        (58.64, 57.73, 62.64, 56.46),
        (7.48, 8.18, 5.93, 10.69),
        (78.35, 75.29, 72.49, 75.42),
        (14.97, 14.88, 11.28, 18.32),
        (21.32, 28.32, 26.91, 30.53),
        (16.89, 19.72, 16.94, 21.52),
        (29.63, 23.11, 18.68, 21.98),
        (3.18, 2.84, 1.94, 2.55),
        (87.53, 85.83, 88.56, 86.82),
        (17.73, 16.72, 13.33, 16.11),
        (77.16, 70.43, 71.89, 71.19),
        (9.7, 14.43, 13.26, 14.76),
        (14.14, 8.27, 4.21, 9.18),
        (58.26, 76.61, 73.26, 78.14),
        (8.94, 9.38, 6.52, 12.64),
        (21.56, 24.31, 32.85, 24.27),
        (45.46, 46.89, 57.46, 48.49),
        (19.66, 23.94, 25.42, 32.96),
        (9.28, 6.28, 5.99, 9.87),
        (18.84, 26.24, 23.39, 34.01),
        (18.81, 10.07, 9.02, 12.23),
        (14.71, 13.98, 17.53, 14.19),
        (8.34, 9.71, 10.55, 7.93),
        (27.38, 28.33, 28.42, 29.96),
    ],
    "dagnet-table2": [(27.38,), (28.33,), (28.42,), (28.99,), (29.23,), (29.09,), (29.35,), (29.39,), (29.96,)],
    "dagnet-figure3": [(29.96, 29.39) if n == 4 else (None, None) for n in range(2, 10)],
}


def parts(name: str, small: bool) -> list[tuple[Job, dict[str, Any]]]:
    """The projects of a recipe with what params.yaml would have."""
    found = []
    for job in jobs_of(name, small=small):
        places = {of: f"/data/{of}" for of in job.data_sets}
        found.append((job, filled(laid_over(THERE, job.settings), places)))
    return found


def test_all_tables_of_the_five_papers_are_there() -> None:
    assert set(NAMES) == set(PAPER)
    assert {load(name).paper for name in NAMES} == set(PAPERS)
    assert (
        sorted(one.name.removesuffix(".yaml") for one in recipes.FOLDER.joinpath("projects").iterdir() if one.is_file())
        == PROJECTS
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_the_papers(name: str) -> None:
    recipe = load(name)
    assert [tuple(recipe.cell(row, column).paper for column in recipe.columns) for row in recipe.rows] == PAPER[name]


@pytest.mark.parametrize("name", NAMES)
def test_no_pair_contradicts_the_paper(name: str) -> None:
    recipe = load(name)
    rows = {row.name: row for row in recipe.rows}
    assert recipe.pairs
    for pair in recipe.pairs:
        above, below = (recipe.cell(rows[row], column).paper for row, column in pair.places)
        assert above is None or below is None or above > below, pair


@pytest.mark.parametrize(("name", "small"), KINDS)
def test_settings_are_fit_and_have_all_members(name: str, small: bool) -> None:
    recipe = load(name)
    for job, settings in parts(name, small):
        params = parse(settings, job.name)
        there = {*params.train.heads, *settings["finetune"], *settings["fuse"]["ensembles"]}
        answers = {f"{of}.{one}" for of, said in settings["finetune"].items() for one in said.get("answers", {})}
        assert recipe.members()[job.name] <= there | answers
        assert set(job.recipe.keep) <= set(params.train.heads)
        assert "{" not in "".join(str(value) for value in (settings["data"]["root"], settings["data"].get("also")))[:1]
        assert job.data_sets.keys() == job.recipe.data_sets.keys(), "a data set that nothing reads"


@pytest.mark.parametrize(("name", "small"), KINDS)
def test_every_project_is_there_for_something(name: str, small: bool) -> None:
    recipe = load(name)
    used = {project for project, members in recipe.members().items() if members}
    for job in jobs_of(name, small=small):
        used |= needed(job.settings, recipe.members()[job.name], job.name).elsewhere.keys()
    assert used == set(recipe.projects)


@pytest.mark.parametrize("small", [False, True], ids=["whole", "small"])
def test_recipes_that_share_a_project_agree(small: bool) -> None:
    shared: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        for job in jobs_of(name, small=small):
            shared[job.name] = joined(shared.get(job.name, {}), job.settings, f"{name}: {job.name}")
    for project, settings in shared.items():
        places = {of: f"/data/{of}" for of in load_project(project).data_sets}
        parse(filled(laid_over(THERE, settings), places), project)


@pytest.mark.parametrize("project", PROJECTS)
def test_stand_ins_have_sizes_that_theirs_know(project: str) -> None:
    one = load_project(project)
    assert one.small.stand_ins.keys() <= one.data_sets.keys()
    assert one.small.differs
    for name, need in one.data_sets.items():
        sizes = {key: value for key, value in one.small.stand_ins.get(name, {}).items() if key != "seed"}
        stand_in(need.stand_in or need.adapter).Sizes.model_validate(sizes)
        assert need.title
        assert need.tree
        assert need.drawn == data_set(need.stand_in or need.adapter).TITLE


def test_a_name_means_one_data_set_in_all_recipes() -> None:
    for name in NAMES:
        known: dict[str, str] = {}
        for job in jobs_of(name, small=False):
            for of, need in job.data_sets.items():
                assert known.setdefault(of, need.title) == need.title


def test_an_unknown_recipe_gets_what_may_be_meant_and_all_there_are() -> None:
    with pytest.raises(SettingError, match=r"^recipe 'meen-tabel1': did you mean 'meen-table1'\? There are aminbeido"):
        load("meen-tabel1")
    with pytest.raises(SettingError, match=r"^recipe '\.\./x': there are aminbeidokhti2019-table1, .*-submissions$"):
        load("../x")


def changed(tiny: Path, old: str, new: str, path: str = "tiny.yaml") -> None:
    text = (tiny / path).read_text()
    assert old in text
    (tiny / path).write_text(text.replace(old, new, 1))


def test_a_cell_says_what_its_row_and_column_leave_out(tiny: Path) -> None:
    recipe = load("tiny")
    net, logistic, both, theirs = recipe.rows
    assert recipe.cell(net, "accuracy") == Cell(
        project="tiny-second", member="net", split="test", metric="accuracy", paper=71.5
    )
    assert recipe.cell(logistic, "happy").label == "happy"
    assert recipe.cell(both, "happy").empty
    assert recipe.cell(theirs, "accuracy").quoted
    assert recipe.members() == {"tiny-first": set(), "tiny-second": {"net", "logistic", "both"}}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("higher: Net", "higher: Nett", "a pair names 'Nett', which the table does not have"),
        ("lower: Logistic", "lower: Theirs", "a pair names Theirs, accuracy, for which nothing is run"),
        ("cells: {accuracy: 71.5}", "cells: {acuracy: 71.5}", "row 'Net' has a cell 'acuracy', which is no column"),
        ("name: Both", "name: Net", "two rows have one name"),
        ("of: {member: net}, ", "", "Net, accuracy: no member"),
        ("split: test, metric: accuracy", "split: train, metric: accuracy", "Input should be 'val' or 'test'"),
        (
            "cells: {accuracy: 70.0,",
            "cells: {accuracy: {empty: false},",
            "Theirs, accuracy: a quoted number is missing",
        ),
        (", label: happy", "", "Net, happy: label is None and metric recall"),
        ("accuracy: {project: tiny-second", "accuracy: {project: other", "project 'other' is none of the recipe's"),
        ("table: Table 0", "tabel: Table 0", "Field required"),
        ("title: a", "title: [a", "tiny.yaml is not YAML: while parsing a flow sequence"),
        ("paper: tan2017", "paper: tan2017\npaper: meen", "key 'paper' occurs twice"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_line(tiny: Path, old: str, new: str, problem: str) -> None:
    changed(tiny, old, new)
    with pytest.raises(SettingError) as error:
        load("tiny")
    assert str(error.value).startswith("recipes/tiny.yaml")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_project_that_is_not_there_and_one_that_is_none(tiny: Path) -> None:
    with pytest.raises(SettingError, match=r"^recipes/projects/none\.yaml is not there"):
        load_project("none")
    changed(tiny, "about: some faces", "abuot: some faces", "projects/tiny-first.yaml")
    with pytest.raises(SettingError, match=r"^recipes/projects/tiny-first\.yaml: about: Field required"):
        load_project("tiny-first")


def test_a_recipe_is_written_in_yaml_alone() -> None:
    for name in NAMES:
        raw = yaml.safe_load(recipes.FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
        assert set(raw) <= set(Recipe.model_fields)


def test_the_recipe_in_the_docs_loads_and_the_page_names_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "reproduce.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "projects").symlink_to(str(recipes.FOLDER.joinpath("projects")))
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    recipe = load("mine")
    assert [recipe.cell(row, "EVAL").paper for row in recipe.rows] == [70.8, 72.4, 73.9]
    (job,) = jobs_of("mine", small=True)
    assert recipe.members()[job.name] == {"global_simple", "local", "average"}
    for kind in (Recipe, Row, Pair, Cell, DataSetNeed, ProjectRecipe, SmallProject):
        for key in kind.model_fields:
            assert re.search(rf"`(small\.)?{key}`", page), key
