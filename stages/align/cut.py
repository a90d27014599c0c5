"""Cutting all crops that are wanted of a photo or a clip, each frame decoded once. This runs in decoding processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.align.person_cut import PersonCutter
from stages.align.persons import PersonTemplate
from stages.align.templates import Template
from stages.align.warp import crop_matrix, warp
from stages.errors import MediaError
from stages.index.manifest import Sample
from stages.index.samples import open_frames


class Piece(NamedTuple):
    """The faces of an item, or the person that it is, to be cut.

    Attributes:
        key: of the item.
        boxes: (n, 4) px, at least one.
        landmarks: (n, 5, 2) float32 px; NaN where there are none, as of a person.
        templates: numbers of the templates in `Cutter.templates` whose crops are wanted.
    """

    key: bytes
    boxes: np.ndarray
    landmarks: np.ndarray
    templates: tuple[int, ...]


class Media(NamedTuple):
    """A photo, or some frames of a clip.

    Attributes:
        samples: which have it: the first of their files that can be read is opened.
        times_us: of the frames; None: a photo.
        frames: the pieces of the photo, or of each frame.
    """

    samples: tuple[Sample, ...]
    times_us: tuple[int, ...] | None
    frames: tuple[tuple[Piece, ...], ...]


class Crops(NamedTuple):
    """An item's crops in one template.

    Attributes:
        template: its number.
        key: of the item.
        pixels: uint8 (n, height, width, 3) RGB, one for each face or person.
    """

    template: int
    key: bytes
    pixels: np.ndarray


class Cut(NamedTuple):
    """What was cut out of a frame, and the seconds that the cutting took, without the decoding."""

    crops: list[Crops]
    seconds: float


@dataclass(frozen=True)
class Cutter:
    """Cuts crops; picklable.

    Attributes:
        images_root: where the samples' paths begin.
        exact_box: a face's box is its whole image, see `crop_matrix`.
    """

    images_root: Path
    templates: tuple[Template | PersonTemplate, ...]
    exact_box: bool

    def __call__(self, media: Media) -> Iterator[Cut | MediaError]:
        """A result for each frame; an error stands for all frames from there on."""
        try:
            images = open_frames(media.samples, self.images_root, media.times_us)
            for pieces, image in zip(media.frames, images, strict=True):
                start = time.perf_counter()
                persons = PersonCutter(image)
                crops = [self._cut(image, persons, piece, number) for piece in pieces for number in piece.templates]
                yield Cut(crops, time.perf_counter() - start)
        except MediaError as error:
            yield error

    def _cut(self, image: Image.Image, persons: PersonCutter, piece: Piece, number: int) -> Crops:
        template = self.templates[number]
        if isinstance(template, PersonTemplate):
            return Crops(number, piece.key, np.stack([persons.cut(box, template) for box in piece.boxes]))
        crops = [
            warp(image, crop_matrix(box, landmarks, template, exact_box=self.exact_box), template.size)
            for box, landmarks in zip(piece.boxes, piece.landmarks, strict=True)
        ]
        return Crops(number, piece.key, np.stack(crops))
