"""Forgetting failed items, so that the next run of a stage tries them again.

Shards are immutable: one that holds failed items is replaced by one without them. The new shard is recorded before the
old record goes. A process that ends in between leaves every good item recorded twice with the same rows, of which
readers take one, and the failed items as they were: a second call finishes the work. While both are recorded, a failed
item that another writer computed meanwhile may still read as failed, since a reader takes the first shard by name; so
call it while no stage writes the block, and again after it was cut short.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from cache import journal
from cache.errors import CacheError, DamagedError, StorePlaceError
from cache.keys import KEY_BYTES, BlockSpec
from cache.lock import commit_lock
from cache.shard import Item, check_bytes, sync_folder, write_shard
from cache.store import BlockInfo

GOOD = frozenset({"ok", "no_face"})
"""Statuses of items that did not fail."""


def forget_failed(info: BlockInfo) -> dict[bytes, str]:
    """Take the failed items out of a block; item key -> the status it had.

    Memory is bounded by the largest shard. A shard without failed items is not touched.

    Raises:
        DamagedError: a shard or a record is not what was written; shards done before stay done.
        StorePlaceError: the file system refused; nothing that is recorded is lost.
    """
    place = info.path
    forgotten: dict[bytes, str] = {}
    try:
        for record in journal.read(place / "journal"):
            path = place / "shards" / record.shard
            check_bytes(path, record.sha256)
            failed = _failed(path)
            if failed:
                _replace(place, info.spec, record, set(failed))
                forgotten.update(failed)
    except CacheError:
        raise
    except (OSError, RuntimeError) as error:  # HDF5 says some errors as RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        raise StorePlaceError(
            f"{place}: failed items cannot be forgotten ({' '.join(reason.split())[:200]}); what is recorded is kept; "
            "mend the cause and run it again"
        ) from error
    return forgotten


def _failed(path: Path) -> dict[bytes, str]:
    with h5py.File(path, "r") as file:
        keys, statuses = np.asarray(file["item_keys"]), np.asarray(file["item_status"])
    pairs = zip(keys, (bytes(status).decode() for status in statuses), strict=True)
    return {key.tobytes(): status for key, status in pairs if status not in GOOD}


def _replace(place: Path, spec: BlockSpec, old: journal.Record, failed: set[bytes]) -> None:
    """Put a shard without the failed items in the place of one that has them."""
    items = [item for item in _items(place / "shards" / old.shard, spec) if item.key not in failed]
    new: journal.Record | None = None
    if items:
        path, digest = write_shard(place / "shards", spec, items)
        rows = sum(len(item.rows) for item in items)
        new = journal.Record(path.name, digest, path.stat().st_size, len(items), rows)
    with commit_lock(place / "commit.lock"):  # no writer looks in between
        if new is not None:
            journal.append(place / "journal", new)
        _unrecord(place / "journal", old)
    (place / "shards" / old.shard).unlink(missing_ok=True)


def _items(path: Path, spec: BlockSpec) -> list[Item]:
    """Everything in a shard, in its order."""
    with h5py.File(path, "r") as file:
        if file.attrs["key"] != spec.key:
            raise DamagedError(f"{path}: belongs to another block than {spec.key[:12]}; move it away")
        rows, offsets = np.asarray(file["rows"]), np.asarray(file["offsets"])
        keys, statuses = np.asarray(file["item_keys"]), np.asarray(file["item_status"])
        details = json.loads(np.asarray(file["item_detail"]).tobytes() or b"{}")
    return [
        Item(
            key=keys[i].tobytes().ljust(KEY_BYTES, b"\0"),
            rows=rows[offsets[i] : offsets[i + 1]],
            status=bytes(statuses[i]).decode(),
            detail=details.get(str(i), ""),
        )
        for i in range(len(keys))
    ]


def _unrecord(folder: Path, old: journal.Record) -> None:
    """Remove the record of a shard, durably."""
    for path in folder.glob("*.json"):
        if json.loads(path.read_text(encoding="ascii")).get("shard") == old.shard:
            path.unlink(missing_ok=True)
    sync_folder(folder)
