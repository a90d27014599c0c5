"""One person through the frames of a clip: faces of different frames that lie where one face would have moved to.

Faces of a frame are given to the tracks of the frames before by the assignment with the least cost (Hungarian method).
The cost of a pair is the distance of their landmarks in face sizes, plus 1 - IoU; the centres of boxes stand in for
landmarks that are missing. A pair is possible if

- the face is at most `REACH + SPEED * seconds` and never more than `FARTHEST` face sizes from where the track leads, or
  the boxes overlap by an IoU of `OVERLAP`: a head turns and sways by about half its size in a second, and the next
  person's face is a whole size away, because heads do not overlap;
- one face is at most `GROWTH` times as large as the other: somebody in the background is somebody else;
- the track was seen in the frame before or at most `GAP_S` seconds ago: a look to the side, a hand before the face.

A track leads on at its recent speed for up to `AHEAD_S` seconds, so that two people who cross in front of each other
keep their tracks. What this cannot do: it knows places, not people. With frames far apart (16 over a minute) somebody
who moves by more than `FARTHEST` of a face between two frames begins a new track, a face that is missed once is a new
track as well, and speed says nothing. After a cut of the film whoever sits where another sat goes on with that one's
track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OVERLAP = 0.3
REACH = 0.25
SPEED = 0.5
FARTHEST = 0.75
GROWTH = 2.0
GAP_S = 1.0
AHEAD_S = 0.5

_NEVER = 1e6  # cost of a pair that is not possible


@dataclass
class _Track:
    """Where a face was last, and how it moves.

    Attributes:
        number: the track's id.
        box: (4,) px.
        landmarks: (5, 2) px.
        velocity: (2,) px a second.
        frame: index of the frame.
        time: s.
    """

    number: int
    box: np.ndarray
    landmarks: np.ndarray
    velocity: np.ndarray
    frame: int
    time: float

    def see(self, box: np.ndarray, landmarks: np.ndarray, frame: int, time: float) -> None:
        """The face again."""
        moved = (_centres(box[None]) - _centres(self.box[None]))[0] / (time - self.time)
        self.velocity = (self.velocity + moved) / 2
        self.box, self.landmarks, self.frame, self.time = box, landmarks, frame, time

    def shift(self, time: float) -> np.ndarray:
        """(2,) px: how far the face should have moved until `time`."""
        return self.velocity * min(time - self.time, AHEAD_S)


def track(times_us: np.ndarray, counts: np.ndarray, boxes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Which faces of a clip are one person's.

    Args:
        times_us: (T,) int64, the frames' times in microseconds, ascending.
        counts: (T,) int64, faces of each frame.
        boxes: (F, 4) px, x1, y1, x2, y2, of the faces of all frames, one frame after another.
        landmarks: (F, 5, 2) px; NaN where there are none.

    Returns:
        (F,) int64: each face's track, numbered from 0 in the order of first appearance (of frames, then of faces in a
        frame). No two faces of a frame have one track.

    Raises:
        ValueError: the arrays do not fit together, or times do not ascend.
    """
    times_us, counts = np.asarray(times_us, np.int64), np.asarray(counts, np.int64)
    boxes, landmarks = np.asarray(boxes, np.float64), np.asarray(landmarks, np.float64)
    if len(times_us) != len(counts) or not len(boxes) == len(landmarks) == counts.sum():
        raise ValueError(
            f"{len(times_us)} times, {len(counts)} counts of {counts.sum()} faces, {len(boxes)} boxes, "
            f"{len(landmarks)} landmarks: they do not fit together"
        )
    if (np.diff(times_us) <= 0).any():
        raise ValueError("times must ascend, each once")
    ids = np.full(len(boxes), -1, np.int64)
    live: list[_Track] = []
    begun = first = 0
    for frame, (time, count) in enumerate(zip((times_us / 1e6).tolist(), counts.tolist(), strict=True)):
        faces = slice(first, first + count)
        live = [old for old in live if old.frame == frame - 1 or time - old.time <= GAP_S]
        for old, face in _matches(live, boxes[faces], landmarks[faces], time):
            live[old].see(boxes[first + face], landmarks[first + face], frame, time)
            ids[first + face] = live[old].number
        for face in (np.flatnonzero(ids[faces] < 0) + first).tolist():
            live.append(_Track(begun, boxes[face], landmarks[face], np.zeros(2), frame, time))
            ids[face] = begun
            begun += 1
        first += count
    return ids


def longest(track_ids: np.ndarray) -> int | None:
    """The track with the most faces, the first of several; None where there is no face."""
    if len(track_ids) == 0:
        return None
    return int(np.argmax(np.bincount(track_ids)))


def _matches(live: list[_Track], boxes: np.ndarray, landmarks: np.ndarray, time: float) -> list[tuple[int, int]]:
    """Pairs of a live track and a face, each at most once."""
    if not live or len(boxes) == 0:
        return []
    from scipy.optimize import linear_sum_assignment  # 0.4 s to import, and every stage reads detections

    shifts = np.array([old.shift(time) for old in live])
    led = np.array([old.box for old in live]) + np.tile(shifts, 2)
    led_marks = np.array([old.landmarks for old in live]) + shifts[:, None]
    since = time - np.array([old.time for old in live])
    sizes, led_sizes = _sizes(boxes), _sizes(led)
    iou = _iou(led, boxes)
    apart = np.linalg.norm(led_marks[:, None] - landmarks[None], axis=-1).mean(axis=-1)
    centres = np.linalg.norm(_centres(led)[:, None] - _centres(boxes)[None], axis=-1)
    apart = np.where(np.isnan(apart), centres, apart) / np.sqrt(led_sizes[:, None] * sizes[None])
    near = apart <= np.minimum(REACH + SPEED * since, FARTHEST)[:, None]
    larger = np.maximum(led_sizes[:, None] / sizes[None], sizes[None] / led_sizes[:, None])
    possible = (near | (iou >= OVERLAP)) & (larger <= GROWTH)
    rows, columns = linear_sum_assignment(np.where(possible, apart + 1 - iou, _NEVER))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if possible[r, c]]


def _centres(boxes: np.ndarray) -> np.ndarray:
    """(n, 2) px."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _sizes(boxes: np.ndarray) -> np.ndarray:
    """(n,) px: the side of a square of the box's area, at least one."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return np.sqrt(sides[:, 0] * sides[:, 1])


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) of boxes (n, 4) and (m, 4)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    areas_a, areas_b = (np.clip(c[:, 2:] - c[:, :2], 0, None).prod(axis=-1) for c in (a, b))
    return shared / np.maximum(areas_a[:, None] + areas_b[None] - shared, 1e-9)
