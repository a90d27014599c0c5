"""A torch view of a block: padded batches straight from the store, for training that does not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cache.block import Block


class CachedRows(Dataset[Tensor]):
    """The rows of n items of a block, by their number 0 to n - 1. Nothing is read before it is asked for.

    Args:
        block: an open block.
        keys: of the items, in the order of their numbers.
        width: rows an item has at most in a batch; of one with more, the first are kept. None for no limit, and
            batches as wide as their widest item.
        dtype: of the tensors; None for the block's own.

    Raises:
        MissingRowsError: names how many of the keys are not recorded.
    """

    def __init__(
        self,
        block: Block,
        keys: Sequence[bytes] | np.ndarray,
        *,
        width: int | None = None,
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        self._block, self._width, self._dtype = block, width, dtype
        self._positions = block.positions(keys)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: int) -> Tensor:
        """Rows (n, ...) of one item."""
        rows, _ = self._block.rows_at(self._positions[[number]])
        return torch.from_numpy(rows[: self._width]).to(self._dtype)

    def batch(self, numbers: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Values (B, N, ...), zero where padded, and mask (B, N) bool, True = a real row."""
        values, mask = self._block.batch_at(self._positions[np.asarray(numbers, np.int64)], self._width)
        return torch.from_numpy(values).to(self._dtype), torch.from_numpy(mask)

    def epoch(self, size: int, seed: int) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Every item once, in an order drawn from `seed`: numbers (B,) int64, and what `batch` gives for them.

        Args:
            size: B; the last batch may be smaller.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            yield numbers, *self.batch(numbers)
