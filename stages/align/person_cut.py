"""Cutting persons, and what is around them, out of a photo. This runs in decoding processes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stages.align.persons import FILL, PersonTemplate
from stages.align.similarity import fit_box
from stages.align.warp import warp


class PersonCutter:
    """Cuts crops of the persons of one photo, which is resized once a size for all of them.

    Args:
        image: RGB, upright.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._whole: dict[int, np.ndarray] = {}

    def cut(self, box: np.ndarray, template: PersonTemplate) -> np.ndarray:
        """The crop of a person, uint8 (side, side, 3).

        Args:
            box: (4,) x1 y1 x2 y2, px; at least 1 px in width and height of it lies in the photo.
        """
        width, height = self._image.size
        box = np.clip(box, 0, [width, height, width, height])
        if template.region == "person":
            return warp(self._image, fit_box(box, template.size), template.size)
        return self._around(box, template.side)

    def _around(self, box: np.ndarray, side: int) -> np.ndarray:
        whole = self._whole.get(side)
        if whole is None:
            whole = np.asarray(self._image.resize((side, side), Image.Resampling.BILINEAR))
            self._whole[side] = whole
        columns = touched(self._image.width, side, float(box[0]), float(box[2]))
        rows = touched(self._image.height, side, float(box[1]), float(box[3]))
        crop = whole.copy()
        crop[rows, columns] = FILL
        return crop


def touched(length: int, side: int, start: float, stop: float) -> slice:
    """Px of a resized line, `side` of `length`, in which anything of the px from `start` to `stop` is.

    A px of Pillow's bilinear, antialiased resize is a weighted mean of those whose centres are nearer to its own than
    one px of the coarser of the two grids. All of those are masked, so that nothing of a person is left at the edge.
    """
    scale = length / side
    support = max(scale, 1.0)
    centre = (np.arange(side) + 0.5) * scale
    first = np.maximum(centre - support + 0.5, 0).astype(np.int64)
    last = np.minimum((centre + support + 0.5).astype(np.int64), length)
    inside = np.flatnonzero((first < np.ceil(stop)) & (last > np.floor(start)))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
