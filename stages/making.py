"""What a shard says about its making, beyond its key: the versions of the packages, the licence of the weights."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cache.pack import Style


def style(*packages: str, licence: str = "", compression: str = "none") -> Style:
    """How a stage's shards are written.

    Args:
        packages: names of the distributions that computed the rows; kuleshov is always among them.
        licence: of the weights, as their publisher states it.
        compression: of the rows: `none`, `gzip` or `lzf`.
    """
    found = ", ".join(f"{name} {_version(name)}" for name in ("kuleshov", *packages))
    return Style(compression, ((("licence", licence),) if licence else ()) + (("packages", found),))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a folder that is not installed
        return "of unknown version"
