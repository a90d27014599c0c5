"""Draws faces in either layout of AffectNet: see `stages.index.datasets.affectnet`.

Valence and arousal are those of the class, up to a little: they tell no more than the class does.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from stages.index.datasets._affectnet import COLUMNS
from stages.index.datasets.affectnet import CLASSES
from stages.index.standins._folder import JPEG_QUALITY, fresh
from stages.index.standins.pictures import face_photo
from stages.progress import progress
from stages.settings import Settings
from stages.tables import write_csv

FEELINGS = {
    "neutral": (0.0, 0.0), "happy": (0.7, 0.3), "sad": (-0.65, -0.3), "surprise": (0.2, 0.75),
    "fear": (-0.3, 0.8), "disgust": (-0.7, 0.4), "anger": (-0.5, 0.7), "contempt": (-0.55, 0.1),
}  # fmt: skip
"""Class -> valence and arousal of its middle."""

_SPREAD = 0.15
_FACE = (0.2, 0.14, 0.6, 0.76)  # where a picture's face is: x, y, width and height, in sizes of the picture
_MOODS = {"anger": "angry"}  # where the drawn faces say it another way
_LANDMARKS = 68


class Sizes(Settings):
    """How many photos the sets have, which layout, and the pictures' width and height in px; the classes take turns.

    `lists` is the official release with two csv files, `arrays` the smaller one with arrays beside the photos.
    """

    train: int = Field(160, ge=8)
    val: int = Field(80, ge=8)
    form: Literal["lists", "arrays"] = "lists"
    size: int = Field(160, ge=48, le=1024)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.02 s a photo.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    rng = np.random.default_rng((seed, 12))
    jobs = [("train", number) for number in range(sizes.train)] + [("val", number) for number in range(sizes.val)]
    rows: dict[str, list[tuple[str | int | float, ...]]] = {"train": [], "val": []}
    with fresh(folder):
        for index, (part, number) in enumerate(progress(jobs, total=len(jobs), desc="photos", unit="photo")):
            label = CLASSES[number % len(CLASSES)]
            told = [round(float(middle + rng.uniform(-_SPREAD, _SPREAD)), 6) for middle in FEELINGS[label]]
            if sizes.form == "arrays":
                name = f"{part}_set/images/{number}.jpg"
                _write_arrays(folder / f"{part}_set" / "annotations", number, CLASSES.index(label), told)
            else:
                name = f"{index % 4 + 1}/{rng.bytes(14).hex()}.jpg"
                rows[part].append(_row(name, sizes.size, CLASSES.index(label), told))
                name = f"Manually_Annotated_Images/{name}"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            photo = face_photo(seed, index, _MOODS.get(label, label), sizes.size)
            photo.save(path, format="JPEG", quality=JPEG_QUALITY)
        if sizes.form == "lists":
            for part, name in (("train", "training.csv"), ("val", "validation.csv")):
                write_csv(folder / "Manually_Annotated_file_lists" / name, COLUMNS, rows[part])


def _row(name: str, size: int, label: int, told: list[float]) -> tuple[str | int | float, ...]:
    """A row of a list. The landmarks are points on the face's outline: nothing here reads them."""
    x, y, width, height = (round(part * size) for part in _FACE)
    turns = [2 * math.pi * point / _LANDMARKS for point in range(_LANDMARKS)]
    points = [(x + width * (1 + math.cos(turn)) / 2, y + height * (1 + math.sin(turn)) / 2) for turn in turns]
    landmarks = ";".join(f"{value:.2f}" for point in points for value in point)
    return name, x, y, width, height, landmarks, label, told[0], told[1]


def _write_arrays(folder: Path, number: int, label: int, told: list[float]) -> None:
    """The arrays of one photo: numbers as text, as the release has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, value in (("exp", label), ("val", told[0]), ("aro", told[1])):
        np.save(folder / f"{number}_{kind}.npy", np.array(str(value)))
