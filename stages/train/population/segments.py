"""From faces to samples and back, for minibatches whose faces lie one after another (`minibatch.Minibatch`).

Two ways give the same but for rounding: products with a matrix that says whose each face is, which run anywhere; and
loops that numba compiles, on a CPU, which take a tenth of the time.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stages.loops import installed
from stages.train.population.minibatch import Minibatch


class Segments(Protocol):
    """P members, B samples and R places for faces of each; rows of faces after a member's last are given as 0."""

    def pooled(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """(P, B, W): the sum of each sample's rows (P, R, W), times weights (P, R, 1) where there are any."""
        ...

    def spread(self, samples: Tensor, weights: Tensor) -> Tensor:
        """(P, R, W): each face's sample's row (P, B, W), times the face's weight (P, R, 1)."""
        ...

    def plus(self, rows: Tensor, samples: Tensor) -> Tensor:
        """(P, R, W): each face's row (P, R, W) and that of its sample (P, B, W); after the last face anything."""
        ...

    def dots(self, rows: Tensor, samples: Tensor) -> Tensor:
        """(P, R, 1): the product of each face's row (P, R, W) with its sample's (P, B, W)."""
        ...

    def softmax(self, scores: Tensor) -> Tensor:
        """(P, R, 1): weights of each sample's faces, which sum to 1, from (P, R, 1) scores."""
        ...

    def softmax_back(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """(P, R, 1): the gradient of the scores, from that of the weights: w (g - sum of w g over the sample)."""
        ...


def segments_of(batch: Minibatch) -> Segments:
    """The faster way that can be had here: always the same one, so that a seed gives the same bits."""
    return Looped(batch) if batch.cut.faces.device.type == "cpu" and installed() else Multiplied(batch)


class Multiplied:
    """By products with `Minibatch.owner`."""

    def __init__(self, batch: Minibatch) -> None:
        self._batch = batch

    def pooled(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """See `Segments`."""
        owner = self._batch.owner
        return torch.bmm((owner if weights is None else owner * weights).transpose(1, 2), rows)

    def spread(self, samples: Tensor, weights: Tensor) -> Tensor:
        """See `Segments`."""
        return torch.bmm(self._batch.owner * weights, samples)

    def plus(self, rows: Tensor, samples: Tensor) -> Tensor:
        """See `Segments`."""
        return torch.baddbmm(rows, self._batch.owner, samples)

    def dots(self, rows: Tensor, samples: Tensor) -> Tensor:
        """See `Segments`."""
        return torch.bmm(rows, samples.transpose(1, 2)).mul_(self._batch.owner).sum(2, keepdim=True)

    def softmax(self, scores: Tensor) -> Tensor:
        """See `Segments`."""
        slots, seats = self._batch.slots, self._batch.seats
        padded = self._padded(scores, -torch.inf)
        weights = torch.softmax(padded, 1).view(-1)  # NaN where a sample has no face: nobody takes it
        out = scores.new_zeros(scores.numel()).index_copy_(0, slots, weights.index_select(0, seats))
        return out.view(scores.shape)

    def softmax_back(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """See `Segments`."""
        share, given = self._padded(weights, 0), self._padded(gradient, 0)
        sums = (share * given).sum(1, keepdim=True)
        back = given.sub_(sums).mul_(share).view(-1).index_select(0, self._batch.seats)
        return weights.new_zeros(weights.numel()).index_copy_(0, self._batch.slots, back).view(weights.shape)

    def _padded(self, values: Tensor, rest: float) -> Tensor:
        """(P * B, N) of the (P, R, 1) values of real faces, filled up."""
        members, size = self._batch.counts.shape
        padded = values.new_full((members * size * self._batch.widest,), rest)
        padded.index_copy_(0, self._batch.seats, values.reshape(-1).index_select(0, self._batch.slots))
        return padded.view(members * size, -1)


class Looped:
    """By compiled loops."""

    def __init__(self, batch: Minibatch) -> None:
        self._loops: Any = importlib.import_module("stages.train.population.compiled")
        self._counts = np.ascontiguousarray(batch.counts, np.int64)
        self._width = batch.width

    def pooled(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """See `Segments`."""
        out = rows.new_empty(*self._counts.shape, rows.shape[2])
        given = rows.new_ones(*rows.shape[:2], 1) if weights is None else weights
        self._loops.pooled(_array(rows), _array(given), self._counts, out.numpy())
        return out

    def spread(self, samples: Tensor, weights: Tensor) -> Tensor:
        """See `Segments`."""
        out = samples.new_empty(len(samples), self._width, samples.shape[2])
        self._loops.spread(_array(samples), _array(weights), self._counts, out.numpy())
        return out

    def plus(self, rows: Tensor, samples: Tensor) -> Tensor:
        """See `Segments`."""
        out = torch.empty_like(rows)
        self._loops.plus(_array(rows), _array(samples), self._counts, out.numpy())
        return out

    def dots(self, rows: Tensor, samples: Tensor) -> Tensor:
        """See `Segments`."""
        out = rows.new_empty(*rows.shape[:2], 1)
        self._loops.dots(_array(rows), _array(samples), self._counts, out.numpy())
        return out

    def softmax(self, scores: Tensor) -> Tensor:
        """See `Segments`."""
        out = scores.new_empty(scores.shape)
        self._loops.softmax(_array(scores), self._counts, out.numpy())
        return out

    def softmax_back(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """See `Segments`."""
        out = weights.new_empty(weights.shape)
        self._loops.softmax_back(_array(weights), _array(gradient), self._counts, out.numpy())
        return out


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()
