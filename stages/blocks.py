"""What a stage leaves for DVC: a small manifest of the blocks and items it stands for, and its counts.

The manifest names block keys and, sorted, each item with its status and rows. No shard, time, host or path is in it, so
it is byte-equal however the rows came to be (one process or many, at once or resumed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cache.block import Block
from cache.keys import KEY_BYTES, key_array
from stages.tables import write_csv

COLUMNS = ("block", "item", "status", "rows")


class BlockRow(NamedTuple):
    """An item of a block: `NAME@KEY`, the item's key in hex, its status, how many rows."""

    block: str
    item: str
    status: str
    rows: int


@dataclass(frozen=True)
class Counts:
    """What a stage did.

    Attributes:
        total: items in all.
        computed: items computed in this run; those that failed are not among them.
        failed: items that failed, in this run or, as the store remembers, in an earlier one.
    """

    total: int
    computed: int
    failed: int

    @property
    def cached(self) -> int:
        """Items that were in the store."""
        return max(self.total - self.computed - self.failed, 0)


def block_rows(block: Block, keys: Sequence[bytes] | np.ndarray) -> list[BlockRow]:
    """The manifest's rows for these items of a block, sorted, each once; items it does not hold are left out."""
    name = f"{block.spec.name}@{block.spec.key[:32]}"
    wanted = np.unique(keys if isinstance(keys, np.ndarray) else key_array(list(keys)))
    counts = block.count(wanted)
    here = counts >= 0
    wanted = wanted[here]
    digits, width = wanted.tobytes().hex(), 2 * KEY_BYTES  # all at once: there may be many
    items = [digits[start : start + width] for start in range(0, len(digits), width)]
    return list(map(BlockRow, repeat(name), items, block.statuses(wanted), counts[here].tolist()))


def write_block_rows(path: Path, rows: Iterable[BlockRow]) -> None:
    """Write the manifest, sorted, each item once."""
    write_csv(path, COLUMNS, (row for row, _ in groupby(sorted(rows))))
