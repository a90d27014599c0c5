"""Cached features of a set of samples, gathered into flat arrays, and cut into padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cache.keys import BlockSpec
from cache.store import Block, Store
from stages.detect.run import Detections
from stages.errors import MissingInputError
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

    A sample without a face counts, by its global features.

    Raises:
        MissingInputError: a block holds none of the samples.
    """
    faces, globals_ = [store.open(s) for s in face_blocks], [store.open(s) for s in global_blocks]
    kept = [s for s in samples if _complete(s, detections, faces, globals_, ledger)]
    if samples and not kept:
        missing = [b.spec.name for b in [*faces, *globals_] if not len(b)] or [b.spec.name for b in [*faces, *globals_]]
        raise MissingInputError(f"no sample has all of its features ({', '.join(missing)}); run kuleshov extract")
    keys = [keys_of(sample, detections, "face") for sample in kept]
    chosen, boxes = _choose([detections.faces(s.sample_id).boxes for s in kept], _sizes(kept, detections), max_faces)
    counts = [len(c) for c in chosen]
    flat = _positions(chosen, [len(detections.faces(s.sample_id)) for s in kept])
    columns = [b.rows([k for ks in keys for k in ks])[0][flat].astype(np.float32) for b in faces]
    wide = [b.rows([keys_of(s, detections, "global")[0] for s in kept])[0].astype(np.float32) for b in globals_]
    return Features(
        samples=tuple(kept),
        faces=np.concatenate(columns, axis=1),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        face_index=np.concatenate([np.empty(0, np.int64), *chosen]),
        boxes=boxes,
        global_=np.concatenate(wide, axis=1),
    )


def _complete(
    sample: Sample, detections: Detections, faces: Sequence[Block], globals_: Sequence[Block], ledger: Ledger
) -> bool:
    if sample.sample_id in detections.failed:
        ledger.record(sample.sample_id, *detections.failed[sample.sample_id])
        return False
    for level, blocks in (("face", faces), ("global", globals_)):
        keys = keys_of(sample, detections, level)
        for block in blocks:
            bad = [status or "missing" for status in block.statuses(keys) if status != "ok"]
            if bad:
                ledger.record(sample.sample_id, "no_features", f"{block.spec.name}: {bad[0]}; run kuleshov extract")
                return False
    return True


def _sizes(samples: Sequence[Sample], detections: Detections) -> np.ndarray:
    return np.array([detections.sizes[s.sample_id] for s in samples], np.float32).reshape(-1, 2)


def _choose(boxes: Sequence[np.ndarray], sizes: np.ndarray, most: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Which faces of each sample are kept (the largest, in stored order), and their relative boxes (F, 4)."""
    chosen, relative = [], [np.empty((0, 4), np.float32)]
    for box, size in zip(boxes, sizes, strict=True):
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        keep = np.sort(np.argsort(-area, kind="stable")[:most])
        chosen.append(keep.astype(np.int64))
        relative.append((box[keep] / np.tile(size, 2)).astype(np.float32))
    return chosen, np.concatenate(relative)


def _positions(chosen: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Positions of the kept faces among all faces of all samples."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.concatenate([np.empty(0, np.int64), *(start + keep for start, keep in zip(starts, chosen, strict=False))])
