"""The journal of a block: one small record per shard. Only recorded shards exist.

A record is a file of its own, written under a temporary name and renamed. So writers on several machines never share
a file, none waits for a lock, and a crash leaves no half record. Each record carries a hash of its own fields.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cache.errors import DamagedError, StorePlaceError
from cache.keys import canonical_json
from cache.shard import sync_folder


@dataclass(frozen=True)
class Record:
    """What the journal says of one shard.

    Attributes:
        shard: file name in `shards/`.
        sha256: hash (hex) of the file's bytes.
        size: of the file, in bytes.
        items, rows: how many it holds.
    """

    shard: str
    sha256: str
    size: int
    items: int
    rows: int


def append(folder: Path, record: Record) -> str:
    """Add a record durably; returns the name of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    text = encode(record)
    temporary = folder / f".{os.getpid()}-{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "w", encoding="ascii") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        name = f"{Path(record.shard).stem}.json"
        os.replace(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return name


def names(folder: Path) -> list[str]:
    """File names of all records, sorted: the same for every reader; none where there is no such folder.

    Raises:
        StorePlaceError: it cannot be listed. Taken for empty, its rows would be computed again, and `gc` would delete
            its shards.
    """
    try:
        found = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorePlaceError(f"{folder}: cannot be read ({error.strerror}); mend it and run it again") from None
    return sorted(name for name in found if name.endswith(".json") and not name.startswith("."))


def read(folder: Path) -> list[Record]:
    """All records, in the order of their names.

    Raises:
        DamagedError: a record is cut short or altered.
        StorePlaceError: the folder or a record cannot be read (permission, a bad disk).
    """
    return [parse(folder / name) for name in names(folder)]


def parse(path: Path) -> Record:
    """One record.

    Raises:
        DamagedError: it is cut short or altered.
        StorePlaceError: it cannot be read (permission, a bad disk).
    """
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise StorePlaceError(f"{path}: cannot be read ({error.strerror}); mend it and run the stage again") from None
    except ValueError as error:
        raise DamagedError(
            f"{path}: damaged journal record ({error}); delete it and run the stage again: only its shard is recomputed"
        ) from None


def encode(record: Record) -> str:
    """The text of a record's file."""
    fields = dict(record.__dict__)
    return canonical_json({**fields, "check": _check(fields)}) + "\n"


def decode(content: bytes) -> Record:
    """The record in a file's content.

    Raises:
        ValueError: it is not what `encode` gave.
    """
    try:
        fields = json.loads(content.decode("ascii"))
        check = fields.pop("check")
        if check != _check(fields):
            raise ValueError("its check does not fit its fields")
        return Record(**fields)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _check(fields: dict[str, object]) -> str:
    return hashlib.sha256(canonical_json(fields).encode()).hexdigest()[:16]
