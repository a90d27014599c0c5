"""The folder that a stand-in is drawn into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import DataError

NOTICE = "DRAWN.txt"
JPEG_QUALITY = 92


@contextmanager
def fresh(folder: Path) -> Iterator[None]:
    """Make the folder with its notice that this is drawn, before anything is drawn into it.

    Raises:
        DataError: it holds something already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := next(folder.iterdir(), None):
            raise DataError(f"{folder} holds {there.name}: give a folder that is empty or not there to draw into")
        (folder / NOTICE).write_text("Drawn by Kuleshov; not the data set.\n", encoding="utf-8")
        yield
    except OSError as error:
        raise DataError(f"cannot draw into {folder} ({error}): give a folder that you may write to") from error
