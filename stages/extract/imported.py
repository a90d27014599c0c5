"""Somebody's own features as a block `imported/NAME`: another tool's embeddings, audio, anything a sample has.

A block's key holds the file's hash, so a changed file is another block. Rows have the item keys that the project's own
features of that level have, so a head reads them like those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.errors import DamagedError
from cache.keys import BlockSpec, item_key
from cache.store import Store
from stages.detect.run import Detections
from stages.detect.settings import FaceSource
from stages.errors import DataError, MissingInputError, SettingError
from stages.extract.imported_file import INDEX, Level, Table, read_table
from stages.extract.settings import IMPORTED, ROLE_PATTERN, ExtractSettings
from stages.index.manifest import Manifest, Sample, printable

VERSION = 1
"""Raise it when the same file gives other rows."""

KEY_DIGITS = 16
"""First digits of a block's key that `extract.imported` names it by."""

MAX_NAME = 100
"""Characters of a name: it is part of a folder's name, and `kuleshov cache pull` takes no longer one."""


Item = tuple[str, np.ndarray]
"""Sample_id and rows (n, D) float32."""


@dataclass(frozen=True)
class FaceItems:
    """What faces are, for level `face`: the project's detections and where its faces come from."""

    detections: Detections
    source: FaceSource


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        spec: of the block.
        samples: how many samples of the manifest have rows.
        rows: how many rows they have.
        unknown: sample_ids of the file that the manifest does not have.
        undetected: samples of the file that have no detections, so that their faces are not known (level `face`).
        without: samples of the manifest that could have rows and have none in the file.
    """

    spec: BlockSpec
    samples: int
    rows: int
    unknown: list[str]
    undetected: list[str]
    without: list[str]


def imported_spec(name: str, level: Level, width: int, sha256: str, faces: FaceItems | None) -> BlockSpec:
    """The block of an imported file.

    Args:
        name: what heads call it, `imported/NAME`.
        level: what a row is.
        width: D, numbers a row.
        sha256: of the file.
        faces: of level `face`: rows count the faces of these detections.
    """
    return BlockSpec(
        source=IMPORTED,
        tap=name,
        level=level,
        shape=(width,),
        extractor_version=VERSION,
        preprocessing={"file_sha256": sha256, **({"faces": faces.source} if faces else {})},
        inputs={"detections": faces.detections.key} if faces else {},
        numerics={"dtype": "float32"},
    )


def run(path: Path, name: str, level: Level, manifest: Manifest, store: Store, faces: FaceItems | None) -> Imported:
    """Write a file's features to their block; items that it holds already are compared and kept.

    Nothing is written unless the whole file is good.

    Args:
        path: see `read_table`.
        name: letters, digits, `_`, `-`, `.`; at most `MAX_NAME` of them.
        faces: needed at level `face`, else None.

    Raises:
        SettingError: the name is not fit for a file.
        DataError: the file is not fit to be read (`read_table`); none of its samples is in the manifest; a sample has
            too many, too few or repeated rows; two samples of the same content have different features.
        cache.errors.CacheError: the store refused.
    """
    if not re.fullmatch(ROLE_PATTERN, name):
        raise SettingError(f"the name {name!r} cannot name a block: use letters, digits, _ - .")
    if len(name) > MAX_NAME:
        raise SettingError(f"the name {name[:20]!r}... has {len(name)} characters: use at most {MAX_NAME}")
    table = read_table(path, level)
    known, unknown = _by_sample(table, manifest, path)
    failed = faces.detections.failed if faces else {}
    wanted = {sample_id: places for sample_id, places in known.items() if sample_id not in failed}
    undetected = [sample_id for sample_id in known if sample_id in failed]
    if not wanted:
        raise DataError(f"{path}: none of its samples has detections (first '{undetected[0]}'); run kuleshov detect")
    spec = imported_spec(name, level, table.features.shape[1], table.sha256, faces)
    _write(store, spec, _items(wanted, table, level, manifest, faces, path), path)
    rows = sum(len(places) for places in wanted.values())
    without = [s.sample_id for s in manifest if s.sample_id not in known and (not faces or _faces(s.sample_id, faces))]
    return Imported(spec, len(wanted), rows, unknown, undetected, without)


def find(store: Store, name: str, settings: ExtractSettings) -> BlockSpec:
    """The block that `extract.imported` names.

    Raises:
        SettingError: it names no such features.
        MissingInputError: the block is in none of the stores.
        cache.errors.DamagedError: the same, and a block cannot be told because its description or journal is damaged.
    """
    command = f"kuleshov cache import FILE --name {name}"
    if name not in settings.imported:
        known = ", ".join(settings.imported) or "nothing"
        raise SettingError(
            f"extract.imported has no {name!r}, it has {known}; run {command} and add the line it prints"
        )
    key = settings.imported[name]
    damaged: list[DamagedError] = []
    for info in store.blocks(shared=True, damaged=damaged):
        if info.items and (info.spec.source, info.spec.tap) == (IMPORTED, name) and info.spec.key.startswith(key):
            return info.spec
    if damaged:
        raise damaged[0]
    raise MissingInputError(
        f"extract.imported: {store.root} has no {IMPORTED}/{name} of key {key}; run {command} again, and put the key "
        "that it prints into params.yaml"
    )


def check_faces(spec: BlockSpec, faces: FaceItems) -> None:
    """Refuse imported rows that count the faces of other detections; rows of other levels pass.

    Raises:
        MissingInputError: they were imported with other settings of `detect`.
    """
    wanted = imported_spec(spec.tap, "face", spec.shape[0], spec.preprocessing["file_sha256"], faces)
    if spec.level == "face" and spec.key != wanted.key:
        raise MissingInputError(
            f"{spec.name} was imported for faces of other settings of detect; run kuleshov cache import FILE "
            f"--name {spec.tap} --level face again, and put the key that it prints into params.yaml"
        )


def _by_sample(table: Table, manifest: Manifest, path: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Row numbers of each sample of the manifest, and the sample_ids that it does not have."""
    rows: dict[str, list[int]] = {}
    for number, sample_id in enumerate(table.sample_ids):
        rows.setdefault(sample_id, []).append(number)
    unknown = [sample_id for sample_id in rows if sample_id not in manifest.by_id]
    if len(unknown) == len(rows):
        ours = f", it has '{manifest.samples[0].sample_id}' and so on" if len(manifest) else ""
        raise DataError(f"{path}: none of its samples is in the manifest (first '{printable(unknown[0])}'){ours}")
    return {sample_id: places for sample_id, places in rows.items() if sample_id in manifest.by_id}, unknown


def _faces(sample_id: str, faces: FaceItems) -> int:
    """How many faces a sample has; 0 for one without detections."""
    return sum(len(item.faces) for item in faces.detections.items.get(sample_id, ()))


def _items(
    wanted: Mapping[str, Sequence[int]],
    table: Table,
    level: Level,
    manifest: Manifest,
    faces: FaceItems | None,
    path: Path,
) -> dict[bytes, Item]:
    """Item key -> its rows, and the sample they are of."""
    items: dict[bytes, Item] = {}
    for sample_id, places in wanted.items():
        rows = table.features[_ordered(sample_id, places, table, level, faces, path)]
        sample = manifest.by_id[sample_id]
        for key, part in _parts(sample, rows, faces):
            other, known = items.setdefault(key, (sample_id, part))
            if not np.array_equal(known, part):
                raise DataError(
                    f"{path}: samples '{other}' and '{sample_id}' have the same content and different features; "
                    "give them the same, or remove one of them"
                )
    return items


def _ordered(
    sample_id: str, places: Sequence[int], table: Table, level: Level, faces: FaceItems | None, path: Path
) -> np.ndarray:
    """A sample's row numbers in the order of its frames or faces."""
    if level == "global":
        if len(places) > 1:
            raise DataError(f"{path}: sample '{sample_id}' has {len(places)} rows; level global takes one a sample")
        return np.array(places)
    index = table.index[places]
    order = np.argsort(index)
    count = _faces(sample_id, faces) if faces else len(places)
    if not np.array_equal(index[order], np.arange(count)):
        shown = ", ".join(map(str, index[order].tolist()[:20]))
        there = f"; the detections have {count} faces (column face of detections.csv)" if faces else ""
        raise DataError(
            f"{path}: sample '{sample_id}' has {INDEX[level]} {shown}{there}: give each from 0 on once, without gaps"
        )
    return np.array(places)[order]


def _parts(sample: Sample, rows: np.ndarray, faces: FaceItems | None) -> Iterator[tuple[bytes, np.ndarray]]:
    """A sample's items: all its rows, or at level `face` the rows of each of its face items."""
    if faces is None:
        yield item_key(sample.content), rows
        return
    start = 0
    for item in faces.detections.items[sample.sample_id]:
        if len(item.faces):
            yield item.key, rows[start : start + len(item.faces)]
            start += len(item.faces)


def _write(store: Store, spec: BlockSpec, items: Mapping[bytes, Item], path: Path) -> None:
    block = store.open(spec)
    here = dict(zip(items, block.has(list(items)), strict=True))
    for key, (sample_id, rows) in items.items():
        if here[key] and not np.array_equal(block.item(key)[0], rows):
            raise DataError(
                f"{path}: an earlier import of this file gave other features to the content of '{sample_id}', because "
                f"its sample_ids meant other files then; run kuleshov cache gc --block {store.place(spec).name}"
            )
    with store.writer(spec) as writer:
        for key, (_, rows) in items.items():
            if not here[key]:
                writer.add(key, rows)
