"""Errors of the feature store. Messages are one line: the value, the place, the remedy."""

from __future__ import annotations


class CacheError(Exception):
    """Root of every error that the store raises on purpose."""


class DamagedError(CacheError):
    """A shard, a journal record or a block's description is not what was written."""


class SchemaError(CacheError):
    """A store or a shard was written by a newer schema than this version reads."""


class RangeError(CacheError):
    """A value cannot be held in the block's dtype (float16 ends at 65,504), so storing it would make it inf."""


class MissingRowsError(CacheError):
    """Rows that a reader asked for are not in the store."""


class StorePlaceError(CacheError):
    """The store's folder cannot be made, read or written (permission, read-only, disk full)."""
