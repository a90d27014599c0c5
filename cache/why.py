"""Why a block is another block: which fields of two keys differ, and which stored block is the nearest.

A key is a hash over the fields of `BlockSpec`; two keys differ exactly where `differences` says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeGuard

from cache.errors import MissingRowsError
from cache.keys import BlockSpec, canonical_json
from cache.store import BlockInfo, Store

MIN_PREFIX = 4
"""Digits of a key that name a block."""

_SHOWN = 60
_HASH = re.compile(r"[0-9a-f]{32,64}")


class Absent(Enum):
    """The value of a field that one of two specs does not have."""

    ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One field in which two specs differ.

    Attributes:
        field: dotted path, such as `preprocessing.min_face_size`; the place in a list is a number.
        here, there: the two JSON values, or `Absent.ABSENT`.
    """

    field: str
    here: Any
    there: Any

    def line(self, there: str, names: Mapping[str, str] | None = None) -> str:
        """`FIELD: VALUE here, VALUE in block THERE`; long values are cut where the rest is not needed.

        Args:
            there: how the other block is called.
            names: key of a block -> how people call it, for the fields under `inputs`.
        """
        ours, theirs = shown(self.here, names), shown(self.there, names)
        if ours == theirs:  # they differ in what was cut off
            ours, theirs = (canonical_json(value) for value in (self.here, self.there))
        return f"{self.field}: {ours} here, {theirs} in block {there}"


def differences(a: BlockSpec, b: BlockSpec) -> list[Difference]:
    """The fields in which `a` (here) and `b` (there) differ, by path. Empty exactly when their keys are equal."""
    # through JSON, as the key is: tuples and lists are one, 1 and 1.0 are two
    return list(_compare("", *(json.loads(canonical_json(spec.as_dict())) for spec in (a, b))))


def _compare(path: str, a: Any, b: Any) -> Iterator[Difference]:
    if a is not Absent.ABSENT and b is not Absent.ABSENT and canonical_json(a) == canonical_json(b):
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted({*a, *b}):
            inner = f"{path}.{name}" if path else name
            yield from _compare(inner, a.get(name, Absent.ABSENT), b.get(name, Absent.ABSENT))
    elif _nested(a) and _nested(b) and len(a) == len(b):
        for i, (ours, theirs) in enumerate(zip(a, b, strict=True)):
            yield from _compare(f"{path}.{i}", ours, theirs)
    else:
        yield Difference(path, a, b)


def _nested(value: Any) -> TypeGuard[list[Any]]:
    """Whether it is a list of lists or of objects: plain lists, such as a size, are told as a whole."""
    return isinstance(value, list) and all(isinstance(part, list | dict) for part in value)


def shown(value: Any, names: Mapping[str, str] | None = None) -> str:
    """A field's value for people: hashes by their first 12 digits, after the block's name where `names` knows it."""
    if value is Absent.ABSENT:
        return "not there"
    if isinstance(value, str) and _HASH.fullmatch(value):
        name = (names or {}).get(value)
        return f"{name} {value[:12]}" if name else value[:12]
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def flat(spec: BlockSpec) -> list[tuple[str, Any]]:
    """Every field of a spec as (dotted path, JSON value), by path; empty mappings are left out."""
    return [(path, value) for path, value in _leaves("", json.loads(canonical_json(spec.as_dict()))) if value != {}]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for name in sorted(value):
        yield from _leaves(f"{path}.{name}" if path else name, value[name])


def nearest(wanted: BlockSpec, blocks: Iterable[BlockInfo]) -> list[tuple[BlockInfo, list[Difference]]]:
    """The other blocks of the same source, tap and level: fewest differences first, of these the newest first."""
    kind = (wanted.source, wanted.tap, wanted.level)
    found = [
        (info, differences(wanted, info.spec))
        for info in blocks
        if (info.spec.source, info.spec.tap, info.spec.level) == kind and info.spec.key != wanted.key
    ]
    return sorted(found, key=lambda pair: (len(pair[1]), -pair[0].newest, pair[0].spec.key))


def names_block(name: str, spec: BlockSpec, folder: str) -> bool:
    """Whether a person's `name` means this block.

    A name is a block's folder, `SOURCE/TAP`, `SOURCE/TAP@KEY` as in the manifests of the stages, or at least
    `MIN_PREFIX` first digits of its key.
    """
    front, at, prefix = name.rpartition("@")
    if at:
        return front == spec.name and len(prefix) >= MIN_PREFIX and spec.key.startswith(prefix.lower())
    is_prefix = len(name) >= MIN_PREFIX and spec.key.startswith(name.lower())
    return name in {folder, spec.name} or is_prefix


def select(store: Store, names: Sequence[str], *, shared: bool = False) -> list[BlockInfo]:
    """The blocks that `names` mean, by folder, each once; all blocks where no name is given.

    Args:
        shared: look in the shared stores as well; a block that lies in several is the first of them.

    Raises:
        MissingRowsError: a name means no block.
    """
    blocks = list({info.spec.key: info for info in reversed(list(store.blocks(shared=shared)))}.values())[::-1]
    if not names:
        return blocks
    for name in names:
        if not any(names_block(name, info.spec, info.path.name) for info in blocks):
            read = "" if shared or not store.shared else " (those of shared stores are only read)"
            raise MissingRowsError(f"no block {name!r} in {store.root}; kuleshov cache ls lists them{read}")
    return [info for info in blocks if any(names_block(name, info.spec, info.path.name) for name in names)]
