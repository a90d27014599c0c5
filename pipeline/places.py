"""Places outside of a project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from cache.store import Store


def store_place() -> Path:
    """The user's own store: `KULESHOV_STORE`, else one place per user, so that projects and experiments share it."""
    given = os.environ.get("KULESHOV_STORE")
    return Path(given).expanduser().absolute() if given else Path(platformdirs.user_data_dir("kuleshov")) / "store"


def shared_places() -> list[Path]:
    """Stores under the user's own that are only read: `KULESHOV_STORE_SHARED`, separated as in PATH."""
    given = os.environ.get("KULESHOV_STORE_SHARED", "")
    return [Path(place).expanduser().absolute() for place in given.split(os.pathsep) if place]


def open_store() -> Store:
    """The user's store over the shared ones.

    Raises:
        cache.errors.CacheError: one of them cannot be used.
    """
    from cache.store import Store  # here, as `--help` needs no HDF5

    return Store(store_place(), shared_places())
