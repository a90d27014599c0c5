"""Persons of samples: the given boxes of that kind; of a sample without any, the surroundings of each of its faces.

A person is known by a box, whichever way it came to be, so what is cached of it depends on the photo and the box alone:
two samples that are two persons of one photo have rows of their own, a box that two samples share has one, and another
detector that finds the same faces costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.keys import box_region, frame_key, key_array
from stages.detect.corpus import PHOTO
from stages.detect.detections import Detections
from stages.detect.settings import PersonSettings
from stages.index.manifest import Sample

PERSON = "person"
"""Kind of a given box."""

LEAST = 1.0
"""Px of a person, in width and in height, that must lie in the photo."""


@dataclass(frozen=True)
class Persons:
    """The K persons of n samples, one sample after another; of a sample one frame after another, and in a frame in the
    order of the manifest's boxes or of the stored faces. A person is an item, with one row in each block.

    Attributes:
        keys: (K,) item keys; samples may share items.
        owner: (K,) int64, which of the n samples each is of, ascending.
        frame: (K,) int64, which of the sample's frames each is in; 0 in a photo.
        boxes: (K, 4) float64, x1 y1 x2 y2 in px of the upright original, as the key has them. Given ones may reach over
            the photo's border.
        unfit: which of the n samples, and why: boxes of which no px lies in the photo. They are no persons.
    """

    keys: np.ndarray
    owner: np.ndarray
    frame: np.ndarray
    boxes: np.ndarray
    unfit: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, sample: int) -> slice:
        """Where the persons of one of the n samples lie."""
        first, last = np.searchsorted(self.owner, [sample, sample + 1]).tolist()
        return slice(first, last)

    def offsets(self, samples: int) -> np.ndarray:
        """(n + 1,) int64 for n samples: the persons of sample i are those from `[i]` up to `[i + 1]`."""
        return np.searchsorted(self.owner, np.arange(samples + 1)).astype(np.int64)

    @property
    def places(self) -> np.ndarray:
        """(K, 2) int64: the frame that each is in, and which of the frame's persons it is."""
        position = np.arange(len(self))
        is_first = np.ones(len(self), bool)
        is_first[1:] = (self.owner[1:] != self.owner[:-1]) | (self.frame[1:] != self.frame[:-1])
        return np.stack([self.frame, position - np.maximum.accumulate(np.where(is_first, position, 0))], axis=1)


def find_persons(samples: Sequence[Sample], detections: Detections) -> Persons:
    """The persons of samples that could be read.

    A sample with given boxes of kind `person` has those persons alone; of a clip in every frame, as given faces are.
    Any other has a person around each of its faces, so far as `detections.around` says, in the photo and in whole px. A
    box of which less than a px lies in the photo is unfit.

    Raises:
        KeyError: one of the samples could not be read.
    """
    given = [i for i, sample in enumerate(samples) if any(box.kind == PERSON for box in sample.boxes)]
    alone = set(given)
    rest = [i for i in range(len(samples)) if i not in alone]
    parts = (_given(samples, given, detections), _around(samples, rest, detections))
    owner, frame, boxes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    owner, frame, boxes = owner[order], frame[order], boxes[order]
    sizes = detections.sizes_of(samples)[owner]
    inside = clipped(boxes, sizes)
    fit = ((inside[:, 2:] - inside[:, :2]) >= LEAST).all(axis=1)
    unfit = tuple((int(owner[i]), _unfit(boxes[i], sizes[i])) for i in np.flatnonzero(~fit).tolist())
    owner, frame, boxes = owner[fit], frame[fit], boxes[fit]
    return Persons(key_array(_keys(samples, detections, owner, frame, boxes)), owner, frame, boxes, unfit)


def clipped(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (K, 4) without what lies out of their photos of (width, height) px, (K, 2): without area where all does."""
    return np.clip(boxes, 0, np.tile(sizes, 2))


def around(faces: np.ndarray, settings: PersonSettings) -> np.ndarray:
    """The boxes (F, 4) of persons around the boxes of faces (F, 4), px; they may reach over the border."""
    width, height = (faces[:, 2:] - faces[:, :2]).T
    reach = (-settings.sides * width, -settings.up * height, settings.sides * width, settings.down * height)
    return faces + np.stack(reach, axis=1)


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Owner (K,) int64, frame (K,) int64 and box (K, 4) float64 of persons, by owner, then by frame."""


def _given(samples: Sequence[Sample], which: Sequence[int], detections: Detections) -> _Columns:
    """The given persons of those of the samples."""
    found = [
        (i, frame, float(f"{box.x1:.3f}"), float(f"{box.y1:.3f}"), float(f"{box.x2:.3f}"), float(f"{box.y2:.3f}"))
        for i in which
        for frame in range(len(detections.times.get(samples[i].sample_id, (PHOTO,))))
        for box in samples[i].boxes
        if box.kind == PERSON
    ]
    table = np.array(found, np.float64).reshape(-1, 6)
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:] + 0.0  # no -0.0: keys are text


def _around(samples: Sequence[Sample], which: Sequence[int], detections: Detections) -> _Columns:
    """The persons around the faces of those of the samples, in the photo and in whole px: the last bits of a face's box
    may differ between machines, and a key must not."""
    some = [samples[i] for i in which]
    picked = detections.pick(some)
    number = np.repeat(picked.owner, picked.counts)
    frame = np.zeros(len(number), np.int64)
    for i in [i for i, sample in enumerate(some) if sample.sample_id in detections.times]:
        frame[np.searchsorted(number, i) : np.searchsorted(number, i + 1)] = detections.places(some[i].sample_id)[:, 0]
    boxes = np.rint(around(picked.boxes.astype(np.float64), detections.around))
    boxes = clipped(boxes, detections.sizes_of(some)[number]) + 0.0
    return np.array(which, np.int64)[number], frame, boxes


def _keys(
    samples: Sequence[Sample], detections: Detections, owner: np.ndarray, frame: np.ndarray, boxes: np.ndarray
) -> list[bytes]:
    """Item keys of persons; `_Columns`."""
    keys: list[bytes] = []
    for i, number, box in zip(owner.tolist(), frame.tolist(), boxes.tolist(), strict=True):
        times = detections.times.get(samples[i].sample_id)
        time_us = None if times is None else int(times[number])
        keys.append(frame_key(samples[i].content, time_us, region=box_region(*box)))
    return keys


def _unfit(box: np.ndarray, size: np.ndarray) -> str:
    corners, (width, height) = ", ".join(f"{v:g}" for v in box.tolist()), size.tolist()
    return f"less than a px of the person's box {corners} lies in the photo of {width} x {height} px; correct the box"
