"""Draws photos of one to three faces side by side in the layout of ExpW: see `stages.index.datasets.expw`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from stages.index.datasets.expw import CLASSES
from stages.index.standins._folder import JPEG_QUALITY, fresh
from stages.index.standins.pictures import face_photo
from stages.progress import progress
from stages.settings import Settings

# Where `face_photo` puts a face, in sizes of its picture: left, top, right, bottom, with room to spare.
FACE = (0.2, 0.14, 0.8, 0.9)
_MOST = 3


class Sizes(Settings):
    """How many photos, and how wide and high each face's part of a photo is in px.

    Photo k has 1, 2 or 3 faces in turn; the classes take turns over all faces.
    """

    photos: int = Field(140, ge=4)
    size: int = Field(160, ge=48, le=1024)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.02 s a face.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    rng = np.random.default_rng((seed, 11))
    lines, drawn = [], 0
    with fresh(folder):
        (folder / "image" / "origin").mkdir(parents=True)
        (folder / "label").mkdir()
        for number in progress(range(sizes.photos), total=sizes.photos, desc="photos", unit="photo"):
            name, count = f"photo_{number + 1}.jpg", number % _MOST + 1
            photo = Image.new("RGB", (count * sizes.size, sizes.size))
            for face in range(count):
                label = drawn % len(CLASSES)
                photo.paste(face_photo(seed, drawn, CLASSES[label], sizes.size), (face * sizes.size, 0))
                left, top, right, bottom = (round(part * sizes.size) for part in FACE)
                shift, sure = face * sizes.size, rng.uniform(15, 90)
                lines.append(f"{name} {face} {top} {left + shift} {right + shift} {bottom} {sure:.4f} {label}")
                drawn += 1
            photo.save(folder / "image" / "origin" / name, format="JPEG", quality=JPEG_QUALITY)
        (folder / "label" / "label.lst").write_text("\n".join([*lines, ""]), encoding="utf-8")
