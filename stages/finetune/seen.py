"""What a fine-tune has seen: the photos and groups that may not count as held out where its features are judged.

A small JSON file beside the weights, `NAME.seen.json` for `NAME.safetensors`. Equal facts are equal bytes. Groups are
hashed: they may be people's names, and the file travels with features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.keys import canonical_json
from stages.backbones.weights import hash_file
from stages.errors import DataError, MissingInputError
from stages.extract.notes import seen_file
from stages.index.manifest import Sample
from stages.whole import whole

SCHEMA = 2
_NAMED = 1
"""Schema whose groups are names."""

_HEX = frozenset("0123456789abcdef")
_AGAIN = "run kuleshov finetune again"


@dataclass(frozen=True)
class Rows:
    """Samples, by what makes two of them one.

    Attributes:
        contents: SHA-256 (hex) of their photos and clips.
        groups: `group_hash` of their groups, without the empty one. Another corpus may have a group of the same name:
            then its samples count as seen, too many rather than too few.
    """

    contents: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Rows:
        """Of these samples."""
        some = list(samples)
        return cls(frozenset(s.content for s in some), frozenset(map(group_hash, {s.group for s in some if s.group})))

    def __or__(self, other: Rows) -> Rows:
        return Rows(self.contents | other.contents, self.groups | other.groups)

    def has(self, sample: Sample) -> bool:
        """Whether the sample's content or its group is among them."""
        return sample.content in self.contents or (sample.group != "" and group_hash(sample.group) in self.groups)


def group_hash(name: str) -> str:
    """What stands for a group, 64 hex digits."""
    return hashlib.sha256(b"group\0" + name.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Seen:
    """What a fine-tune has seen, and how it came to be.

    Attributes:
        weights: SHA-256 (hex) of the weights file that it wrote.
        trained: the samples that it was trained on, with those of the fine-tunes it goes on from.
        stopped: those that chose when to stop, as `trained`: no gradient came from them, but they chose the weights.
        settings: of the fine-tune, JSON values.
        preset: its name, or None.
        classes: names, in the order of the logits.
        seed: of everything random.
        start: `weights`, `random`, `finetune:NAME` or `folder:PATH`, see `FinetuneSettings`.
        chain: SHA-256 of the weights of the fine-tunes it goes on from, the latest first; after those of the backbone
            those of a second network.
    """

    weights: str
    trained: Rows
    stopped: Rows
    settings: Mapping[str, Any]
    preset: str | None
    classes: tuple[str, ...]
    seed: int
    start: str
    chain: tuple[str, ...] = field(default=())

    @property
    def rows_hash(self) -> str:
        """SHA-256 (hex) of the samples, those that chose when to stop apart."""
        rows = {"trained": _lists(self.trained), "stopped": _lists(self.stopped)}
        return hashlib.sha256(canonical_json(rows).encode()).hexdigest()

    def after(self, earlier: Seen) -> Seen:
        """With what a fine-tune that this one starts from has seen; called again, with that of a second one as well."""
        return Seen(
            self.weights,
            self.trained | earlier.trained,
            self.stopped | earlier.stopped,
            self.settings,
            self.preset,
            self.classes,
            self.seed,
            self.start,
            (*self.chain, earlier.weights, *earlier.chain),
        )


def overlap(seen: Seen, samples: Sequence[Sample], *, stopped: bool = True) -> np.ndarray:
    """Positions (k,) int64, ascending, of the samples whose content or group a fine-tune has seen.

    Args:
        stopped: count those that chose when to stop as well.
    """
    rows = seen.trained | seen.stopped if stopped else seen.trained
    return np.array([i for i, sample in enumerate(samples) if rows.has(sample)], np.int64)


def mask(seen: Seen, samples: Sequence[Sample]) -> np.ndarray:
    """`overlap` as (n,) bool."""
    found = np.zeros(len(samples), np.bool_)
    found[overlap(seen, samples)] = True
    return found


def place(weights: Path) -> Path:
    """The file that belongs to a weights file."""
    return seen_file(weights)


def sha256_of(weights: Path) -> str:
    """SHA-256 (hex) of a weights file.

    Raises:
        MissingInputError: there is no such file.
    """
    try:
        return hash_file(weights)
    except FileNotFoundError:
        raise MissingInputError(f"{weights} is not there; run kuleshov finetune") from None


def write(weights: Path, seen: Seen) -> Path:
    """Write what the fine-tune of this weights file has seen, whole or not at all; returns the file.

    Raises:
        ValueError: the weights file is another one than `seen.weights` says (a caller's mistake).
        TypeError, ValueError: the settings are no JSON values (as above).
        MissingInputError: there is no weights file.
    """
    if sha256_of(weights) != seen.weights:
        raise ValueError(f"{weights} is not the file of sha256 {seen.weights}")
    target = place(weights)
    with whole(target, durable=True) as temporary:
        temporary.write_bytes(encode(seen))
    return target


def encode(seen: Seen) -> bytes:
    """What `parse` reads: JSON in UTF-8. Raises TypeError or ValueError where the settings are no JSON values."""
    about = {
        "schema": SCHEMA,
        "weights": seen.weights,
        "trained": _lists(seen.trained),
        "stopped": _lists(seen.stopped),
        "settings": dict(seen.settings),
        "preset": seen.preset,
        "classes": list(seen.classes),
        "seed": seen.seed,
        "start": seen.start,
        "chain": list(seen.chain),
    }
    return f"{canonical_json(about)}\n".encode()


def read(weights: Path) -> Seen:
    """What the fine-tune of this weights file has seen.

    Raises:
        MissingInputError: one of the two files is not there.
        DataError: the file is damaged, of a newer version, or of other weights.
    """
    path = place(weights)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path} is not there: what {weights.name} has seen is not known; {_AGAIN}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}); {_AGAIN}") from None
    seen = parse(content, str(path))
    found = sha256_of(weights)
    if found != seen.weights:
        raise DataError(
            f"{path} tells of weights of sha256 {seen.weights[:12]}, but {weights.name} has {found[:12]}: "
            "put back the file that belongs to it, or run kuleshov finetune again"
        )
    return seen


def parse(content: bytes, where: str, again: str = _AGAIN) -> Seen:
    """What the bytes of such a file say.

    Args:
        where: what a message names.
        again: the remedy that it gives.

    Raises:
        DataError: they are damaged, or of a newer version.
    """
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read ({' '.join(str(error).split())}); {again}") from None
    if not isinstance(about, dict) or type(about.get("schema")) is not int:
        raise DataError(f"{where} does not say what a fine-tune has seen; {again}")
    if about["schema"] > SCHEMA:
        raise DataError(f"{where}: schema {about['schema']}, this version reads up to {SCHEMA}; upgrade kuleshov")
    try:
        return _parsed(about)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged ({' '.join(str(error).split())}); {again}") from None


def _lists(rows: Rows) -> dict[str, list[str]]:
    return {"contents": sorted(rows.contents), "groups": sorted(rows.groups)}


def _parsed(about: Mapping[str, Any]) -> Seen:
    """What the file says.

    Raises:
        KeyError, TypeError, ValueError: something is missing, or of another kind.
    """
    settings, preset, seed = about["settings"], about["preset"], about["seed"]
    of_group = group_hash if about["schema"] == _NAMED else _hash
    if not isinstance(settings, dict):
        raise TypeError("settings are no table")
    if type(seed) is not int:
        raise TypeError(f"seed is {seed!r}")
    return Seen(
        weights=_hash(about["weights"]),
        trained=_rows(about["trained"], of_group),
        stopped=_rows(about["stopped"], of_group),
        settings=settings,
        preset=None if preset is None else _text(preset),
        classes=tuple(_texts(about["classes"])),
        seed=seed,
        start=_text(about["start"]),
        chain=tuple(_hash(one) for one in _texts(about["chain"])),
    )


def _rows(value: Mapping[str, Any], of_group: Callable[[str], str]) -> Rows:
    return Rows(frozenset(map(_hash, _texts(value["contents"]))), frozenset(map(of_group, _texts(value["groups"]))))


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:40]!r} is no list")
    return [_text(one) for one in value]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return value


def _hash(value: object) -> str:
    text = _text(value)
    if len(text) != 64 or not _HEX.issuperset(text):
        raise ValueError(f"{text[:80]!r} is no SHA-256")
    return text
