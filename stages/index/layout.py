"""What is expected where under a data set's root, and what to say where it is not."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from stages.errors import DataError, SettingError
from stages.index.manifest import printable
from stages.index.raw import Source

_SHOWN = 8  # names of a longer list


def no_table(source: Source) -> None:
    """Refuse `images` and `columns`, which only the csv adapter follows.

    Raises:
        SettingError: one of them is given.
    """
    if source.images is not None or source.columns:
        place = source.place
        raise SettingError(
            f"{place}.images and {place}.columns are for the csv adapter: remove them, or set adapter: csv"
        )


def require_layout(source: Source, title: str, expected: Mapping[str, str]) -> None:
    """Refuse a root that lacks a file or folder.

    Args:
        source: whose `root` is looked at.
        title: of the data set, for the message.
        expected: path below the root, posix -> what it is.

    Raises:
        SettingError: as `no_table`.
        DataError: the root is no folder, or lacks some of it; says what was expected where, and what was found.
    """
    no_table(source)
    root, place = source.root, source.place
    if not root.is_dir():
        raise DataError(f"{place}.root {root} is not a folder: give the folder that {title} was unpacked to")
    lacking = {path: what for path, what in expected.items() if not (root / path).exists()}
    if lacking:
        raise wrong_layout(source, title, lacking)


def wrong_layout(source: Source, title: str, lacking: Mapping[str, str]) -> DataError:
    """What to raise of a root, a folder, that lacks something.

    Args:
        source, title: see `require_layout`.
        lacking: path below the root, posix -> what it is, of what is not there or is a file in place of a folder; not
            empty.
    """
    root = source.root
    wanted = ", ".join(f"{path} ({what})" for path, what in lacking.items())
    first = next((above for above in Path(next(iter(lacking))).parents if (root / above).is_dir()), Path())
    where = "there" if first == Path() else f"in {first.as_posix()}/"
    return DataError(
        f"{source.place}.root {root} is not laid out as {title}: expected {wanted}; found {where}: "
        f"{listed(root / first)}"
    )


def listed(folder: Path) -> str:
    """The first names in a folder, folders with a last `/`, and how many more there are."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    except OSError as error:
        return f"nothing that can be listed ({error.strerror})"
    return some([printable(name) for name in names if not name.startswith(".")]) or "nothing"


def some(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more
