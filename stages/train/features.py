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
from cache.keys import PLAIN, BlockSpec
from cache.store import Store
from stages.detect.detections import Detections
from stages.errors import MissingInputError
from stages.heads.batch import HeadBatch
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.train.inputs import InputRows, Level, LevelName, padded, read_once
from stages.train.rows import Rows, Scale, scale_of, scaled, scaled_rows
from stages.train.settings import FrameSettings
from stages.train.stored import (
    check_inputs,
    face_frames,
    global_rows,
    imported_frames,
    keys_in,
    largest_boxes,
    of_level,
    offsets_of,
    persons_of,
    places_of,
    remedy,
    stored_rows,
    viewed_keys,
    whole_frames,
)

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
    roles: Mapping[str, str] | None = None,
) -> Features:
    """Read the features of every sample that has them all; the others are recorded in the ledger.

    A clip's faces are those of all of its frames, and its global features the mean of its frames'. A sample without a
    face counts, by its global features. Of a sample with more than `max_faces` faces the largest
    (by the area of their boxes) are kept, in stored order. A sample without a row of frames counts too; which face is a
    frame's, `stages.train.inputs` says, and `max_faces` has no part in it.

    Args:
        views: names of the views to read, the plain one first; imported features have no other view.
        held_bytes: features that take more stay in the store.
        inputs: what else the head reads: name -> blocks of level face (one face a frame), global (the whole frame) or
            frame (imported) for rows of frames, or of level person; vectors, which are joined, or one block of maps or
            pixels.
        frames: how many frames training and answers see.
        roles: key of a block -> the role that it is of, for messages.

    Raises:
        MissingInputError: a block holds nothing of these samples, or no sample has all of its features.
        DataError: a block has another number of faces than the detections.
        SettingError: blocks of an input cannot be joined, or one has rows of another kind, or no other view.
    """
    faces, globals_ = [store.open(s) for s in face_blocks], [store.open(s) for s in global_blocks]
    others = {name: [store.open(s) for s in specs] for name, specs in (inputs or {}).items()}
    check_inputs(others, views)
    every = {block.spec.key: block for blocks in (faces, *others.values()) for block in blocks}
    kept = _complete(samples, detections, [*every.values(), *globals_], views, ledger, roles)
    if samples and not kept:
        names = ", ".join(block.spec.name for block in [*every.values(), *globals_])
        raise MissingInputError(f"no sample has all of its features ({names}); run kuleshov extract")
    picked = detections.pick(kept)
    counts = np.bincount(picked.owner, picked.counts, len(kept)).astype(np.int64)
    boxes = picked.boxes
    keep, face_index = largest_boxes(boxes, counts, max_faces)
    owner = np.repeat(np.arange(len(kept), dtype=np.int32), counts)[keep]
    sizes = detections.sizes_of(kept).astype(np.float32)
    face_rows = stored_rows(faces, [picked.keys] * len(faces), picked.counts, keep, views)
    photo_rows = global_rows(globals_, kept, detections, views)
    offsets = offsets_of(np.bincount(owner, minlength=len(kept)))
    levels, rows = face_frames(
        of_level(others, "face"), kept, detections, picked, counts, views, frames or FrameSettings()
    )
    if whole := of_level(others, "global"):
        levels, rows = whole_frames(whole, kept, detections, views, frames or FrameSettings())
    if imported := of_level(others, "frame"):
        levels, rows = imported_frames(imported, kept, views, frames or FrameSettings())
    of_persons, more = persons_of(of_level(others, "person"), kept, detections, max_faces, views)
    levels, rows = levels | of_persons, rows | more
    few = face_rows.nbytes + photo_rows.nbytes + sum(one.nbytes for one in rows.values()) <= held_bytes
    return Features(
        samples=tuple(kept),
        faces=face_rows.held() if few else face_rows,
        offsets=offsets,
        face_index=face_index,
        places=places_of(kept, detections, offsets, face_index),
        boxes=boxes[keep] / np.tile(sizes, 2)[owner],
        global_=photo_rows.held() if few else photo_rows,
        views=len(views),
        inputs={
            name: InputRows("person" if name in more else "frame", one.held() if few else one)
            for name, one in rows.items()
        },
        levels=levels,
    )


def _complete(
    samples: Sequence[Sample],
    detections: Detections,
    blocks: Sequence[Block],
    views: Sequence[str],
    ledger: Ledger,
    roles: Mapping[str, str] | None = None,
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
        plain, owners = keys_in(block, readable, detections, block.spec.level)
        keys = viewed_keys(plain, views, block)
        owner = np.tile(owners, len(views))
        counts = block.count(keys)
        if len(keys) and (counts < 0).all():
            raise MissingInputError(
                f"{block.spec.name}: the store has no features of these samples; run {remedy(block, roles)}"
            )
        bare = np.flatnonzero(counts <= 0)  # who has a row has not failed
        for i, status in zip(owner[bare].tolist(), block.statuses(keys[bare]), strict=True):
            if status != "ok":
                good[i] = False
                detail = f"{block.spec.name}: {status or 'missing'}; run {remedy(block, roles)}"
                ledger.record(readable[i].sample_id, "no_features", detail)
    return [sample for sample, one in zip(readable, good, strict=True) if one]
