"""Cached features of a set of samples, in flat tables, cut into padded batches.

Few features are held in memory; many stay in the store and are read batch by batch, so that memory does not grow with
them. Both give the same batches, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cache.block import Block
from cache.dtypes import given
from cache.keys import PLAIN, BlockSpec, item_keys, key_array, key_list, view_key
from cache.store import Store
from stages.detect.detections import Detections, Picked
from stages.detect.persons import find_persons
from stages.errors import DataError, MissingInputError, SettingError
from stages.extract.items import keys_of
from stages.extract.settings import IMPORTED
from stages.heads.batch import HeadBatch
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.train.inputs import InputRows, Level, LevelName, one_face_a_frame, padded, read_once
from stages.train.rows import MeanRows, Rows, Scale, StoredRows, scale_of, scaled, scaled_rows
from stages.train.settings import FrameSettings

HELD_BYTES = 256 << 20
"""Features of up to this size, as they are in a batch, are held in memory; of more, none is."""


@dataclass(frozen=True)
class Features:
    """Features of n samples.

    With V views, `faces`, `global_` and `inputs` have the rows of the plain one first, and then as many of each other
    view.

    Attributes:
        samples: the manifest's rows.
        faces: (V * F, D) float32, the faces of all samples one after another; in memory or in the store.
        offsets: (n + 1,) int64: faces of sample i are `faces[offsets[i]:offsets[i + 1]]`.
        face_index: (F,) int64, which of the sample's stored faces each row is.
        places: (F, 2) int64, the frame of the sample that each is in, and which of the frame's stored faces it is; a
            photo has frame 0.
        boxes: (F, 4) float32, relative to the photo's size.
        global_: (V * n, G) float32, as `faces`.
        views: V, at least 1.
        inputs: what else a head reads, by the names that its file gives them.
        levels: which rows samples have in them: `frame`, `person`, those of them that `inputs` are of.
    """

    samples: tuple[Sample, ...]
    faces: Rows
    offsets: np.ndarray
    face_index: np.ndarray
    places: np.ndarray
    boxes: np.ndarray
    global_: Rows
    views: int = 1
    inputs: Mapping[str, InputRows] = field(default_factory=dict)
    levels: Mapping[LevelName, Level] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, rows: np.ndarray, views: np.ndarray | None = None, frames: np.ndarray | None = None) -> HeadBatch:
        """Samples at positions `rows` (B,) as a padded batch.

        Args:
            views: numbers of the views that they are seen in; None: plain.
            frames: (B, T), which of a sample's frames are in it, see `Level`; None: those that answers are made of.
        """
        inputs, masks = padded(self.levels, self.inputs, read_once(self.inputs), rows, views, frames)
        starts, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        width = max(int(counts.max(initial=0)), 1)
        column = np.arange(width)
        mask = column < counts[:, None]  # (B, N)
        index = (starts[:, None] + column)[mask]
        faces = np.zeros((len(rows), width, self.faces.shape[1]), np.float32)
        boxes = np.zeros((len(rows), width, 4), np.float32)
        boxes[mask] = self.boxes[index]
        if views is not None:
            index = index + np.repeat(views * len(self.boxes), counts)
            rows = rows + views * len(self)
        faces[mask] = self.faces[index]
        arrays = {"faces": faces, "face_mask": mask, "boxes": boxes, "global_": self.global_[rows]}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        return HeadBatch(**tensors, inputs=inputs, masks=masks)

    def scales(self, rows: np.ndarray) -> tuple[Scale, Scale]:
        """Mean and deviation of the faces and of the global features over the samples at `rows`, of the plain view."""
        keep = np.zeros(len(self), bool)
        keep[rows] = True
        of_face = np.repeat(keep, np.diff(self.offsets))
        return scale_of(self.faces, np.flatnonzero(of_face)), scale_of(self.global_, np.flatnonzero(keep))

    def input_scales(self, rows: np.ndarray) -> dict[str, Scale]:
        """As `scales`, of each of the inputs that are vectors. Maps and pixels stay as they are: they are of one block,
        so that no feature of another scale stands beside them."""
        found: dict[str, Scale] = {}
        for name, one in self.inputs.items():
            if len(one.shape) == 1:
                level = self.levels[one.level]
                index, mask = level.take(rows, level.every(rows))
                found[name] = scale_of(one.rows, np.sort(index[mask]))
        return found

    def scaled(self, faces: Scale, global_: Scale, inputs: Mapping[str, Scale] | None = None) -> Features:
        """Standardized features; inputs without a scale stay as they are."""
        scales = inputs or {}
        others = {
            name: InputRows(one.level, scaled_rows(one.rows, scales[name])) if name in scales else one
            for name, one in self.inputs.items()
        }
        return replace(self, faces=scaled(self.faces, faces), global_=scaled(self.global_, global_), inputs=others)


def gather(
    samples: Sequence[Sample],
    store: Store,
    detections: Detections,
    face_blocks: Sequence[BlockSpec],
    global_blocks: Sequence[BlockSpec],
    *,
    max_faces: int,
    ledger: Ledger,
    views: Sequence[str] = (PLAIN,),
    held_bytes: int = HELD_BYTES,
    inputs: Mapping[str, Sequence[BlockSpec]] | None = None,
    frames: FrameSettings | None = None,
) -> Features:
    """Read the features of every sample that has them all; the others are recorded in the ledger.

    A clip's faces are those of all of its frames, and its global features the mean of its frames'. A sample without a
    face counts, by its global features. Of a sample with more than `max_faces` faces the largest
    (by the area of their boxes) are kept, in stored order. A sample without a row of frames counts too; which face is a
    frame's, `stages.train.inputs` says, and `max_faces` has no part in it.

    Args:
        views: names of the views to read, the plain one first; imported features have no other view.
        held_bytes: features that take more stay in the store.
        inputs: what else the head reads: name -> blocks of level face for rows of frames, or of level person, of
            vectors, which are joined, or one of maps or pixels.
        frames: how many frames training and answers see.

    Raises:
        MissingInputError: a block holds nothing of these samples, or no sample has all of its features.
        DataError: a block has another number of faces than the detections.
        SettingError: blocks of an input cannot be joined, or one has rows of another kind, or no other view.
    """
    faces, globals_ = [store.open(s) for s in face_blocks], [store.open(s) for s in global_blocks]
    others = {name: [store.open(s) for s in specs] for name, specs in (inputs or {}).items()}
    _check_inputs(others, views)
    every = {block.spec.key: block for blocks in (faces, *others.values()) for block in blocks}
    kept = _complete(samples, detections, [*every.values(), *globals_], views, ledger)
    if samples and not kept:
        names = ", ".join(block.spec.name for block in [*every.values(), *globals_])
        raise MissingInputError(f"no sample has all of its features ({names}); run kuleshov extract")
    picked = detections.pick(kept)
    counts = np.bincount(picked.owner, picked.counts, len(kept)).astype(np.int64)
    boxes = picked.boxes
    keep, face_index = _largest(boxes, counts, max_faces)
    owner = np.repeat(np.arange(len(kept), dtype=np.int32), counts)[keep]
    sizes = detections.sizes_of(kept).astype(np.float32)
    face_rows = _stored(faces, [picked.keys] * len(faces), picked.counts, keep, views)
    global_rows = _global_rows(globals_, kept, detections, views)
    offsets = _offsets(np.bincount(owner, minlength=len(kept)))
    levels, rows = _frame_rows(_of(others, "face"), kept, detections, picked, counts, views, frames or FrameSettings())
    of_persons, more = _person_rows(_of(others, "person"), kept, detections, max_faces, views)
    levels, rows = levels | of_persons, rows | more
    few = face_rows.nbytes + global_rows.nbytes + sum(one.nbytes for one in rows.values()) <= held_bytes
    return Features(
        samples=tuple(kept),
        faces=face_rows.held() if few else face_rows,
        offsets=offsets,
        face_index=face_index,
        places=_places(kept, detections, offsets, face_index),
        boxes=boxes[keep] / np.tile(sizes, 2)[owner],
        global_=global_rows.held() if few else global_rows,
        views=len(views),
        inputs={
            name: InputRows("person" if name in more else "frame", one.held() if few else one)
            for name, one in rows.items()
        },
        levels=levels,
    )


def _check_inputs(inputs: Mapping[str, Sequence[Block]], views: Sequence[str]) -> None:
    """Refuse blocks that cannot be an input, see `gather`."""
    for name, blocks in inputs.items():
        for block in blocks:
            spec = block.spec
            if spec.level not in ("face", "person") or spec.level != blocks[0].spec.level:
                raise SettingError(
                    f"inputs.{name}: {spec.name} has rows of level {spec.level}; name blocks of faces, or of persons"
                )
            if len(spec.shape) > 1 and len(blocks) > 1:
                raise SettingError(
                    f"inputs.{name}: {spec.name} has rows of shape {spec.shape}, which cannot be joined with those of "
                    "other blocks; name it alone"
                )
            if len(views) > 1 and given(spec) == np.uint8:
                raise SettingError(f"inputs.{name}: {spec.name} has no other view than the plain one; use views: plain")


def _frame_rows(
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
    offsets = _offsets(counts)
    places = _places(samples, detections, offsets, np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts))
    kept, number = one_face_a_frame(samples, detections, picked.boxes, counts, places)
    level = Level(_offsets(number), places[kept], settings.train, settings.answer)
    rows = {
        name: _stored(blocks, [picked.keys] * len(blocks), picked.counts, kept, views)
        for name, blocks in inputs.items()
    }
    return {"frame": level}, rows


def _of(inputs: Mapping[str, Sequence[Block]], level: str) -> dict[str, Sequence[Block]]:
    """The inputs whose blocks are of a level."""
    return {name: blocks for name, blocks in inputs.items() if blocks[0].spec.level == level}


def _person_rows(
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
    kept, _ = _largest(persons.boxes, counts, most)
    level = Level(_offsets(np.bincount(persons.owner[kept], minlength=len(samples))), persons.places[kept])
    each = np.ones(len(persons), np.int64)
    rows = {name: _stored(blocks, [persons.keys] * len(blocks), each, kept, views) for name, blocks in inputs.items()}
    return {"person": level}, rows


def _complete(
    samples: Sequence[Sample],
    detections: Detections,
    blocks: Sequence[Block],
    views: Sequence[str],
    ledger: Ledger,
) -> list[Sample]:
    """The samples whose every feature is in the store; one question a block, as there may be many samples."""
    readable = []
    for sample in samples:
        if sample.sample_id in detections.failed:
            ledger.record(sample.sample_id, *detections.failed[sample.sample_id])
        else:
            readable.append(sample)
    good = np.ones(len(readable), bool)
    for block in blocks:
        plain, owners = _keys(block, readable, detections, block.spec.level)
        keys = _viewed(plain, views, block)
        owner = np.tile(owners, len(views))
        counts = block.count(keys)
        if len(keys) and (counts < 0).all():
            raise MissingInputError(
                f"{block.spec.name}: the store has no features of these samples; run {_remedy(block)}"
            )
        bare = np.flatnonzero(counts <= 0)  # who has a row has not failed
        for i, status in zip(owner[bare].tolist(), block.statuses(keys[bare]), strict=True):
            if status != "ok":
                good[i] = False
                detail = f"{block.spec.name}: {status or 'missing'}; run {_remedy(block)}"
                ledger.record(readable[i].sample_id, "no_features", detail)
    return [sample for sample, one in zip(readable, good, strict=True) if one]


def _keys(block: Block, samples: Sequence[Sample], detections: Detections, level: str) -> tuple[np.ndarray, np.ndarray]:
    """As `keys_of`; imported features of level `global` have one item a sample, whatever its frames."""
    if level == "global" and block.spec.source == IMPORTED:
        return key_array(item_keys(sample.content for sample in samples)), np.arange(len(samples))
    return keys_of(samples, detections, level)


def _global_rows(
    blocks: Sequence[Block], samples: Sequence[Sample], detections: Detections, views: Sequence[str]
) -> StoredRows | MeanRows:
    """A row for each sample and view, a clip's the mean of its frames'."""
    _, owner = detections.frames(samples)
    found = [_keys(block, samples, detections, "global") for block in blocks]
    # imported features are those of every frame
    keys = [one if len(of) == len(owner) else one[owner] for one, of in found]
    rows = _stored(blocks, keys, np.ones(len(owner), np.int64), np.arange(len(owner)), views)
    if len(owner) == len(samples):
        return rows
    return MeanRows(rows, _offsets(np.tile(np.bincount(owner, minlength=len(samples)), len(views))))


def _places(
    samples: Sequence[Sample], detections: Detections, offsets: np.ndarray, face_index: np.ndarray
) -> np.ndarray:
    """See `Features.places`, and for the offsets `Features.offsets`."""
    places = np.stack([np.zeros_like(face_index), face_index], axis=1)
    for i, sample in enumerate(samples if detections.times else ()):
        if sample.sample_id in detections.times:
            mine = slice(offsets[i], offsets[i + 1])
            places[mine] = detections.places(sample.sample_id)[face_index[mine]]
    return places


def _remedy(block: Block) -> str:
    """The command that fills a block."""
    return "kuleshov cache import with another file" if block.spec.source == IMPORTED else "kuleshov extract"


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _largest(boxes: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions among all faces of those kept, and which of its sample's faces each of them is.

    Args:
        boxes: (A, 4) px of all samples' faces, one sample after another.
        counts: (n,) how many of them each sample has.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(boxes)) - _offsets(counts)[owner]  # within the sample
    if int(counts.max(initial=0)) <= most:
        return np.arange(len(boxes)), position
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((-area, owner))  # by sample, then the largest first; stable, so the first of equals wins
    keep = np.sort(order[position < most])  # sorting leaves each sample where it is, so `position` is also the rank
    return keep, position[keep]


def _viewed(keys: np.ndarray, views: Sequence[str], block: Block) -> np.ndarray:
    """Keys of each view of plain items, (V * K,): those of the first view, then those of the next."""
    parts = [keys]
    for view in views[1:]:
        imported = block.spec.source == IMPORTED
        parts.append(keys if imported else key_array([view_key(key, view) for key in key_list(keys)]))
    return np.concatenate(parts)


def _stored(
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
        wanted = _viewed(plain, views, block)
        found = block.count(wanted)
        other = np.flatnonzero(found != counts)
        if len(other):
            raise DataError(
                f"{block.spec.name}: {found[other[0]]} rows for {counts[other[0]]} of the detections; another "
                f"detection wrote them: delete this block from the store and run {_remedy(block)}"
            )
        positions.append(block.positions(wanted))
    item = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[keep]
    return StoredRows(blocks, positions, item, keep - _offsets(counts)[item])
