"""What a training step sees: pixels of samples with their classes, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class PixelBatch:
    """Pixels of B samples.

    Attributes:
        faces: uint8 (F, H, W, 3) RGB: the crops of all samples' faces (or of their frames' faces), one sample after
            another, at the size that the face network sees; F is 0 where none are asked for.
        owner: int64 (F,), ascending: which of the B samples each face is of. A sample may have no face.
        photos: uint8 (B, H, W, 3) RGB at the size that the photos' network sees; (0, ...) where none are asked for.
        labels: int64 (B,), the class of each sample.
        rows: int64 (B,), positions of the samples in their set.
        boxes: float32 (F, 4), x1 y1 x2 y2 of each face relative to the photo's width and height. Where the photo is
            shown mirrored, so are they. Nothing else that is drawn moves them: they are places in the whole photo,
            whatever part of it is shown, and a crop that is mirrored by itself is where it was.
        shares: float32 (B, K), of each class the share that is wanted in the place of the label; None: the label is.
    """

    faces: Tensor
    owner: Tensor
    photos: Tensor
    labels: Tensor
    rows: Tensor
    boxes: Tensor
    shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Draw(NamedTuple):
    """Which random views are shown: the same numbers, the same pixels, whatever the batches and the processes.

    Attributes:
        seed: of the fine-tune.
        epoch: counted from 0.
    """

    seed: int
    epoch: int


class PixelSet(Protocol):
    """Samples that a network can be trained on or judged by.

    Attributes:
        labels: int64 (n,), the class of each sample.
    """

    labels: np.ndarray

    def __len__(self) -> int: ...

    def batches(self, order: np.ndarray, size: int, draw: Draw | None, skip: int = 0) -> Iterator[PixelBatch]:
        """Samples in an order, `size` at a time; a last batch of one sample joins the one before.

        Args:
            order: int64 (k,), positions of samples.
            draw: the random views; None: the plain one (the middle, not mirrored).
            skip: batches at the start that are left out, and cost nothing (training goes on in the middle of an epoch).
        """
        ...


def cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in batches of `size`; a last batch of one joins the one before, as batch norm needs two."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts
