"""Reading a block: its recorded shards, checked once per process, then mapped and found by item key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from cache import dtypes, journal, notes
from cache.batches import join_runs, pad
from cache.errors import MissingRowsError
from cache.keys import KEY_DTYPE, BlockSpec, key_array, key_hex
from cache.maps import SUPPORTED, Extent, RowSpace
from cache.shard import STATUS_DTYPE, Shard, check_all, open_shard

_GOOD = np.array([b"ok", b"no_face"], STATUS_DTYPE)
_FEW = 256  # items, up to which a search for neighbours costs more than it saves


class Block:
    """A read view of a block: the shards recorded when it was opened, checked against the journal.

    Rows are read from memory maps. However large the block is, the maps count for at most `cache.maps.RESIDENT_BYTES`
    of this process's memory while rows are copied out of them, and no file stays open.

    Args:
        place: the block's folder.
        shared: its folders in stores that lie under this one. Of an item that several shards have, one that did not
            fail is taken, of those the first: this store's before a shared one's.

    Attributes:
        keys: (I,) item keys, sorted, each once (two writers may have recorded the same item).
    """

    def __init__(self, place: Path, spec: BlockSpec, shared: Sequence[Path] = ()) -> None:
        self.spec = spec
        self.place = place
        self._places = (place, *shared)
        found = [(one / "shards" / r.shard, r) for one in (place, *shared) for r in journal.read(one / "journal")]
        check_all([(path, r.sha256, r.size) for path, r in found])
        self.shards: list[Shard] = [open_shard(path, r.sha256, spec.key) for path, r in found]
        statuses = _join(np.empty(0, STATUS_DTYPE), [s.status for s in self.shards])
        self.keys, first = _first(_join(key_array([]), [s.item_keys for s in self.shards]), statuses)
        sizes = [len(s.item_keys) for s in self.shards]
        self._first_item = _starts(sizes)  # of each shard
        none = np.empty(0, np.int64)
        self._shard = np.repeat(np.arange(len(self.shards)), sizes)[first]
        self._item = first - self._first_item[self._shard]
        self._start = _join(none, [s.offsets[:-1] for s in self.shards])[first]
        self._count = _join(none, [np.diff(s.offsets) for s in self.shards])[first]
        self._status = statuses[first]
        self._dtype, self._widen = dtypes.stored(spec), dtypes.name(spec) == dtypes.BFLOAT16
        self._row_bytes = math.prod(spec.shape) * self._dtype.itemsize
        self._prefix = _prefix(self.keys)
        self._space, self._place = self._mapped()

    def _mapped(self) -> tuple[RowSpace | None, np.ndarray]:
        """One space for all shards and each item's place in it; None where a shard with rows cannot be mapped."""
        filled = [i for i, s in enumerate(self.shards) if s.shape[0] * s.row_bytes]
        extents = [
            Extent(s.path, s.offset, s.shape[0], s.row_bytes)
            for s in (self.shards[i] for i in filled)
            if s.offset is not None and s.dtype == self._dtype and s.shape[1:] == self.spec.shape
        ]
        if not SUPPORTED or not extents or len(extents) < len(filled):
            return None, np.zeros(len(self.keys), np.int64)
        space = RowSpace(extents, extents[0].row_bytes)
        starts = np.zeros(len(self.shards), np.int64)
        starts[filled] = space.starts
        return space, starts[self._shard] + self._start * space.step

    def __len__(self) -> int:
        return len(self.keys)

    def note(self, name: str) -> bytes | None:
        """A note of the block (see `cache.notes`), this store's before a shared one's; None where there is none.

        Raises:
            DamagedError: it is larger than a note may be.
            StorePlaceError: it cannot be read.
        """
        return notes.read(self._places, name)

    def find(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Positions in `self.keys`, shape (n,) int64; -1 where an item is not in the block."""
        places, found = self._search(keys)
        return np.where(found, places, -1)

    def _search(self, keys: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each key is, or would be, and whether it is there."""
        wanted = key_array(list(keys)) if not isinstance(keys, np.ndarray) or keys.dtype != KEY_DTYPE else keys
        if not len(self.keys):
            return np.full(len(wanted), -1, np.int64), np.zeros(len(wanted), bool)
        # Keys are hashes: 8 of their 16 bytes, compared as one number, nearly always tell them apart.
        places = np.minimum(self._prefix.searchsorted(_prefix(wanted)), len(self.keys) - 1)
        found = self.keys[places] == wanted
        if not found.all():
            places = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
            found = self.keys[places] == wanted
        return places, found

    def has(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Which items are recorded, shape (n,) bool. Failed items are recorded too."""
        return self.find(keys) >= 0

    def item(self, key: bytes) -> tuple[np.ndarray, str, str]:
        """Rows (read-only, a view of the map), status and detail of one item.

        Raises:
            MissingRowsError: it is not recorded.
        """
        position = int(self.positions([key])[0])
        detail = self.shards[self._shard[position]].details.get(int(self._item[position]), "")
        return self.item_at(position), bytes(self._status[position]).decode(), detail

    def item_at(self, position: int) -> np.ndarray:
        """Rows of one item as `item` gives them, for a position that `positions` or `find` gave."""
        count = int(self._count[position])
        if self._space is not None:
            return self._shaped(self._space.view(int(self._place[position]), count))
        start = int(self._start[position])
        shard = self.shards[self._shard[position]]
        return self._given(shard.rows[start : start + count]) if count else self._shaped(np.empty(0, np.uint8))

    def count(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Rows of each item, shape (n,) int64; 0 for failed items, -1 for those not recorded."""
        positions = self.find(keys)
        counts = np.full(len(positions), -1, np.int64)
        known = positions >= 0
        counts[known] = self._count[positions[known]]
        return counts

    def statuses(self, keys: Sequence[bytes] | np.ndarray) -> list[str]:
        """Status of each item; empty for those not recorded."""
        positions = self.find(keys)
        found = np.zeros(len(positions), STATUS_DTYPE)
        found[positions >= 0] = self._status[positions[positions >= 0]]
        return found.astype(str).tolist()

    def rows(self, keys: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of many items: array (R, ...) in the order asked for, and offsets (n + 1,) int64 into it.

        The array is a copy in memory. An array of keys (`self.keys[...]`, `key_array`) is looked up faster than a list.

        Raises:
            MissingRowsError: names how many are not recorded.
        """
        return self.rows_at(self.positions(keys))

    def rows_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `rows`, for what `positions` gave (for loops that ask for the same items often)."""
        counts = self._count[positions]
        offsets = _starts(counts)
        if self._space is None:
            return self._slow_rows(positions, counts, offsets), offsets
        places = self._place[positions]
        if len(places) > _FEW:
            places, counts = join_runs(places, counts, self._space.step)
            return self._shaped(self._space.take(places, _starts(counts))), offsets
        return self._shaped(self._space.take(places, offsets)), offsets

    def all_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The whole block in the order it is stored: keys (I,), rows (R, ...), offsets (I + 1,) int64.

        The rows are a read-only view of the map, not copied, where they lie in one shard without gaps; else a copy.
        """
        order, places, lengths = self._stored
        offsets = _starts(self._count[order])
        if self._space is None:
            return self.keys[order], self._slow_rows(order, self._count[order], offsets), offsets
        if len(places) == 1:
            return self.keys[order], self._shaped(self._space.view(int(places[0]), int(lengths[0]))), offsets
        return self.keys[order], self._shaped(self._space.take(places, _starts(lengths))), offsets

    @cached_property
    def _stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions in the order that items are stored, and places and lengths of the runs they make."""
        order = np.argsort(self._first_item[self._shard] + self._item)
        step = 1 if self._space is None else self._space.step
        return order, *join_runs(self._place[order], self._count[order], step)

    def batch(self, keys: Sequence[bytes] | np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of B items side by side: values (B, N, ...) of the block's dtype, mask (B, N) bool, True = a real row.

        Args:
            keys: of B items.
            width: N; by default the most rows of any of them, at least 1. An item with more keeps its first N.

        Padding is zero. An item without rows has no True in its mask.

        Raises:
            MissingRowsError: names how many are not recorded.
            ValueError: width is below 1.
        """
        return self.batch_at(self.positions(keys), width)

    def batch_at(self, positions: np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As `batch`, for what `positions` gave, shape (B,)."""
        return pad(*self.rows_at(positions), width)

    def positions(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Positions in `self.keys` of items that must be there, shape (n,) int64.

        Raises:
            MissingRowsError: names how many are not recorded.
        """
        places, found = self._search(keys)
        if not found.all():
            lost = [bytes(k) for k, here in zip(keys, found, strict=True) if not here]
            raise MissingRowsError(
                f"{self.spec.name}: {len(lost)} of the items asked for are not in the store ({self.place.name}; first "
                f"{key_hex(lost[0])}); run the stage that writes it again"
            )
        return places

    def _shaped(self, content: np.ndarray) -> np.ndarray:
        rows = len(content) // self._row_bytes if self._row_bytes else 0
        return self._given(content.view(self._dtype).reshape((rows, *self.spec.shape)))

    def _given(self, stored: np.ndarray) -> np.ndarray:
        """Rows as readers get them."""
        return dtypes.from_bfloat16(stored) if self._widen else stored

    def _slow_rows(self, positions: np.ndarray, counts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Rows of shards that cannot be mapped side by side (compressed ones), one shard after another."""
        out = np.empty((int(offsets[-1]), *self.spec.shape), self._dtype)
        of_shard = self._shard[positions]
        for number in np.unique(of_shard[counts > 0]).tolist():
            mine = np.flatnonzero(of_shard == number)
            length = counts[mine]
            within = np.arange(int(length.sum())) - np.repeat(_starts(length)[:-1], length)
            source = np.repeat(self._start[positions[mine]], length) + within
            out[np.repeat(offsets[mine], length) + within] = self.shards[number].rows[source]
        return self._given(out)


def _first(keys: np.ndarray, statuses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and where each is first; where it did not fail, if there is such a place."""
    failed = ~np.isin(statuses, _GOOD)
    if not failed.any():
        return np.unique(keys, return_index=True)
    order = np.argsort(failed, kind="stable")
    distinct, first = np.unique(keys[order], return_index=True)
    return distinct, order[first]


def _starts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n + 1,) int64: where each of n parts starts, and the end."""
    starts = np.empty(len(counts) + 1, np.int64)
    starts[0] = 0
    np.add.accumulate(counts, out=starts[1:])
    return starts


def _prefix(keys: np.ndarray) -> np.ndarray:
    """(n,) uint64 of the first 8 bytes of keys, in the order of the keys."""
    return np.ascontiguousarray(keys).view(">u8")[::2].astype(np.uint64)


def _join(empty: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([empty, *parts], dtype=empty.dtype)
