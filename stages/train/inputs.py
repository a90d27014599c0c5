"""What heads read beside faces' and photos' vectors: rows of frames or of persons, as many as a sample has.

A frame's row is of one face. Of a clip it is the face of the person who is in the most frames (`stages.detect.tracks`;
of equals the one who is there first), and where that person is not in the frame its largest face, by the area of its
box. A photo is one frame, with its largest face. A frame without a face has no row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.detect.detections import Detections
from stages.index.manifest import Sample
from stages.train.rows import RowsOf

LevelName = Literal["frame", "person"]


@dataclass(frozen=True)
class Level:
    """Which rows n samples have at a level.

    A choice of rows is an int64 array (..., T) for samples (...): which of a sample's rows, counted from 0, ascending;
    -1 after the last.

    Attributes:
        offsets: (n + 1,) int64: rows of sample i are those from `offsets[i]` up to `offsets[i + 1]`, frames in time.
        places: (R, 2) int64, the frame of the sample that each is in, and which of the frame's stored faces or persons
            it is; a photo has frame 0.
        train: how many of a sample's rows training draws for each epoch; None: it sees all.
        answer: how many, evenly spread, an answer is made of; None: all.
    """

    offsets: np.ndarray
    places: np.ndarray
    train: int | None = None
    answer: int | None = None

    @property
    def counts(self) -> np.ndarray:
        """(n,) int64, rows of each sample."""
        return np.diff(self.offsets)

    def every(self, samples: np.ndarray) -> np.ndarray:
        """The choice of all rows of samples (...)."""
        counts = self.counts[samples]
        column = np.arange(max(int(self.counts.max(initial=0)), 1))
        return np.where(column < counts[..., None], column, -1)

    def answering(self, samples: np.ndarray) -> np.ndarray:
        """The choice that answers are made of: all rows, or the middles of `answer` equal parts."""
        if self.answer is None:
            return self.every(samples)
        counts, column = self.counts[samples][..., None], np.arange(self.answer)
        middles = (2 * column + 1) * counts // (2 * self.answer)
        return np.where(counts > self.answer, middles, np.where(column < counts, column, -1))

    def widest(self, training: bool) -> int:
        """How many rows a sample has at most in a batch, at least 1."""
        most, limit = int(self.counts.max(initial=0)), self.train if training else self.answer
        return max(most if limit is None else min(most, limit), 1)

    def take(self, samples: np.ndarray, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows chosen, (..., T) int64, 0 where padded, and mask (..., T) bool, True = a real row.

        T is the most rows of any of the samples, at least 1.
        """
        mask = choice >= 0
        width = max(int(mask.sum(-1).max(initial=0)), 1)
        choice, mask = choice[..., :width], mask[..., :width]
        return np.where(mask, self.offsets[samples][..., None] + choice, 0), mask


class InputRows(NamedTuple):
    """One of the things that a head reads by a name of its own.

    Attributes:
        level: whose offsets its rows have.
        rows: (V * R, ...) float32, of pixels uint8; those of the plain view first. In memory or in the store.
    """

    level: LevelName
    rows: RowsOf

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        return tuple(self.rows.shape[1:])

    @property
    def row_bytes(self) -> int:
        """What a row takes in memory."""
        return self.rows.dtype.itemsize * math.prod(self.shape)


Read = Callable[[str, np.ndarray], Tensor]
"""Rows (k, ...) of the input of this name, at positions (k,)."""


def padded(
    levels: Mapping[LevelName, Level],
    inputs: Mapping[str, InputRows],
    read: Read,
    samples: np.ndarray,
    views: np.ndarray | None = None,
    frames: np.ndarray | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`HeadBatch.inputs` and `masks` of samples (...).

    Args:
        views: (...) number of the view that each is seen in; None: plain.
        frames: the choice of frames; None: that which answers are made of.
    """
    found: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, level in levels.items():
        choice = frames if name == "frame" and frames is not None else level.answering(samples)
        index, mask = level.take(samples, choice)
        if views is not None:
            index = index + np.where(mask, views[..., None] * int(level.offsets[-1]), 0)
        masks[name] = torch.from_numpy(mask)
        for wanted, one in inputs.items():
            if one.level == name:
                rows = read(wanted, index[mask])
                out = rows.new_zeros(*mask.shape, *one.shape)
                masks[name] = masks[name].to(rows.device)
                out[masks[name]] = rows
                found[wanted] = out
    return found, masks


def read_once(inputs: Mapping[str, InputRows], device: str = "cpu") -> Read:
    """A `Read` that takes each row that is asked for once, for all who ask."""

    def read(name: str, index: np.ndarray) -> Tensor:
        single, which = np.unique(index, return_inverse=True)
        rows = torch.from_numpy(np.ascontiguousarray(inputs[name].rows[single])).to(device)
        if len(single) == len(index) and (which == np.arange(len(index))).all():
            return rows
        return rows.index_select(0, torch.from_numpy(which.reshape(-1)).to(device))

    return read


def sample_bytes(levels: Mapping[LevelName, Level], inputs: Mapping[str, InputRows], training: bool) -> int:
    """What the inputs of a sample take at most in a batch."""
    return sum(levels[one.level].widest(training) * one.row_bytes for one in inputs.values())


def one_face_a_frame(
    samples: Sequence[Sample], detections: Detections, boxes: np.ndarray, counts: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The faces that rows of frames are of: positions (R,) among all faces, ascending, and rows (n,) of each sample.

    Args:
        samples: n that could be read.
        boxes: (F, 4) px of all their faces, one sample after another, in stored order.
        counts: (n,) faces of each.
        places: (F, 2) of each face, see `Level.places`.
    """
    owner, main = np.repeat(np.arange(len(samples)), counts), np.zeros(len(boxes), np.bool_)
    ends = np.cumsum(counts)
    for sample, end, count in zip(samples, ends.tolist(), counts.tolist(), strict=True):
        if count and sample.sample_id in detections.times:
            tracks = detections.tracks(sample.sample_id)
            main[end - count : end] = tracks == np.bincount(tracks).argmax()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((-area, ~main, places[:, 0], owner))  # stable: of equals the first
    frame = np.stack([owner, places[:, 0]])[:, order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (frame[:, 1:] != frame[:, :-1]).any(0)
    kept = np.sort(order[first])
    return kept, np.bincount(owner[kept], minlength=len(samples))
