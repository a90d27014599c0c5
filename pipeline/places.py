"""Places outside of a project."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def store_place() -> Path:
    """The feature store: `KULESHOV_STORE`, else one place per user, so that projects and experiments share it."""
    given = os.environ.get("KULESHOV_STORE")
    return Path(given).expanduser().absolute() if given else Path(platformdirs.user_data_dir("kuleshov")) / "store"
