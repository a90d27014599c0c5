"""The arithmetic of boxes between MTCNN's nets, as facenet-pytorch does it.

Boxes are (n, 4) float32, x1 y1 x2 y2 in px of the photo. Where a formula looks odd (a width with or without the one px
that belongs to it), it is the one the nets were trained and published with.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_STRIDE, _CELL = 2, 12  # px of a level: from one output of P-Net to the next, and what each of them sees


def scales(width: int, height: int, min_face_size: int, factor: float) -> list[float]:
    """Sizes of the pyramid's levels relative to the photo; none where the photo is smaller than a face."""
    scale = _CELL / min_face_size
    least = min(width, height) * scale
    found = []
    while least >= _CELL:
        found.append(scale)
        scale *= factor
        least *= factor
    return found


def probabilities(logits: Tensor) -> Tensor:
    """Of "face" (n,), from the logits of "none" and "face" (n, 2)."""
    return torch.softmax(logits, dim=1)[:, 1]


def likely(outputs: Tensor, threshold: float) -> Tensor:
    """Positions (k,) of outputs (n, 2 or more) that may reach a probability: cheaper than a softmax over all.

    None that reaches it is left out; a few just under it stay in.
    """
    if threshold <= 0:
        return torch.arange(len(outputs), device=outputs.device)
    reached = min(threshold, 1 - 1e-6)  # above, float32 rounds to 1
    least = math.log(reached / (1 - reached)) - 0.1
    return torch.nonzero(outputs[:, 1] - outputs[:, 0] >= least)[:, 0]


def cells(positions: Tensor, columns: int, scale: float) -> Tensor:
    """Boxes of P-Net's outputs at positions (k,) of a level with so many columns."""
    rows = torch.div(positions, columns, rounding_mode="floor")
    corner = torch.stack([positions - rows * columns, rows], dim=1).to(torch.float32) * _STRIDE
    return torch.cat([((corner + 1) / scale).floor(), ((corner + _CELL) / scale).floor()], dim=1)


def moved(boxes: Tensor, correction: Tensor, pixel: int) -> Tensor:
    """Boxes with each corner moved by its share (n, 4) of the box's width or height, which is x2 - x1 + `pixel`."""
    size = boxes[:, 2:] - boxes[:, :2] + pixel
    return boxes + correction * size.repeat(1, 2)


def squared(boxes: Tensor) -> Tensor:
    """Squares around the same centres, as long as the longer side."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.amax(dim=1, keepdim=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], dim=1)


def within(boxes: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """What of the boxes lies in the photo.

    Returns:
        (k, 4) int64 rectangles, x2 and y2 exclusive, and the positions (k,) of their boxes: a box with nothing in the
        photo has none.
    """
    whole = boxes.trunc().to(torch.int64)
    corner = whole[:, :2].clamp(min=1) - 1
    end = torch.minimum(whole[:, 2:], torch.tensor([width, height], device=boxes.device))
    kept = torch.nonzero((end > corner).all(dim=1))[:, 0]
    return torch.cat([corner, end], dim=1)[kept], kept


def landmarks(boxes: Tensor, shares: Tensor) -> Tensor:
    """Points (n, 5, 2) in px from O-Net's five x and five y (n, 10), shares of the box before its correction."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    points = shares.view(-1, 2, 5).transpose(1, 2)
    return points * size[:, None, :] + boxes[:, None, :2] - 1


def distinct(boxes: np.ndarray, scores: np.ndarray, most: float) -> np.ndarray:
    """Positions (k,) of one photo's faces, the best first, without those in a better one.

    Args:
        boxes, scores: (n, 4) and (n,) float32.
        most: share of the smaller box that two faces may have in common.
    """
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    left = np.argsort(scores)
    picked = []
    while left.size:
        best, left = left[-1], left[:-1]
        picked.append(best)
        width = np.maximum(0.0, np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left]) + 1)
        height = np.maximum(0.0, np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left]) + 1)
        left = left[width * height / np.minimum(area[best], area[left]) <= most]
    return np.array(picked, np.int64)


def by_size(boxes: np.ndarray) -> np.ndarray:
    """Positions (n,) of boxes, the largest first."""
    return np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[::-1]
