"""Other views of the same pixels, cached beside the plain one: mirrored, and random parts of the picture.

Which part a random crop shows follows from the seed, its number and the item's key by a hash: no generator, so the same
on every machine, in every order, and for every number of crops.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from PIL import Image

from cache.keys import PLAIN
from stages.extract.settings import ViewSettings

FLIP = "flip"

Part = tuple[float, float, float, float]
"""x1, y1, x2, y2 of a part of a picture, as shares of its width and height, 0..1."""


def names(settings: ViewSettings) -> tuple[str, ...]:
    """The views that the settings ask for: the plain one first, then the mirrored one, then the crops.

    A view's name is part of an item's key, so it says all that changes the pixels.
    """
    crops = [f"crop {k} of seed {settings.seed}, area {settings.area!r} to 1" for k in range(settings.crops)]
    return (PLAIN, *([FLIP] if settings.flip else []), *crops)


def part_of(view: str, settings: ViewSettings, key: bytes, row: int = 0) -> Part:
    """Which part of a picture a crop shows: of its shape, with an area of at least `settings.area`, anywhere in it.

    Args:
        view: of `names`; the plain and the mirrored one show the whole picture.
        key: of the plain item.
        row: of the item, as each face is cropped on its own.
    """
    if view in (PLAIN, FLIP):
        return 0.0, 0.0, 1.0, 1.0
    digest = hashlib.sha256(b"\x1f".join((view.encode(), key, str(row).encode()))).digest()
    area, left, top = (int.from_bytes(digest[8 * i : 8 * i + 8], "big") / 2**64 for i in range(3))
    side = math.sqrt(settings.area + (1 - settings.area) * area)
    x, y = left * (1 - side), top * (1 - side)
    return x, y, x + side, y + side


def of_crops(rows: np.ndarray, view: str, settings: ViewSettings, key: bytes, first: int = 0) -> np.ndarray:
    """A view of face crops, uint8 (n, H, W, 3), in the same size; `key` is the plain item's, `first` the number that
    the first of these rows has in it."""
    if view == PLAIN:
        return rows
    if view == FLIP:
        return rows[:, :, ::-1]
    height, width = rows.shape[1:3]
    out = np.empty_like(rows)
    for i, row in enumerate(rows):
        x1, y1, x2, y2 = part_of(view, settings, key, first + i)
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        out[i] = np.asarray(Image.fromarray(row).resize((width, height), Image.Resampling.BILINEAR, box=box))
    return out


def of_photo(image: Image.Image, view: str, settings: ViewSettings, key: bytes) -> Image.Image:
    """The part of an upright photo that a view shows, in whole px and at least one; mirrored where it says so."""
    if view == PLAIN:
        return image
    if view == FLIP:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x1, y1, x2, y2 = part_of(view, settings, key)
    left, top = round(x1 * image.width), round(y1 * image.height)
    right, bottom = round(x2 * image.width), round(y2 * image.height)
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
