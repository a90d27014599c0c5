"""Notes of a block: small files beside `block.json` that say something of all of its rows.

What a note says is its writer's business: the store keeps bytes under a name. A note is no part of the key, and is
written once: whoever comes first wins, and readers never see half of one.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cache.errors import DamagedError, StorePlaceError
from cache.shard import sync_folder

LIMIT = 128 << 20
"""Bytes of the largest note that is written or read: the hashes of two million photos, say."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\.json")
_RESERVED = frozenset({"block.json"})


def is_note(name: str) -> bool:
    """Whether a file of this name in a block's folder is a note: lower case, `.json`, not the block's description."""
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


def write(place: Path, notes: Mapping[str, bytes]) -> None:
    """Write notes into a block's folder, which is there; those that it has already stay as they are.

    Raises:
        ValueError: a name is no note's, or a note is larger than `LIMIT` (a caller's mistake).
        OSError: the file system refused.
    """
    for name, content in notes.items():
        if not is_note(name) or len(content) > LIMIT:
            raise ValueError(f"{place.name}: {name[:80]!r} of {len(content)} bytes cannot be a note")
        if not (place / name).exists():
            _write_first(place / name, content)


def _write_first(path: Path, content: bytes) -> None:
    """Write a file whole, durably, and only where none is: of several writers the first wins."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temporary, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if path.exists():
                return
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def names(places: Sequence[Path]) -> list[str]:
    """Names of the notes in any of these folders, sorted; folders that are not there have none."""
    found: set[str] = set()
    for place in places:
        with suppress(FileNotFoundError, NotADirectoryError):
            found.update(path.name for path in place.iterdir() if is_note(path.name))
    return sorted(found)


def read(places: Sequence[Path], name: str) -> bytes | None:
    """The note of this name in the first of these folders that has it; None where none has.

    Raises:
        ValueError: the name is no note's (a caller's mistake).
        DamagedError: it is larger than a note may be.
        StorePlaceError: it cannot be read.
    """
    if not is_note(name):
        raise ValueError(f"{name[:80]!r} is no note's name")
    for place in places:
        try:
            with open(place / name, "rb") as handle:
                content = handle.read(LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StorePlaceError(f"{place / name}: cannot be read ({error.strerror}); mend it") from None
        if len(content) > LIMIT:
            raise DamagedError(f"{place / name}: larger than a note may be ({LIMIT} bytes); delete this file")
        return content
    return None
