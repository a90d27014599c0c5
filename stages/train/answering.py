"""What trained heads answer, sample by sample, and what they look at.

Everything here runs on one thread. A sum shared by more threads rounds differently, so that results would depend on
the number of cores; and a head's matrices are so small that sharing them takes longer than computing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch, HeadOutput
from stages.predictions import scores_of
from stages.train.features import Features
from stages.train.inputs import Level, LevelName, sample_bytes

BATCH, BATCH_BYTES = 256, 256 << 20
"""Samples that are answered at once, and what their inputs may take; of large inputs fewer are."""


@dataclass(frozen=True)
class Looks:
    """What a head looked at beside faces: numbers for each frame or person of n samples.

    Attributes:
        level: `frame` or `person`.
        offsets: (n + 1,) int64: the rows of sample i are those from `offsets[i]` to `offsets[i + 1]`.
        places: (R, 2) int64, the frame of the sample that each row is of, and which of the frame's stored faces or
            persons; see `inputs.Level.places`.
        values: name -> (R, ...) float32.
    """

    level: str
    offsets: np.ndarray
    places: np.ndarray
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Answered:
    """What a head says of n samples.

    Attributes:
        logits: (n, K) float64.
        attention: (F,) float32, the weight of every face, one sample after another.
        looks: None of a head that has none.
    """

    logits: np.ndarray
    attention: np.ndarray
    looks: Looks | None


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and give the threads back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def infer(head: nn.Module, features: Features, size: int | None = None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Answers for all samples.

    Args:
        head: in eval mode.
        features: of at least one sample.
        size: see `answer`.

    Returns:
        Class probabilities (n, K) float64, and for each sample the weights of its faces, (faces,) float32.
    """
    said = answer(head, features, size=size)
    weights = [said.attention[first:last] for first, last in pairwise(features.offsets.tolist())]
    return probabilities_of(said.logits, several=False), weights


def probabilities_of(logits: np.ndarray, several: bool) -> np.ndarray:
    """Softmax of (n, K) logits; with `several`, each class by itself: see `predictions.scores_of`."""
    return scores_of(logits) if several else torch.softmax(torch.from_numpy(logits), -1).numpy()


def answers_of(
    head: nn.Module, features: Features, several: bool, mirrored: int | None = None, rows: np.ndarray | None = None
) -> tuple[np.ndarray, Answered]:
    """Probabilities (n, K) float64 of the samples at `rows`, or of all, and what else a head says of them.

    Args:
        several: see `probabilities_of`.
        mirrored: number of a view whose probabilities are averaged with those of the plain one; None: the plain one
            alone. What the head looks at is that of the plain one.
    """
    said = answer(head, features, rows)
    probabilities = probabilities_of(said.logits, several)
    if mirrored is not None:
        other = answer(head, features, rows, view=mirrored)
        probabilities = (probabilities + probabilities_of(other.logits, several)) / 2
    return probabilities, said


def answer(
    head: nn.Module, features: Features, rows: np.ndarray | None = None, view: int = 0, size: int | None = None
) -> Answered:
    """What a head says of the samples at positions `rows`, or of all, in the view of this number.

    Args:
        head: in eval mode.
        features: standardized as in training.
        size: samples at once; None: as many as `BATCH` and `BATCH_BYTES` allow.
    """
    rows = np.arange(len(features)) if rows is None else rows
    counts = np.diff(features.offsets)[rows]
    ends = np.concatenate([[0], np.cumsum(counts)])
    # Filled in place: small results kept between a batch's large arrays would keep those from being given back.
    logits, weights = np.empty((0, 0)), np.empty(int(ends[-1]), np.float32)
    found = _Looks(features.levels)
    step = size or _fitting(features)
    with one_thread(), torch.inference_mode():
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            batch = features.batch(part, np.full(len(part), view) if view else None)
            output = head(batch)
            if not start:
                logits = np.empty((len(rows), output.logits.shape[1]))
            logits[start : start + len(part)] = output.logits.double().numpy()
            faces = slice(int(ends[start]), int(ends[start + len(part)]))
            weights[faces] = output.attention[batch.face_mask].numpy()  # one sample after another
            found.take(part, batch, output)
    return Answered(logits, weights, found.joined())


def _fitting(features: Features) -> int:
    """Samples at once, of whatever samples."""
    each = sample_bytes(features.levels, features.inputs, training=False)
    return max(min(BATCH, BATCH_BYTES // each), 1) if each else BATCH


class _Looks:
    """Gathers what a head looks at, batch after batch; padding is left out."""

    def __init__(self, levels: Mapping[LevelName, Level]) -> None:
        self._levels = levels
        self._counts: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._values: dict[str, list[np.ndarray]] = {}

    def take(self, samples: np.ndarray, batch: HeadBatch, output: HeadOutput) -> None:
        if not output.looks:
            return
        [(name, level)] = self._levels.items()  # a head reads inputs of one level
        index, _ = level.take(samples, level.answering(samples))
        mask = batch.masks[name]
        self._places.append(level.places[index[mask.numpy()]])
        self._counts.append(mask.sum(1).numpy())
        for name, values in output.looks.items():
            self._values.setdefault(name, []).append(_real(values, mask))

    def joined(self) -> Looks | None:
        if not self._values:
            return None
        [level] = self._levels
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(self._counts))]).astype(np.int64)
        values = {name: np.concatenate(parts) for name, parts in self._values.items()}
        return Looks(level, offsets, np.concatenate(self._places), values)


def _real(values: Tensor, mask: Tensor) -> np.ndarray:
    return values[mask].float().numpy()
