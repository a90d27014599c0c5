"""Draws sequences of faces in the layout of CK+: see `stages.index.datasets.ckplus`.

A subject sits before a plain wall and goes from neutral to the peak of one expression after another. Pictures are grey,
as most of CK+ are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from stages.index.datasets.ckplus import CLASSES
from stages.index.drawn.canvas import mix
from stages.index.drawn.faces import FacePlace, draw_body, draw_face
from stages.index.drawn.moods import mood_of
from stages.index.drawn.scenes import OVERSAMPLING
from stages.index.drawn.style import FaceStyle
from stages.index.standins._folder import fresh
from stages.progress import progress
from stages.settings import Settings

PICTURE_SIZE = (320, 245)  # px, half of CK+'s
_LOOKS, _SEQUENCE = 23, 24  # streams of random numbers
_MOODS = {"anger": "angry", "sadness": "sad"}
_LABELLED = 4  # of five sequences of a subject; of CK+'s 593 sequences 327 have a label


class Sizes(Settings):
    """How many subjects, sequences of each, and photos of each sequence. Every fifth sequence has no label."""

    subjects: int = Field(14, ge=1)
    sequences: int = Field(5, ge=1, le=99)
    photos: int = Field(8, ge=2, le=99)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.02 s a photo.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    jobs = [(subject, sequence) for subject in range(sizes.subjects) for sequence in range(sizes.sequences)]
    with fresh(folder):
        (folder / "Emotion").mkdir()
        turn = 0
        for subject, sequence in progress(jobs, total=len(jobs), desc="sequences", unit="sequence"):
            label = CLASSES[turn % len(CLASSES)]
            name, below = f"S{subject + 1:03d}_{sequence + 1:03d}", f"S{subject + 1:03d}/{sequence + 1:03d}"
            photos = folder / "cohn-kanade-images" / below
            photos.mkdir(parents=True)
            for number, image in enumerate(_faces(seed, subject, sequence, label, sizes.photos), 1):
                image.save(photos / f"{name}_{number:08d}.png")
            labels = folder / "Emotion" / below
            labels.mkdir(parents=True)
            if sequence % (_LABELLED + 1) < _LABELLED:
                text = f"   {CLASSES.index(label) + 1:.7e}\n"
                (labels / f"{name}_{sizes.photos:08d}_emotion.txt").write_text(text, encoding="ascii")
                turn += 1


def _faces(seed: int, subject: int, sequence: int, label: str, count: int) -> Iterator[Image.Image]:
    """The pictures of a sequence, grey."""
    style = FaceStyle.draw_lots(np.random.default_rng((seed, _LOOKS, subject)))
    rng = np.random.default_rng((seed, _SEQUENCE, subject, sequence))
    width, height = PICTURE_SIZE
    wall = mix((214, 210, 204), (128, 130, 136), float(rng.uniform()))
    canvas = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), wall)
    tall = float(rng.uniform(0.52, 0.6)) * height
    place = FacePlace(float(rng.uniform(0.45, 0.55)) * width, 0.5 * height, tall, float(rng.uniform(-5, 5)))
    draw_body(canvas, style, place, OVERSAMPLING)
    still = canvas.reduce(OVERSAMPLING)
    peak, gain = float(rng.uniform(0.85, 1.0)), np.float32(rng.uniform(0.86, 1.04))  # the lamp stays as it is
    for number in range(count):
        image = still.copy()
        draw_face(image, style, place, 0.0, mood_of(_MOODS.get(label, label), peak * number / (count - 1)))
        grey = np.asarray(image.convert("L"), dtype=np.float32)
        grain = rng.standard_normal(grey.shape, dtype=np.float32) * np.float32(2.0)
        yield Image.fromarray(np.clip(grey * gain + grain + 0.5, 0, 255).astype(np.uint8))
