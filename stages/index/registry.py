"""Adapters by name. Only the one asked for is imported.

`folder` and `csv` are for data of one's own. Each published data set is a file of `stages/index/datasets/`, found by
its name, with

    TITLE    what the data set is called
    SOURCE   the publication that it is from
    LAYOUT   what is expected where under the root, a tree as text
    Options  the settings of `data.options`, a `Settings`
    FACES    which faces it has, as `detect.faces` has them: `found`, `given` (a face box each) or `whole`
    read     see `stages.index.raw.Adapter`

and the file of the same name in `stages/index/standins/` draws a data set in its layout, see `StandIn`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

from stages.errors import SettingError
from stages.index.raw import Adapter
from stages.settings import Settings

# The name a person writes -> the module with its `read`. (A module named csv.py would hide the standard one.)
GENERAL = {"csv": "stages.index.table", "folder": "stages.index.folder"}


class DataSet(Protocol):
    """A file of `stages/index/datasets/`."""

    TITLE: str
    SOURCE: str
    LAYOUT: str
    Options: type[Settings]
    FACES: str
    read: Adapter


class StandIn(Protocol):
    """A file of `stages/index/standins/`: draws what an adapter reads, with as much truth as the real data set has.

    `Sizes` says how much of what is drawn; `write` draws it into a folder that is not there yet or is empty, by the
    seed alone. A text file `DRAWN.txt` at its top says that it is not the data set.
    """

    Sizes: type[Settings]

    def write(self, folder: Path, sizes: Settings, seed: int) -> None: ...


def data_sets() -> tuple[str, ...]:
    """The published data sets that have an adapter, sorted."""
    return tuple(sorted(path.stem for path in (Path(__file__).parent / "datasets").glob("[!_]*.py")))


def names() -> tuple[str, ...]:
    """All adapters, those for data of one's own first."""
    return (*sorted(GENERAL), *data_sets())


def data_set(name: str) -> DataSet:
    """The module of a published data set.

    Raises:
        SettingError: there is none of that name; lists those there are.
    """
    if name not in data_sets():
        raise SettingError(f"data set {name!r}: choose one of {', '.join(data_sets())}")
    module: DataSet = import_module(f"stages.index.datasets.{name}")  # pyright: ignore[reportAssignmentType]
    return module


def stand_in(name: str) -> StandIn:
    """The module that draws a stand-in of a published data set.

    Raises:
        SettingError: there is no data set of that name; lists those there are.
    """
    data_set(name)
    module: StandIn = import_module(f"stages.index.standins.{name}")  # pyright: ignore[reportAssignmentType]
    return module


def find_adapter(name: str) -> Adapter:
    """The `read` function of an adapter.

    Raises:
        SettingError: there is no adapter of that name; lists those there are.
    """
    if name in GENERAL:
        return import_module(GENERAL[name]).read
    if name not in data_sets():
        raise SettingError(f"index.adapter is {name!r}: choose one of {', '.join(names())}")
    return data_set(name).read
