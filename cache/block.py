"""Reading a block: its recorded shards, checked once per process, then mapped and found by item key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache import journal
from cache.errors import MissingRowsError
from cache.keys import BlockSpec, key_array, key_hex
from cache.shard import STATUS_DTYPE, Shard, open_shard


class Block:
    """A read view of a block: the shards recorded when it was opened, checked against the journal.

    Attributes:
        keys: (I,) item keys, sorted, each once (two writers may have recorded the same item).
    """

    def __init__(self, place: Path, spec: BlockSpec) -> None:
        self.spec = spec
        self.place = place
        records = journal.read(place / "journal")
        self.shards: list[Shard] = [open_shard(place / "shards" / r.shard, r.sha256, spec.key) for r in records]
        self.keys, first = np.unique(_join(key_array([]), [s.item_keys for s in self.shards]), return_index=True)
        none = np.empty(0, np.int64)
        self._shard = np.repeat(np.arange(len(self.shards)), [len(s.item_keys) for s in self.shards])[first]
        self._item = _join(none, [np.arange(len(s.item_keys)) for s in self.shards])[first]
        self._start = _join(none, [s.offsets[:-1] for s in self.shards])[first]
        self._stop = _join(none, [s.offsets[1:] for s in self.shards])[first]
        self._status = _join(np.empty(0, STATUS_DTYPE), [s.status for s in self.shards])[first]

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Positions in `self.keys`, shape (n,) int64; -1 where an item is not in the block."""
        wanted = keys if isinstance(keys, np.ndarray) else key_array(list(keys))
        if not len(self.keys):
            return np.full(len(wanted), -1, np.int64)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)

    def has(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Which items are recorded, shape (n,) bool. Failed items are recorded too."""
        return self.find(keys) >= 0

    def item(self, key: bytes) -> tuple[np.ndarray, str, str]:
        """Rows (a read-only map), status and detail of one item.

        Raises:
            MissingRowsError: it is not recorded.
        """
        position = int(self.find([key])[0])
        if position < 0:
            raise self._missing([key])
        shard = self.shards[self._shard[position]]
        rows = shard.rows[self._start[position] : self._stop[position]]
        return rows, bytes(self._status[position]).decode(), shard.details.get(int(self._item[position]), "")

    def count(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Rows of each item, shape (n,) int64; 0 for failed items, -1 for those not recorded."""
        positions = self.find(keys)
        counts = np.full(len(positions), -1, np.int64)
        known = positions >= 0
        counts[known] = (self._stop - self._start)[positions[known]]
        return counts

    def statuses(self, keys: Sequence[bytes] | np.ndarray) -> list[str]:
        """Status of each item; empty for those not recorded."""
        return [bytes(self._status[p]).decode() if p >= 0 else "" for p in self.find(keys)]

    def rows(self, keys: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of many items: array (R, ...) in the order asked for, and offsets (n + 1,) int64 into it.

        Raises:
            MissingRowsError: names how many are not recorded.
        """
        positions = self.find(keys)
        if (positions < 0).any():
            raise self._missing([bytes(k) for k, p in zip(keys, positions, strict=True) if p < 0])
        spans = [self.shards[self._shard[p]].rows[self._start[p] : self._stop[p]] for p in positions]
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in spans])]).astype(np.int64)
        empty = np.empty((0, *self.spec.shape), np.dtype(self.spec.numerics.get("dtype", "float32")))
        return np.concatenate([empty, *spans]), offsets

    def _missing(self, keys: Sequence[bytes]) -> MissingRowsError:
        return MissingRowsError(
            f"{self.spec.name}: {len(keys)} of the items asked for are not in the store ({self.place.name}; first "
            f"{key_hex(keys[0])}); run the stage that writes it again"
        )


def _join(empty: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([empty, *parts], dtype=empty.dtype)
