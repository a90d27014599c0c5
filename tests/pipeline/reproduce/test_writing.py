from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.reproduce.recipe import Pair, load
from pipeline.reproduce.table import Compared, Number, Table
from pipeline.reproduce.writing import (
    COLUMNS,
    TRIAL,
    compared_text,
    lines_of,
    markdown_of,
    ours_text,
    paper_text,
    percent,
    write,
)
from stages.evaluate.cells import Answer, Difference

NOTES = ("a drawn stand-in",)


@pytest.fixture
def table(tiny: Path) -> Table:
    path = tiny / "tiny.yaml"
    path.write_text(path.read_text().replace("name: Both", "name: 'Both | all'"))
    one = Answer(0.9, 0.75, 1.0, 20, 1, None, False)
    numbers = [
        Number("Net", "accuracy", 71.5, False, one),
        Number("Net", "happy", None, False, Answer(1.0, 0.8, 1.0, 10, 1, None, True)),
        Number("Logistic", "accuracy", 60.0, False, Answer(0.45, 0.4, 0.5, 20, 2, 0.070711, False), "Net"),
        Number("Logistic", "happy", 55.5, False, Answer(None, None, None, 3, 1, None, False)),
        Number("Both | all", "accuracy", None, False, one),
        Number("Theirs", "accuracy", 70.0, True, None),
    ]
    difference = Difference(0.45, 0.1, 0.8, 20)
    compared = (Compared(Pair(higher="Net", lower="Logistic", column="accuracy"), 11.5, difference, "same"),)
    return Table(load("tiny"), {(one.row, one.column): one for one in numbers}, compared)


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.7123, False, "71.2"), (0.015, True, "+1.5"), (-0.015, True, "-1.5"), (0.0, True, "+0.0"), (None, True, "-")],
)
def test_percent(value: float | None, signed: bool, text: str) -> None:
    assert percent(value, signed=signed) == text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(0.712, 0.66, 0.764, 120, 3, 0.008, False), "71.2 [66.0, 76.4] (3 seeds, sd 0.8; n 120)"),
        (Answer(0.712, 0.66, 0.764, 120, 1, None, False), "71.2 [66.0, 76.4] (n 120)"),
        (Answer(0.5, None, None, 2, 1, None, False), "50.0 (n 2)"),
        (Answer(None, None, None, 2, 1, None, False), "- (n 2)"),
        (None, "-"),
    ],
)
def test_ours(answer: Answer | None, text: str) -> None:
    assert ours_text(answer) == text


def test_the_paper_s(table: Table) -> None:
    assert [paper_text(one) for one in table.numbers.values()] == ["71.5", "-", "60", "55.5", "-", "70 (quoted)"]


@pytest.mark.parametrize(
    ("paper", "ours", "text"),
    [
        (11.5, Difference(0.45, 0.1, 0.8, 9), "A over B (c): paper +11.5, here +45.0 [+10.0, +80.0]: same"),
        (None, Difference(-0.5, None, None, 9), "A over B (c): here -50.0: same"),
    ],
)
def test_a_pair(paper: float | None, ours: Difference, text: str) -> None:
    assert compared_text(Compared(Pair(higher="A", lower="B", column="c"), paper, ours, "same")) == text


def test_the_table_in_a_terminal(table: Table) -> None:
    lines = lines_of(table, NOTES)
    start = lines.index("row         column    paper        ours")
    assert lines[start + 1 : start + 7] == [
        "Net         accuracy  71.5         90.0 [75.0, 100.0] (n 20)",
        "Net         happy     -            100.0 [80.0, 100.0] (n 10)  CONSTANT: the same answer to every sample",
        "Logistic    accuracy  60           45.0 [40.0, 50.0] (2 seeds, sd 7.1; n 20)  COPY of Net",
        "Logistic    happy     55.5         - (n 3)",
        "Both | all  accuracy  -            90.0 [75.0, 100.0] (n 20)",
        "Theirs      accuracy  70 (quoted)  -",
    ]
    assert "  Net over Logistic (accuracy): paper +11.5, here +45.0 [+10.0, +80.0]: same" in lines
    assert lines[-3:] == ["  - drawn for a test", "  - a drawn stand-in", "  - Both | all: the paper has no such row"]


def test_the_page_has_a_cell_for_each_column(table: Table) -> None:
    page = markdown_of(table, NOTES).splitlines()
    rows = [line for line in page if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert rows[-1] == "| Theirs | 70 (quoted) | - |  |  |"
    assert any(line.startswith("| Both \\| all | - | 90.0") for line in rows)
    assert "- a drawn stand-in" in page


def test_a_trial_says_so_everywhere(table: Table, tmp_path: Path) -> None:
    assert TRIAL not in lines_of(table)
    assert TRIAL not in markdown_of(table)
    trial = replace(table, trial=True)
    assert lines_of(trial)[2] == TRIAL
    assert markdown_of(trial).splitlines()[4] == TRIAL
    _, table_csv, table_json = write(trial, tmp_path, "tiny")
    assert json.loads(table_json.read_text())["trial"] is True
    with open(table_csv, newline="", encoding="utf-8") as handle:
        assert {row["trial"] for row in csv.DictReader(handle)} == {"True"}


def test_files(table: Table, tmp_path: Path) -> None:
    md, table_csv, table_json = write(table, tmp_path, "tiny", NOTES)
    assert [path.name for path in (md, table_csv, table_json)] == ["tiny.md", "tiny.csv", "tiny.json"]
    assert md.read_text() == markdown_of(table, NOTES)
    with open(table_csv, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["ours"] == "0.9"
    assert (rows[2]["copy_of"], rows[2]["sd"], rows[1]["constant"]) == ("Net", "0.070711", "True")
    assert (rows[4]["paper"], rows[4]["differs"]) == ("", "the paper has no such row")
    assert (rows[5]["quoted"], rows[5]["ours"]) == ("True", "")
    found = json.loads(table_json.read_text())
    assert found["numbers"][0]["ours"] == {
        "value": 0.9,
        "low": 0.75,
        "high": 1.0,
        "n": 20,
        "seeds": 1,
        "sd": None,
        "constant": False,
    }
    assert found["compared"][0]["verdict"] == "same"
    assert found["differs"] == ["drawn for a test", "a drawn stand-in", "Both | all: the paper has no such row"]
    before = table_json.read_bytes()
    write(table, tmp_path, "tiny", NOTES)
    assert table_json.read_bytes() == before
