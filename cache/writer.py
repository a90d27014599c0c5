"""Writing a block: items gathered in memory, handed to one writer thread, a recorded shard after another.

Several processes, on several machines, may write the same block. Each writes shards of its own; only the commit, which
records a shard in the journal, is done by one at a time, and leaves out items that another recorded meanwhile.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from cache import dtypes, journal
from cache.errors import DamagedError, RangeError, StorePlaceError
from cache.keys import BlockSpec
from cache.lock import commit_lock
from cache.pack import PLAIN_STYLE, Pack, Style, write_shard

FLUSH_ROWS = 16_384
FLUSH_ITEMS = 65_536
FLUSH_BYTES = 64 << 20
FLUSH_SECONDS = 30.0
WAITING_SHARDS = 2
"""Shards handed to the writer thread and not written yet: bounds memory."""


class BlockWriter:
    """Writes items of one block, a shard every `flush_rows` rows, `flush_bytes` bytes or `flush_seconds` seconds.

    What was committed stays whatever happens after; leaving the `with` block writes the rest, also on an exception.

    Raises:
        StorePlaceError: from `add`, `flush` or leaving the block: a shard could not be written (disk full, read-only,
            permission). Nothing recorded before is lost.
    """

    def __init__(
        self,
        place: Path,
        spec: BlockSpec,
        flush_rows: float = FLUSH_ROWS,
        flush_bytes: float = FLUSH_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        style: Style = PLAIN_STYLE,
    ) -> None:
        self.place = place
        self.spec = spec
        row_bytes = max(math.prod(spec.shape) * dtypes.stored(spec).itemsize, 1)
        self._limit = min(flush_rows, flush_bytes / row_bytes)
        self._seconds = flush_seconds
        self._style = style
        self._gathered = _Gathered(spec, int(max(min(self._limit, FLUSH_ROWS), 1)))
        self._since = time.monotonic()
        self._pending: deque[Future[None]] = deque()
        self._recorded = Recorded(place)

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def add(self, key: bytes, rows: np.ndarray | None, *, status: str = "ok", detail: str = "") -> None:
        """Add an item's rows (n, *spec.shape), cast to the block's dtype; None for an item without rows.

        Raises:
            RangeError: a finite value would become inf.
            ValueError: the rows have another shape than the spec says.
            StorePlaceError: an earlier shard could not be written.
        """
        self._gathered.add(key, rows, status, detail)
        self._hand_over_in_time()

    def add_many(self, keys: Sequence[bytes], counts: Sequence[int], rows: np.ndarray) -> None:
        """Add items that are `ok`, at the cost of one: item i has the next `counts[i]` of the rows. As `add`, which
        adds none of them where it refuses one."""
        self._gathered.add_many(keys, counts, rows)
        self._hand_over_in_time()

    def flush(self) -> None:
        """Write what was added so far; returns when it is recorded."""
        self._hand_over(0)

    def _hand_over_in_time(self) -> None:
        gathered = self._gathered
        late = time.monotonic() - self._since >= self._seconds
        if gathered.count >= self._limit or len(gathered.keys) >= FLUSH_ITEMS or late:
            self._hand_over(WAITING_SHARDS)

    def _hand_over(self, waiting: int) -> None:
        """Give the gathered items to the writer thread, and wait until at most `waiting` shards are unwritten."""
        self._since = time.monotonic()
        pack = self._gathered.take()
        if pack.keys:
            self._pending.append(_thread().submit(_commit, self.place, self.spec, pack, self._recorded, self._style))
        failed: BaseException | None = None
        while self._pending and (len(self._pending) > waiting or self._pending[0].done()):
            failed = self._pending.popleft().exception() or failed
        if failed is not None:
            raise failed


class _Gathered:
    """Items of the next shard: their rows are cast into one array as they come.

    Attributes:
        keys: of the items.
        count: rows of all of them.
    """

    def __init__(self, spec: BlockSpec, capacity: int) -> None:
        self._spec, self._capacity = spec, capacity
        self._dtype, self._bfloat16 = dtypes.stored(spec), dtypes.name(spec) == dtypes.BFLOAT16
        self._start()

    def _start(self) -> None:
        self.keys: list[bytes] = []
        self.count = 0
        self._counts: list[int] = []
        self._statuses: list[str] = []
        self._details: dict[int, str] = {}
        self._rows: np.ndarray | None = None

    def add(self, key: bytes, rows: np.ndarray | None, status: str, detail: str) -> None:
        """See `BlockWriter.add`."""
        count = 0
        if rows is not None:
            count = len(rows)
            self._put(rows, self.count + count)
        if detail:
            self._details[len(self.keys)] = detail
        self.keys.append(key)
        self._counts.append(count)
        self._statuses.append(status)
        self.count += count

    def add_many(self, keys: Sequence[bytes], counts: Sequence[int], rows: np.ndarray) -> None:
        """See `BlockWriter.add_many`."""
        if len(keys) != len(counts) or sum(counts) != len(rows):
            raise ValueError(f"{self._spec.name}: {len(keys)} items, {len(counts)} counts, {len(rows)} rows")
        self._put(rows, self.count + len(rows))
        self.keys.extend(keys)
        self._counts.extend(counts)
        self._statuses.extend(["ok"] * len(keys))
        self.count += len(rows)

    def _put(self, rows: np.ndarray, end: int) -> None:
        if rows.shape[1:] != self._spec.shape:
            raise ValueError(f"{self._spec.name}: rows of shape {rows.shape[1:]}, the spec says {self._spec.shape}")
        if not len(rows):
            return
        if self._rows is None or end > len(self._rows):  # memory that nothing was put into costs nothing yet
            grown = np.empty((max(self._capacity, 2 * end if self.count else end), *self._spec.shape), self._dtype)
            if self._rows is not None:
                grown[: self.count] = self._rows[: self.count]
            self._rows = grown
        place = self._rows[self.count : end]
        if self._bfloat16:
            place[...] = dtypes.to_bfloat16(rows)
            _check_range(rows, dtypes.from_bfloat16(place), self._spec)
        elif self._dtype.kind != "f" or (rows.dtype.kind == "f" and rows.dtype.itemsize <= self._dtype.itemsize):
            place[...] = rows
        else:
            with np.errstate(over="ignore"):
                place[...] = rows
            _check_range(rows, place, self._spec)

    def take(self) -> Pack:
        """All items; the next `add` begins another shard."""
        rows = np.empty((0, *self._spec.shape), self._dtype) if self._rows is None else self._rows[: self.count]
        pack = Pack(self.keys, self._counts, self._statuses, self._details, rows)
        self._start()
        return pack


def _check_range(rows: np.ndarray, cast: np.ndarray, spec: BlockSpec) -> None:
    if bool(np.isfinite(cast).all()):
        return
    if bool((~np.isfinite(cast) & np.isfinite(rows)).any()):
        worst = float(np.abs(rows[np.isfinite(rows)]).max())
        raise RangeError(
            f"{spec.name}: a value of {worst:g} does not fit {dtypes.name(spec)}; set extract.dtype to float32"
        )


class Recorded:
    """Item keys that the journal had when this writer looked last. Only the writer thread touches it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._names: set[str] = set()
        self._keys: set[bytes] = set()

    def update(self) -> set[bytes]:
        """All recorded keys; reads only records and shards that are new."""
        for name in journal.names(self._place / "journal"):
            if name not in self._names:
                record = journal.parse(self._place / "journal" / name)
                self._names.add(name)
                self._keys.update(_item_keys(self._place / "shards" / record.shard))
        return self._keys

    def add(self, name: str, keys: Sequence[bytes]) -> None:
        """What this writer recorded itself."""
        self._names.add(name)
        self._keys.update(keys)


def _item_keys(path: Path) -> list[bytes]:
    try:
        with h5py.File(path, "r") as file:
            table = file["item_keys"]
            return [bytes(key) for key in np.asarray(table)]
    except (OSError, KeyError, RuntimeError):
        return []  # a damaged shard holds nothing; readers say so


def _commit(place: Path, spec: BlockSpec, pack: Pack, recorded: Recorded, style: Style) -> None:
    """Write the items as a shard and record it, without those that are recorded already.

    Raises:
        StorePlaceError: the file system refused.
    """
    try:
        pack = pack.without(recorded.update())
        while pack.keys:
            path, digest = write_shard(place / "shards", spec, pack, style)
            with commit_lock(place / "commit.lock"):
                left = pack.without(recorded.update())
                if left is pack and path.exists():  # after a long sleep `gc` may have taken it for debris
                    record = journal.Record(path.name, digest, path.stat().st_size, len(pack.keys), len(pack.rows))
                    recorded.add(journal.append(place / "journal", record), pack.keys)
                    return
            path.unlink(missing_ok=True)  # another writer recorded some of them meanwhile
            pack = left
    except DamagedError:
        raise
    except (OSError, RuntimeError) as error:  # HDF5 says some write errors as RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        raise StorePlaceError(
            f"{place}: cannot write a shard ({' '.join(reason.split())[:200]}); what was recorded before is kept; mend "
            "the cause and run the stage again"
        ) from error


_threads: dict[int, ThreadPoolExecutor] = {}
_threads_guard = threading.Lock()


def _thread() -> ThreadPoolExecutor:
    """The process's one writer thread (h5py has one lock for all of HDF5); a forked child gets its own."""
    with _threads_guard:
        if os.getpid() not in _threads:
            _threads.clear()
            _threads[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="kuleshov-writer")
        return _threads[os.getpid()]
