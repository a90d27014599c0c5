"""What a fine-tuned network says of a photo: the mean over its faces, or over the photo and its mirror image.

Tan et al. 2017 average the scores of all faces, or of the largest three, and of the centre crop and its mirror image:
scores are read as probabilities, as those of several networks are averaged as well. Gupta et al. 2018 take "an average
of the model output for each face", which is a mean of logits: their networks end with them, and are fine-tuned by the
cross entropy of that mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stages.errors import SettingError
from stages.finetune.batch import PixelBatch
from stages.finetune.pixels import Pixels
from stages.index.manifest import Sample
from stages.ledger import Ledger

Of = Literal["probabilities", "logits"]
"""What is averaged: `probabilities` (Tan et al.), or `logits` before the softmax (Gupta et al.)."""

Network = Callable[[PixelBatch], Tensor]
"""Logits (rows of the batch, K) of a batch, plain ones without a margin; a module is in eval mode."""


@dataclass(frozen=True)
class Answers:
    """Of a network, for n samples.

    Attributes:
        samples: those of the set and those that have no face, by sample_id, as in the manifest.
        probabilities: (n, K) float64; 0 for a sample without an answer.
        answered: (n,) bool.
    """

    samples: tuple[Sample, ...]
    probabilities: np.ndarray
    answered: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (..., K), of finite logits (..., K)."""
    shifted = np.asarray(logits, np.float64)
    powers = np.exp(shifted - shifted.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def largest(areas: np.ndarray, owner: np.ndarray, most: int) -> np.ndarray:
    """Positions (k,) int64, ascending, of the `most` largest faces of each sample; of equals the first ones.

    Args:
        areas: (F,) of the faces' boxes.
        owner: (F,) int64, ascending: whose each is.
    """
    order = np.lexsort((-areas, owner))
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)  # owners are in their place in `order` as well
    return np.sort(order[rank < most])


def photo_probabilities(
    logits: np.ndarray,
    owner: np.ndarray,
    count: int,
    *,
    of: Of = "probabilities",
    areas: np.ndarray | None = None,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's probabilities from its rows' logits.

    Args:
        logits: (F, K). A row with a value that is not finite does not count.
        owner: (F,) int64, ascending, below `count`: the sample of each row.
        count: n samples.
        of: what is averaged.
        areas: (F,) of the rows' faces; needed where `most` is given.
        most: how many of a sample's faces count, the largest (Tan et al.: 3); None: all.

    Returns:
        Probabilities (n, K) float64, 0 for a sample without a row that counts; and (n,) bool: which have one.
    """
    logits = np.asarray(logits, np.float64)
    if most is not None:
        if areas is None:
            raise ValueError("most needs the areas of the faces")
        chosen = largest(areas, owner, most)
        logits, owner = logits[chosen], owner[chosen]
    good = np.isfinite(logits).all(-1)
    logits, owner = logits[good], owner[good]
    values = softmax(logits) if of == "probabilities" and len(logits) else logits
    sums = np.zeros((count, logits.shape[1]))
    np.add.at(sums, owner, values)
    counts = np.bincount(owner, minlength=count)
    answered = counts > 0
    means = sums / np.maximum(counts, 1)[:, None]
    if of == "logits" and answered.any():
        means[answered] = softmax(means[answered])
    return means, answered


@dataclass(frozen=True)
class Outputs:
    """What a network gave for a set: from this photos are answered in one way or another.

    Attributes:
        pixels: the set.
        logits: (R, K) float64 of rows that could be read.
        rows: (R,) int64, ascending: which row of the set each is.
        mirrored: (R, K), the same of their mirror images; None: they were not asked for.
    """

    pixels: Pixels
    logits: np.ndarray
    rows: np.ndarray
    mirrored: np.ndarray | None


def outputs(network: Network, pixels: Pixels, size: int, *, mirrored: bool = False) -> Outputs:
    """Run a network over a set, in the plain view.

    Args:
        network: gives a row of logits for each row of the batch. One that averages the faces itself may be run on a set
            of unit `face` too: each row is a face then, and they are averaged by `answer`.
        size: rows of a batch, at least 1.
        mirrored: see each picture mirrored as well.

    Raises:
        Exception: what `Pixels.batches` raises.
    """
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        for batch in pixels.batches(np.arange(len(pixels)), size, None):
            for part, view in zip(parts, (batch, mirror(batch)) if mirrored else (batch,), strict=False):
                part.append(network(view).double().cpu().numpy())
            rows.append(batch.rows.numpy())
    none = np.zeros((0, len(pixels.classes)))
    plain, other = (np.concatenate([none, *part]) for part in parts)
    return Outputs(pixels, plain, np.concatenate([np.empty(0, np.int64), *rows]), other if mirrored else None)


def answer(
    found: Outputs, ledger: Ledger, *, of: Of = "probabilities", most: int | None = None, mirrored: bool = False
) -> Answers:
    """What the outputs say of each sample; who gets no answer is recorded in the ledger.

    Args:
        ledger: takes samples with values that are not finite (`non_finite`), and those
            whose photo cannot be read.
        of: what is averaged over faces, and over a picture and its mirror image.
        most: with unit `face`, how many of a sample's faces count, the largest; None: all.
        mirrored: each picture's mirror image counts as well (Tan et al. see photos so); they must have been asked for.

    Raises:
        SettingError: `most` and a set whose rows are no faces.
    """
    pixels, logits, rows = found.pixels, found.logits, found.rows
    if most is not None and pixels.areas is None:
        raise SettingError(f"most is {most}, but the rows of this set are no faces: give the set max_faces {most}")
    if mirrored:
        if found.mirrored is None:
            raise ValueError("the mirror images were not asked for")
        # a row's mirror image beside it
        logits = np.stack([logits, found.mirrored], 1).reshape(-1, logits.shape[1])
        rows = np.repeat(rows, 2)
    areas = None if pixels.areas is None else pixels.areas[rows]
    samples = (*pixels.samples, *pixels.faceless)
    probabilities, answered = photo_probabilities(
        logits,
        pixels.sample_of[rows],
        len(samples),
        of=of,
        areas=areas,
        most=most and most * (2 if mirrored else 1),
    )
    _record(samples, answered, pixels, ledger)
    by_id = sorted(range(len(samples)), key=lambda i: samples[i].sample_id)
    return Answers(tuple(samples[i] for i in by_id), probabilities[by_id], answered[by_id])


def mirror(batch: PixelBatch) -> PixelBatch:
    """Every picture of a batch mirrored, and the places of its faces."""
    x1, y1, x2, y2 = batch.boxes.unbind(1)
    boxes = torch.stack([1 - x2, y1, 1 - x1, y2], dim=1)
    return replace(batch, faces=batch.faces.flip(2), photos=batch.photos.flip(2), boxes=boxes)


def _record(samples: tuple[Sample, ...], answered: np.ndarray, pixels: Pixels, ledger: Ledger) -> None:
    """Who has no answer, and why."""
    for i in np.flatnonzero(~answered).tolist():
        name = samples[i].sample_id
        if i >= len(pixels.samples):
            continue  # no failure: there is nobody to answer for
        if name in pixels.ledger.entries:
            ledger.record(name, *pixels.ledger.entries[name])
        else:
            ledger.record(name, "non_finite", "the network returned NaN or inf")
