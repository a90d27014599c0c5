"""Read-only maps of the rows of many shards in one range of addresses, without a file descriptor that stays open.

Python's `mmap` keeps a descriptor for every map, so a block of many shards would meet `ulimit -n`. Here a range of
addresses is reserved and each shard's rows are mapped into it, so one numpy index reaches the rows of every shard.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import DamagedError, StorePlaceError

RESIDENT_BYTES = 256 << 20
"""How much of all maps of this process may count as its memory before the pages are handed back (they stay in the
system's page cache). Blocks that are smaller in sum never lose a page."""

_CHUNK_BYTES = 4 << 20  # of one index: bounds the pages it touches at once
_LONG_RUN = 64 << 10  # bytes a run, from which on a copy of its own is as fast as an index
_FAULT_BYTES = 64 << 10  # Linux maps up to 16 pages around the one that was touched
_MAP_FIXED = 0x10  # not in Python's mmap; the same on Linux and macOS
_FAILED = ctypes.c_void_p(-1).value

SUPPORTED = os.name == "posix" and ctypes.sizeof(ctypes.c_void_p) == 8


@dataclass(frozen=True)
class Extent:
    """Where the contiguous rows of a shard lie in its file: (R, ...) rows of `row_bytes` from byte `offset`."""

    path: Path
    offset: int
    rows: int
    row_bytes: int


class RowSpace:
    """The rows of several shards at places in one range of addresses.

    A place counts units of `unit` bytes from the start of the range; a row is `step` units long, so rows of one shard
    lie `step` apart. Shards start where the system's pages allow, hence the units.

    Attributes:
        starts: (S,) int64, place of the first row of each extent.
        step: units a row.

    Raises:
        DamagedError: a file is shorter than its extent.
        StorePlaceError: a file cannot be opened or mapped.
    """

    def __init__(self, extents: Sequence[Extent], row_bytes: int) -> None:
        if row_bytes <= 0 or not extents:
            raise ValueError(f"nothing to map: {len(extents)} extents with rows of {row_bytes} bytes")
        page = mmap.ALLOCATIONGRANULARITY
        heads = [e.offset % page for e in extents]
        lengths = [head + e.rows * row_bytes for head, e in zip(heads, extents, strict=True)]
        bases = np.concatenate([[0], np.cumsum([-(-length // page) * page for length in lengths])]).astype(np.int64)
        first_bytes = [int(base) + head for base, head in zip(bases, heads, strict=False)]
        self._range = _Range(int(bases[-1]))
        for extent, base, head, length in zip(extents, bases.tolist(), heads, lengths, strict=False):
            self._range.map(extent, base, head, length)
        unit = math.gcd(row_bytes, *first_bytes)
        self.starts = np.array(first_bytes, np.int64) // unit
        self.step = row_bytes // unit
        self._unit, self._row_bytes = unit, row_bytes
        self._bytes = np.asarray(self._range)
        count = (self._range.size - row_bytes) // unit + 1
        # Overlapping elements, one at every unit: an index reaches each row of each shard without a copy.
        self._rows = np.ndarray((count,), np.dtype(f"V{row_bytes}"), buffer=self._bytes.data, strides=(unit,))

    def view(self, place: int, rows: int) -> np.ndarray:
        """`rows` rows that follow each other from `place`: (rows * row_bytes,) uint8, read-only, not copied."""
        self._range.charge(rows * self._row_bytes + _FAULT_BYTES)
        return self._view(place, rows)

    def _view(self, place: int, rows: int) -> np.ndarray:
        start = place * self._unit
        return self._bytes[start : start + rows * self._row_bytes]

    def take(self, places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Copy runs of rows: (R * row_bytes,) uint8.

        Args:
            places: (n,) int64, where each run starts.
            offsets: (n + 1,) int64, of each run in the result, in rows, and the end.
        """
        total = int(offsets[-1]) * self._row_bytes
        if total > _LONG_RUN * len(places):
            return self._take_long(places, offsets)
        if total <= _CHUNK_BYTES:
            return self._take_short(places, offsets)
        out = np.empty(total, np.uint8)
        chunk = max(_CHUNK_BYTES // self._row_bytes, 1)
        cuts = np.searchsorted(offsets, np.arange(0, int(offsets[-1]), chunk)).tolist()
        for first, last in zip(cuts, [*cuts[1:], len(places)], strict=True):
            start, stop = int(offsets[first]), int(offsets[last])
            part = self._take_short(places[first:last], offsets[first : last + 1] - start)
            out[start * self._row_bytes : stop * self._row_bytes] = part
        return out

    def _take_short(self, places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """One index over all rows of all runs: no step of Python per run."""
        step, starts, total = self.step, offsets[:-1], int(offsets[-1])
        self._range.charge(total * self._row_bytes + len(places) * _FAULT_BYTES)
        shift = places - (starts if step == 1 else starts * step)
        index = shift.repeat(offsets[1:] - starts)
        index += np.arange(0, total * step, step)
        return self._rows[index].view(np.uint8)

    def _take_long(self, places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """A plain copy for each run."""
        ends = (offsets * self._row_bytes).tolist()
        out = np.empty(ends[-1], np.uint8)
        for i, (place, count) in enumerate(zip(places.tolist(), np.diff(offsets).tolist(), strict=True)):
            self._range.charge(ends[i + 1] - ends[i] + _FAULT_BYTES)
            out[ends[i] : ends[i + 1]] = self._view(place, count)
        return out


class _Range:
    """Reserved addresses, unmapped when nothing refers to them any more; numpy reads them as (size,) uint8."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.touched = 0  # an upper bound of the bytes that the system counts as ours
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self.address = _call_mmap(None, size, mmap.PROT_READ, flags, -1, 0)
        except OSError as error:
            raise StorePlaceError(f"{size} bytes of addresses for a block: {error.strerror}; raise ulimit -v") from None
        self.__array_interface__ = {"data": (self.address, True), "shape": (size,), "typestr": "|u1", "version": 3}
        weakref.finalize(self, _libc().munmap, self.address, size).atexit = False  # a thread may read to the last
        with _guard:
            _ranges.add(self)

    def map(self, extent: Extent, base: int, head: int, length: int) -> None:
        """Map an extent of a file, from its page on (`head` bytes before its first row), at `base`."""
        try:
            descriptor = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorePlaceError(f"{extent.path}: cannot be read ({error.strerror}); mend it and run again") from None
        try:
            if os.fstat(descriptor).st_size < extent.offset - head + length:
                raise DamagedError(f"{extent.path}: cut short; delete the file and its record and run the stage again")
            flags = mmap.MAP_SHARED | _MAP_FIXED
            _call_mmap(self.address + base, length, mmap.PROT_READ, flags, descriptor, extent.offset - head)
        except OSError as error:
            raise StorePlaceError(
                f"{extent.path}: cannot be mapped ({error.strerror}); raise vm.max_map_count"
            ) from None
        finally:
            os.close(descriptor)

    def charge(self, size: int) -> None:
        """Count bytes that are about to be read."""
        before, self.touched = self.touched, min(self.touched + size, self.size)
        if self.touched > before:
            hand_back(RESIDENT_BYTES)

    def hand_back(self) -> None:
        """Forget the pages; the next access finds them in the page cache or on disk."""
        _libc().madvise(self.address, self.size, mmap.MADV_DONTNEED)
        self.touched = 0


_ranges: weakref.WeakSet[_Range] = weakref.WeakSet()
_guard = threading.Lock()


def hand_back(limit: int) -> None:
    """Give the pages of all maps back when those touched since the last time add up to more than `limit` bytes."""
    with _guard:
        ranges = list(_ranges)
    if sum(r.touched for r in ranges) > limit:
        for one in ranges:
            one.hand_back()


_loaded: list[Any] = []


def _libc() -> Any:
    if not _loaded:
        libc = ctypes.CDLL(None, use_errno=True)
        size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        libc.mmap.restype = pointer
        libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
        libc.munmap.argtypes = [pointer, size]
        libc.madvise.argtypes = [pointer, size, number]
        _loaded.append(libc)
    return _loaded[0]


def _call_mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
    found = _libc().mmap(address, size, protection, flags, descriptor, offset)
    if found == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found
