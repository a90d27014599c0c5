"""Blocks in one file: an HDF5 with every row, or an npz with one pooled row an item.

Items are in the order of their keys, so equal contents give equal files, whatever shards they came from.
"""

from __future__ import annotations

import os
import secrets
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cache import dtypes, notes
from cache.block import Block
from cache.errors import DamagedError, StorePlaceError
from cache.keys import KEY_BYTES, BlockSpec, canonical_json
from cache.shard import SCHEMA
from cache.store import Store

CHUNK_BYTES = 32 << 20
"""Rows read and written at once: bounds memory (an item is never split)."""


def named(specs: Sequence[BlockSpec]) -> dict[str, BlockSpec]:
    """`LEVEL/SOURCE/TAP` -> spec, sorted; `LEVEL/SOURCE/TAP@KEY16` where several of the blocks have the same name."""
    plain = {spec.key: "/".join(_safe(part) for part in (spec.level, spec.source, spec.tap)) for spec in specs}
    count = Counter(plain.values())
    names = {f"{plain[s.key]}@{s.key[:16]}" if count[plain[s.key]] > 1 else plain[s.key]: s for s in specs}
    return dict(sorted(names.items()))


def _safe(part: str) -> str:
    cleaned = part.replace("/", "_")
    return cleaned if cleaned.strip(".") else "_"  # HDF5 reads `.` as this group


def chunks(block: Block, keys: np.ndarray, limit: int = CHUNK_BYTES) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of many items, a few items at a time: (R, ...) and offsets (n + 1,) int64, in the order of `keys`."""
    row_bytes = block.rows([])[0].dtype.itemsize * int(np.prod(block.spec.shape, dtype=np.int64))
    sizes = np.cumsum(np.maximum(block.count(keys) * row_bytes, 64))  # items without rows cost a little too
    start = 0
    while start < len(keys):
        before = int(sizes[start - 1]) if start else 0
        stop = max(int(np.searchsorted(sizes, before + limit, side="right")), start + 1)
        yield block.rows(keys[start:stop])
        start = stop


Samples = Mapping[str, Mapping[str, Sequence[bytes]]]
"""Sample_id -> kind of item (`photo`, `boxes`, `faces`; the same kinds for all samples) -> item keys."""


def write_h5(
    out: Path, store: Store, specs: Sequence[BlockSpec], *, overwrite: bool = False, samples: Samples | None = None
) -> int:
    """Write blocks as one HDF5 file, in bounded memory; it appears whole or not at all.

    Each block is a group `LEVEL/SOURCE/TAP` (see `named`) with the attributes `key` and `spec` (JSON) and the datasets

    | dataset | shape, dtype | meaning |
    |---|---|---|
    | `rows` | (R, ...) the block's dtype | contiguous and uncompressed |
    | `offsets` | (I + 1,) int64 | rows of item `i` are `rows[offsets[i]:offsets[i + 1]]` |
    | `item_keys` | (I, 16) uint8 | sorted |
    | `item_status` | (I,) S16 | `ok`, `no_face`, or why it failed |
    | `notes/NAME` | (N,) uint8 | the bytes of each note that the block has (`seen.json`) |

    With `samples` a group `samples` has `sample_id` (S,) UTF-8, sorted, and for each kind of item `KIND_keys` (n, 16)
    uint8 and `KIND_offsets` (S + 1,) int64: sample `s` has `KIND_keys[KIND_offsets[s]:KIND_offsets[s + 1]]`.

    Returns the number of rows written.

    Raises:
        StorePlaceError: `out` is there and `overwrite` is not set, or it cannot be written.
        DamagedError: of a shard, before any of its rows is used.
    """

    def fill(temporary: Path) -> int:
        with h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            if samples is not None:
                _fill_samples(file.create_group("samples"), samples)
            rows = 0
            for name, spec in named(specs).items():
                group = file.create_group(name)
                for note, content in notes_of(store, spec).items():
                    group.create_dataset(f"notes/{note}", data=_as_bytes(content))
                rows += _fill(group, opened(store, spec))
            return rows

    return whole_file(out, fill, overwrite=overwrite)


def opened(store: Store, spec: BlockSpec) -> Block:
    """A block to read from.

    Raises:
        DamagedError: it cannot be read; so a fault of the store is not taken for one of the file that is written.
    """
    try:
        return store.open(spec)
    except OSError as error:
        raise DamagedError(
            f"{store.place(spec)}: cannot be read ({_reason(error)}); kuleshov cache verify says more"
        ) from error


def notes_of(store: Store, spec: BlockSpec) -> dict[str, bytes]:
    """Name -> bytes of each note of a block, by name; see `cache.notes`."""
    found = {name: store.note(spec, name) for name in notes.names(store.places(spec))}
    return {name: content for name, content in found.items() if content is not None}


def _as_bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _reason(error: Exception) -> str:
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split())[:200]


def _fill(group: h5py.Group, block: Block) -> int:
    counts = block.count(block.keys)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    group.attrs["key"] = block.spec.key
    group.attrs["spec"] = canonical_json(block.spec.as_dict())
    group.create_dataset("item_keys", data=key_bytes(block.keys))
    group.create_dataset("item_status", data=np.array([s.encode() for s in block.statuses(block.keys)], dtype="S16"))
    group.create_dataset("offsets", data=offsets)
    dtype = block.rows([])[0].dtype
    rows = group.create_dataset("rows", shape=(int(offsets[-1]), *block.spec.shape), dtype=dtype)
    start = 0
    for part, _ in chunks(block, block.keys):
        if len(part):
            rows[start : start + len(part)] = part
        start += len(part)
    return start


def _fill_samples(group: h5py.Group, samples: Samples) -> None:
    names = sorted(samples)
    group.create_dataset("sample_id", data=names, shape=(len(names),), dtype=h5py.string_dtype())
    for kind in sorted({kind for kinds in samples.values() for kind in kinds}):
        keys = [samples[name][kind] for name in names]
        joined = np.frombuffer(b"".join(key for part in keys for key in part), np.uint8)
        group.create_dataset(f"{kind}_keys", data=joined.reshape(-1, KEY_BYTES))
        ends = np.concatenate([[0], np.cumsum([len(part) for part in keys])])
        group.create_dataset(f"{kind}_offsets", data=ends.astype(np.int64))


def key_bytes(keys: np.ndarray) -> np.ndarray:
    """Item keys (I,) `KEY_DTYPE` as (I, 16) uint8."""
    return np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), KEY_BYTES)


@dataclass(frozen=True)
class Pooled:
    """Pooled features of some items of a block.

    Attributes:
        keys: (n, 16) uint8 item keys, in order.
        counts: (n,) int64, rows that were pooled, at least 1.
        features: (n, ...) float32, the mean of each item's rows.
    """

    keys: np.ndarray
    counts: np.ndarray
    features: np.ndarray


def pooled(block: Block, limit: int = CHUNK_BYTES // 4) -> Iterator[Pooled]:
    """The mean over each item's rows (a photo's faces), in the order of the keys, a few items at a time.

    Sums are taken in float64 (four times the bytes of float16), row after row. Items without rows (no face, failed)
    have no mean and are left out.
    """
    keys = block.keys[block.count(block.keys) > 0]
    done = 0
    for rows, offsets in chunks(block, keys, limit):
        counts = np.diff(offsets)
        sums = np.add.reduceat(rows.astype(np.float64), offsets[:-1], axis=0)
        means = sums / counts.reshape(-1, *[1] * (rows.ndim - 1))
        yield Pooled(key_bytes(keys[done : done + len(counts)]), counts, means.astype(np.float32))
        done += len(counts)


def is_feature(spec: BlockSpec) -> bool:
    """Whether a block's rows are vectors that a network made: what is pooled when nobody names blocks."""
    floating = dtypes.given(spec).kind == "f"
    return floating and len(spec.shape) == 1 and spec.tap != "boxes"


def write_npz(out: Path, store: Store, specs: Sequence[BlockSpec], *, overwrite: bool = False) -> int:
    """Write the pooled features of blocks as one npz, in bounded memory; it appears whole or not at all.

    For each block (named as in `named`) three arrays: `NAME/features` (n, ...) float32, `NAME/item_keys` (n, 16) uint8
    and `NAME/counts` (n,) int64, see `Pooled`, and `NAME/notes/NOTE` (N,) uint8 for each note. Returns the number of
    items written.

    Raises:
        StorePlaceError, DamagedError: as `write_h5`.
    """

    def fill(temporary: Path) -> int:
        total = 0
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, spec in named(specs).items():
                block = opened(store, spec)
                kept = int((block.count(block.keys) > 0).sum())
                total += kept
                _array(archive, f"{name}/features", "<f4", (kept, *spec.shape), (p.features for p in pooled(block)))
                keys = block.keys[block.count(block.keys) > 0]
                _array(archive, f"{name}/item_keys", "|u1", (kept, KEY_BYTES), [key_bytes(keys)])
                _array(archive, f"{name}/counts", "<i8", (kept,), [block.count(keys)])
                for note, content in notes_of(store, spec).items():
                    _array(archive, f"{name}/notes/{note}", "|u1", (len(content),), [_as_bytes(content)])
        return total

    return whole_file(out, fill, overwrite=overwrite)


def _array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    parts: Iterator[np.ndarray] | Sequence[np.ndarray],
) -> None:
    # an entry of one date: equal contents are equal bytes
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": dtype, "fortran_order": False, "shape": shape})
        for part in parts:
            handle.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


def whole_file(out: Path, fill: Callable[[Path], int], *, overwrite: bool) -> int:
    """Let `fill` write a file under a temporary name beside `out`, sync it and rename it; what `fill` returns.

    Raises:
        StorePlaceError: `out` is there and `overwrite` is not set, is a folder, or cannot be written.
    """
    if out.is_dir() or (out.exists() and not overwrite):
        remedy = "name a file" if out.is_dir() else "name another file, or replace it with --force"
        raise StorePlaceError(f"{out} is there already; {remedy}")
    temporary = out.with_name(f".{out.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        result = fill(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, out)
    except (OSError, RuntimeError) as error:  # HDF5 says some write errors as RuntimeError
        raise StorePlaceError(f"{out}: cannot be written ({_reason(error)}); nothing is left") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return result
