"""A recipe's table: the paper's numbers beside ours, and what of the paper's order is seen here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.reproduce.recipe import Cell, Pair, Recipe, Row
from stages import predictions
from stages.errors import DataError, MissingInputError
from stages.evaluate.cells import Answer, Difference, Judged, Question, ask, less, same_answers
from stages.index.manifest import Manifest
from stages.predictions import FOLDERS, Predictions

RESAMPLES = 2000

Verdict = Literal["same", "reversed", "undetermined"]


@dataclass(frozen=True)
class Number:
    """A cell of the table.

    Attributes:
        row, column: names.
        paper: percent; None where the paper has no number.
        quoted: nothing was run for it.
        ours: what was measured; None where nothing was run.
        copy_of: an earlier cell of the row or the column, of another member, whose every answer is the same: its
            column or row; None: there is none.
    """

    row: str
    column: str
    paper: float | None
    quoted: bool
    ours: Answer | None
    copy_of: str | None = None


@dataclass(frozen=True)
class Compared:
    """A pair of cells.

    Attributes:
        pair: which.
        paper: by how much the first is above the second in the paper, in percentage points; None where the paper tells
            the order only.
        ours: the paired difference, as fractions.
        verdict: `same`: the interval lies above 0; `reversed`: below; else `undetermined`, and so where one of the two
            gives the same answer to every sample.
    """

    pair: Pair
    paper: float | None
    ours: Difference
    verdict: Verdict


@dataclass(frozen=True)
class Table:
    """A recipe's table as it was run.

    Attributes:
        recipe: its file.
        numbers: by row and column.
        compared: in the recipe's order.
        trial: whether it was run with `--small`.
    """

    recipe: Recipe
    numbers: dict[tuple[str, str], Number]
    compared: tuple[Compared, ...]
    trial: bool = False


def table_of(recipe: Recipe, folders: Mapping[str, Path], *, trial: bool = False) -> Table:
    """Read what the projects have predicted, and judge it.

    Args:
        folders: project -> its folder.
        trial: whether it was run with `--small`.

    Raises:
        MissingInputError: a project has not been run, or a member is not there.
        DataError: a cell asks what its member cannot answer.
    """
    judges = _Judges(recipe, folders)
    numbers: dict[tuple[str, str], Number] = {}
    for row in recipe.rows:
        for column in recipe.columns:
            cell = recipe.cell(row, column)
            if cell.empty:
                continue
            ours = None if cell.quoted else ask(judges.of(row, column), RESAMPLES)
            copied = None if cell.quoted else judges.copied(row, column)
            numbers[row.name, column] = Number(row.name, column, cell.paper, cell.quoted, ours, copied)
    return Table(recipe, numbers, tuple(_compared(judges, pair, numbers) for pair in recipe.pairs), trial)


def _compared(judges: _Judges, pair: Pair, numbers: Mapping[tuple[str, str], Number]) -> Compared:
    one, other = (judges.named(*place) for place in pair.places)
    ours = less(one, other, RESAMPLES)
    a, b = (numbers[place].paper for place in pair.places)
    constant = any((found := numbers[place].ours) is not None and found.constant for place in pair.places)
    paper = None if a is None or b is None else round(a - b, 2)
    return Compared(pair, paper, ours, "undetermined" if constant else verdict_of(ours))


def verdict_of(ours: Difference) -> Verdict:
    """What a difference says of an order."""
    if ours.low is None or ours.high is None or ours.low <= 0 <= ours.high:
        return "undetermined"
    return "same" if ours.low > 0 else "reversed"


class _Judges:
    """The members of a table's cells, each read once."""

    def __init__(self, recipe: Recipe, folders: Mapping[str, Path]) -> None:
        self.recipe, self.folders = recipe, folders
        self._manifests: dict[str, Manifest] = {}
        self._members: dict[tuple[str, str], list[Predictions]] = {}
        self._judged: dict[tuple[str, str], Judged] = {}

    def named(self, row: str, column: str) -> Judged:
        return self.of(next(one for one in self.recipe.rows if one.name == row), column)

    def of(self, row: Row, column: str) -> Judged:
        place = (row.name, column)
        if place not in self._judged:
            cell = self.recipe.cell(row, column)
            question = _question(cell)
            manifest, members = self._manifest(cell), self._read(cell)
            try:
                self._judged[place] = Judged(members, manifest, question)
            except DataError as error:
                raise DataError(f"{row.name}, {column}: {error}") from None
        return self._judged[place]

    def copied(self, row: Row, column: str) -> str | None:
        """An earlier cell of the row or the column with the very same answers; the same member twice is none."""
        mine = self.recipe.cell(row, column)
        columns, rows = list(self.recipe.columns), list(self.recipe.rows)
        earlier = [(row, other, other) for other in columns[: columns.index(column)]]
        earlier += [(other, column, other.name) for other in rows[: rows.index(row)]]
        for other, beside, name in earlier:
            cell = self.recipe.cell(other, beside)
            if cell.empty or cell.quoted or (cell.project, cell.member) == (mine.project, mine.member):
                continue
            if same_answers(self.of(other, beside), self.of(row, column)):
                return name
        return None

    def _manifest(self, cell: Cell) -> Manifest:
        project = cell.project or ""
        if project not in self._manifests:
            self._manifests[project] = Manifest.read(self.folders[project] / "artifacts" / "manifest.csv")
        return self._manifests[project]

    def _read(self, cell: Cell) -> list[Predictions]:
        project, member = cell.project or "", cell.member or ""
        if (project, member) not in self._members:
            self._members[project, member] = members_of(self.folders[project] / "artifacts", member)
        return self._members[project, member]


def members_of(artifacts: Path, name: str) -> list[Predictions]:
    """The seeds of a head or fine-tune, one of them (`HEAD-s0`), or an ensemble.

    Raises:
        MissingInputError: there is none of that name.
    """
    for folder, kind in FOLDERS.items():
        place = artifacts / "predictions" / folder
        paths = sorted({*place.glob(f"{name}.csv"), *(() if kind == "fused" else place.glob(f"{name}-s*.csv"))})
        found = [predictions.read(path) for path in paths]
        if found := [one for one in found if name in (one.name, one.head)]:
            return found
    raise MissingInputError(f"{artifacts / 'predictions'} has no {name}: run kuleshov reproduce run again")


def _question(cell: Cell) -> Question:
    return Question(cell.split or "test", cell.metric or "accuracy", cell.label, cell.subset)
