"""Sets of pixels that networks are trained on: cached crops of faces, whole photos, or both.

A batch is made while the network computes on the one before. Which samples are in it, and what is seen of them, depends
on the order and the `Draw` alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cache.store import Store
from stages.backbones.spec import BackboneSpec
from stages.decoding.pool import Crash, decoded
from stages.detect.detections import Detections
from stages.detect.settings import FaceSource
from stages.errors import DataError, MediaError, SettingError
from stages.finetune.ahead import ahead
from stages.finetune.augment import PHOTO, Views, Who, mirrored_boxes
from stages.finetune.batch import Draw, PixelBatch, cut
from stages.finetune.crops import FaceCrops, choose, find_crops
from stages.finetune.photos import PhotoJob, PhotoLook
from stages.finetune.settings import AugmentSettings
from stages.index.manifest import Sample
from stages.ledger import Ledger

UNKNOWN = -1
"""The class of a sample that has no label, or several, or one that is none of the classes: never trained on."""

NONE = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
"""In the place of pixels that are not asked for."""


@dataclass(frozen=True)
class Source:
    """Where the pixels of samples come from.

    Attributes:
        images_root: what their paths are relative to.
        store: that has the crops.
        detections: of the samples.
        faces: which faces, see `DetectSettings.faces`.
        classes: names, in the order of class indices.
        ledger: takes the samples that are left out because something of them is missing or cannot be read.
    """

    images_root: Path
    store: Store
    detections: Detections
    faces: FaceSource
    classes: tuple[str, ...]
    ledger: Ledger


@dataclass(frozen=True)
class _Faces:
    """Crops, and how they are shown. With `alone` each face is a row of the set; else each sample is."""

    crops: FaceCrops
    spec: BackboneSpec
    views: Views
    frames: int | None
    alone: bool

    def read(
        self, rows: np.ndarray, ids: Sequence[str], draw: Draw | None
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Pixels of the faces of these rows, whose samples have these ids, the owner of each, and its box."""
        if self.alone:
            faces, owner = rows, np.arange(len(rows))
        else:
            parts = [
                self.crops.of(row, self.frames, Who(*draw, sample_id, PHOTO) if draw else None)
                for row, sample_id in zip(rows.tolist(), ids, strict=True)
            ]
            faces = np.concatenate([np.empty(0, np.int64), *parts])
            owner = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
        whose = None
        if draw is not None:
            numbers = self.crops.number[faces].tolist()
            whose = [Who(*draw, ids[i], number) for i, number in zip(owner.tolist(), numbers, strict=True)]
        pixels = self.views.of_crops(self.crops.read(faces), self.spec, whose)
        return torch.from_numpy(pixels), torch.from_numpy(owner.astype(np.int64, copy=False)), self.crops.boxes[faces]


@dataclass(frozen=True)
class _Photos:
    """Photos and clips (one frame each), and how they are shown.

    Attributes:
        shared: for each sample those that have its content.
        times: for each sample None, or (T,) int64, presentation times of its chosen frames in microseconds.
    """

    look: PhotoLook
    shared: tuple[tuple[Sample, ...], ...]
    times: tuple[np.ndarray | None, ...]

    def job(self, row: int, sample_id: str, draw: Draw | None) -> PhotoJob:
        """For the decoding processes. Of a clip one frame is drawn, or the middle one taken."""
        who = Who(*draw, sample_id, PHOTO) if draw else None
        times = self.times[row]
        time_us = None if times is None else int(times[choose(np.arange(len(times)), 1, who)[0]])
        return PhotoJob(self.shared[row], time_us, who)

    def mirrored(self, ids: Sequence[str], draw: Draw | None) -> np.ndarray:
        """(B,) bool: whether the picture of each of these samples is shown mirrored."""
        views = self.look.views
        return np.array([draw is not None and views.mirrors(Who(*draw, one, PHOTO)) for one in ids], bool)


@dataclass(eq=False)
class Pixels:
    """Samples that a network can be trained on or judged by; a `PixelSet`.

    Attributes:
        samples: m, in the manifest's order.
        classes: names, in the order of class indices.
        labels: (n,) int64, the class of each row; `UNKNOWN` only where it was asked for. A row is a sample, or with
            unit `face` one of its faces.
        sample_of: (n,) int64, ascending: which of the samples each row is of.
        faceless: samples that are no row because they have no face.
        unlabelled: samples that are no row because they have no label, or several.
        faces, photos: what is seen; at least one of them.
        shares: (m, K) float32, of each sample what is wanted in the place of its label; None: the label is.
        ledger: takes the photos that cannot be read when they are wanted: they are left out of their batches.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    sample_of: np.ndarray
    faceless: tuple[Sample, ...]
    unlabelled: tuple[Sample, ...]
    faces: _Faces | None
    photos: _Photos | None
    ledger: Ledger = field(repr=False)
    shares: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def areas(self) -> np.ndarray | None:
        """(n,) float32, px of each row's face, with unit `face`; else None."""
        return self.faces.crops.area if self.faces is not None and self.faces.alone else None

    def batches(
        self, order: np.ndarray, size: int, draw: Draw | None, skip: int = 0
    ) -> Generator[PixelBatch, None, None]:
        """See `PixelSet.batches`. Two batches wait at most; a caller that stops half-way closes the generator.

        A photo that cannot be read is recorded in the ledger, and its batch is smaller. Without a draw, a batch of
        which none can be read is left out.

        Raises:
            DataError: with a draw, fewer than two photos of a batch can be read.
            Exception: what `stages.decoding.pool.decoded` raises.
        """
        return ahead(self._batches(cut(np.asarray(order, np.int64), size)[skip:], draw))

    def ids(self, rows: np.ndarray) -> list[str]:
        """The sample_id of each of these rows."""
        return [self.samples[i].sample_id for i in self.sample_of[rows].tolist()]

    def _batches(self, parts: Sequence[np.ndarray], draw: Draw | None) -> Generator[PixelBatch, None, None]:
        if self.photos is None:
            for part in parts:
                yield self._batch(part, NONE, draw)
            return
        with closing(self._pictures(parts, draw)) as pictures:
            for part in parts:
                found = [next(pictures) for _ in part]
                good = np.array([picture is not None for picture in found], bool)
                if draw is not None and good.sum() < min(2, len(part)):
                    raise self._too_few(part, good)
                if good.any():
                    stacked = np.stack([picture for picture in found if picture is not None])
                    yield self._batch(part[good], torch.from_numpy(stacked), draw)

    def _pictures(self, parts: Sequence[np.ndarray], draw: Draw | None) -> Generator[np.ndarray | None, None, None]:
        """The picture of each row of these parts; None where it cannot be read."""
        photos = self.photos
        assert photos is not None  # noqa: S101 - whoever calls this has some

        def jobs() -> Iterator[PhotoJob]:
            for part in parts:
                for row, sample_id in zip(part.tolist(), self.ids(part), strict=True):
                    asked.append(sample_id)
                    yield photos.job(row, sample_id, draw)

        asked: deque[str] = deque()  # they are taken a few ahead of the pictures
        found: list[np.ndarray | MediaError | Crash] = []
        with closing(decoded(photos.look, jobs())) as results:
            for result in results:
                found.append(result.value)
                if not result.last:  # a process may crash after its picture
                    continue
                sample_id, value = asked.popleft(), found[0]
                found.clear()
                if isinstance(value, np.ndarray):
                    yield value
                else:
                    self.ledger.record(sample_id, value.reason, value.detail)
                    yield None

    def _batch(self, rows: np.ndarray, photos: torch.Tensor, draw: Draw | None) -> PixelBatch:
        faces, owner, boxes = NONE, torch.empty(0, dtype=torch.int64), np.empty((0, 4), np.float32)
        if self.faces is not None:
            ids = self.ids(rows)
            faces, owner, boxes = self.faces.read(rows, ids, draw)
            if self.photos is not None and len(boxes):
                turned = self.photos.mirrored(ids, draw)[owner.numpy()]
                boxes = np.where(turned[:, None], mirrored_boxes(boxes), boxes)
        labels, positions = torch.from_numpy(self.labels[rows]), torch.from_numpy(rows.copy())
        shares = None if self.shares is None else torch.from_numpy(self.shares[self.sample_of[rows]])
        return PixelBatch(faces, owner, photos, labels, positions, torch.from_numpy(boxes), shares)

    def _too_few(self, part: np.ndarray, good: np.ndarray) -> DataError:
        lost = self.ids(part[~good])
        reason, detail = self.ledger.entries[lost[0]]
        return DataError(
            f"{len(lost)} of the {len(part)} photos of a batch cannot be read any more (first {lost[0]}: "
            f"{detail or reason}): mend them and run again, training goes on where it was"
        )


def face_pixels(
    source: Source,
    samples: Sequence[Sample],
    spec: BackboneSpec,
    augment: AugmentSettings,
    *,
    unit: Literal["face", "faces"],
    max_faces: int | None = None,
    frames: int | None = None,
    labelled: bool = True,
) -> Pixels:
    """Cached crops of photos' and clips' faces, for a network of faces. Samples without a face are no rows.

    Args:
        samples: of one split, in the manifest's order.
        spec: of the network.
        augment: random views; they are shown only with a `Draw`.
        unit: `face`: each face is a row, with its sample's label; `faces`: each sample is.
        max_faces: the largest kept of a photo, or of each frame of a clip; None: all.
        frames: with unit `faces`, how many of a clip's frames with a face are seen: other ones drawn in each epoch, or
            without a draw spread evenly; None: all that were chosen for detection.
        labelled: False: samples without a class stay, with the label `UNKNOWN`.

    Raises:
        SettingError: the crops or the views do not fit the backbone, or `frames` the unit.
        MissingInputError: no crops; the message names `kuleshov align`.
        DataError: `labelled`, and no row is left; or the crops are not those of the detections.
    """
    views = Views.of(augment)
    views.check_crops(spec)
    if frames is not None and unit == "face":
        raise SettingError(f"frames is {frames} and unit is 'face', where every face is seen: use unit faces")
    kept, unlabelled = _labelled(source, samples, labelled)
    crops, kept = _crops(source, kept, spec, max_faces)
    having = np.diff(crops.offsets) > 0
    faceless = tuple(sample for sample, has in zip(kept, having.tolist(), strict=True) if not has)
    if faceless:  # the faces stay as they are, and where they are
        kept = [sample for sample, has in zip(kept, having.tolist(), strict=True) if has]
        crops = _without_faceless(crops, having)
    alone = unit == "face"
    sample_of = crops.owner if alone else np.arange(len(kept))
    faces = _Faces(crops, spec, views, frames, alone)
    return _pixels(source, samples, kept, sample_of, faceless, unlabelled, faces, None, labelled)


def photo_pixels(
    source: Source, samples: Sequence[Sample], spec: BackboneSpec, augment: AugmentSettings, *, labelled: bool = True
) -> Pixels:
    """Whole photos, and of each clip one frame of those chosen for detection: drawn, or without a draw the middle one.

    Arguments and errors as `face_pixels`; nothing is read before it is wanted.
    """
    kept, unlabelled = _labelled(source, samples, labelled)
    photos = _photos(source, kept, spec, augment)
    return _pixels(source, samples, kept, np.arange(len(kept)), (), unlabelled, None, photos, labelled)


def joint_pixels(
    source: Source,
    samples: Sequence[Sample],
    face: tuple[BackboneSpec, AugmentSettings],
    photo: tuple[BackboneSpec, AugmentSettings],
    *,
    max_faces: int | None = None,
    frames: int | None = None,
    labelled: bool = True,
) -> Pixels:
    """The photo and its faces together, for networks that are trained with a head. A sample without a face stays.

    Arguments and errors as `face_pixels` and `photo_pixels`, with each network's own random views.
    """
    spec, views = face[0], Views.of(face[1])
    views.check_crops(spec)
    kept, unlabelled = _labelled(source, samples, labelled)
    crops, kept = _crops(source, kept, spec, max_faces)
    faces = _Faces(crops, spec, views, frames, False)
    photos = _photos(source, kept, *photo)
    return _pixels(source, samples, kept, np.arange(len(kept)), (), unlabelled, faces, photos, labelled)


def require_all_classes(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse to train where a class has no sample.

    Args:
        labels: (n,) int64, of the training set.

    Raises:
        DataError: names the classes.
    """
    absent = [name for i, name in enumerate(classes) if not (labels == i).any()]
    if absent:
        raise DataError(
            f"no training sample has the class {', '.join(absent)}: label some, or split the data in another way"
        )


def _labelled(source: Source, samples: Sequence[Sample], needed: bool) -> tuple[list[Sample], tuple[Sample, ...]]:
    """The samples that have what is needed and could be read, and those without a class."""
    unlabelled = tuple(sample for sample in samples if needed and len(sample.labels) != 1)
    without = {sample.sample_id for sample in unlabelled}
    readable = {sample.sample_id for sample in source.detections.readable(samples)}
    kept: list[Sample] = []
    for sample in samples:
        if sample.sample_id in without:
            continue
        if sample.sample_id in readable:
            kept.append(sample)
        else:
            undetected = ("undetected", "the detections do not have it; run kuleshov detect")
            source.ledger.record(sample.sample_id, *source.detections.failed.get(sample.sample_id, undetected))
    return kept, unlabelled


def _crops(
    source: Source, samples: Sequence[Sample], spec: BackboneSpec, max_faces: int | None
) -> tuple[FaceCrops, list[Sample]]:
    return find_crops(samples, source.store, source.detections, source.faces, spec, max_faces, source.ledger)


def _without_faceless(crops: FaceCrops, having: np.ndarray) -> FaceCrops:
    """The crops of the samples that have some."""
    ends = np.concatenate([[True], having])
    return replace(crops, offsets=crops.offsets[ends])


def _photos(source: Source, samples: Sequence[Sample], spec: BackboneSpec, augment: AugmentSettings) -> _Photos:
    if spec.input != "image":
        raise SettingError(f"{spec.name} sees crops of faces, not whole photos: use unit face or faces")
    views = Views.of(augment)
    views.check_photos(spec)
    shared: dict[str, list[Sample]] = {}
    for sample in samples:
        shared.setdefault(sample.content, []).append(sample)
    return _Photos(
        PhotoLook(source.images_root, spec, views),
        tuple(tuple(shared[sample.content]) for sample in samples),
        tuple(source.detections.times.get(sample.sample_id) for sample in samples),
    )


def _pixels(
    source: Source,
    asked: Sequence[Sample],
    samples: Sequence[Sample],
    sample_of: np.ndarray,
    faceless: tuple[Sample, ...],
    unlabelled: tuple[Sample, ...],
    faces: _Faces | None,
    photos: _Photos | None,
    labelled: bool,
) -> Pixels:
    index = {name: i for i, name in enumerate(source.classes)}
    labels = [index.get(s.labels[0], UNKNOWN) if len(s.labels) == 1 else UNKNOWN for s in samples]
    if labelled and not len(sample_of):
        failed = len(asked) - len(faceless) - len(unlabelled)
        raise DataError(
            f"none of {len(asked)} samples can be trained on: {len(unlabelled)} have no label or several, "
            f"{len(faceless)} have no face, {failed} cannot be read or have no crops"
        )
    if labelled and UNKNOWN in labels:
        sample = samples[labels.index(UNKNOWN)]
        raise DataError(f"{sample.sample_id} has the label {sample.labels[0]!r}, the classes are {source.classes}")
    of_sample = np.array(labels, np.int64)
    return Pixels(
        tuple(samples),
        source.classes,
        of_sample[sample_of],
        sample_of,
        faceless,
        unlabelled,
        faces,
        photos,
        source.ledger,
    )
