"""Rows of the store for samples, level by level: which keys they have in a block, and which of its rows are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cache.block import Block
from cache.dtypes import given
from cache.keys import item_keys, key_array, key_list, view_key
from stages.align.templates import template_of
from stages.detect.detections import Detections, Picked
from stages.detect.persons import find_persons
from stages.errors import DataError, SettingError
from stages.extract.items import keys_of
from stages.extract.settings import IMPORTED
from stages.index.manifest import Sample
from stages.train.inputs import Level, LevelName, one_face_a_frame
from stages.train.rows import MeanRows, StoredRows
from stages.train.settings import FrameSettings


def check_inputs(inputs: Mapping[str, Sequence[Block]], views: Sequence[str]) -> None:
    """Refuse blocks that cannot be an input, see `gather`."""
    levels = {block.spec.level for blocks in inputs.values() for block in blocks} & {"face", "global", "frame"}
    if len(levels) > 1:
        raise SettingError(
            f"inputs {', '.join(inputs)} are of levels {' and '.join(sorted(levels))}, which have other frames: one "
            "without a face has no row at level face; use blocks of one level"
        )
    for name, blocks in inputs.items():
        for block in blocks:
            spec = block.spec
            if spec.level != blocks[0].spec.level or (spec.level == "global" and spec.source == IMPORTED):
                raise SettingError(
                    f"inputs.{name}: {spec.name} has rows of level {spec.level}; name blocks of faces, of whole frames "
                    "or of persons, of one level"
                )
            if len(spec.shape) > 1 and len(blocks) > 1:
                raise SettingError(
                    f"inputs.{name}: {spec.name} has rows of shape {spec.shape}, which cannot be joined with those of "
                    "other blocks; name it alone"
                )
            if len(views) > 1 and given(spec) == np.uint8:
                raise SettingError(f"inputs.{name}: {spec.name} has no other view than the plain one; use views: plain")


def face_frames(
    inputs: Mapping[str, Sequence[Block]],
    samples: Sequence[Sample],
    detections: Detections,
    picked: Picked,
    counts: np.ndarray,
    views: Sequence[str],
    settings: FrameSettings,
) -> tuple[dict[LevelName, Level], dict[str, StoredRows]]:
    """Level `frame` and the rows of its inputs, where there are any.

    Args:
        picked: items of the samples' faces.
        counts: (n,) faces of each.
    """
    if not inputs:
        return {}, {}
    offsets = offsets_of(counts)
    places = places_of(samples, detections, offsets, np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts))
    kept, number = one_face_a_frame(samples, detections, picked.boxes, counts, places)
    level = Level(offsets_of(number), places[kept], settings.train, settings.answer)
    rows = _rows_of(inputs, picked.keys, picked.counts, kept, views)
    return {"frame": level}, rows


def whole_frames(
    inputs: Mapping[str, Sequence[Block]],
    samples: Sequence[Sample],
    detections: Detections,
    views: Sequence[str],
    settings: FrameSettings,
) -> tuple[dict[LevelName, Level], dict[str, StoredRows]]:
    """Level `frame` with a row for each whole frame, with or without a face in it; a photo is one."""
    keys, owner = keys_of(samples, detections, "global")
    offsets, each = offsets_of(np.bincount(owner, minlength=len(samples))), np.ones(len(keys), np.int64)
    places = np.stack([np.arange(len(keys)) - offsets[owner], np.zeros(len(keys), np.int64)], axis=1)
    rows = _rows_of(inputs, keys, each, np.arange(len(keys)), views)
    return {"frame": Level(offsets, places, settings.train, settings.answer)}, rows


def imported_frames(
    inputs: Mapping[str, Sequence[Block]], samples: Sequence[Sample], views: Sequence[str], settings: FrameSettings
) -> tuple[dict[LevelName, Level], dict[str, StoredRows]]:
    """Level `frame` with the rows that a file of the user's has for each sample's frames.

    Raises:
        DataError: two files differ in the frames of a sample.
    """
    first = next(iter(inputs.values()))[0]
    keys = key_array(item_keys(sample.content for sample in samples))
    counts = first.count(keys)
    offsets = offsets_of(counts)
    places = np.stack(
        [np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts), np.zeros(offsets[-1], np.int64)], axis=1
    )
    rows = _rows_of(inputs, keys, counts, np.arange(offsets[-1]), views)
    return {"frame": Level(offsets, places, settings.train, settings.answer)}, rows


def of_level(inputs: Mapping[str, Sequence[Block]], level: str) -> dict[str, Sequence[Block]]:
    """The inputs whose blocks are of a level."""
    return {name: blocks for name, blocks in inputs.items() if blocks[0].spec.level == level}


def persons_of(
    inputs: Mapping[str, Sequence[Block]],
    samples: Sequence[Sample],
    detections: Detections,
    most: int,
    views: Sequence[str],
) -> tuple[dict[LevelName, Level], dict[str, StoredRows]]:
    """Level `person` and the rows of its inputs, where there are any; of a sample with more than `most` persons the
    largest, by the area of their boxes."""
    if not inputs:
        return {}, {}
    persons = find_persons(samples, detections)
    counts = np.bincount(persons.owner, minlength=len(samples))
    kept, _ = largest_boxes(persons.boxes, counts, most)
    level = Level(offsets_of(np.bincount(persons.owner[kept], minlength=len(samples))), persons.places[kept])
    each = np.ones(len(persons), np.int64)
    rows = _rows_of(inputs, persons.keys, each, kept, views)
    return {"person": level}, rows


def _rows_of(
    inputs: Mapping[str, Sequence[Block]], keys: np.ndarray, counts: np.ndarray, keep: np.ndarray, views: Sequence[str]
) -> dict[str, StoredRows]:
    """`stored_rows` of each input, whose blocks have the same items."""
    return {name: stored_rows(blocks, [keys] * len(blocks), counts, keep, views) for name, blocks in inputs.items()}


def keys_in(
    block: Block, samples: Sequence[Sample], detections: Detections, level: str
) -> tuple[np.ndarray, np.ndarray]:
    """As `keys_of`; imported features of levels `global` and `frame` have one item a sample, whatever its frames."""
    if level in ("global", "frame") and block.spec.source == IMPORTED:
        return key_array(item_keys(sample.content for sample in samples)), np.arange(len(samples))
    return keys_of(samples, detections, level)


def global_rows(
    blocks: Sequence[Block], samples: Sequence[Sample], detections: Detections, views: Sequence[str]
) -> StoredRows | MeanRows:
    """A row for each sample and view, a clip's the mean of its frames'."""
    _, owner = detections.frames(samples)
    found = [keys_in(block, samples, detections, "global") for block in blocks]
    # imported features are those of every frame
    keys = [one if len(of) == len(owner) else one[owner] for one, of in found]
    rows = stored_rows(blocks, keys, np.ones(len(owner), np.int64), np.arange(len(owner)), views)
    if len(owner) == len(samples):
        return rows
    return MeanRows(rows, offsets_of(np.tile(np.bincount(owner, minlength=len(samples)), len(views))))


def places_of(
    samples: Sequence[Sample], detections: Detections, offsets: np.ndarray, face_index: np.ndarray
) -> np.ndarray:
    """See `Features.places`, and for the offsets `Features.offsets`."""
    places = np.stack([np.zeros_like(face_index), face_index], axis=1)
    for i, sample in enumerate(samples if detections.times else ()):
        if sample.sample_id in detections.times:
            mine = slice(offsets[i], offsets[i + 1])
            places[mine] = detections.places(sample.sample_id)[face_index[mine]]
    return places


def remedy(block: Block, roles: Mapping[str, str] | None = None) -> str:
    """The command that fills a block.

    Args:
        roles: key of a block -> the role that it is of.
    """
    if block.spec.source == IMPORTED:
        return "kuleshov cache import with another file"
    if template_of(block.spec.name) is not None:
        return "kuleshov align"
    return " ".join(["kuleshov extract", *filter(None, [(roles or {}).get(block.spec.key)])])


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: where the rows of each of n samples with `counts` rows begin, and the end of the last."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def largest_boxes(boxes: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions among all faces, or persons, of those kept, and which of its sample's each of them is.

    Args:
        boxes: (A, 4) px of all samples' faces or persons, one sample after another.
        counts: (n,) how many of them each sample has.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(boxes)) - offsets_of(counts)[owner]  # within the sample
    if int(counts.max(initial=0)) <= most:
        return np.arange(len(boxes)), position
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((-area, owner))  # by sample, then the largest first; stable, so the first of equals wins
    keep = np.sort(order[position < most])  # sorting leaves each sample where it is, so `position` is also the rank
    return keep, position[keep]


def viewed_keys(keys: np.ndarray, views: Sequence[str], block: Block) -> np.ndarray:
    """Keys of each view of plain items, (V * K,): those of the first view, then those of the next."""
    parts = [keys]
    for view in views[1:]:
        imported = block.spec.source == IMPORTED
        parts.append(keys if imported else key_array([view_key(key, view) for key in key_list(keys)]))
    return np.concatenate(parts)


def stored_rows(
    blocks: Sequence[Block], keys: Sequence[np.ndarray], counts: np.ndarray, keep: np.ndarray, views: Sequence[str]
) -> StoredRows:
    """For each view the rows at `keep` of all rows of these items, which must have `counts` rows in each block.

    Args:
        keys: of the items in each block.
    """
    positions = []
    keep = (np.arange(len(views))[:, None] * int(counts.sum()) + keep).reshape(-1)
    counts = np.tile(counts, len(views))
    for block, plain in zip(blocks, keys, strict=True):
        wanted = viewed_keys(plain, views, block)
        found = block.count(wanted)
        other = np.flatnonzero(found != counts)
        if len(other):
            raise DataError(
                f"{block.spec.name}: {found[other[0]]} rows for {counts[other[0]]} of the detections; another "
                f"detection wrote them: delete this block from the store and run {remedy(block)}"
            )
        positions.append(block.positions(wanted))
    item = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[keep]
    return StoredRows(blocks, positions, item, keep - offsets_of(counts)[item])
