"""Detection: every photo of the manifest once, into the store.

Photos come from `images_root`; boxes go to the block `DETECTOR/boxes` (one item a photo, one row a face) and the
photo's size to `media/size`. Reading them back gives `Detections`, which align, extract and train stand on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.keys import FACES, WHOLE, BlockSpec, item_key
from cache.store import Block, BlockWriter, Store
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect import registry
from stages.detect.faces import ROW_WIDTH, FaceItem, Faces, faces_of
from stages.detect.settings import DetectSettings
from stages.device import resolve
from stages.errors import MediaError, MissingInputError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import TRANSIENT, open_sample
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


def boxes_spec(settings: DetectSettings) -> BlockSpec:
    """The block of a detector's boxes, scores and landmarks."""
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
        items: sample_id -> its face items, in the manifest's order; an empty list for a photo without a face.
        sizes: sample_id -> (width, height) px.
        failed: sample_id -> (reason, detail).
        key: of the boxes block: an input of every face-level block.
    """

    items: dict[str, list[FaceItem]]
    sizes: dict[str, tuple[int, int]]
    failed: dict[str, tuple[str, str]]
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


def run(
    manifest: Manifest, images_root: Path, store: Store, settings: DetectSettings, ledger: Ledger
) -> tuple[Detections, list[BlockRow], Counts]:
    """Detect faces in the photos that are not in the store yet; record failures in the ledger.

    Returns the detections of all photos, the rows of the stage's block manifest, and what was done.
    """
    spec = boxes_spec(settings)
    block, sizes = store.open(spec), store.open(SIZE_SPEC)
    todo = [s for s in _unique(manifest) if not (block.has([_key(s)]) & sizes.has([_size_key(s)])).all()]
    transient: dict[str, tuple[str, str]] = {}
    if todo:
        detector = registry.find(settings.detector).load(settings, resolve(settings.device))
        with store.writer(spec) as writer, store.writer(SIZE_SPEC) as size_writer:
            for sample in progress(todo, total=len(todo), desc="detect", unit="photo"):
                _detect_one(sample, images_root, detector, writer, size_writer, transient)
        block, sizes = store.open(spec), store.open(SIZE_SPEC)
    detections = _collect(manifest, block, sizes, settings, transient)
    for sample_id, (reason, detail) in detections.failed.items():
        ledger.record(sample_id, reason, detail)
    keys = [_key(s) for s in _unique(manifest) if s.sample_id not in transient]
    size_keys = [_size_key(s) for s in _unique(manifest) if s.sample_id not in transient]
    rows = block_rows(block, keys) + block_rows(sizes, size_keys)
    return detections, rows, Counts(total=len(manifest.samples), computed=len(todo), failed=len(ledger))


def read(manifest: Manifest, store: Store, settings: DetectSettings) -> Detections:
    """Detections of an earlier run.

    Raises:
        MissingInputError: some photos were never detected with these settings.
    """
    spec = boxes_spec(settings)
    block, sizes = store.open(spec), store.open(SIZE_SPEC)
    missing = [s.sample_id for s in _unique(manifest) if not block.has([_key(s)]).all()]
    if len(missing) == len(manifest.samples) and missing:
        raise MissingInputError(f"no detections with these settings in {store.root}; run kuleshov detect")
    gone = dict.fromkeys(missing, ("missing", "not in the store"))
    return _collect(manifest, block, sizes, settings, gone)


def _key(sample: Sample) -> bytes:
    return item_key(sample.content, region=FACES)


def _size_key(sample: Sample) -> bytes:
    return item_key(sample.content, region=WHOLE)


def _unique(manifest: Manifest) -> Iterator[Sample]:
    """Each content once: two names of one photo cost one detection."""
    seen: set[str] = set()
    for sample in manifest.samples:
        if sample.content not in seen:
            seen.add(sample.content)
            yield sample


def _detect_one(
    sample: Sample,
    images_root: Path,
    detector: registry.Detector,
    writer: BlockWriter,
    size_writer: BlockWriter,
    transient: dict[str, tuple[str, str]],
) -> None:
    try:
        image = open_sample(sample, images_root)
    except MediaError as error:
        if error.reason in TRANSIENT:
            transient[sample.sample_id] = (error.reason, error.detail)
            return
        writer.add(_key(sample), None, status=error.reason, detail=error.detail)
        size_writer.add(_size_key(sample), None, status=error.reason, detail=error.detail)
        return
    faces = detector.detect(image)
    size_writer.add(_size_key(sample), np.array([image.size], np.int32))
    writer.add(_key(sample), faces.to_rows(), status="ok" if len(faces) else "no_face")


def _collect(
    manifest: Manifest,
    block: Block,
    sizes: Block,
    settings: DetectSettings,
    transient: Mapping[str, tuple[str, str]],
) -> Detections:
    by_content = {s.content: transient[s.sample_id] for s in manifest.samples if s.sample_id in transient}
    items: dict[str, list[FaceItem]] = {}
    size_of: dict[str, tuple[int, int]] = {}
    failed: dict[str, tuple[str, str]] = {}
    for sample in manifest.samples:
        if sample.content in by_content:
            failed[sample.sample_id] = by_content[sample.content]
            continue
        rows, status, detail = block.item(_key(sample))
        if status not in {"ok", "no_face"}:
            failed[sample.sample_id] = (status, detail)
            continue
        width, height = sizes.item(_size_key(sample))[0][0]
        found = Faces.from_rows(rows, (int(width), int(height)))
        size_of[sample.sample_id] = found.size
        items[sample.sample_id] = faces_of(sample, found, settings.faces)
    return Detections(items, size_of, failed, block.spec.key)
