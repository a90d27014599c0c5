"""Detection: every photo of the manifest once, into the store.

Photos come from `images_root`; boxes go to the block `DETECTOR/boxes` (one item a photo, one row a face) and the
photo's size to `media/size`. Reading them back gives `Detections`, which align, extract and train stand on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import FACES, WHOLE, BlockSpec, item_key
from cache.store import Store
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect import registry
from stages.detect.faces import ROW_WIDTH, FaceItem, Faces, faces_of
from stages.detect.settings import DetectSettings
from stages.device import resolve
from stages.errors import KuleshovError, MediaError, MissingInputError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import TRANSIENT, by_content, open_shared
from stages.ledger import Ledger
from stages.progress import progress

SIZE_SPEC = BlockSpec(
    source="media",
    tap="size",
    level="frame",
    shape=(2,),
    extractor_version=1,
    preprocessing={"orientation": "upright by EXIF", "columns": ["width", "height"]},
    numerics={"dtype": "int32"},
)

Failures = dict[str, tuple[str, str]]
"""Sample_id or content -> (reason, detail)."""


def boxes_spec(settings: DetectSettings) -> BlockSpec:
    """The block of a detector's boxes, scores and landmarks.

    Raises:
        SettingError: there is no such detector.
        WeightsError: its weights are missing or not the ones that were published.
    """
    module = registry.find(settings.detector)
    return BlockSpec(
        source=settings.detector,
        tap="boxes",
        level="face",
        shape=(ROW_WIDTH,),
        extractor_version=module.VERSION,
        weights=module.weights(),
        preprocessing=module.preprocessing(settings),
        numerics={"engine": f"torch-{resolve(settings.device)}", "dtype": "float32"},
    )


@dataclass(frozen=True)
class Detections:
    """The faces of every photo that could be read.

    Attributes:
        items: sample_id -> its face items, in the manifest's order. A photo without a face has one item without rows
            where faces are found, and no item where they are given.
        sizes: sample_id -> (width, height) px.
        failed: sample_id -> (reason, detail).
        key: of the boxes block: an input of every face-level block.
    """

    items: dict[str, list[FaceItem]]
    sizes: dict[str, tuple[int, int]]
    failed: Failures
    key: str

    def faces(self, sample_id: str) -> Faces:
        """All faces of a sample in one table, in stored order."""
        parts = [item.faces for item in self.items[sample_id]]
        if not parts:
            return Faces.none(self.sizes[sample_id])
        return Faces(
            boxes=np.concatenate([p.boxes for p in parts]),
            scores=np.concatenate([p.scores for p in parts]),
            landmarks=np.concatenate([p.landmarks for p in parts]),
            size=self.sizes[sample_id],
        )


@dataclass(frozen=True)
class _Photos:
    """The distinct photos of a manifest: columns of equal length, and their two blocks."""

    contents: list[str]
    samples: list[list[Sample]]
    keys: list[bytes]
    size_keys: list[bytes]

    @classmethod
    def of(cls, manifest: Manifest) -> _Photos:
        shared = by_content(manifest)
        return cls(
            contents=list(shared),
            samples=list(shared.values()),
            keys=[item_key(content, region=FACES) for content in shared],
            size_keys=[item_key(content, region=WHOLE) for content in shared],
        )

    def stored(self, block: Block, sizes: Block) -> np.ndarray:
        """Which are in both blocks, (n,) bool: a run that was cut short may have left one without the other."""
        return block.has(self.keys) & sizes.has(self.size_keys)

    def take(self, positions: Sequence[int] | np.ndarray) -> _Photos:
        return _Photos(*([column[i] for i in positions] for column in self.__dict__.values()))

    def without(self, contents: Mapping[str, object]) -> _Photos:
        return self.take([i for i, content in enumerate(self.contents) if content not in contents])


def run(
    manifest: Manifest, images_root: Path, store: Store, settings: DetectSettings, ledger: Ledger
) -> tuple[Detections, list[BlockRow], Counts]:
    """Detect faces in the photos that are not in the store yet; record failures in the ledger.

    A photo that cannot be decoded is remembered as such and not opened again. What may pass (a file that is missing,
    changed or locked, a detector that ran out of memory) is tried again in the next run.

    Returns the detections of all photos, the rows of the stage's block manifest, and what was done.

    Raises:
        SettingError: there is no such detector or device.
        WeightsError: the detector's weights are missing or not the ones that were published.
    """
    spec = boxes_spec(settings)
    block, sizes = store.open(spec), store.open(SIZE_SPEC)
    photos = _Photos.of(manifest)
    todo = photos.take(np.flatnonzero(~photos.stored(block, sizes)))
    unread: Failures = {}
    computed = 0
    if todo.contents:
        unread, computed = _detect(todo, images_root, store, spec, settings, sizes.has(todo.size_keys))
        block, sizes = store.open(spec), store.open(SIZE_SPEC)
    known = photos.without(unread)
    detections = _collect(manifest, known, block, sizes, settings, unread)
    for sample_id, (reason, detail) in detections.failed.items():
        ledger.record(sample_id, reason, detail)
    rows = block_rows(block, known.keys) + block_rows(sizes, known.size_keys)
    return detections, rows, Counts(len(manifest.samples), computed, len(detections.failed))


def read(manifest: Manifest, store: Store, settings: DetectSettings) -> Detections:
    """Detections of an earlier run; photos that it did not store are among `failed`.

    Raises:
        MissingInputError: no photo was ever detected with these settings.
        SettingError, WeightsError: as `boxes_spec`.
    """
    spec = boxes_spec(settings)
    block, sizes = store.open(spec), store.open(SIZE_SPEC)
    photos = _Photos.of(manifest)
    stored = photos.stored(block, sizes)
    if len(stored) and not stored.any():
        raise MissingInputError(
            f"no detections with these settings in {store.root}; run kuleshov detect, then align and extract"
        )
    absent = photos.take(np.flatnonzero(~stored)).contents
    gone = dict.fromkeys(absent, ("not_detected", "no detections in the store; kuleshov detect says why"))
    return _collect(manifest, photos.without(gone), block, sizes, settings, gone)


def _detect(
    todo: _Photos, images_root: Path, store: Store, spec: BlockSpec, settings: DetectSettings, sized: np.ndarray
) -> tuple[Failures, int]:
    """Detect and store; returns content -> failure for what is not to be remembered, and how many succeeded."""
    detector: registry.Detector | None = None
    unread: Failures = {}
    computed = 0
    with store.writer(spec) as writer, store.writer(SIZE_SPEC) as size_writer:
        columns = zip(todo.contents, todo.samples, todo.keys, todo.size_keys, sized, strict=True)
        for content, samples, key, size_key, has_size in progress(
            columns, total=len(sized), desc="detect", unit="photo"
        ):
            try:
                image = open_shared(samples, images_root)
            except MediaError as error:
                if error.reason in TRANSIENT:
                    unread[content] = (error.reason, error.detail)
                    continue
                writer.add(key, None, status=error.reason, detail=error.detail)
                if not has_size:
                    size_writer.add(size_key, None, status=error.reason, detail=error.detail)
                continue
            if detector is None:  # loaded for the first photo that can be read, not before
                detector = registry.find(settings.detector).load(settings, resolve(settings.device))
            try:
                faces = detector.detect(image)
            except KuleshovError:
                raise
            except Exception as error:  # whatever one photo does to a detector, the others are not its fault
                unread[content] = ("detector_error", f"{type(error).__name__}: {error}")
                continue
            if not has_size:
                size_writer.add(size_key, np.array([image.size], np.int32))
            writer.add(key, faces.to_rows(), status="ok" if len(faces) else "no_face")
            computed += 1
    return unread, computed


def _collect(
    manifest: Manifest,
    known: _Photos,
    block: Block,
    sizes: Block,
    settings: DetectSettings,
    unread: Mapping[str, tuple[str, str]],
) -> Detections:
    """Every sample's faces from the two blocks, which hold the `known` photos: all but the `unread` contents."""
    bad, found = dict(unread), dict[str, Faces]()
    rows, offsets = block.rows(known.keys)
    pixels, size_offsets = sizes.rows(known.size_keys)
    table, ends, pairs = Faces.from_rows(rows, (0, 0)), offsets.tolist(), [(int(w), int(h)) for w, h in pixels.tolist()]
    sized = size_offsets.tolist()  # photos that could not be read have no row
    for i, (content, status) in enumerate(zip(known.contents, block.statuses(known.keys), strict=True)):
        if status not in {"ok", "no_face"}:
            bad[content] = (status, block.item(known.keys[i])[2])
        elif sized[i] == sized[i + 1]:
            bad[content] = sizes.item(known.size_keys[i])[1:]
        else:
            found[content] = table.part(ends[i], ends[i + 1], pairs[sized[i]])
    items: dict[str, list[FaceItem]] = {}
    sizes_px: dict[str, tuple[int, int]] = {}
    failed: Failures = {}
    for sample in manifest.samples:
        if sample.content in bad:
            failed[sample.sample_id] = bad[sample.content]
        else:
            faces = found[sample.content]
            items[sample.sample_id] = faces_of(sample, faces, settings.faces)
            sizes_px[sample.sample_id] = faces.size
    return Detections(items, sizes_px, failed, block.spec.key)
