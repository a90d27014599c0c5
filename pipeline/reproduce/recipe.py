"""Recipes: a table of a paper as settings of the ordinary stages, and what is compared with what.

`pipeline/recipes/NAME.yaml` is one table: its rows, its columns, the paper's numbers, and of which members of which
projects ours come. `pipeline/recipes/projects/PROJECT.yaml` has the settings that several tables share, as params.yaml
has them; see `selection`. Under `small` stand what a trial without the data sets, the weights and a GPU has instead.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.reproduce.merging import Loader
from stages.errors import SettingError
from stages.index.registry import data_set
from stages.settings import Settings

FOLDER: Traversable = resources.files("pipeline.recipes")
"""Where recipes are."""

PAPERS = {
    "gupta2018": "Gupta et al. 2018, An Attention Model for group-level emotion recognition",
    "tan2017": "Tan et al. 2017, Group Emotion Recognition with Individual Facial Emotion CNNs and Global "
    "Image based CNNs",
    "aminbeidokhti2019": "Aminbeidokhti et al. 2019, Emotion Recognition with Spatial Attention and Temporal Softmax "
    "Pooling",
    "meen": "Meen et al., Facial Emotion Recognition using Facial Features as an Attention Mechanism",
    "dagnet": "DAG-Net: Dual Attention Graph Network for Emotion Recognition in the Wild",
}
"""Paper -> its authors and title; `docs/papers/` has a page of each."""


K = TypeVar("K", bound=Settings)


class Cell(Settings):
    """What a number of the table is. What a cell leaves out its row says, and then its column.

    Attributes:
        project: whose predictions.
        member: a head, fine-tune or ensemble of that project, all of its seeds.
        split: of the samples that it is judged by; never `train`, which every member has seen.
        subset: only those of this subset.
        metric: `accuracy`; `recall`, of the samples of class `label`; `average_precision` of that class; or the mean of
            all classes', `mean_average_precision`.
        label: see `metric`.
        paper: the paper's number, in percent; None where the paper has none.
        quoted: the number is one that the paper quotes, and nothing is run for it.
        empty: the paper's table has nothing there, and nor has ours.
    """

    project: str | None = None
    member: str | None = None
    split: Literal["val", "test"] | None = None
    subset: str | None = None
    metric: Literal["accuracy", "recall", "average_precision", "mean_average_precision"] | None = None
    label: str | None = None
    paper: float | None = None
    quoted: bool = False
    empty: bool = False


class Row(Settings):
    """A row of the table.

    Attributes:
        name: as the paper calls it, or nearly.
        cells: column -> what of its cell neither the row nor the column say; a number is the paper's.
        differs: what is not as in the paper, and why, a line each.
        of: what the row says of all of its cells.
    """

    name: str
    of: Cell = Cell()
    cells: dict[str, Cell] = Field(default_factory=dict)
    differs: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, said: Any) -> Any:
        if isinstance(said, dict) and isinstance(said.get("cells"), dict):
            cells = {
                name: {"paper": one} if isinstance(one, int | float) else one for name, one in said["cells"].items()
            }
            return said | {"cells": cells}
        return said


class Pair(Settings):
    """Two cells of which the paper says that the first is above the second.

    Attributes:
        higher, lower: names of rows; with `across`, of columns.
        column: in which column they are compared; with `across`, in which row.
        across: whether two columns of one row are compared.
    """

    higher: str
    lower: str
    column: str
    across: bool = False

    @property
    def places(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Row and column of the first, and of the second."""
        if self.across:
            return (self.column, self.higher), (self.column, self.lower)
        return (self.higher, self.column), (self.lower, self.column)


class Recipe(Settings):
    """A table of a paper.

    Attributes:
        paper: one of `PAPERS`.
        table: as the paper calls it.
        title: what it shows.
        projects: those that are run for it, in this order; members of earlier ones may be what later ones start from.
        columns: name -> what its cells have in common.
        rows: in the paper's order.
        pairs: what is compared; both cells are run.
        differs: what is not as in the paper in all rows, a line each.
        small: the same of the trial, beside what its projects say.
    """

    paper: Literal["gupta2018", "tan2017", "aminbeidokhti2019", "meen", "dagnet"]
    table: str
    title: str
    projects: tuple[str, ...] = Field(min_length=1)
    columns: dict[str, Cell] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...] = ()
    differs: tuple[str, ...] = ()
    small: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        rows = [row.name for row in self.rows]
        for row in self.rows:
            for column in row.cells:
                if column not in self.columns:
                    raise ValueError(f"row {row.name!r} has a cell {column!r}, which is no column")
        if len(set(rows)) != len(rows):
            raise ValueError("two rows have one name")
        for pair in self.pairs:
            inside, beside = (self.columns, rows) if pair.across else (rows, self.columns)
            for name, known in ((pair.higher, inside), (pair.lower, inside), (pair.column, beside)):
                if name not in known:
                    raise ValueError(f"a pair names {name!r}, which the table does not have")
        for row in self.rows:
            for column in self.columns:
                self._require_whole(row, column)
        for pair in self.pairs:
            self._require_run(pair)
        return self

    def _require_run(self, pair: Pair) -> None:
        for name, column in pair.places:
            cell = self.cell(next(row for row in self.rows if row.name == name), column)
            if cell.empty or cell.quoted:
                raise ValueError(f"a pair names {name}, {column}, for which nothing is run")

    def _require_whole(self, row: Row, column: str) -> None:
        cell = self.cell(row, column)
        if cell.empty or cell.quoted:
            if not cell.empty and cell.paper is None:
                raise ValueError(f"{row.name}, {column}: a quoted number is missing")
            return
        for name in ("member", "split", "metric"):
            if getattr(cell, name) is None:
                raise ValueError(f"{row.name}, {column}: no {name}")
        if cell.project not in self.projects:
            raise ValueError(f"{row.name}, {column}: project {cell.project!r} is none of the recipe's")
        if (cell.metric in ("recall", "average_precision")) != (cell.label is not None):
            raise ValueError(f"{row.name}, {column}: label is {cell.label!r} and metric {cell.metric}")

    def cell(self, row: Row, column: str) -> Cell:
        """All that is said of a cell."""
        said: dict[str, Any] = {}
        for one in (self.columns[column], row.of, row.cells.get(column, Cell())):
            said |= one.model_dump(exclude_unset=True)
        return Cell(**said)

    def members(self) -> dict[str, set[str]]:
        """Project -> the members that the table needs."""
        needed: dict[str, set[str]] = {name: set() for name in self.projects}
        for row in self.rows:
            for column in self.columns:
                cell = self.cell(row, column)
                if not (cell.empty or cell.quoted) and cell.project is not None and cell.member is not None:
                    needed[cell.project].add(cell.member)
        return needed


class DataSetNeed(Settings):
    """A data set that a project reads.

    Attributes:
        adapter: its adapter, which says how the root is laid out.
        what: what it is there for.
        layout: of what has no adapter of its own (`folder`).
        stand_in: whose stand-in is drawn; None: that of the adapter.
    """

    adapter: str
    what: str
    layout: str | None = None
    stand_in: str | None = None

    @property
    def title(self) -> str:
        """What it is called."""
        return self.what if self.layout is not None else data_set(self.adapter).TITLE

    @property
    def drawn(self) -> str:
        """What its stand-in is one of."""
        return data_set(self.stand_in or self.adapter).TITLE

    @property
    def tree(self) -> str:
        """What is expected where under its root."""
        return self.layout if self.layout is not None else data_set(self.adapter).LAYOUT.strip("\n")


class SmallProject(Settings):
    """What a project has instead in a trial.

    Attributes:
        stand_ins: data set -> the sizes of the drawn one (`stages/index/standins/`), and its `seed`, by default 0.
        settings: laid over those of the project; `!replace` and `!remove` as `merging` says.
        differs: what stands for what, a line each.
    """

    stand_ins: dict[str, dict[str, Any]] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    differs: tuple[str, ...] = ()


class ProjectRecipe(Settings):
    """The settings of a project that tables are made of.

    Attributes:
        about: what it is.
        data_sets: name -> data set; `{NAME}` in the settings becomes its root.
        settings: as params.yaml has them.
        keep: heads that are there whatever the tables need: a project needs a role and a head.
        small: of the trial.
    """

    about: str
    data_sets: dict[str, DataSetNeed] = Field(min_length=1)
    settings: dict[str, Any]
    keep: tuple[str, ...] = Field(min_length=1)
    small: SmallProject = SmallProject()


def names() -> tuple[str, ...]:
    """All recipes, sorted."""
    return tuple(sorted(one.name.removesuffix(".yaml") for one in FOLDER.iterdir() if one.name.endswith(".yaml")))


def load(name: str) -> Recipe:
    """A recipe.

    Raises:
        SettingError: there is none of that name, says which may be meant and lists all; or the file is no recipe.
    """
    if name not in (known := names()):
        close = get_close_matches(name, known, 1)
        meant = f"did you mean {close[0]!r}? There are" if close else "there are"
        raise SettingError(f"recipe {name!r}: {meant} {', '.join(known)}")
    return _read(Recipe, f"{name}.yaml")


def load_project(name: str) -> ProjectRecipe:
    """A project's settings.

    Raises:
        SettingError: there is no such file, or it is no project.
    """
    return _read(ProjectRecipe, f"projects/{name}.yaml")


def _read(kind: type[K], path: str) -> K:
    try:
        text = FOLDER.joinpath(path).read_text(encoding="utf-8")
        return kind.model_validate(yaml.load(text, Loader=Loader))  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise SettingError(f"recipes/{path} is not there: name a project that is") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"recipes/{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in (".".join(map(str, first["loc"])),) if part)
        raise SettingError(f"recipes/{path}: {place}{first['msg'].removeprefix('Value error, ')}") from None
