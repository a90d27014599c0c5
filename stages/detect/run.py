"""Detection: every photo of the manifest once, into the store.

Photos come from `images_root`; boxes go to the block `DETECTOR/boxes` (one item a photo, one row a face) and the
photo's size to `media/size`. Reading them back gives `Detections`, which align, extract and train stand on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import FACES, WHOLE, BlockSpec, item_keys, key_array
from cache.store import Store
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect import registry
from stages.detect.detections import ColumnBuilder, Detections, ItemColumns, SizeColumn
from stages.detect.faces import ROW_WIDTH, Faces, faces_of
from stages.detect.settings import DetectSettings
from stages.device import resolve
from stages.errors import KuleshovError, MediaError, MissingInputError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import TRANSIENT, by_content, open_shared
from stages.ledger import Ledger
from stages.making import style
from stages.progress import progress
from stages.spread import Part, Spread, announce, cut, gather, require_same, require_store, require_written

SIZE_SPEC = BlockSpec(
    source="media",
    tap="size",
    level="frame",
    shape=(2,),
    extractor_version=1,
    preprocessing={"orientation": "upright by EXIF", "columns": ["width", "height"]},
    numerics={"dtype": "int32"},
)

PART_PHOTOS = 512
"""Photos of a part when the work is spread: about the 30 s after which a writer ends a shard, at 17 photos a second (a
core). A worker that dies costs at most that."""

_READ = frozenset({"ok", "no_face"})
"""Statuses of photos that could be read."""

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
class _Known:
    """Distinct photos, and their keys (n,) in the two blocks."""

    contents: list[str]
    keys: np.ndarray
    size_keys: np.ndarray

    @classmethod
    def of(cls, contents: Iterable[str]) -> _Known:
        distinct = list(dict.fromkeys(contents))
        keys = (key_array(item_keys(distinct, region=region)) for region in (FACES, WHOLE))
        return cls(distinct, *keys)

    def stored(self, block: Block, sizes: Block) -> np.ndarray:
        """Which are in both blocks, (n,) bool: a run that was cut short may have left one without the other."""
        return block.has(self.keys) & sizes.has(self.size_keys)

    def take(self, positions: np.ndarray) -> _Known:
        return _Known([self.contents[i] for i in positions.tolist()], self.keys[positions], self.size_keys[positions])


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
            keys=item_keys(shared, region=FACES),
            size_keys=item_keys(shared, region=WHOLE),
        )

    def known(self) -> _Known:
        return _Known(self.contents, key_array(self.keys), key_array(self.size_keys))

    def stored(self, block: Block, sizes: Block) -> np.ndarray:
        """As `_Known.stored`."""
        return self.known().stored(block, sizes)

    def take(self, positions: Sequence[int] | np.ndarray) -> _Photos:
        return _Photos(*([column[i] for i in positions] for column in self.__dict__.values()))

    def without(self, contents: Mapping[str, object]) -> _Photos:
        if not contents:
            return self
        return self.take([i for i, content in enumerate(self.contents) if content not in contents])


@dataclass(frozen=True)
class _Job:
    """What a detection needs beside its photos. The device of `settings` is resolved: where it is computed does not
    matter to the block's key."""

    images_root: Path
    store: Store
    settings: DetectSettings
    spec: BlockSpec


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    settings: DetectSettings,
    ledger: Ledger,
    spread: Spread | None = None,
) -> tuple[Detections, list[BlockRow], Counts]:
    """Detect faces in the photos that are not in the store yet; record failures in the ledger.

    A photo that cannot be decoded is remembered as such and not opened again. What may pass (a file that is missing,
    changed or locked, a detector that ran out of memory) is tried again in the next run.

    Args:
        spread: where parts of the work are computed; None: in this process. The result is the same.

    Returns the detections of all photos, the rows of the stage's block manifest, and what was done.

    Raises:
        SettingError: there is no such detector or device.
        WeightsError: the detector's weights are missing or not the ones that were published.
        StorePlaceError: the store refuses, or the workers of `spread` see another one.
    """
    spec = boxes_spec(settings)
    block, sizes = store.open(spec), store.open(SIZE_SPEC)
    photos = _Photos.of(manifest)
    todo = photos.take(np.flatnonzero(~photos.stored(block, sizes)))
    unread: Failures = {}
    computed = 0
    if todo.contents:
        job = _Job(images_root, store, settings.model_copy(update={"device": resolve(settings.device)}), spec)
        if spread is None:
            unread, computed = _detect(job, todo, sizes.has(todo.size_keys), _load)
        else:
            unread, computed = _detect_spread(job, todo, spread)
        block, sizes = store.open(spec), store.open(SIZE_SPEC)
    known = photos.without(unread).known()
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
    photos = _Known.of(sample.content for sample in manifest.samples)
    stored = photos.stored(block, sizes)
    if len(stored) and not stored.any():
        raise MissingInputError(
            f"no detections with these settings in {store.root}; run kuleshov detect, then align and extract"
        )
    absent = photos.take(np.flatnonzero(~stored)).contents
    gone = dict.fromkeys(absent, ("not_detected", "no detections in the store; kuleshov detect says why"))
    return _collect(manifest, photos.take(np.flatnonzero(stored)), block, sizes, settings, gone)


def _load(settings: DetectSettings) -> registry.Detector:
    return registry.find(settings.detector).load(settings, settings.device)


def _kept(settings: DetectSettings) -> registry.Detector:
    """As `_load`; a worker keeps the detector from one part to the next."""
    return _loaded(settings.model_dump_json())


@lru_cache(maxsize=1)
def _loaded(settings: str) -> registry.Detector:
    return _load(DetectSettings.model_validate_json(settings))


def _detect_spread(job: _Job, todo: _Photos, spread: Spread) -> tuple[Failures, int]:
    """As `_detect`, in parts on the workers."""
    announce(job.store, [job.spec, SIZE_SPEC])
    runs = cut(len(todo.contents), PART_PHOTOS, spread.workers())
    photos = [todo.take(range(run.start, run.stop)) for run in runs]
    parts = [Part(work, len(work.contents), work.samples[0][0].sample_id) for work in photos]
    unread: Failures = {}
    for failures in gather(spread, partial(_detect_part, job), parts, desc="detect", unit="photo"):
        unread |= failures
    read = todo.without(unread)
    block, sizes = job.store.open(job.spec), job.store.open(SIZE_SPEC)
    require_written(job.store, int((~read.stored(block, sizes)).sum()))
    return unread, sum(status in _READ for status in block.statuses(read.keys))


def _detect_part(job: _Job, photos: _Photos) -> Failures:
    """On a worker: detect what the store lacks of these photos, which is less than all when the part is tried again.

    Raises:
        SettingError: this machine would detect otherwise, or cannot use the device.
        WeightsError: the detector's weights are missing or not the ones that were published.
        StorePlaceError: the store is another one here, or refuses.
    """
    require_same(boxes_spec(job.settings).key == job.spec.key, job.settings.detector)
    require_store(job.store, [job.spec, SIZE_SPEC])
    block, sizes = job.store.open(job.spec), job.store.open(SIZE_SPEC)
    todo = photos.take(np.flatnonzero(~photos.stored(block, sizes)))
    return _detect(job, todo, sizes.has(todo.size_keys), _kept, shown=False)[0]


def _detect(
    job: _Job,
    todo: _Photos,
    sized: np.ndarray,
    load: Callable[[DetectSettings], registry.Detector],
    shown: bool = True,
) -> tuple[Failures, int]:
    """Detect and store; returns content -> failure for what is not to be remembered, and how many succeeded."""
    detector: registry.Detector | None = None
    unread: Failures = {}
    computed = 0
    how = style("torch", "facenet-pytorch", "pillow")
    with job.store.writer(job.spec, how) as writer, job.store.writer(SIZE_SPEC, how) as size_writer:
        columns = zip(todo.contents, todo.samples, todo.keys, todo.size_keys, sized, strict=True)
        for content, samples, key, size_key, has_size in progress(
            columns, total=len(sized), desc="detect", unit="photo", shown=shown
        ):
            try:
                image = open_shared(samples, job.images_root)
            except MediaError as error:
                if error.reason in TRANSIENT:
                    unread[content] = (error.reason, error.detail)
                    continue
                writer.add(key, None, status=error.reason, detail=error.detail)
                if not has_size:
                    size_writer.add(size_key, None, status=error.reason, detail=error.detail)
                continue
            if detector is None:  # loaded for the first photo that can be read, not before
                detector = load(job.settings)
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
    known: _Known,
    block: Block,
    sizes: Block,
    settings: DetectSettings,
    unread: Mapping[str, tuple[str, str]],
) -> Detections:
    """Every sample's faces from the two blocks, which hold the `known` photos: all but the `unread` contents."""
    bad = dict(unread)
    rows, offsets = block.rows(known.keys)
    pixels, size_offsets = sizes.rows(known.size_keys)
    sized = np.diff(size_offsets) > 0  # photos that could not be read have no row
    bare = np.flatnonzero(np.diff(offsets) == 0)  # who has a row could be read
    for i, status in zip(bare.tolist(), block.statuses(known.keys[bare]), strict=True):
        if status not in _READ:
            bad[known.contents[i]] = (status, block.item(known.keys[i])[2])
    for i in np.flatnonzero(~sized).tolist():
        bad.setdefault(known.contents[i], sizes.item(known.size_keys[i])[1:])
    photo_sizes = np.zeros((len(known.keys), 2), np.int32)
    photo_sizes[sized] = pixels[size_offsets[:-1][sized]]
    numbers = {content: i for i, content in enumerate(known.contents)}
    failed = {s.sample_id: bad[s.content] for s in manifest.samples if s.content in bad}
    readable = [s for s in manifest.samples if s.content not in bad]
    photo = np.array([numbers[s.content] for s in readable], np.int64)
    table = Faces.from_rows(rows, (0, 0))
    if settings.faces == "found":  # as `faces_of`, for all photos at once
        positions = {s.sample_id: i for i, s in enumerate(readable)}
        columns = ItemColumns(positions, photo, photo + 1, known.keys, offsets, table, photo_sizes[photo])
    else:
        builder, ends = ColumnBuilder(), offsets.tolist()
        for sample, i in zip(readable, photo.tolist(), strict=True):
            width, height = photo_sizes[i].tolist()
            faces = table.part(ends[i], ends[i + 1], (width, height))
            builder.add(sample.sample_id, faces_of(sample, faces, settings.faces), faces.size)
        columns = builder.columns()
    return Detections(columns, SizeColumn(columns), failed, block.spec.key)
