"""Faces of a sample: what a detector returns, and which of it counts as the sample's faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.keys import FACES, WHOLE, box_region, frame_key
from stages.detect.settings import FaceSource
from stages.index.manifest import Sample

LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""Order of the five landmarks; left and right as seen in the picture."""

ROW_WIDTH = 4 + 1 + 2 * len(LANDMARKS)
"""A row of a detection block: x1, y1, x2, y2, score, five (x, y)."""

MATCH_IOU = 0.3
"""A given box takes the landmarks of the detection that overlaps it best, if by more than this IoU. Crops depend on it:
changing it means raising the VERSION of align."""

_NO_SCORE = np.full((1,), np.nan, np.float32)
_NO_LANDMARKS = np.full((1, len(LANDMARKS), 2), np.nan, np.float32)
for _shared in (_NO_SCORE, _NO_LANDMARKS):
    _shared.flags.writeable = False  # every face without landmarks has these very arrays


@dataclass(frozen=True, slots=True)
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

    def part(self, start: int, stop: int, size: tuple[int, int]) -> Faces:
        """Faces `start` up to `stop` of a table of many photos' faces: those of a photo of this size."""
        return Faces(self.boxes[start:stop], self.scores[start:stop], self.landmarks[start:stop], size)


@dataclass(frozen=True, slots=True)
class FaceItem:
    """Faces that are cached together: one item of every face-level block, one row a face."""

    key: bytes
    faces: Faces


def faces_of(sample: Sample, found: Faces, source: FaceSource, time_us: int | None = None) -> list[FaceItem]:
    """The face items of a photo, or of one frame of a clip.

    Args:
        sample: the manifest's row.
        found: every face that the detector found in it.
        source: see `DetectSettings.faces`. Given boxes hold for every frame of a clip.
        time_us: presentation time of the frame, in microseconds; None: a photo.

    Returns:
        `found`: one item with all faces. `given`: an item per face box, so that a corrected box costs its own row.
        `whole`: one item with one face.
    """

    def key(region: str) -> bytes:
        return frame_key(sample.content, time_us, region=region)

    if source == "found":
        return [FaceItem(key(FACES), found)]
    if source == "whole":
        width, height = found.size
        boxes = np.array([[0, 0, width, height]], np.float32)
        return [FaceItem(key(WHOLE), _with_landmarks(boxes, found, least=0.0))]
    corners = [(given.x1, given.y1, given.x2, given.y2) for given in sample.boxes if given.kind == "face"]
    keys = [key(box_region(*box)) for box in corners]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    return [FaceItem(one, _with_landmarks(boxes[i : i + 1], found, least=MATCH_IOU)) for i, one in enumerate(keys)]


def _with_landmarks(box: np.ndarray, found: Faces, *, least: float) -> Faces:
    """One face at `box` (1, 4), with score and landmarks of the detection that overlaps it best (IoU over `least`)."""
    if len(found):
        corners = box[0].tolist()
        overlap = [iou(corners, other) for other in found.boxes.tolist()]
        best = max(range(len(overlap)), key=overlap.__getitem__)
        if overlap[best] > least:
            return Faces(box, found.scores[best : best + 1], found.landmarks[best : best + 1], found.size)
    return Faces(box, _NO_SCORE, _NO_LANDMARKS, found.size)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2: 0..1; 0 where a box has no area."""
    # plain floats: for the few boxes of a photo, ten times as fast as arrays
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)
