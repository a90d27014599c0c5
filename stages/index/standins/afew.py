"""Draws clips of one face each in the layout of AFEW: see `stages.index.datasets.afew`.

A face goes from neutral to the class's expression and back. Classes take turns, and every clip shows another person.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from stages.index.datasets.afew import CLASSES
from stages.index.standins._folder import fresh
from stages.index.standins.pictures import face_clip
from stages.progress import progress
from stages.settings import Settings

CLIP_SIZE = 160  # px
_SHORTEST, _MORE = 10, 11  # frames, 12 per second: 10 to 20


class Sizes(Settings):
    """How many clips Train_AFEW, Val_AFEW and Test_AFEW have. Test_AFEW is left out where it has none."""

    train: int = Field(140, ge=1)
    val: int = Field(70, ge=1)
    test: int = Field(14, ge=0)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.15 s a clip.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    parts = (("Train_AFEW", sizes.train), ("Val_AFEW", sizes.val), ("Test_AFEW", sizes.test))
    jobs = [(part, number) for part, count in parts for number in range(count)]
    with fresh(folder):
        for index, (part, number) in enumerate(progress(jobs, total=len(jobs), desc="clips", unit="clip")):
            label = CLASSES[number % len(CLASSES)]
            below = "" if part == "Test_AFEW" else label.capitalize()
            path = folder / part / below / f"{index + 1:06d}{index * 137 % 1000:03d}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            face_clip(path, seed, index, label, _SHORTEST + index * 5 % _MORE, CLIP_SIZE)
