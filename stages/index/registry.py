"""Adapters by name. Only the one asked for is imported."""

from __future__ import annotations

from importlib import import_module

from stages.errors import SettingError
from stages.index.raw import Adapter

# The name a person writes -> the module with its `read`. (A module named csv.py would hide the standard one.)
ADAPTERS = {"csv": "stages.index.table", "folder": "stages.index.folder"}


def find_adapter(name: str) -> Adapter:
    """The `read` function of an adapter.

    Raises:
        SettingError: there is no adapter of that name; lists those there are.
    """
    if name not in ADAPTERS:
        raise SettingError(f"index.adapter is {name!r}: choose one of {', '.join(sorted(ADAPTERS))}")
    return import_module(ADAPTERS[name]).read
