"""The feature store: blocks of rows, found by key, grown shard by shard.

store = Store(Path("..."))
with store.writer(spec) as writer:
    writer.add(item_key(content), rows)
block = store.open(spec)
rows, offsets = block.rows([item_key(content)])
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from cache import journal
from cache.errors import DamagedError, MissingRowsError, RangeError, SchemaError, StorePlaceError
from cache.keys import BlockSpec, canonical_json, key_array, key_hex
from cache.shard import SCHEMA, STATUS_DTYPE, Item, Shard, open_shard, write_shard

FLUSH_ROWS = 16_384
FLUSH_ITEMS = 65_536
FLUSH_BYTES = 64 << 20
FLUSH_SECONDS = 30.0


@dataclass(frozen=True)
class BlockInfo:
    """A line of `kuleshov cache ls`: sizes in bytes, `newest` as seconds since the epoch (0 when empty)."""

    spec: BlockSpec
    path: Path
    shards: int
    items: int
    rows: int
    size: int
    newest: float


class Store:
    """A folder of blocks.

    Raises:
        StorePlaceError: the folder cannot be made or written.
        SchemaError: a newer version of Kuleshov wrote the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            (root / "blocks").mkdir(parents=True, exist_ok=True)
            self._check_schema()
        except OSError as error:
            raise StorePlaceError(
                f"{root}: the feature store cannot be used ({error.strerror}); mend it, or set KULESHOV_STORE"
            ) from None

    def _check_schema(self) -> None:
        place = self.root / "store.json"
        if not place.exists():
            _write_once(place, canonical_json({"schema": SCHEMA}))
        try:
            schema = int(json.loads(place.read_text())["schema"])
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"{place}: not readable as a store's description; restore or delete this file") from None
        if schema > SCHEMA:
            raise SchemaError(f"{self.root}: schema {schema}, this version reads up to {SCHEMA}; upgrade kuleshov")

    def place(self, spec: BlockSpec) -> Path:
        """The folder of a block: a name for people and the start of its key."""
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{spec.source}-{spec.tap}-{spec.level}")
        return self.root / "blocks" / f"{safe}-{spec.key[:16]}"

    def open(self, spec: BlockSpec) -> Block:
        """A block as it is recorded now. A block that nobody wrote is empty."""
        return Block(self.place(spec), spec)

    def writer(self, spec: BlockSpec, **limits: float) -> BlockWriter:
        """A writer of new items; `limits` are `flush_rows`, `flush_bytes`, `flush_seconds`."""
        place = self.place(spec)
        place.mkdir(parents=True, exist_ok=True)
        _write_once(place / "block.json", json.dumps({"key": spec.key, **spec.as_dict()}, indent=1, sort_keys=True))
        return BlockWriter(place, spec, **limits)

    def blocks(self) -> Iterator[BlockInfo]:
        """Every block in the store, by name."""
        for path in sorted((self.root / "blocks").iterdir()):
            spec = read_spec(path)
            if spec is None:
                continue
            records = journal.read(path / "journal")
            newest = max((p.stat().st_mtime for p in (path / "journal").glob("*.json")), default=0.0)
            yield BlockInfo(
                spec=spec,
                path=path,
                shards=len(records),
                items=sum(r.items for r in records),
                rows=sum(r.rows for r in records),
                size=sum(r.size for r in records),
                newest=newest,
            )


def read_spec(place: Path) -> BlockSpec | None:
    """The spec of the block in a folder, or None where the folder is not a block.

    Raises:
        DamagedError: `block.json` is not what was written.
    """
    try:
        fields = json.loads((place / "block.json").read_text())
        key = fields.pop("key")
        spec = BlockSpec.from_dict(fields)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{place / 'block.json'}: damaged; delete this file and run the stage again") from None
    if spec.key != key:
        raise DamagedError(
            f"{place / 'block.json'}: its key does not fit its fields; delete it and run the stage again"
        )
    return spec


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


def _join(empty: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([empty, *parts], dtype=empty.dtype)


def _cast(rows: np.ndarray, dtype: np.dtype, spec: BlockSpec) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(rows, dtype=dtype)
    if dtype.kind == "f" and bool((~np.isfinite(cast) & np.isfinite(rows)).any()):
        worst = float(np.abs(rows[np.isfinite(rows)]).max())
        raise RangeError(f"{spec.name}: a value of {worst:g} does not fit {dtype}; set extract.dtype to float32")
    return cast


def _write_once(path: Path, text: str) -> None:
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
