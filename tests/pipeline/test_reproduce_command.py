"""`kuleshov reproduce ls|show|run` up to where DVC begins; tests/pipeline/reproduce/test_run.py has the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.projects import jobs_of

Run = Callable[..., tuple[int, str, str]]


def test_ls_has_a_line_for_each_recipe(kuleshov: Run) -> None:
    status, said, err = kuleshov("reproduce", "ls")
    assert (status, err) == (0, "")
    head, *lines = said.splitlines()
    assert head.split() == ["recipe", "table", "rows", "data", "sets"]
    assert [line.split()[0] for line in lines] == list(recipes.names())
    at = head.index("data sets")
    assert {line[at:].split("  ")[0] for line in lines if line.startswith("gupta2018")} == {"emotic, gaf"}


def test_ls_for_programs(kuleshov: Run) -> None:
    status, said, _ = kuleshov("reproduce", "ls", "--json")
    assert status == 0
    found = {one["name"]: one for one in json.loads(said)}
    assert list(found) == list(recipes.names())
    assert found["dagnet-table1"] == {
        "name": "dagnet-table1",
        "table": "Table 1",
        "rows": 27,
        "data_sets": ["emotic"],
        "title": "average precision of the 26 categories of EMOTIC",
    }


def test_show_has_rows_layouts_and_settings(kuleshov: Run) -> None:
    status, said, _ = kuleshov("reproduce", "show", "gupta2018-table1")
    lines = said.splitlines()
    assert status == 0
    assert "  Global_Simple: VAL 69.5, EVAL 70.8" in lines
    assert "  - Attention_B over Attention_A (EVAL)" in lines
    assert "--root emotic=DIR: EMOTIC" in lines
    assert any(line.startswith("--root gaf=DIR: GAF") for line in lines)
    assert "    preset: gupta-global-emotic" in lines
    assert "drawn" not in "".join(line for line in lines if line.startswith("#"))
    assert "  Zhang et al.: mAP 28.42 (quoted)" in kuleshov("reproduce", "show", "dagnet-table2")[1].splitlines()


@pytest.mark.parametrize("name", recipes.names())
def test_show_small_has_the_stand_ins_and_the_merged_settings(kuleshov: Run, name: str) -> None:
    status, said, _ = kuleshov("reproduce", "show", name, "--small")
    assert status == 0
    assert "--root" not in said
    jobs = jobs_of(name, small=True)
    parts = said.split("\n# ")[1:]
    projects = [part for part in parts if not part.startswith("{")]
    assert [part.partition(":")[0] for part in projects] == [job.name for job in jobs]
    stand_ins = [part for part in parts if part.startswith("{")]
    assert len(stand_ins) == sum(len(job.data_sets) for job in jobs)
    assert all("is a drawn stand-in of" in part for part in stand_ins)
    shown = [yaml.safe_load(part.partition("\n\n")[2]) for part in parts if "\n\n" in part]
    assert shown == [json.loads(json.dumps(job.settings)) for job in jobs]
    for job in jobs:
        for line in job.recipe.small.differs:
            assert said.count(f"  - {line}\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("show", "meen-tabel1"),
            "recipe 'meen-tabel1': did you mean 'meen-table1'? There are aminbei",
        ),
        (("run", "nothing", "--small"), "recipe 'nothing': there are aminbeidokhti2019-table1, "),
        (
            ("run", "gupta2018-table1", "--root", "gaf=data"),
            "give the data sets: --root emotic=DIR (EMOTIC). kuleshov reproduce show says how they are laid out",
        ),
        (
            ("run", "tan2017-global"),
            "give the data sets: --root gaf=DIR (GAF (Group Affect Database 2.0, 3.0)); ",
        ),
        (
            ("run", "dagnet-table1", "--root", "emotic=data", "--root", "emotic=data"),
            "--root emotic is given twice",
        ),
        (("run", "dagnet-table1", "--root", "emotic"), "--root 'emotic': write DATASET=DIR, such as gaf=~/data/GAF2"),
        (("run", "dagnet-table1", "--root", "=data"), "--root '=data': write DATASET=DIR, such as gaf=~/data/GAF2"),
        (("run", "dagnet-table1", "--root", "emotic="), "--root 'emotic=': write DATASET=DIR, such as gaf=~/data/GAF2"),
        (("run", "dagnet-table1", "--root", "gaf=data"), "--root gaf: this recipe reads emotic"),
        (
            ("run", "dagnet-table1", "--root", "emotic=data", "--small"),
            "--root emotic and --small: a trial reads drawn stand-ins; leave one out",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(
    kuleshov: Run, tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    (tmp_path / "data").mkdir()
    status, said, err = kuleshov("-C", tmp_path, "reproduce", *arguments)
    assert (status, said) == (1, "")
    assert err.startswith(f"kuleshov: error: {problem}")
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "nothing was made"


def test_a_root_that_is_not_there(kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = kuleshov("-C", tmp_path, "reproduce", "run", "dagnet-table1", "--root", "emotic=none")
    assert (status, err) == (1, f"kuleshov: error: --root emotic={tmp_path / 'none'}: there is no such folder\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = kuleshov("reproduce", "run", "dagnet-table1", "--root", "emotic=~/none")
    assert err == f"kuleshov: error: --root emotic={tmp_path / 'none'}: there is no such folder\n"


def test_trials_do_not_go_where_data_sets_were_run(kuleshov: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "standins").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    status, _, err = kuleshov(
        *("-C", tmp_path, "reproduce", "run", "dagnet-table1", "--root", "emotic=data", "--to", "out")
    )
    assert status == 1
    assert err == f"kuleshov: error: {tmp_path / 'out'} has trials, made with --small: give another --to\n"
