"""What photos lie below a folder of a data set, as text: a data set may have half a million."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from stages.errors import DataError
from stages.index.layout import some
from stages.index.manifest import is_unwritable, printable
from stages.index.raw import IMAGE_EXTENSIONS, extension_of
from stages.ledger import Ledger

_DEEPEST = 4  # folders


def folders_of(folder: Path, place: str) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones and `__MACOSX` are passed over.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(f"{place}.root: {folder} cannot be listed: {error.strerror}") from None
    return [name for name in names if not name.startswith(".") and name != "__MACOSX"]


def spelled(name: str, names: Collection[str]) -> str:
    """The one of `names` that is `name` but for capitals; `name` itself where there is none."""
    return name if name in names else next((one for one in names if one.casefold() == name.casefold()), name)


def names_in(folder: Path) -> frozenset[str]:
    """The names of what lies in a folder.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries)


def first_there(root: Path, paths: Sequence[str]) -> str | None:
    """The first of some paths below a folder that is there, as it is spelled; capitals do not count. None: none is."""
    for path in paths:
        there = ""
        for name in path.split("/"):
            try:
                names = names_in(root / there)
            except OSError:
                break
            there = f"{there}/{spelled(name, names)}".removeprefix("/")
        if (root / there).exists() and there.count("/") == path.count("/"):
            return there
    return None


def photos_below(root: Path, below: str, ledger: Ledger) -> Iterator[str]:
    """Yield the posix path below `root` of every photo in the folder `below` and the folders in it, sorted by folder.

    Links are followed, but not in circles.

    Recorded: `permission` (a folder that cannot be listed), `bad_name` (a name that no CSV can hold).
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(below, frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            status = (root / folder).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue  # a link back to a folder that this one is in
            with os.scandir(root / folder) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries)
        except OSError as error:
            ledger.record(printable(folder), "permission", f"the folder cannot be listed: {error.strerror}")
            continue
        for name, is_folder in found:
            path = f"{folder}/{name}" if folder else name
            if name.startswith("."):
                continue
            if is_folder:
                if path.count("/") - below.count("/") < _DEEPEST:
                    pending.append((path, above | {identity}))
            elif extension_of(name) in IMAGE_EXTENSIONS:
                if is_unwritable(name):
                    ledger.record(printable(path), "bad_name", "the name has a control character or is not UTF-8")
                else:
                    yield path


def leads_out(path: str) -> bool:
    """Whether the path that an annotation gives leads out of the root: absolute, or with `..` in it."""
    return os.path.isabs(path) or ".." in path.split("/")  # noqa: PTH117 - as above: text


def require_some_there(named: Collection[str], there: Collection[str], table: str, place: str) -> None:
    """Refuse annotations of which no photo is there; where some are, `index` records the others as missing.

    Args:
        named: the paths below the root that the annotations name.
        there: those of the photos that lie there.
        table: the file of the annotations, for the message.
        place: where params.yaml names the data set.

    Raises:
        DataError: none of `named` is in `there`.
    """
    if named and not any(path in there for path in named):
        raise DataError(
            f"{place}.root: none of the {len(named)} photo(s) that {table} names is there; "
            f"looked for {some(sorted(named))}: unpack the photos to there"
        )
