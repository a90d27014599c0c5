"""Faces of a sample: what a detector returns, and which of it counts as the sample's faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cache.keys import FACES, WHOLE, box_region, item_key
from stages.detect.settings import FaceSource
from stages.index.manifest import Sample

LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""Order of the five landmarks; left and right as seen in the picture."""

ROW_WIDTH = 4 + 1 + 2 * len(LANDMARKS)
"""A row of a detection block: x1, y1, x2, y2, score, five (x, y)."""

MATCH_IOU = 0.3
"""A given box takes the landmarks of the detection that overlaps it best, from this IoU on."""


@dataclass(frozen=True)
class Faces:
    """Faces of one photo or frame.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2 in px of the upright original.
        scores: (n,) float32, 0..1; NaN where nothing scored a given box.
        landmarks: (n, 5, 2) float32 px in the order of `LANDMARKS`; NaN where there are none.
        size: (width, height) px of the photo.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def none(cls, size: tuple[int, int]) -> Faces:
        """A photo without a face."""
        zero = np.zeros((0,), np.float32)
        return cls(zero.reshape(0, 4), zero, zero.reshape(0, 5, 2), size)

    def to_rows(self) -> np.ndarray:
        """(n, ROW_WIDTH) float32, as stored."""
        parts = (self.boxes, self.scores[:, None], self.landmarks.reshape(len(self), 10))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    @classmethod
    def from_rows(cls, rows: np.ndarray, size: tuple[int, int]) -> Faces:
        """The inverse of `to_rows`, for a photo of this (width, height)."""
        rows = np.asarray(rows, np.float32)
        return cls(rows[:, :4], rows[:, 4], rows[:, 5:].reshape(-1, 5, 2), size)

    def take(self, order: np.ndarray) -> Faces:
        """The faces at these positions."""
        return Faces(self.boxes[order], self.scores[order], self.landmarks[order], self.size)


@dataclass(frozen=True)
class FaceItem:
    """Faces that are cached together: one item of every face-level block, one row a face."""

    key: bytes
    faces: Faces


def faces_of(sample: Sample, found: Faces, source: FaceSource) -> list[FaceItem]:
    """The face items of a photo.

    Args:
        sample: the manifest's row.
        found: every face that the detector found in the photo.
        source: see `DetectSettings.faces`.

    Returns:
        `found`: one item with all faces. `given`: an item per face box, so that a corrected box costs its own row.
        `whole`: one item with one face.
    """
    if source == "found":
        return [FaceItem(item_key(sample.content, region=FACES), found)]
    if source == "whole":
        width, height = found.size
        box = np.array([0, 0, width, height], np.float32)
        return [FaceItem(item_key(sample.content, region=WHOLE), _with_landmarks(box, found, least=0.0))]
    items = []
    for given in sample.boxes:
        if given.kind == "face":
            box = np.array([given.x1, given.y1, given.x2, given.y2], np.float32)
            key = item_key(sample.content, region=box_region(given.x1, given.y1, given.x2, given.y2))
            items.append(FaceItem(key, _with_landmarks(box, found, least=MATCH_IOU)))
    return items


def _with_landmarks(box: np.ndarray, found: Faces, *, least: float) -> Faces:
    """One face at `box`, with score and landmarks of the detection that overlaps it best (IoU over `least`)."""
    score = np.full((1,), np.nan, np.float32)
    landmarks = np.full((1, 5, 2), np.nan, np.float32)
    if len(found):
        overlap = iou(box[None], found.boxes)[0]
        best = int(overlap.argmax())
        if overlap[best] > least:
            score, landmarks = found.scores[best : best + 1], found.landmarks[best : best + 1]
    return Faces(box[None], score, landmarks, found.size)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4): (n, m), 0 where a box has no area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
