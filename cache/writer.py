"""Writing a block: items gathered in memory, handed to one writer thread, a recorded shard after another.

Several processes, on several machines, may write the same block. Each writes shards of its own; only the commit, which
records a shard in the journal, is done by one at a time, and leaves out items that another recorded meanwhile.
"""

from __future__ import annotations

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

from cache import journal
from cache.errors import DamagedError, RangeError, StorePlaceError
from cache.keys import BlockSpec
from cache.lock import commit_lock
from cache.shard import Item, write_shard

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
    ) -> None:
        self.place = place
        self.spec = spec
        self._dtype = np.dtype(spec.numerics.get("dtype", "float32"))
        self._limits = (flush_rows, flush_bytes, flush_seconds)
        self._items: list[Item] = []
        self._rows = self._bytes = 0
        self._since = time.monotonic()
        self._pending: deque[Future[None]] = deque()
        self._recorded = _Recorded(place)

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
        rows = np.empty((0, *self.spec.shape), self._dtype) if rows is None else rows
        if rows.shape[1:] != self.spec.shape:
            raise ValueError(f"{self.spec.name}: rows of shape {rows.shape[1:]}, the spec says {self.spec.shape}")
        self._items.append(Item(key, _cast(rows, self._dtype, self.spec), status, detail))
        self._rows += len(rows)
        self._bytes += self._items[-1].rows.nbytes
        rows_limit, bytes_limit, seconds = self._limits
        late = time.monotonic() - self._since >= seconds
        if self._rows >= rows_limit or self._bytes >= bytes_limit or len(self._items) >= FLUSH_ITEMS or late:
            self._hand_over(WAITING_SHARDS)

    def flush(self) -> None:
        """Write what was added so far; returns when it is recorded."""
        self._hand_over(0)

    def _hand_over(self, waiting: int) -> None:
        """Give the gathered items to the writer thread, and wait until at most `waiting` shards are unwritten."""
        items, self._items, self._rows, self._bytes = self._items, [], 0, 0
        self._since = time.monotonic()
        if items:
            self._pending.append(_thread().submit(_commit, self.place, self.spec, items, self._recorded))
        failed: BaseException | None = None
        while self._pending and (len(self._pending) > waiting or self._pending[0].done()):
            failed = self._pending.popleft().exception() or failed
        if failed is not None:
            raise failed


class _Recorded:
    """Item keys that the journal had when this writer looked last. Only the writer thread touches it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._shards: set[str] = set()
        self._keys: set[bytes] = set()

    def update(self) -> set[bytes]:
        """All recorded keys; reads only shards that are new."""
        for record in journal.read(self._place / "journal"):
            if record.shard not in self._shards:
                self._shards.add(record.shard)
                self._keys.update(_item_keys(self._place / "shards" / record.shard))
        return self._keys


def _item_keys(path: Path) -> list[bytes]:
    try:
        with h5py.File(path, "r") as file:
            table = file["item_keys"]
            return [bytes(key) for key in np.asarray(table)]
    except (OSError, KeyError, RuntimeError):
        return []  # a damaged shard holds nothing; readers say so


def _commit(place: Path, spec: BlockSpec, items: Sequence[Item], recorded: _Recorded) -> None:
    """Write the items as a shard and record it, without those that are recorded already.

    Raises:
        StorePlaceError: the file system refused.
    """
    try:
        while items := _new(items, recorded.update()):
            path, digest = write_shard(place / "shards", spec, items)
            with commit_lock(place / "commit.lock"):
                left = _new(items, recorded.update())
                if len(left) == len(items):
                    rows = sum(len(item.rows) for item in items)
                    journal.append(
                        place / "journal", journal.Record(path.name, digest, path.stat().st_size, len(items), rows)
                    )
                    return
            path.unlink(missing_ok=True)  # another writer recorded some of them meanwhile
            items = left
    except DamagedError:
        raise
    except (OSError, RuntimeError) as error:  # HDF5 says some write errors as RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        raise StorePlaceError(
            f"{place}: cannot write a shard ({' '.join(reason.split())[:200]}); what was recorded before is kept; mend "
            "the cause and run the stage again"
        ) from error


def _new(items: Sequence[Item], recorded: set[bytes]) -> list[Item]:
    """Items not recorded yet, each key once (the first)."""
    found: dict[bytes, Item] = {}
    for item in items:
        if item.key not in recorded:
            found.setdefault(item.key, item)
    return list(found.values())


_threads: dict[int, ThreadPoolExecutor] = {}
_threads_guard = threading.Lock()


def _thread() -> ThreadPoolExecutor:
    """The process's one writer thread (h5py has one lock for all of HDF5); a forked child gets its own."""
    with _threads_guard:
        if os.getpid() not in _threads:
            _threads.clear()
            _threads[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="kuleshov-writer")
        return _threads[os.getpid()]


def _cast(rows: np.ndarray, dtype: np.dtype, spec: BlockSpec) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.array(rows, dtype=dtype, order="C")  # a copy: the caller may reuse its buffer
    if dtype.kind != "f" or (rows.dtype.kind == "f" and rows.dtype.itemsize <= dtype.itemsize) or not rows.size:
        return cast
    if np.abs(rows).max() <= np.finfo(dtype).max:  # no NaN either: it compares as false
        return cast
    if bool((~np.isfinite(cast) & np.isfinite(rows)).any()):
        worst = float(np.abs(rows[np.isfinite(rows)]).max())
        raise RangeError(f"{spec.name}: a value of {worst:g} does not fit {dtype}; set extract.dtype to float32")
    return cast
