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
from cache.keys import BlockSpec
from cache.lock import commit_lock
from cache.pack import Pack, Style, read_style, write_shard
from cache.shard import check_bytes, dataset_rows, sync_folder
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
    whole, style = _whole(place / "shards" / old.shard, spec)
    pack = whole.without(failed)
    new: journal.Record | None = None
    if pack.keys:
        path, digest = write_shard(place / "shards", spec, pack, style)
        new = journal.Record(path.name, digest, path.stat().st_size, len(pack.keys), len(pack.rows))
    with commit_lock(place / "commit.lock"):  # no writer looks in between
        if new is not None:
            journal.append(place / "journal", new)
        _unrecord(place / "journal", old)
    (place / "shards" / old.shard).unlink(missing_ok=True)


def _whole(path: Path, spec: BlockSpec) -> tuple[Pack, Style]:
    """Everything in a checked shard, in its order, and how it was written."""
    with h5py.File(path, "r") as file:
        if file.attrs["key"] != spec.key:
            raise DamagedError(f"{path}: belongs to another block than {spec.key[:12]}; move it away")
        keys, statuses, offsets = (np.asarray(file[name]) for name in ("item_keys", "item_status", "offsets"))
        details = json.loads(np.asarray(file["item_detail"]).tobytes() or b"{}")
        rows, style = dataset_rows(file), read_style(file)
    pack = Pack(
        keys=[key.tobytes() for key in keys],
        counts=np.diff(offsets).tolist(),
        statuses=[bytes(status).decode() for status in statuses],
        details={int(number): text for number, text in details.items()},
        rows=rows,
    )
    return pack, style


def _unrecord(folder: Path, old: journal.Record) -> None:
    """Remove the record of a shard, durably."""
    for path in folder.glob("*.json"):
        if json.loads(path.read_text(encoding="ascii")).get("shard") == old.shard:
            path.unlink(missing_ok=True)
    sync_folder(folder)
