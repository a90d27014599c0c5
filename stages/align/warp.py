"""Cutting crops out of a photo by an affine matrix, without aliasing."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stages.align.similarity import fit_box, fit_similarity
from stages.align.templates import Template

PLAIN_STEP = 1.2
"""Px of the photo a crop px, up to which bilinear sampling as it is comes closest to an antialiased resize."""

_DECIMALS = 6
"""Of a box in px: one that ends with the photo still does after a matrix was inverted."""


def crop_matrix(box: np.ndarray, landmarks: np.ndarray, template: Template, *, exact_box: bool = False) -> np.ndarray:
    """The (2, 3) matrix from the photo's px to the crop's.

    Args:
        box: (4,) x1 y1 x2 y2.
        landmarks: (5, 2), NaN where there are none.
        template: a points template falls back to the plain resized box where there are no landmarks.
        exact_box: the box is the face's whole image: no margin, no squaring.
    """
    if template.points is not None:
        matrix = fit_similarity(landmarks, np.array(template.points))
        if matrix is not None:
            return matrix
        return fit_box(box, template.size)
    if exact_box:
        return fit_box(box, template.size)
    return fit_box(_grow(box, template), template.size)


def _grow(box: np.ndarray, template: Template) -> np.ndarray:
    centre = (box[:2] + box[2:]) / 2.0
    sides = np.maximum(box[2:] - box[:2], 1.0) * (1 + template.margin)
    if template.square:
        sides = np.full(2, sides.max())
    return np.concatenate([centre - sides / 2, centre + sides / 2])


def warp(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the crop that `matrix` maps onto (0, 0)..(width, height); outside of the photo is black.

    A face larger than the crop is first shrunk by a whole factor per axis (an exact box filter). What remains is
    resized, bilinear and antialiased, where the crop is an upright box within the photo, which is twice as fast
    as sampling it. Else it is sampled; where more than `PLAIN_STEP` px a crop pixel remain, twice as fine and halved,
    so that every pixel of the photo counts.

    Args:
        image: RGB photo.
        matrix: (2, 3), invertible, from photo px (corner of the top left pixel is 0, 0) to crop px.
        size: (height, width) of the crop.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = size
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    steps = np.linalg.norm(inverse[:, :2], axis=1)  # px of the photo, along x and y, for a px of the crop
    factors = np.maximum(steps.astype(int), 1)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float) @ inverse.T
    margin = 2 * factors
    low = np.maximum(np.floor(corners.min(0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + margin, image.size)
    if (high <= low).any():
        return np.zeros((height, width, 3), np.uint8)
    region = image.crop((int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    if factors.max() > 1:
        region = region.reduce((int(factors[0]), int(factors[1])))
    if inverse[0, 1] == inverse[1, 0] == 0:
        box = ((corners[[0, 3]] - low) / factors).round(_DECIMALS).ravel()
        if (box[:2] >= 0).all() and (box[2:] <= region.size).all() and (box[2:] > box[:2]).all():
            return np.asarray(region.resize((width, height), Image.Resampling.BILINEAR, box=tuple(box.tolist())))
    finer = 2 if (steps / factors).max() > PLAIN_STEP else 1
    to_region = np.column_stack([inverse[:, :2] / finer, inverse[:, 2] - low]) / factors[:, None]
    data = tuple(float(v) for v in to_region.reshape(-1))
    fine = (width * finer, height * finer)
    crop = region.transform(fine, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.asarray(crop.reduce(finer) if finer > 1 else crop)
