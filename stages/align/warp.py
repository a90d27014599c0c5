"""Cutting crops out of a photo by an affine matrix, without aliasing."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stages.align.similarity import fit_box, fit_similarity
from stages.align.templates import Template


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

    A face much larger than the crop is first shrunk by a whole factor (an exact box filter), so that the bilinear
    sampling that follows sees every pixel.

    Args:
        image: RGB photo.
        matrix: (2, 3) from photo px (corner of the top left pixel is 0, 0) to crop px.
        size: (height, width) of the crop.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = size
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float) @ inverse.T
    low = np.floor(corners.min(0)).astype(int) - 2
    high = np.ceil(corners.max(0)).astype(int) + 2
    low, high = np.maximum(low, 0), np.minimum(high, image.size)
    if (high <= low).any():
        return np.zeros((height, width, 3), np.uint8)
    region = image.crop((int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    factor = max(1, int(np.sqrt(abs(np.linalg.det(inverse[:, :2])))))
    if factor > 1:
        region = region.reduce(factor)
    to_region = np.column_stack([inverse[:, :2], inverse[:, 2] - low]) / factor
    data = tuple(float(v) for v in to_region.reshape(-1))
    crop = region.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.asarray(crop)
