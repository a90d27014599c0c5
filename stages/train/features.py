"""Cached features of a set of samples, gathered into flat arrays, and cut into padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cache.block import Block
from cache.keys import BlockSpec
from cache.store import Store
from stages.detect.run import Detections
from stages.errors import DataError, MissingInputError
from stages.extract.run import keys_of
from stages.heads.batch import HeadBatch
from stages.index.manifest import Sample
from stages.ledger import Ledger

Scale = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation per feature, float32 (D,)."""


@dataclass(frozen=True)
class Features:
    """Features of n samples.

    Attributes:
        samples: the manifest's rows.
        faces: (F, D) float32, the faces of all samples one after another.
        offsets: (n + 1,) int64: faces of sample i are `faces[offsets[i]:offsets[i + 1]]`.
        face_index: (F,) int64, which of the sample's stored faces each row is.
        boxes: (F, 4) float32, relative to the photo's size.
        global_: (n, G) float32.
    """

    samples: tuple[Sample, ...]
    faces: np.ndarray
    offsets: np.ndarray
    face_index: np.ndarray
    boxes: np.ndarray
    global_: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, rows: np.ndarray) -> HeadBatch:
        """Samples at positions `rows` as a padded batch."""
        starts, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        width = max(int(counts.max(initial=0)), 1)
        column = np.arange(width)
        mask = column < counts[:, None]  # (B, N)
        index = np.where(mask, starts[:, None] + column, 0)
        faces = np.zeros((len(rows), width, self.faces.shape[1]), np.float32)
        boxes = np.zeros((len(rows), width, 4), np.float32)
        faces[mask], boxes[mask] = self.faces[index[mask]], self.boxes[index[mask]]
        arrays = (faces, mask, boxes, self.global_[rows])
        return HeadBatch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))

    def scales(self, rows: np.ndarray) -> tuple[Scale, Scale]:
        """Mean and deviation of the faces and of the global features over the samples at `rows`."""
        keep = np.zeros(len(self), bool)
        keep[rows] = True
        of_face = np.repeat(keep, np.diff(self.offsets))
        return _scale(self.faces[of_face]), _scale(self.global_[keep])

    def scaled(self, faces: Scale, global_: Scale) -> Features:
        """Standardized features."""
        return replace(self, faces=(self.faces - faces[0]) / faces[1], global_=(self.global_ - global_[0]) / global_[1])


def _scale(values: np.ndarray) -> Scale:
    if not len(values):
        return np.zeros(values.shape[1], np.float32), np.ones(values.shape[1], np.float32)
    deviation = values.std(0, dtype=np.float64)
    deviation[deviation < 1e-6] = 1.0
    return values.mean(0, dtype=np.float64).astype(np.float32), deviation.astype(np.float32)


def gather(
    samples: Sequence[Sample],
    store: Store,
    detections: Detections,
    face_blocks: Sequence[BlockSpec],
    global_blocks: Sequence[BlockSpec],
    *,
    max_faces: int,
    ledger: Ledger,
) -> Features:
    """Read the features of every sample that has them all; the others are recorded in the ledger.

    A sample without a face counts, by its global features. Of a sample with more than `max_faces` faces the largest
    (by the area of their boxes) are kept, in stored order.

    Raises:
        MissingInputError: a block holds nothing of these samples, or no sample has all of its features.
        DataError: a block has another number of faces than the detections.
    """
    faces, globals_ = [store.open(s) for s in face_blocks], [store.open(s) for s in global_blocks]
    kept = _complete(samples, detections, faces, globals_, ledger)
    if samples and not kept:
        names = ", ".join(block.spec.name for block in [*faces, *globals_])
        raise MissingInputError(f"no sample has all of its features ({names}); run kuleshov extract")
    face_keys = [key for sample in kept for key in keys_of(sample, detections, "face")]
    photo_keys = [key for sample in kept for key in keys_of(sample, detections, "global")]
    parts = [[item.faces.boxes for item in detections.items[sample.sample_id]] for sample in kept]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(box for part in parts for box in part)])
    counts = np.array([sum(len(box) for box in part) for part in parts], np.int64)
    keep, face_index = _largest(boxes, counts, max_faces)
    owner = np.repeat(np.arange(len(kept)), counts)[keep]
    sizes = np.array([detections.sizes[sample.sample_id] for sample in kept], np.float32).reshape(-1, 2)
    return Features(
        samples=tuple(kept),
        faces=_joined(faces, face_keys, len(boxes), keep),
        offsets=_offsets(np.bincount(owner, minlength=len(kept))),
        face_index=face_index,
        boxes=(boxes[keep] / np.tile(sizes, 2)[owner]).astype(np.float32),
        global_=_joined(globals_, photo_keys, len(kept), np.arange(len(kept))),
    )


def _complete(
    samples: Sequence[Sample],
    detections: Detections,
    faces: Sequence[Block],
    globals_: Sequence[Block],
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
    for level, blocks in (("face", faces), ("global", globals_)):
        keys = [keys_of(sample, detections, level) for sample in readable]
        flat = [key for some in keys for key in some]
        owner = np.repeat(np.arange(len(keys)), [len(some) for some in keys])
        for block in blocks:
            statuses = block.statuses(flat)
            if flat and not any(statuses):
                raise MissingInputError(
                    f"{block.spec.name}: the store has no features of these samples; run kuleshov extract"
                )
            for i, status in zip(owner.tolist(), statuses, strict=True):
                if status != "ok":
                    good[i] = False
                    detail = f"{block.spec.name}: {status or 'missing'}; run kuleshov extract"
                    ledger.record(readable[i].sample_id, "no_features", detail)
    return [sample for sample, one in zip(readable, good, strict=True) if one]


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
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((-area, owner))  # by sample, then the largest first; stable, so the first of equals wins
    keep = np.sort(order[position < most])  # sorting leaves each sample where it is, so `position` is also the rank
    return keep, position[keep]


def _joined(blocks: Sequence[Block], keys: Sequence[bytes], rows: int, keep: np.ndarray) -> np.ndarray:
    """The kept rows of several blocks side by side, float32."""
    columns = []
    for block in blocks:
        found, _ = block.rows(keys)
        if len(found) != rows:
            raise DataError(
                f"{block.spec.name}: {len(found)} rows for {rows} of the detections; another detection wrote them: "
                "delete this block from the store and run kuleshov extract"
            )
        columns.append(found if len(keep) == rows else found[keep])
    return np.concatenate(columns, axis=1, dtype=np.float32)
