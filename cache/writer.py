"""Writing a block: items gathered in memory, one recorded shard after another."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import numpy as np

from cache import journal
from cache.errors import RangeError, StorePlaceError
from cache.keys import BlockSpec
from cache.shard import Item, write_shard

FLUSH_ROWS = 16_384
FLUSH_ITEMS = 65_536
FLUSH_BYTES = 64 << 20
FLUSH_SECONDS = 30.0


class BlockWriter:
    """Writes items of one block, a shard every `flush_rows` rows, `flush_bytes` bytes or `flush_seconds` seconds.

    What was flushed stays whatever happens after; leaving the `with` block flushes the rest, also on an exception.
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
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush as one recorded shard."""
        if self._items:
            try:
                path, digest = write_shard(self.place / "shards", self.spec, self._items)
                record = journal.Record(path.name, digest, path.stat().st_size, len(self._items), self._rows)
                journal.append(self.place / "journal", record)
            except OSError as error:
                raise StorePlaceError(
                    f"{self.place}: cannot write a shard ({error.strerror or error}); what was recorded before is kept"
                ) from error
            self._items, self._rows, self._bytes = [], 0, 0
        self._since = time.monotonic()


def _cast(rows: np.ndarray, dtype: np.dtype, spec: BlockSpec) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(rows, dtype=dtype)
    if dtype.kind == "f" and bool((~np.isfinite(cast) & np.isfinite(rows)).any()):
        worst = float(np.abs(rows[np.isfinite(rows)]).max())
        raise RangeError(f"{spec.name}: a value of {worst:g} does not fit {dtype}; set extract.dtype to float32")
    return cast
