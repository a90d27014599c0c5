"""Rows of features, held in memory or left in the store, behind one way to take them: an index gives float32 rows.

Both ways give the same bits: the same conversion to float32, the same order of operations. Rows of pixels stay uint8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from cache import dtypes
from cache.block import Block
from cache.maps import hand_back
from stages.detect.corpus import spans

CHUNK_BYTES = 8 << 20
"""Of float32 rows that are read at once where all rows are passed over."""

RESIDENT_BYTES = 64 << 20
"""How much of the store's maps may count as memory after a read: with more rows than are held in memory, a random batch
seldom finds a page of the one before."""

Scale = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation per feature, float32 (D,)."""


class StoredRows:
    """Rows of several blocks side by side, read from the store when they are asked for.

    `rows[index]` is float32 (k, D), or of one block of maps or pixels (k, *its shape), pixels uint8: `index` (k,) of
    row numbers, or a slice. Neighbouring rows of one item are read together. Between reads the store's maps count for
    at most `RESIDENT_BYTES` of memory.

    Args:
        blocks: each with the same items; of vectors, or one of maps or pixels.
        positions: for each block the positions (`Block.positions`) of the K items that the rows are of.
        item: (R,) which of the K items a row is of.
        within: (R,) which row of that item.
        scale: subtracted and divided by; None: rows as they are stored.

    Attributes:
        shape: (R, D), or (R, *shape of the block).
        dtype: of the rows that an index gives.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        positions: Sequence[np.ndarray],
        item: np.ndarray,
        within: np.ndarray,
        scale: Scale | None = None,
    ) -> None:
        self._blocks, self._positions, self._scale = blocks, positions, scale
        self._item, self._within = item.astype(np.int32, copy=False), within.astype(np.int32, copy=False)
        self._whole = len(blocks) == 1 and len(blocks[0].spec.shape) > 1
        self.shape = (len(item), *blocks[0].spec.shape) if self._whole else (len(item), sum(_widths(blocks)))
        pixels = self._whole and dtypes.given(blocks[0].spec) == np.uint8
        self.dtype = np.dtype(np.uint8 if pixels else np.float32)

    def __len__(self) -> int:
        return len(self._item)

    @property
    def nbytes(self) -> int:
        """What all rows take in memory."""
        return self.dtype.itemsize * math.prod(self.shape)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        item, within = self._item[index], self._within[index]
        out = np.empty((len(item), *self.shape[1:]), self.dtype)
        new = np.ones(len(item), bool)
        new[1:] = item[1:] != item[:-1]
        run, column = np.cumsum(new) - 1, 0
        for block, positions in zip(self._blocks, self._positions, strict=True):
            rows, offsets = block.rows_at(positions[item[new]])
            place, width = offsets[run] + within, block.spec.shape[0]
            every = len(rows) == len(place) and (place == np.arange(len(place))).all()  # all of them, in their order
            mine = out if self._whole else out[:, column : column + width]
            mine[...] = rows if every else rows[place]
            column += width
        hand_back(RESIDENT_BYTES)
        return out if self._scale is None else standardized(out, self._scale)

    def scaled(self, scale: Scale) -> StoredRows:
        """These rows, standardized whenever they are read."""
        return StoredRows(self._blocks, self._positions, self._item, self._within, scale)

    def held(self) -> np.ndarray:
        """All rows in memory."""
        out = np.empty(self.shape, self.dtype)
        for part in chunks(len(self), math.prod(self.shape[1:])):
            out[part] = self[part]
        return out


class MeanRows:
    """Rows that are means of neighbouring rows of the store, as `StoredRows`: a clip's over its frames.

    Args:
        rows: of the frames.
        offsets: (R + 1,) int64; row i is the mean of `rows[offsets[i]:offsets[i + 1]]`, at least one.
        scale: subtracted and divided by; None: means as they are.

    Attributes:
        shape: (R, D).
    """

    def __init__(self, rows: StoredRows, offsets: np.ndarray, scale: Scale | None = None) -> None:
        self._rows, self._offsets, self._scale = rows, offsets, scale
        self.shape = (len(offsets) - 1, rows.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """What all rows take in memory as float32."""
        return 4 * self.shape[0] * self.shape[1]

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        numbers = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        if not len(numbers):
            return np.empty((0, self.shape[1]), np.float32)
        counts = (self._offsets[1:] - self._offsets[:-1])[numbers]
        rows = self._rows[spans(self._offsets[:-1][numbers], counts)]
        sums = np.add.reduceat(rows.astype(np.float64), np.cumsum(counts) - counts, axis=0)
        out = (sums / counts[:, None]).astype(np.float32)
        return out if self._scale is None else standardized(out, self._scale)

    def scaled(self, scale: Scale) -> MeanRows:
        """These rows, standardized whenever they are read."""
        return MeanRows(self._rows, self._offsets, scale)

    def held(self) -> np.ndarray:
        """All rows in memory, (R, D) float32."""
        out = np.empty(self.shape, np.float32)
        many = -(-self._rows.shape[0] // max(len(self), 1))  # frames of a row, about
        for part in chunks(len(self), self.shape[1] * max(many, 1)):
            out[part] = self[part]
        return out


Rows = np.ndarray | StoredRows | MeanRows
"""(R, D) float32 rows, taken by `rows[index]`."""

RowsOf = np.ndarray | StoredRows
"""(R, ...) rows of any shape, float32 or uint8, taken by `rows[index]`."""


def standardized(rows: np.ndarray, scale: Scale) -> np.ndarray:
    """(rows - mean) / deviation, float32; `rows` stays as it is."""
    out = rows - scale[0]
    out /= scale[1]
    return out


def scaled(rows: Rows, scale: Scale) -> Rows:
    """Standardized rows: another array, or the rows of the store standardized as they are read."""
    return standardized(rows, scale) if isinstance(rows, np.ndarray) else rows.scaled(scale)


def scaled_rows(rows: RowsOf, scale: Scale) -> RowsOf:
    """As `scaled`."""
    return standardized(rows, scale) if isinstance(rows, np.ndarray) else rows.scaled(scale)


def scale_of(rows: Rows, index: np.ndarray) -> Scale:
    """Mean and standard deviation of the rows at `index`, read once, a chunk at a time.

    Computed in float64 from each chunk's mean and squared deviations (Chan et al. 1979), so that large means do not
    cost digits. A feature that does not vary has deviation 1; so has every feature where there is no row.
    """
    width = rows.shape[1]
    count, mean, squares = 0, np.zeros(width), np.zeros(width)
    for part in chunks(len(index), width):
        values = rows[index[part]].astype(np.float64)
        own = values.mean(0)
        values -= own
        shift, total = own - mean, count + len(values)
        squares += np.einsum("ij,ij->j", values, values) + shift**2 * (count * len(values) / total)
        mean += shift * (len(values) / total)
        count = total
    if not count:
        return np.zeros(width, np.float32), np.ones(width, np.float32)
    deviation = np.sqrt(squares / count)
    deviation[deviation < 1e-6] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32)


def _widths(blocks: Sequence[Block]) -> list[int]:
    return [block.spec.shape[0] for block in blocks]


def chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover `rows` rows of `width` float32 numbers, `CHUNK_BYTES` each."""
    step = max(CHUNK_BYTES // (4 * max(width, 1)), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
