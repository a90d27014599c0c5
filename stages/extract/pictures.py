"""Whole photos and frames as networks see them. This runs in decoding processes, which have no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.backbones.preprocess import fit
from stages.backbones.spec import BackboneSpec
from stages.errors import MediaError
from stages.extract import views
from stages.extract.settings import ViewSettings
from stages.index.manifest import Sample
from stages.index.samples import open_frames


class Wish(NamedTuple):
    """A picture in one view.

    Attributes:
        key: of the view of the picture.
        view: its name.
        sizes: numbers of the specs in `Look.specs` whose networks see it.
    """

    key: bytes
    view: str
    sizes: tuple[int, ...]


class Media(NamedTuple):
    """A photo, or some frames of a clip, each to be decoded once for all that is wished of it.

    Attributes:
        samples: which have it: the first of their files that can be read is opened.
        times_us: of the frames; None: a photo.
        pictures: of the photo, or of each frame: its plain key and the wishes.
    """

    samples: tuple[Sample, ...]
    times_us: tuple[int, ...] | None
    pictures: tuple[tuple[bytes, tuple[Wish, ...]], ...]


@dataclass(frozen=True)
class Look:
    """How pictures are brought to networks' sizes: one spec stands for all that want the same."""

    images_root: Path
    specs: tuple[BackboneSpec, ...]
    settings: ViewSettings

    def __call__(self, media: Media) -> Iterator[list[np.ndarray] | MediaError]:
        """For each picture, uint8 (H, W, 3) for each size of each wish; an error stands for the pictures left."""
        try:
            images = open_frames(media.samples, self.images_root, media.times_us)
            for (key, wishes), image in zip(media.pictures, images, strict=True):
                yield [pixels for wish in wishes for pixels in self._seen(image, key, wish)]
        except MediaError as error:
            yield error

    def _seen(self, image: Image.Image, key: bytes, wish: Wish) -> list[np.ndarray]:
        part = views.of_photo(image, wish.view, self.settings, key)
        return [fit(part, self.specs[size]) for size in wish.sizes]


def size_of(spec: BackboneSpec) -> tuple[object, ...]:
    """What `fit` reads of a spec: networks with equal ones see the same pixels of a picture."""
    return spec.input_size, spec.resize_to, spec.interpolation
