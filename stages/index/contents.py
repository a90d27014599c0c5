"""SHA-256 of files, remembered: a second run over a corpus only asks the file system for sizes and times.

The memory is one SQLite file. It may be shared by processes, and may be deleted at any time: nothing but time is lost.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stages.errors import MediaError, SettingError

T = TypeVar("T")
_APPLICATION = 0x4B554C31  # marks the SQLite file as ours, and its version
_TIMEOUT = 30.0  # seconds to wait for another process
_CHUNK = 512  # files per look-up; SQLite before 3.32 takes 999 values in one query
_SETTLED = 2_000_000_000  # ns; the coarsest time stamps in use (FAT) have steps of two seconds
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


@dataclass(frozen=True)
class Content:
    """A file's bytes: their SHA-256 as 64 hex digits, and how many there are."""

    sha256: str
    size: int


class ContentIndex:
    """(absolute path, size, mtime, inode) -> SHA-256 of the file's bytes.

    A file that changed within two seconds before it was hashed is not remembered: a second change could leave its time
    stamp as it is. A damaged memory is set aside as `NAME.damaged` and begun anew.

    No connection outlives a call, so an index can be used from several threads, and across a fork.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Open or create the memory at `path`.

        Args:
            path: the SQLite file; its folder is created.
            threads: how many files are hashed at once; by default one per core, at most 8.

        Raises:
            SettingError: no file can be written there, or it is a database of something else.
        """
        self.path = path
        self.threads = threads or min(8, os.cpu_count() or 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder")
            self._work(lambda connection: None, patient=False)
        except (OSError, sqlite3.Error) as error:
            raise SettingError(f"file hashes cannot be kept at {path} ({error}): choose another place") from None

    def sha256_of(self, path: Path | str) -> str:
        """SHA-256 of a file's bytes, 64 hex digits.

        Raises:
            MediaError: the file cannot be read; the reason is one of those of `many`.
        """
        (found,) = self.many([path])
        if isinstance(found, MediaError):
            raise found
        return found.sha256

    def many(self, paths: Sequence[Path | str]) -> Iterator[Content | MediaError]:
        """Yield each file's content, in the order given; for a file that cannot be read the error, not raised.

        Its reason is `missing`, `permission`, `not_a_file` (a folder or a device) or `unreadable`.
        """
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(paths), _CHUNK):
                yield from self._chunk([os.path.abspath(path) for path in paths[start : start + _CHUNK]], pool)  # noqa: PTH100 - keeps links

    def _chunk(self, paths: list[str], pool: ThreadPoolExecutor) -> list[Content | MediaError]:
        stats = _spread(pool, _stat, paths, 64)
        asked = [path for path, status in zip(paths, stats, strict=True) if not isinstance(status, MediaError)]
        known = self._work(lambda connection: _look_up(connection, asked)) or {}
        found: dict[str, Content | MediaError] = {}
        misses = []
        for path, status in zip(paths, stats, strict=True):
            if isinstance(status, MediaError):
                found[path] = status
            elif (row := known.get(path)) is not None and row[0] == _stamp(status):
                found[path] = Content(row[1], status.st_size)
            else:
                misses.append(path)
        fresh = []
        for path, result in zip(misses, _spread(pool, _hash, misses, 8), strict=True):
            if isinstance(result, MediaError):
                found[path] = result
                continue
            found[path], stamp = result
            if stamp:
                fresh.append((os.fsencode(path), stamp, result[0].sha256))
        if fresh:
            self._work(lambda connection: _remember(connection, fresh))
        return [found[path] for path in paths]

    def _work(self, work: Callable[[sqlite3.Connection], T], *, patient: bool = True) -> T | None:
        """Do something with the memory, begun anew if it is damaged. When patient, None if it cannot be had."""
        try:
            try:
                with closing(_connect(self.path)) as connection:
                    return work(connection)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
            self._set_aside()
            with closing(_connect(self.path)) as connection:
                return work(connection)
        except (OSError, sqlite3.Error):
            if not patient:
                raise
            return None  # locked for long, or the disk is full: files are hashed all the same

    def _set_aside(self) -> None:
        """Move a damaged memory away, unless another process just has."""
        with closing(sqlite3.connect(f"{self.path}.lock", timeout=_TIMEOUT, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")  # an empty database is a lock that every platform has
            try:
                with closing(_connect(self.path)) as connection:
                    if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                        return
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
            if self.path.exists():
                os.replace(self.path, f"{self.path}.damaged")
            Path(f"{self.path}-journal").unlink(missing_ok=True)  # it would be played back into the new file


def _spread(pool: ThreadPoolExecutor, work: Callable[[str], T], paths: list[str], part: int) -> list[T]:
    """`work` of each path, in order, some per task: to hand over a task takes longer than to look at a small file."""
    parts = [paths[start : start + part] for start in range(0, len(paths), part)]
    return [result for results in pool.map(lambda some: [work(path) for path in some], parts) for result in results]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None)
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    marked = connection.execute("PRAGMA application_id").fetchone()[0]  # again: another process may have been quicker
    if marked != _APPLICATION:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.OperationalError("it is a database of something else")
        connection.execute("CREATE TABLE contents (path BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT) WITHOUT ROWID")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute("COMMIT")


def _is_damage(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGED


def _look_up(connection: sqlite3.Connection, paths: list[str]) -> dict[str, tuple[str, str]]:
    """path -> (stamp, sha256) of those that are remembered."""
    places = ",".join("?" * len(paths))
    query = f"SELECT path, stamp, sha256 FROM contents WHERE path IN ({places})"  # noqa: S608 - question marks only
    return {os.fsdecode(row[0]): (row[1], row[2]) for row in connection.execute(query, [os.fsencode(p) for p in paths])}


def _remember(connection: sqlite3.Connection, rows: list[tuple[bytes, str, str]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")


def _stamp(status: os.stat_result) -> str:
    # Text, because an inode can be more than SQLite's 63 bits.
    return f"{status.st_size}/{status.st_mtime_ns}/{status.st_ino}"


def _stat(path: str) -> os.stat_result | MediaError:
    try:
        status = os.stat(path)  # noqa: PTH116 - 100,000 Path objects are slow
    except (OSError, ValueError) as error:
        return _media_error(path, error)
    if not stat.S_ISREG(status.st_mode):
        return MediaError("not_a_file", f"{path} is a {'folder' if stat.S_ISDIR(status.st_mode) else 'device or pipe'}")
    if not os.access(path, os.R_OK):
        return MediaError("permission", f"{path} may not be read by this user")
    return status


def _hash(path: str) -> tuple[Content, str] | MediaError:
    """A file's content, and the stamp to remember it under (empty: do not)."""
    try:
        for _ in range(3):
            with open(path, "rb") as handle:
                before = os.fstat(handle.fileno())
                began = time.time_ns()
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                after = os.fstat(handle.fileno())
            if _stamp(before) == _stamp(after):
                settled = began - before.st_mtime_ns >= _SETTLED
                return Content(digest, before.st_size), _stamp(before) if settled else ""
    except (OSError, ValueError) as error:
        return _media_error(path, error)
    return MediaError("unreadable", f"{path} is being written: run again when it is complete")


def _media_error(path: str, error: OSError | ValueError) -> MediaError:
    if isinstance(error, PermissionError):
        return MediaError("permission", f"{path} may not be read by this user")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MediaError("missing", f"there is no file {path}")
    return MediaError("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}")
