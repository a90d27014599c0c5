"""A lock that writers of one block hold for the milliseconds of a commit, on one machine or several.

It is a file made with O_EXCL, which network file systems honour. A holder that died leaves it behind: whoever sees the
same token unchanged for `STALE_SECONDS` by its own steady clock (no clock of another machine is trusted) removes it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 5.0
_POLL_SECONDS = 0.005


@contextmanager
def commit_lock(place: Path, stale_seconds: float = STALE_SECONDS) -> Iterator[None]:
    """Hold `place` while the block runs. Waits for a living holder, takes over from a dead one.

    Raises:
        OSError: the folder cannot be written.
    """
    token = secrets.token_hex(16).encode()
    _acquire(place, token, stale_seconds)
    try:
        yield
    finally:
        if _read(place) == token:  # not when somebody took us for dead
            place.unlink(missing_ok=True)


def _acquire(place: Path, token: bytes, stale_seconds: float) -> None:
    seen, since = b"", time.monotonic()
    while True:
        try:
            descriptor = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            found = _read(place)
            if found != seen:
                seen, since = found, time.monotonic()
            elif time.monotonic() - since > stale_seconds:
                _remove_stale(place, seen)
                seen, since = b"", time.monotonic()
            time.sleep(_POLL_SECONDS)
            continue
        try:
            os.write(descriptor, token)
        except OSError:  # a full disk: a lock without a token would make others wait
            place.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return


def _remove_stale(place: Path, seen: bytes) -> None:
    """Remove the lock if it still is the one that was seen: of many that try, one rename succeeds."""
    aside = place.with_name(f"{place.name}-{secrets.token_hex(6)}.tmp")
    try:
        place.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != seen:  # a living holder came in between: give it back
        with suppress(FileExistsError):
            os.link(aside, place)
    aside.unlink(missing_ok=True)


def _read(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return b""
