"""Writing one shard: the items of a pack as an immutable HDF5 file.

HDF5 writes the file's metadata and small tables into memory; rows follow from where they were gathered, by one plain
write. So no row is copied on its way to the disk, and a full disk is an OSError: HDF5 itself crashes the process there.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cache import dtypes
from cache.keys import KEY_BYTES, LEVEL_ROWS, BlockSpec, canonical_json
from cache.shard import SCHEMA, STATUS_DTYPE, sync_folder

COMPRESSIONS = ("none", "gzip", "lzf")
_PAGE = 4096  # rows start on a page of the file, so that maps of them do


@dataclass(frozen=True)
class Pack:
    """Items of one shard.

    Attributes:
        keys: of the items, 16 bytes each.
        counts: rows of each.
        statuses: `ok`, `no_face`, or why it failed.
        details: item number -> one line about a failure.
        rows: (R, *spec.shape) of the block's stored dtype, the items' one after another.
    """

    keys: Sequence[bytes]
    counts: Sequence[int]
    statuses: Sequence[str]
    details: Mapping[int, str]
    rows: np.ndarray

    def without(self, keys: Collection[bytes]) -> Pack:
        """The pack without these items, and with the first of any that it holds twice; itself where nothing goes."""
        first: dict[bytes, int] = {}
        for number, key in enumerate(self.keys):
            if key not in keys:
                first.setdefault(key, number)
        if len(first) == len(self.keys):
            return self
        kept = list(first.values())
        stays = np.zeros(len(self.keys), bool)
        stays[kept] = True
        return Pack(
            keys=[self.keys[i] for i in kept],
            counts=[self.counts[i] for i in kept],
            statuses=[self.statuses[i] for i in kept],
            details={new: self.details[old] for new, old in enumerate(kept) if old in self.details},
            rows=self.rows[np.repeat(stays, self.counts)],
        )


@dataclass(frozen=True)
class Style:
    """How shards of a block are written; nothing here changes a value or a key.

    Attributes:
        compression: of the rows: `none`, `gzip` or `lzf`. Compressed rows cannot be mapped: reading them is slow.
        made_by: what people want to know later: licence of the weights, versions of packages.
    """

    compression: str = "none"
    made_by: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise ValueError(f"compression is {self.compression!r}: use one of {', '.join(COMPRESSIONS)}")


PLAIN_STYLE = Style()


def write_shard(folder: Path, spec: BlockSpec, pack: Pack, style: Style = PLAIN_STYLE) -> tuple[Path, str]:
    """Write a pack as one shard: temporary name, fsync, rename to a name of its own, fsync the folder.

    Returns the path and the SHA-256 (hex) of the file's bytes. Until the journal records it, it does not exist.

    Raises:
        OSError: the file system refused; nothing is left behind.
    """
    parts = _parts(spec, pack, style)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    name = digest.hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}-{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "wb", buffering=0) as handle:
            for left in parts:
                while left:
                    left = left[handle.write(left) :]
            os.fsync(handle.fileno())
        # Equal items give equal bytes: the second half keeps one writer from removing another's file.
        path = folder / f"{name[:24]}-{secrets.token_hex(4)}.h5"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return path, name


def _parts(spec: BlockSpec, pack: Pack, style: Style) -> list[memoryview]:
    """The bytes of the file: what HDF5 wrote, with the rows in the place that it left for them."""
    image = io.BytesIO()
    with h5py.File(image, "w", alignment_threshold=_PAGE, alignment_interval=_PAGE) as file:
        _describe(file, spec, style)
        _tables(file, pack)
        gap = _rows(file, spec, pack.rows, style)
    content = image.getbuffer()
    if gap is None:
        return [content]
    rows = np.ascontiguousarray(pack.rows).reshape(-1).view(np.uint8).data
    padding = memoryview(bytes(max(gap - len(content), 0)))
    return [content[:gap], padding, rows, content[gap + len(rows) :]]


def _describe(file: h5py.File, spec: BlockSpec, style: Style) -> None:
    """What made the rows, as one JSON for programs and field by field for people."""
    file.attrs["schema"] = SCHEMA
    file.attrs["key"] = spec.key
    file.attrs["spec"] = canonical_json(spec.as_dict())
    file.attrs["a row is"] = LEVEL_ROWS[spec.level]
    for field in ("source", "tap", "level", "extractor_version"):
        file.attrs[field] = getattr(spec, field)
    for field in ("weights", "preprocessing", "inputs", "numerics"):
        file.attrs[field] = canonical_json(dict(getattr(spec, field)))
    for field, text in style.made_by:
        file.attrs[field] = text
    versions = {"h5py": h5py.__version__, "numpy": np.__version__, "python": platform.python_version()}
    file.attrs["writer"] = canonical_json({"kuleshov schema": SCHEMA, **versions})


def read_style(file: h5py.File) -> Style:
    """How an open shard was written."""
    rows = file["rows"]
    compression = str(getattr(rows, "compression", None) or "none")
    known = {"schema", "key", "spec", "a row is", "writer", *BlockSpec.__dataclass_fields__}
    made_by = tuple((field, str(text)) for field, text in file.attrs.items() if field not in known)
    return Style(compression, made_by)


def _tables(file: h5py.File, pack: Pack) -> None:
    file.create_dataset("offsets", data=np.concatenate([[0], np.cumsum(pack.counts)]).astype(np.int64))
    keys = np.frombuffer(b"".join(pack.keys), dtype=np.uint8)
    file.create_dataset("item_keys", data=keys.reshape(len(pack.keys), KEY_BYTES))
    file.create_dataset("item_status", data=np.array([s.encode() for s in pack.statuses], dtype=STATUS_DTYPE))
    details = canonical_json({str(i): text for i, text in pack.details.items()})
    file.create_dataset("item_detail", data=np.frombuffer(details.encode(), dtype=np.uint8))


def _rows(file: h5py.File, spec: BlockSpec, rows: np.ndarray, style: Style) -> int | None:
    """Make the dataset `rows`; the byte where the rows are to be put, or None where they are written already."""
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_obj_track_times(False)  # equal rows are equal bytes, whenever they are written
    if style.compression != "none" and rows.size:
        row_bytes = max(rows[:1].nbytes, 1)
        options.set_chunk((max(min(len(rows), (1 << 20) // row_bytes), 1), *spec.shape))
        options.set_shuffle()
        if style.compression == "gzip":
            options.set_deflate(4)
        else:
            options.set_filter(h5py.h5z.FILTER_LZF, h5py.h5z.FLAG_OPTIONAL)
    else:
        options.set_layout(h5py.h5d.CONTIGUOUS)
        options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = dtypes.file_type(spec), h5py.h5s.create_simple(rows.shape)
    made = h5py.h5d.create(file.id, b"rows", kind, space, options)
    if not rows.size:
        return None
    if style.compression == "none":
        return made.get_offset()
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(rows), mtype=kind)
    return None
