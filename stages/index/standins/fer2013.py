"""Draws faces in the layout of FER2013: see `stages.index.datasets.fer2013`.

Each row is another drawn person with one of the seven expressions, 48 x 48 px in grey. Labels go in turn, so each part
is balanced, unlike the data set's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from stages.index.datasets.fer2013 import CLASSES
from stages.index.standins._folder import fresh
from stages.index.standins.pictures import face_photo, other_photo
from stages.progress import progress
from stages.settings import Settings

SIDE = 48
"""Width and height of a picture, px."""


class Sizes(Settings):
    """How many pictures Training, PublicTest and PrivateTest have."""

    training: int = Field(420, ge=7)
    public_test: int = Field(105, ge=7)
    private_test: int = Field(105, ge=7)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.01 s a picture.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    parts = {"Training": sizes.training, "PublicTest": sizes.public_test, "PrivateTest": sizes.private_test}
    rows = [(CLASSES[number % len(CLASSES)], usage) for usage, count in parts.items() for number in range(count)]
    with fresh(folder):
        write_table(folder / "fer2013.csv", rows, [label for label, _ in rows], seed)


def write_table(path: Path, rows: Sequence[tuple[str, str]], moods: Sequence[str | None], seed: int) -> None:
    """Write fer2013.csv.

    Args:
        path: of the table.
        rows: label and Usage of each row.
        moods: what is drawn in each row: a face with this expression, or None for a picture without a face.
        seed: of the drawing.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.write("emotion,pixels,Usage\n")
        for index, (label, usage) in progress(enumerate(rows), total=len(rows), desc="faces", unit="face"):
            mood = moods[index]
            if mood is None:
                picture = other_photo(seed, index, SIDE, grey=True)
            else:
                picture = face_photo(seed, index, mood, SIDE, grey=True)
            pixels = " ".join(map(str, picture.tobytes()))
            handle.write(f"{CLASSES.index(label)},{pixels},{usage}\n")
