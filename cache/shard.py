"""One shard: an immutable HDF5 file with the rows of some items of one block.

Layout, public and readable by plain h5py, h5dump and h5ls (`cache/pack.py` writes it):

| dataset | shape, dtype | meaning |
|---|---|---|
| `rows` | (R, ...) block's dtype | the features, contiguous and uncompressed unless the block asks otherwise |
| `offsets` | (I + 1,) int64 | rows of item i are `rows[offsets[i]:offsets[i + 1]]` |
| `item_keys` | (I, 16) uint8 | key of each item |
| `item_status` | (I,) S16 | `ok`, `no_face`, or the reason it failed |
| `item_detail` | (D,) uint8 | JSON: item number -> one line about a failure |

Attributes of the file: `schema`, `key` (the block's key), `spec` (JSON of the block's spec) and its fields one by one,
`a row is` (in words), `writer` (versions), and what the stage adds, such as `licence` and `packages`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from cache.dtypes import to_bfloat16
from cache.errors import DamagedError, SchemaError, StorePlaceError
from cache.keys import KEY_DTYPE

SCHEMA = 1
STATUS_DTYPE = np.dtype("S16")


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Shard:
    """An opened shard: small tables in memory, its rows on disk (no HDF5 handle and no descriptor stays open).

    Attributes:
        shape: of the dataset `rows`, (R, ...).
        dtype: of its bytes; uint16 where they are bfloat16.
        offset: byte of the file where the rows start; None where they are compressed or there are none.
        offsets: (I + 1,) int64.
        item_keys: (I,) `KEY_DTYPE`.
        status: (I,) S16.
        details: item number -> one line.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None
    offsets: np.ndarray
    item_keys: np.ndarray
    status: np.ndarray
    details: dict[int, str]

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def rows(self) -> np.ndarray:
        """(R, ...) all rows as stored, read-only: a memory map made for this call, or decoded from compressed ones."""
        if self.offset is None:
            return _decoded(self.path)
        return map_dataset(self.path, self.shape, self.dtype, self.offset)


_checked: dict[Path, str] = {}
_HASH_BUFFER = 1 << 20
_HASH_THREADS = 4
_WORTH_THREADS = 16 << 20  # bytes


def check_bytes(path: Path, sha256: str) -> None:
    """Compare a shard's bytes with the journal's hash, once per process.

    Raises:
        DamagedError: the file is gone or its bytes are not those that were written.
        StorePlaceError: the file cannot be read (permission, a bad disk).
    """
    if _checked.get(path) == sha256:
        return
    try:
        found = _hash(path)
    except FileNotFoundError:
        raise DamagedError(
            f"{path}: the journal records this shard but the file is gone; bring it back, or delete its record "
            f"in {path.parent.parent / 'journal'} and run the stage again"
        ) from None
    except OSError as error:
        raise StorePlaceError(f"{path}: cannot be read ({error.strerror}); mend it and run the stage again") from None
    if found != sha256:
        raise DamagedError(
            f"{path}: its bytes hash to {found[:12]}, the journal says {sha256[:12]}; delete the file and its record "
            f"in {path.parent.parent / 'journal'} and run the stage again"
        )
    _checked[path] = sha256


def check_all(shards: Sequence[tuple[Path, str, int]]) -> None:
    """`check_bytes` of many (path, SHA-256, size in bytes), in threads where it pays: hashing leaves Python's lock.

    Raises:
        DamagedError: of the first that is damaged.
    """
    todo = [(path, sha256, size) for path, sha256, size in shards if _checked.get(path) != sha256]
    threads = min(_HASH_THREADS, os.cpu_count() or 1, len(todo))
    if threads < 2 or sum(size for _, _, size in todo) < _WORTH_THREADS:
        for path, sha256, _ in todo:
            check_bytes(path, sha256)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in [pool.submit(check_bytes, path, sha256) for path, sha256, _ in todo]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)  # one is damaged: the others need not be read


def _hash(path: Path) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_HASH_BUFFER))
    with open(path, "rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def open_shard(path: Path, sha256: str, key: str) -> Shard:
    """Open a checked shard of the block with this key.

    Raises:
        DamagedError: bytes differ from the journal's hash, or the file belongs to another block.
        SchemaError: a newer version of Kuleshov wrote it.
    """
    check_bytes(path, sha256)
    with h5py.File(path, "r") as file:
        schema = int(str(file.attrs["schema"]))
        if schema > SCHEMA:
            raise SchemaError(f"{path}: schema {schema}, this version reads up to {SCHEMA}; upgrade kuleshov")
        if file.attrs["key"] != key:
            raise DamagedError(f"{path}: belongs to block {str(file.attrs['key'])[:12]}, not {key[:12]}; move it away")
        keys = np.ascontiguousarray(_dataset(file, "item_keys")[()])
        details = json.loads(bytes(_dataset(file, "item_detail")[()]) or b"{}")
        rows = _dataset(file, "rows")
        return Shard(
            path=path,
            shape=rows.shape,
            dtype=_stored_dtype(rows),
            offset=rows.id.get_offset() if rows.size else None,
            offsets=_dataset(file, "offsets")[()],
            item_keys=keys.view(KEY_DTYPE).reshape(len(keys)),
            status=_dataset(file, "item_status")[()],
            details={int(i): text for i, text in details.items()},
        )


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise DamagedError(f"{file.filename}: {name} is not a dataset; delete the file and run the stage again")
    return found


def map_dataset(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> np.ndarray:
    """Memory-map a contiguous dataset that starts at byte `offset` of the file, read-only."""
    # A plain array over the map: slicing np.memmap objects costs three times as much.
    return np.asarray(np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=offset))


def _stored_dtype(rows: h5py.Dataset) -> np.dtype:
    """Of a dataset's bytes: h5py gives bfloat16, which numpy does not have, as float32."""
    return rows.dtype if rows.id.get_type().get_size() == rows.dtype.itemsize else np.dtype(np.uint16)


@lru_cache(maxsize=4)
def _decoded(path: Path) -> np.ndarray:
    """Rows of a shard that cannot be mapped. The last few are kept: a shard's bytes never change."""
    with h5py.File(path, "r") as file:
        rows = dataset_rows(file)
    rows.flags.writeable = False
    return rows


def dataset_rows(file: h5py.File) -> np.ndarray:
    """The dataset `rows` of an open shard, decoded, in the dtype of its bytes (uint16 for bfloat16)."""
    rows = _dataset(file, "rows")
    values = np.asarray(rows[()])
    return values if values.dtype == _stored_dtype(rows) else to_bfloat16(values)
