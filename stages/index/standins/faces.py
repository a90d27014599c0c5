"""Draws faces and other pictures: see `stages.index.datasets.faces`.

Faces have any of the eight expressions and come from two sources, colour and grey, as do the others: what tells them
apart is the face.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pydantic import Field

from stages.index.drawn.moods import MOODS
from stages.index.standins._folder import fresh
from stages.index.standins.pictures import face_photo, other_photo
from stages.progress import progress
from stages.settings import Settings


class Sizes(Settings):
    """How many pictures have a face, how many have none, and their width and height, px."""

    faces: int = Field(200, ge=2)
    others: int = Field(200, ge=2)
    side: int = Field(64, ge=24, le=512)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.01 s a picture of 64 px.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    jobs = [("faces", number) for number in range(sizes.faces)] + [("others", n) for n in range(sizes.others)]
    with fresh(folder):
        for kind, number in progress(jobs, total=len(jobs), desc="pictures", unit="picture"):
            path = folder / kind / ("colour", "grey")[number % 2] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _drawn(kind, number, sizes.side, seed).save(path)


def _drawn(kind: str, number: int, side: int, seed: int) -> Image.Image:
    grey = number % 2 == 1
    if kind == "others":
        return other_photo(seed, number, side, grey=grey)
    return face_photo(seed, number, MOODS[number // 2 % len(MOODS)], side, grey=grey)
