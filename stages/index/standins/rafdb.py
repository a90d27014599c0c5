"""Draws faces in the layout of RAF-DB: photos, their aligned crops and boxes; see `stages.index.datasets.rafdb`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pydantic import Field

from stages.index.datasets.rafdb import CLASSES
from stages.index.standins._folder import JPEG_QUALITY, fresh
from stages.index.standins.pictures import face_photo
from stages.progress import progress
from stages.settings import Settings

ALIGNED = 100
"""Width and height of the data set's aligned photos, px."""

_ORIGINAL = 200
_BOX = (32.0, 24.0, 168.0, 184.0)  # of the face in a photo of that size, px
_MOODS = {"happiness": "happy", "sadness": "sad", "anger": "angry"}  # where the drawn faces say it another way


class Sizes(Settings):
    """How many photos train and test have; the classes take turns."""

    train: int = Field(140, ge=7)
    test: int = Field(70, ge=7)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.02 s a photo.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    jobs = [("train", number) for number in range(sizes.train)] + [("test", number) for number in range(sizes.test)]
    basic, lines = folder / "basic", []
    with fresh(folder):
        for inner in ("EmoLabel", "Image/aligned", "Image/original", "Annotation/boundingbox"):
            (basic / inner).mkdir(parents=True)
        for index, (part, number) in enumerate(progress(jobs, total=len(jobs), desc="photos", unit="photo")):
            label, name = number % len(CLASSES), f"{part}_{number + 1:05d}"
            photo = face_photo(seed, index, _MOODS.get(CLASSES[label], CLASSES[label]), _ORIGINAL)
            photo.save(basic / "Image" / "original" / f"{name}.jpg", format="JPEG", quality=JPEG_QUALITY)
            crop = photo.resize((ALIGNED, ALIGNED), Image.Resampling.BILINEAR, _BOX)
            crop.save(basic / "Image" / "aligned" / f"{name}_aligned.jpg", format="JPEG", quality=JPEG_QUALITY)
            box = basic / "Annotation" / "boundingbox" / f"{name}_boundingbox.txt"
            box.write_text(" ".join(f"{value:.6f}" for value in _BOX) + "\n", encoding="utf-8")
            lines.append(f"{name}.jpg {label + 1}")
        (basic / "EmoLabel" / "list_patition_label.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
