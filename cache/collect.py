"""What can go from a store: debris of writers that died, and whole blocks that a person names.

The store does not know which projects and experiments use it, so no block goes unless somebody asks for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache import journal, notes
from cache.errors import DamagedError, StorePlaceError
from cache.lock import commit_lock
from cache.shard import sync_folder
from cache.store import BlockInfo, Store

GRACE_SECONDS = 3600.0
"""Younger files are left: a writer may be about to rename or record them."""

SHARD_NAME = re.compile(r"[0-9a-f]{16,64}(-[0-9a-f]+)?\.h5")  # other files in `shards/` are somebody's own
_LOCK = "commit.lock"


@dataclass(frozen=True)
class Piece:
    """Something that can go: a file or a block's folder, its size in bytes, and what it is in words."""

    path: Path
    size: int
    what: str


def debris(store: Store, now: float | None = None) -> Iterator[Piece]:
    """Unrecorded shards, temporary files and left locks that are older than `GRACE_SECONDS`, by path.

    Shards of a block whose journal is damaged are left: it cannot be known which of them are recorded.

    Args:
        now: seconds since the epoch; the present time when None.
    """
    latest = (time.time() if now is None else now) - GRACE_SECONDS
    blocks = store.root / "blocks"
    yield from _old(sorted(store.root.glob("*.tmp")), latest, "temporary file")
    for place in sorted(path for path in blocks.iterdir() if path.is_dir()):
        folders = (place, place / "journal", place / "shards")
        temporary = [
            path for folder in folders for path in sorted((*folder.glob("*.tmp"), *folder.glob("*.lock-*.tmp")))
        ]
        yield from _old(dict.fromkeys(temporary), latest, "temporary file")
        yield from _old([place / _LOCK], latest, "lock of a writer that died")
        try:
            recorded = {record.shard for record in journal.read(place / "journal")}
        except DamagedError:
            continue
        shards = sorted(path for path in (place / "shards").glob("*.h5") if SHARD_NAME.fullmatch(path.name))
        yield from _old((path for path in shards if path.name not in recorded), latest, "unrecorded shard")


def _old(paths: Iterable[Path], latest: float, what: str) -> Iterator[Piece]:
    for path in paths:
        try:
            found = path.lstat()
        except FileNotFoundError:  # its writer was faster
            continue
        if found.st_mtime < latest:
            yield Piece(path, found.st_size, what)


def older(blocks: Sequence[BlockInfo], days: float, now: float | None = None) -> list[BlockInfo]:
    """The blocks to which nothing was recorded in the last `days` days (an empty block counts from its start)."""
    latest = (time.time() if now is None else now) - days * 86_400
    return [info for info in blocks if (info.newest or (info.path / "block.json").stat().st_mtime) < latest]


def whole(info: BlockInfo) -> Piece:
    """A whole block as a piece: its size is that of every file in its folder."""
    size = sum(path.lstat().st_size for path in info.path.rglob("*") if path.is_file())
    return Piece(info.path, size, f"block {info.spec.name} ({info.items} items, {info.rows} rows)")


def remove(piece: Piece) -> None:
    """Delete a file, or a block: first its journal, then its shards, last its notes and its description.

    So a crash leaves shards without a record (debris) and never a record without its shard. A shard that was recorded
    after `debris` saw it stays. What somebody else put into a block's folder stays, and the folder with it.

    Raises:
        StorePlaceError: the file system refused; what was removed before is gone.
    """
    try:
        if piece.path.is_dir():
            _remove_block(piece.path)
        elif SHARD_NAME.fullmatch(piece.path.name):
            place = piece.path.parent.parent
            with commit_lock(place / _LOCK):  # a writer that slept long may have recorded it after we looked
                if f"{piece.path.stem}.json" not in journal.names(place / "journal"):
                    piece.path.unlink(missing_ok=True)
        else:
            piece.path.unlink(missing_ok=True)
    except OSError as error:
        raise StorePlaceError(
            f"{error.filename or piece.path}: cannot be removed ({error.strerror}); mend the cause and run it again"
        ) from None


def _remove_block(place: Path) -> None:
    folder = place / "journal"
    if folder.is_dir():
        with commit_lock(place / _LOCK):  # a writer records before or after, not in between
            for path in sorted(folder.iterdir()):
                path.unlink(missing_ok=True)
        sync_folder(folder)  # the records are gone for good before the first shard goes
    for path in sorted((place / "shards").glob("*")):
        if SHARD_NAME.fullmatch(path.name) or path.name.endswith(".tmp"):
            path.unlink(missing_ok=True)
    for path in (*sorted(place.glob("*.tmp")), *sorted(place.glob("*.lock*"))):
        path.unlink(missing_ok=True)
    if _remove_empty(folder) and _remove_empty(place / "shards"):
        for name in notes.names([place]):  # last: rows never lie there without what is said of them
            (place / name).unlink(missing_ok=True)
        (place / "block.json").unlink(missing_ok=True)
        _remove_empty(place)


def _remove_empty(folder: Path) -> bool:
    """Remove a folder that is empty or not there; False where something is in it."""
    if folder.is_dir():
        if any(folder.iterdir()):
            return False
        folder.rmdir()
    return True
