"""Cached crops of samples' faces: where each lies in the store, and reading those of a batch.

Nothing is held but a few numbers a face: crops are copied out of the store's maps when they are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.block import Block
from cache.maps import hand_back
from cache.store import Store
from stages.align.run import crops_spec
from stages.align.templates import find
from stages.backbones.spec import BackboneSpec
from stages.detect.corpus import spans
from stages.detect.detections import Detections, Picked
from stages.detect.settings import FaceSource
from stages.errors import DataError, MissingInputError, SettingError
from stages.finetune.augment import PHOTO, Who
from stages.index.frames import ClipSettings, select
from stages.index.manifest import Sample
from stages.ledger import Ledger

RESIDENT_BYTES = 64 << 20
"""How much of the store's maps may count as memory after a batch: a random batch seldom finds a page of another."""


@dataclass(frozen=True)
class FaceCrops:
    """The faces of n samples, F in all, one sample after another in stored order.

    Attributes:
        block: of the crops.
        offsets: (n + 1,) int64: faces of sample i are those from `offsets[i]` up to `offsets[i + 1]`.
        position: (F,) int64, of each face's item in the block.
        within: (F,) int64, which row of that item.
        number: (F,) int64, which of its sample's stored faces.
        frame: (F,) int64, which of its sample's frames it is in; 0 in photos.
        area: (F,) float32, px of its box.
        boxes: (F, 4) float32, x1 y1 x2 y2 relative to the photo's width and height.
    """

    block: Block
    offsets: np.ndarray
    position: np.ndarray
    within: np.ndarray
    number: np.ndarray
    frame: np.ndarray
    area: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    @property
    def owner(self) -> np.ndarray:
        """(F,) int64, the sample of each face."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def of(self, sample: int, frames: int | None, who: Who | None) -> np.ndarray:
        """The faces of a sample, (k,) int64, ascending.

        Args:
            frames: of a clip, how many of the frames with a face: drawn for `who`, or without one spread evenly; None:
                all.
        """
        faces = np.arange(self.offsets[sample], self.offsets[sample + 1])
        if frames is None:
            return faces
        of_face = self.frame[faces]
        there = np.unique(of_face)
        if len(there) <= frames:
            return faces
        chosen = there[choose(there, frames, who)]
        return faces[np.isin(of_face, chosen)]

    def read(self, faces: np.ndarray) -> np.ndarray:
        """Copies of the crops of these faces (k,): uint8 (k, h, w, 3)."""
        out = np.empty((len(faces), *self.block.spec.shape), np.uint8)
        position, within = self.position[faces], self.within[faces]
        if not len(faces):
            return out
        starts = np.flatnonzero(np.diff(position, prepend=-1)).tolist()  # neighbours of one item are read together
        for start, stop in zip(starts, [*starts[1:], len(faces)], strict=True):
            rows = self.block.item_at(int(position[start]))
            if stop == start + 1:
                out[start] = rows[within[start]]
            else:
                out[start:stop] = rows[within[start:stop]]
        hand_back(RESIDENT_BYTES)
        return out


def choose(frames: np.ndarray, count: int, who: Who | None) -> np.ndarray:
    """Positions of some of these frames (T,) int64, ascending: any `count` of them drawn for `who`, whose face says
    nothing here; or without one the middles of `count` stretches, see `stages.index.frames`."""
    if who is None:
        return select(frames, ClipSettings(frames="uniform", count=count), "")
    seed = int(who._replace(face=PHOTO).lot("frames") * 2.0**53)
    return select(frames, ClipSettings(frames="random", count=count, seed=seed), who.sample_id)


def require_fit(spec: BackboneSpec) -> None:
    """Refuse a backbone that cannot be trained on crops of faces.

    Raises:
        SettingError: it sees whole photos, or crops of another size than its template's.
    """
    if spec.input != "face":
        raise SettingError(f"{spec.name} sees whole photos, not crops of faces: use unit photo, or a network of faces")
    template = find(spec.template or "")
    if template.size != spec.pixels_size:
        (height, width), (h, w) = template.size, spec.pixels_size
        raise SettingError(
            f"{spec.name} sees crops of {h}x{w}, but template {template.name} cuts {height}x{width}: "
            "give the backbone a template of its size"
        )


def find_crops(
    samples: Sequence[Sample],
    store: Store,
    detections: Detections,
    source: FaceSource,
    spec: BackboneSpec,
    max_faces: int | None,
    ledger: Ledger,
) -> tuple[FaceCrops, list[Sample]]:
    """The crops that a backbone sees of samples that could be read, and the samples that have them all.

    A sample whose crops are missing is recorded in the ledger and left out; one without a face has none and stays.

    Args:
        samples: all in the detections.
        source: which faces, see `DetectSettings.faces`.
        max_faces: the largest faces that are kept of a photo, or of each frame of a clip, by the area of their boxes;
            None: all.

    Raises:
        SettingError: as `require_fit`.
        MissingInputError: none of the samples' faces has a crop.
        DataError: the crops are not those of these detections.
    """
    require_fit(spec)
    block = store.open(crops_spec(find(spec.template or ""), detections.key, source))
    picked = detections.pick(samples)
    counts = block.count(picked.keys)
    lacking = counts <= 0
    if len(lacking) and lacking.all():
        raise MissingInputError(f"{spec.name}: no {block.spec.source} crops of these faces; run kuleshov align")
    other = np.flatnonzero(~lacking & (counts != picked.counts))
    if len(other):
        raise DataError(
            f"{block.spec.name}: {counts[other[0]]} rows for {picked.counts[other[0]]} faces; other detections wrote "
            "them: delete this block from the store and run kuleshov align"
        )
    kept = list(samples)
    if lacking.any():
        bad = set(picked.owner[lacking].tolist())
        for i in sorted(bad):
            ledger.record(samples[i].sample_id, "missing_crops", f"no {block.spec.source} crops; run kuleshov align")
        kept = [sample for i, sample in enumerate(samples) if i not in bad]
        picked = detections.pick(kept)
    return _located(block, kept, detections, picked, max_faces), kept


def _located(
    block: Block, samples: Sequence[Sample], detections: Detections, picked: Picked, max_faces: int | None
) -> FaceCrops:
    counts = np.bincount(picked.owner, picked.counts, len(samples)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    owner = np.repeat(np.arange(len(samples)), counts)
    boxes = picked.boxes
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    frame = np.zeros(len(owner), np.int64)
    for i, sample in enumerate(samples if detections.times else ()):
        if sample.sample_id in detections.times:
            frame[offsets[i] : offsets[i + 1]] = detections.places(sample.sample_id)[:, 0]
    keep = np.arange(len(owner)) if max_faces is None else _largest(area, owner, frame, max_faces)
    sizes = detections.sizes_of(samples).astype(np.float32)
    return FaceCrops(
        block=block,
        offsets=np.searchsorted(owner[keep], np.arange(len(samples) + 1)).astype(np.int64),
        position=np.repeat(block.positions(picked.keys), picked.counts)[keep],
        within=spans(np.zeros(len(picked.counts), np.int64), picked.counts)[keep],
        number=(np.arange(len(owner)) - offsets[owner])[keep],
        frame=frame[keep],
        area=area[keep],
        boxes=boxes[keep] / np.tile(sizes, 2)[owner[keep]],
    )


def _largest(area: np.ndarray, owner: np.ndarray, frame: np.ndarray, most: int) -> np.ndarray:
    """Ascending positions of the `most` largest faces of each frame; of equals the first ones."""
    order = np.lexsort((-area, frame, owner))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(owner[order]) != 0) | (np.diff(frame[order]) != 0)
    starts = np.flatnonzero(new)
    rank = np.arange(len(order)) - starts[np.cumsum(new) - 1]
    return np.sort(order[rank < most])
