"""Masks of dropout for a minibatch of P members, each from its own seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.train.population.draws import Draws, rate_used


class BatchMasks:
    """What dropout keeps in one step.

    A member's numbers are dealt in the order of its samples and, where a layer runs over faces, frames or persons, of
    each sample's real ones: padding takes none, so a mask is the same however wide the batch is padded.

    Args:
        draws: where numbers come from.
        seeds: of the P members.
        step: of the optimiser.
        counts: int64 (P, B), faces of each sample.
        device: of torch.

    Attributes:
        counts: see above.
    """

    def __init__(self, draws: Draws, seeds: Sequence[int], step: int, counts: np.ndarray, device: str) -> None:
        self._draws, self._seeds, self._step = draws, seeds, step
        self.counts, self._device = counts, device

    def rows(self, layer: int, of_faces: bool, width: int, rate: float) -> Tensor:
        """(P, R, W) float32 over the members' faces, R the most that one has, or (P, B, W) over their samples.

        Entries are 0 or 1 / (1 - rate); after a member's last face they are 0.
        """
        real = self.counts.sum(1) if of_faces else np.full(len(self.counts), self.counts.shape[1])
        kept = np.zeros((len(real), max(int(real.max(initial=0)), 1), width), np.uint8)
        for mine, seed, rows in zip(kept, self._seeds, real.tolist(), strict=True):
            mine[:rows] = self._draws.kept(seed, self._step, layer, rows * width, rate).reshape(rows, width)
        return _scaled(kept, rate, self._device)

    def padded(self, layer: int, shape: tuple[int, ...], rate: float, counts: np.ndarray | None = None) -> Tensor:
        """(P, *shape) float32 over padded batches.

        Args:
            shape: of one member's tensor; with `counts` (B, N, ...), a sample's real rows first.
            counts: int64 (P, B), the real faces, frames or persons of each sample; None: the tensor is not of such.
        """
        if counts is None:
            size = int(np.prod(shape))
            all_kept = [self._draws.kept(seed, self._step, layer, size, rate) for seed in self._seeds]
            return _scaled(np.stack(all_kept).reshape(-1, *shape), rate, self._device)
        kept = np.zeros((len(self._seeds), *shape), np.uint8)
        width = int(np.prod(shape[2:]))
        for mine, seed, real in zip(kept, self._seeds, counts, strict=True):
            rows = int(real.sum())
            numbers = self._draws.kept(seed, self._step, layer, rows * width, rate)
            mine[np.arange(shape[1]) < real[:, None]] = numbers.reshape(rows, *shape[2:])
        return _scaled(kept, rate, self._device)


def _scaled(kept: np.ndarray, rate: float, device: str) -> Tensor:
    mask = torch.from_numpy(kept).to(device).to(torch.float32)
    return mask.mul_(1 / (1 - rate_used(rate)))
