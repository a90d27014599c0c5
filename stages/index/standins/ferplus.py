"""Draws faces in the layout of FER+: see `stages.index.datasets.ferplus`.

Each row is another drawn person with one of the eight expressions, and ten drawn voters look at it: each sees what was
drawn with a chance that differs from picture to picture, else one of two expressions like it, or cannot tell. So most
pictures have a majority and some have none. A thirtieth of the pictures has no face and no Image name. FER2013's own
label is what was drawn, but for contempt, which it does not know and calls neutral.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from stages.index.datasets.ferplus import CLASSES, VOTES
from stages.index.standins._folder import fresh
from stages.index.standins.fer2013 import write_table
from stages.settings import Settings

VOTERS = 10
_VOTES = 7  # the stream of random numbers; those below are in `pictures`
_FACELESS = 30  # one picture of so many
_MOODS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
"""What is drawn for each of `CLASSES`."""

_LIKE = ((3, 7), (2, 0), (6, 1), (0, 4), (5, 3), (4, 7), (2, 3), (0, 5))
"""What each of `CLASSES` is taken for, by their numbers."""


class Sizes(Settings):
    """How many pictures Training, PublicTest and PrivateTest have."""

    training: int = Field(480, ge=8)
    public_test: int = Field(120, ge=8)
    private_test: int = Field(120, ge=8)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.01 s a picture.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    parts = {"Training": sizes.training, "PublicTest": sizes.public_test, "PrivateTest": sizes.private_test}
    usages = [usage for usage, count in parts.items() for _ in range(count)]
    numbers = [number for count in parts.values() for number in range(count)]
    moods = [None if n % _FACELESS == _FACELESS - 1 else n % len(CLASSES) for n in numbers]
    labels = ["neutral" if mood in (None, CLASSES.index("contempt")) else _MOODS[mood] for mood in moods]
    with fresh(folder):
        drawn = [None if mood is None else _MOODS[mood] for mood in moods]
        write_table(folder / "fer2013.csv", list(zip(labels, usages, strict=True)), drawn, seed)
        with open(folder / VOTES, "w", encoding="utf-8", newline="\n") as handle:
            handle.write(f"Usage,Image name,{','.join(CLASSES)},unknown,NF\n")
            for row, (usage, mood) in enumerate(zip(usages, moods, strict=True)):
                name = "" if mood is None else f"fer{row:07d}.png"
                votes = _votes(mood, np.random.default_rng((seed, _VOTES, row)))
                handle.write(f"{usage},{name},{','.join(map(str, votes))}\n")


def _votes(mood: int | None, rng: np.random.Generator) -> list[int]:
    """Ten votes on a picture: for the eight classes, unknown and NF."""
    chances = np.zeros(len(CLASSES) + 2)
    if mood is None:
        chances[-1] = 1.0
    else:
        sure = float(rng.uniform(0.45, 1.0))
        chances[mood] = sure
        chances[list(_LIKE[mood])] = np.array([0.6, 0.25]) * (1 - sure)
        chances[-2] = 0.15 * (1 - sure)
    return rng.multinomial(VOTERS, chances / chances.sum()).tolist()
