"""Taking in a shard that another store wrote: checked as on first use, recorded as a writer records its own.

A shard none of whose items is here is taken as it is, under its own name. Of one that has some, the other items are
written anew. So no item is recorded twice, and rows keep their bits.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from cache import dtypes, journal
from cache.errors import CacheError, DamagedError, SchemaError, StorePlaceError
from cache.keys import KEY_BYTES, BlockSpec, key_list
from cache.lock import commit_lock
from cache.pack import read_style
from cache.shard import STATUS_DTYPE, Shard, check_bytes, open_shard, sync_folder
from cache.store import Store
from cache.writer import BlockWriter, Recorded

_DATASETS = ("rows", "offsets", "item_keys", "item_status", "item_detail")


class Adopter:
    """Takes shards into one block; leaving the `with` block writes what was gathered from shards taken in part.

    Raises:
        StorePlaceError: the block's folder cannot be made or written.
    """

    def __init__(self, store: Store, spec: BlockSpec) -> None:
        self._store, self._spec = store, spec
        self._place = store.place(spec)
        self._recorded = Recorded(self._place)
        self._writer: BlockWriter | None = None
        try:
            store.writer(spec)  # makes the folder and its description
            (self._place / "shards").mkdir(exist_ok=True)
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Adopter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.flush()

    def temporary(self) -> Path:
        """A new name in the block's folder of shards, for the file to take; `gc` removes it if it is left there."""
        return self._place / "shards" / f".{os.getpid()}-{secrets.token_hex(6)}.tmp"

    def here(self, keys: set[bytes]) -> bool:
        """Whether all of these items are recorded."""
        return keys <= self._recorded.update()

    def take(self, file: Path, record: journal.Record) -> int:
        """Check a shard's file against its record and take it in; how many of its items were not here.

        The file, named by `temporary`, is renamed where it is taken as it is, and else left for the caller to delete.

        Raises:
            DamagedError: it is not the shard that the record says, or none of this block. Nothing of it was taken.
            SchemaError: a newer version of Kuleshov wrote it.
            StorePlaceError: the file system refused.
        """
        shard = _checked(file, self._spec, record)
        keys = key_list(shard.item_keys)
        try:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
            with commit_lock(self._place / "commit.lock"):
                recorded = self._recorded.update()
                new = [number for number, key in enumerate(keys) if key not in recorded]
                if len(new) == len(keys):
                    os.replace(file, self._place / "shards" / record.shard)
                    sync_folder(self._place / "shards")
                    self._recorded.add(journal.append(self._place / "journal", record), keys)
                    return len(new)
        except OSError as error:
            raise self._refused(error) from error
        if new:
            self._add(shard, keys, new)
        return len(new)

    def _add(self, shard: Shard, keys: list[bytes], numbers: list[int]) -> None:
        """Hand some items of a shard to the block's writer."""
        if self._writer is None:
            with h5py.File(shard.path, "r") as file:
                style = read_style(file)
            self._writer = self._store.writer(self._spec, style=style)
        rows = shard.rows
        widen = dtypes.name(self._spec) == dtypes.BFLOAT16
        for number in numbers:
            part = rows[shard.offsets[number] : shard.offsets[number + 1]]
            self._writer.add(
                keys[number],
                dtypes.from_bfloat16(part) if widen else part,
                status=bytes(shard.status[number]).decode(),
                detail=shard.details.get(number, ""),
            )

    def _refused(self, error: OSError) -> StorePlaceError:
        return StorePlaceError(
            f"{self._place}: cannot take in a shard ({error.strerror or error}); what was recorded before is kept; "
            "mend the cause and run it again"
        )


def _checked(file: Path, spec: BlockSpec, record: journal.Record) -> Shard:
    """Open a shard that somebody else wrote; whatever is wrong with it is one line that begins with its name."""
    try:
        check_bytes(file, record.sha256)
    except DamagedError:
        raise DamagedError(
            f"{record.shard}: its bytes do not hash to {record.sha256[:12]}, as its record says"
        ) from None
    try:
        with h5py.File(file, "r") as opened:  # before anything in it is followed
            own = all(_is_own(opened, name) for name in _DATASETS)
        shard = open_shard(file, record.sha256, spec.key) if own else None
        fits = shard is not None and _fits(shard, spec, record)
    except DamagedError:
        raise DamagedError(f"{record.shard}: it is a shard of another block than {spec.key[:12]}") from None
    except SchemaError as error:
        raise SchemaError(f"{record.shard}: {str(error).removeprefix(f'{file}: ')}") from None
    except CacheError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedError(
            f"{record.shard}: it cannot be read as a shard ({' '.join(str(error).split())[:200]})"
        ) from None
    if shard is None or not fits:
        raise DamagedError(f"{record.shard}: its datasets do not fit its record or the block's description")
    return shard


def _is_own(file: h5py.File, name: str) -> bool:
    """Whether a dataset's bytes lie in the file itself: no link and no external or virtual storage."""
    found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    return isinstance(found, h5py.Dataset) and not found.is_virtual and not found.external


def _fits(shard: Shard, spec: BlockSpec, record: journal.Record) -> bool:
    items, offsets = len(shard.item_keys), shard.offsets
    return (
        (items, shard.shape[0]) == (record.items, record.rows)
        and shard.shape[1:] == spec.shape
        and shard.dtype == dtypes.stored(spec)
        and shard.item_keys.dtype.itemsize == KEY_BYTES
        and (shard.status.shape, shard.status.dtype) == ((items,), STATUS_DTYPE)
        and all(word.isascii() and word.decode().isprintable() for word in np.unique(shard.status).tolist())
        and all(isinstance(text, str) for text in shard.details.values())
        and (offsets.shape, offsets.dtype) == ((items + 1,), np.dtype(np.int64))
        and int(offsets[0]) == 0
        and int(offsets[-1]) == record.rows
        and bool((np.diff(offsets) >= 0).all())
    )
