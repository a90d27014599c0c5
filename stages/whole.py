"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to, which becomes `path` when the block ends; an error leaves `path` as it was.

    The folder is made. The file that is given is there and empty, with the rights that the user's files have.

    Args:
        durable: wait until it is on the disk: it survives the machine's failing as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # one name: what a killed process left is written over
    temporary.unlink(missing_ok=True)
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some libraries keep what they write to the owner
        if durable:
            _to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced(root: Path, folders: Sequence[str]) -> Iterator[Path]:
    """A place to write new folders to, which take the place of those of `root` when the block ends; an error leaves
    those as they were.

    Args:
        folders: paths below `root` and below the place that is given, where they are there and empty.
    """
    place = root / ".new"
    shutil.rmtree(place, ignore_errors=True)  # what a killed process left
    try:
        for folder in folders:
            (place / folder).mkdir(parents=True)
        yield place
        for folder in folders:
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            os.replace(place / folder, root / folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
