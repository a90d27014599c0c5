"""Detection: every photo of the manifest and the chosen frames of its clips, once, into the store.

Files come from `images_root` and are opened in decoding processes; boxes go to the block `DETECTOR/boxes` (one item a
photo or frame, one row a face) and sizes to `media/size`. Reading them back gives `Detections`, which align, extract
and train stand on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import BlockSpec
from cache.store import Store
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect import registry
from stages.detect.clips import NOT_DETECTED, Clips, look_into_clips, read_clips
from stages.detect.corpus import PHOTO, SIZE_SPEC, Corpus
from stages.detect.detections import ColumnBuilder, Detections, ItemColumns, SizeColumn
from stages.detect.faces import ROW_WIDTH, FaceItem, Faces, faces_of
from stages.detect.looking import Detection, Failures, Look
from stages.detect.settings import DetectSettings
from stages.device import resolve
from stages.engines import Engine
from stages.engines import resolve as resolve_engine
from stages.errors import MissingInputError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import by_content
from stages.ledger import Ledger
from stages.making import style
from stages.progress import progress
from stages.spread import Part, Spread, announce, cut, gather, require_same, require_store, require_written
from stages.timing import Timings

PART_FRAMES = 512
"""Photos and frames of a part when the work is spread: about the 30 s after which a writer ends a shard, at 17 photos a
second (a core). A worker that dies costs at most that."""

_READ = frozenset({"ok", "no_face"})
"""Statuses of photos and frames that could be read."""


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
        numerics={
            "engine": _engine(settings).name,
            "dtype": "float32",
        },
    )


def _engine(settings: DetectSettings) -> Engine:
    offered = registry.find(settings.detector).ENGINES
    return resolve_engine("detect", settings.engine, settings.device, offered=offered)


@dataclass(frozen=True)
class _Job:
    """What a detection needs beside its photos. The device of `settings` is resolved: where it is computed does not
    matter to the block's key."""

    images_root: Path
    store: Store
    settings: DetectSettings
    spec: BlockSpec

    def blocks(self) -> tuple[Block, Block]:
        """The boxes and the sizes, as they are now."""
        return self.store.open(self.spec), self.store.open(SIZE_SPEC)


@dataclass(frozen=True)
class _Work:
    """Photos and clips to detect, and for each the samples that have it."""

    corpus: Corpus
    samples: list[list[Sample]]

    def take(self, positions: np.ndarray) -> _Work:
        return _Work(self.corpus.take(positions), [self.samples[i] for i in positions.tolist()])


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    settings: DetectSettings,
    ledger: Ledger,
    spread: Spread | None = None,
    timings: Timings | None = None,
) -> tuple[Detections, list[BlockRow], Counts]:
    """Detect faces in the photos and frames that are not in the store yet; record failures in the ledger.

    A photo or clip that cannot be decoded is remembered as such and not opened again. What may pass (a file that is
    missing, changed or locked, a detector that ran out of memory) is tried again in the next run.

    Args:
        spread: where parts of the work are computed; None: in this process. The result is the same.
        timings: takes what `decode`, `detect`, `write` and `wait` took.

    Returns the detections of all samples, the rows of the stage's block manifest, and what was done.

    Raises:
        SettingError: there is no such detector or device.
        WeightsError: the detector's weights are missing or not the ones that were published.
        StorePlaceError: the store refuses, or the workers of `spread` see another one.
    """
    timings = Timings() if timings is None else timings
    job = _Job(
        images_root, store, settings.model_copy(update={"device": resolve(settings.device)}), boxes_spec(settings)
    )
    clips = look_into_clips(manifest, images_root, store, settings.clips, timings)
    corpus = _corpus(manifest, clips)
    block, sizes = job.blocks()
    lacking = np.flatnonzero(~corpus.stored(block, sizes))
    unread: Failures = {}
    computed = 0
    if len(lacking):
        todo = corpus.take(lacking)
        samples = by_content(manifest)
        work = _Work(todo, [samples[content] for content in todo.contents])
        unread = _detect(job, work, _load, timings) if spread is None else _detect_spread(job, work, spread, timings)
        block, sizes = job.blocks()
        computed = len(todo) - len(unread.keys() | _failed(todo, block))
    known = corpus.without(unread)
    detections = _collect(manifest, known, clips, block, sizes, settings, {**clips.failed, **unread})
    for sample_id, (reason, detail) in detections.failed.items():
        ledger.record(sample_id, reason, detail)
    rows = block_rows(block, known.keys) + block_rows(sizes, known.size_keys) + clips.rows
    return detections, rows, Counts(len(manifest.samples), computed, len(detections.failed))


def read(manifest: Manifest, store: Store, settings: DetectSettings) -> Detections:
    """Detections of an earlier run; photos and clips that it did not store are among `failed`.

    Raises:
        MissingInputError: nothing was ever detected with these settings.
        SettingError, WeightsError: as `boxes_spec`.
    """
    block, sizes = store.open(boxes_spec(settings)), store.open(SIZE_SPEC)
    clips = read_clips(manifest, store, settings.clips)
    corpus = _corpus(manifest, clips)
    stored = corpus.stored(block, sizes)
    looked_into = any(reason != NOT_DETECTED[0] for reason, _ in clips.failed.values())
    if len(manifest) and not stored.any() and not looked_into:
        raise MissingInputError(
            f"no detections with these settings in {store.root}; run kuleshov detect, then align and extract"
        )
    absent = corpus.take(np.flatnonzero(~stored)).contents
    gone = dict.fromkeys(absent, NOT_DETECTED)
    known = corpus.take(np.flatnonzero(stored))
    return _collect(manifest, known, clips, block, sizes, settings, {**clips.failed, **gone})


def _corpus(manifest: Manifest, clips: Clips) -> Corpus:
    contents = (sample.content for sample in manifest.samples)
    if clips.failed:
        contents = (content for content in contents if content not in clips.failed)
    return Corpus.of(contents, clips.times)


def _load(settings: DetectSettings) -> registry.Detector:
    return registry.find(settings.detector).load(settings, settings.device)


def _kept(settings: DetectSettings) -> registry.Detector:
    """As `_load`; a worker keeps the detector from one part to the next."""
    return _loaded(settings.model_dump_json())


@lru_cache(maxsize=1)
def _loaded(settings: str) -> registry.Detector:
    return _load(DetectSettings.model_validate_json(settings))


def _failed(corpus: Corpus, block: Block) -> set[str]:
    """Contents of which one of the frames is remembered as failed, from this run or an earlier one. By the store, not
    by what the run saw: a part may have been done twice."""
    bad = np.array([status != "" and status not in _READ for status in block.statuses(corpus.keys)], bool)
    return {corpus.contents[i] for i in np.unique(corpus.owner[bad]).tolist()}


def _detect_spread(job: _Job, work: _Work, spread: Spread, timings: Timings) -> Failures:
    """As `_detect`, in parts on the workers."""
    announce(job.store, [job.spec, SIZE_SPEC])
    corpus = work.corpus
    size = max(1, PART_FRAMES * len(corpus) // len(corpus.keys))
    runs = cut(len(corpus), size, spread.workers())
    parts = [
        Part(some, len(some.corpus), some.samples[0][0].sample_id)
        for some in (work.take(np.arange(run.start, run.stop)) for run in runs)
    ]
    unread: Failures = {}
    for failures, spent in gather(spread, partial(_detect_part, job), parts, desc="detect", unit="photo"):
        unread |= failures
        timings.merge(spent)
    require_written(job.store, int((~corpus.without(unread).stored(*job.blocks())).sum()))
    return unread


def _detect_part(job: _Job, work: _Work) -> tuple[Failures, Timings]:
    """On a worker: detect what the store lacks of these photos, which is less than all when the part is tried again.

    Raises:
        SettingError: this machine would detect otherwise, or cannot use the device.
        WeightsError: the detector's weights are missing or not the ones that were published.
        StorePlaceError: the store is another one here, or refuses.
    """
    require_same(boxes_spec(job.settings).key == job.spec.key, job.settings.detector)
    require_store(job.store, [job.spec, SIZE_SPEC])
    todo = work.take(np.flatnonzero(~work.corpus.stored(*job.blocks())))
    timings = Timings()
    return _detect(job, todo, _kept, timings, shown=False), timings


def _detect(
    job: _Job,
    work: _Work,
    load: Callable[[DetectSettings], registry.Detector],
    timings: Timings,
    shown: bool = True,
) -> Failures:
    """Detect and store; returns content -> failure for what is not to be remembered."""
    corpus = work.corpus
    block, sizes = job.blocks()
    lacking, sized = corpus.lacking(block, sizes), sizes.has(corpus.size_keys)
    how = style(*_engine(job.settings).packages, "facenet-pytorch", "pillow", "av")
    with job.store.writer(job.spec, how) as writer, job.store.writer(SIZE_SPEC, how) as size_writer:
        detection = Detection(lambda: load(job.settings), writer, size_writer, timings, job.settings.device)
        looks = (
            Look.of(corpus, i, lacking, bool(sized[i]), tuple(samples), job.images_root)
            for i, samples in enumerate(work.samples)
        )
        for _ in progress(detection.run(looks), total=len(corpus), desc="detect", unit="photo", shown=shown):
            pass
    return detection.unread


def _collect(
    manifest: Manifest,
    known: Corpus,
    clips: Clips,
    block: Block,
    sizes: Block,
    settings: DetectSettings,
    unread: Mapping[str, tuple[str, str]],
) -> Detections:
    """Every sample's faces from the two blocks, which hold the `known` photos and clips: all but the `unread`."""
    bad = dict(unread)
    rows, offsets = block.rows(known.keys)
    pixels, size_offsets = sizes.rows(known.size_keys)
    sized = np.diff(size_offsets) > 0  # what could not be read has no row
    owner = known.owner
    bare = np.flatnonzero(np.diff(offsets) == 0)  # who has a row could be read
    for i, status in zip(bare.tolist(), block.statuses(known.keys[bare]), strict=True):
        if status not in _READ:
            bad.setdefault(known.contents[owner[i]], (status, block.item(known.keys[i])[2]))
    for i in np.flatnonzero(~sized).tolist():
        bad.setdefault(known.contents[i], sizes.item(known.size_keys[i])[1:])
    picture_sizes = np.zeros((len(known), 2), np.int32)
    picture_sizes[sized] = pixels[size_offsets[:-1][sized]]
    numbers = {content: i for i, content in enumerate(known.contents)}
    failed = {s.sample_id: bad[s.content] for s in manifest.samples if s.content in bad}
    readable = [s for s in manifest.samples if s.content not in bad]
    number = np.array([numbers[s.content] for s in readable], np.int64)
    table = Faces.from_rows(rows, (0, 0))
    if settings.faces == "found":  # as `faces_of`, for all photos at once
        positions = {s.sample_id: i for i, s in enumerate(readable)}
        first, last = known.first[number], known.first[number + 1]
        columns = ItemColumns(positions, first, last, known.keys, offsets, table, picture_sizes[number])
    else:
        columns = _chosen(readable, number, known, table, offsets, picture_sizes, settings)
    times = {s.sample_id: clips.times[s.content] for s in readable if s.content in clips.times}
    return Detections(columns, SizeColumn(columns), failed, block.spec.key, times, settings.persons)


def _chosen(
    readable: Sequence[Sample],
    number: np.ndarray,
    known: Corpus,
    table: Faces,
    offsets: np.ndarray,
    sizes: np.ndarray,
    settings: DetectSettings,
) -> ItemColumns:
    """The face items of samples whose faces are given or whole pictures, see `faces_of`.

    Args:
        number: (n,) which of the known contents each sample has.
        table, offsets: the faces found in each known frame.
        sizes: (width, height) of each known content.
    """
    builder, ends, times = ColumnBuilder(), offsets.tolist(), known.times_us.tolist()
    for sample, i in zip(readable, number.tolist(), strict=True):
        width, height = size = (int(sizes[i, 0]), int(sizes[i, 1]))
        items: list[FaceItem] = []
        for frame in range(int(known.first[i]), int(known.first[i + 1])):
            time_us = None if times[frame] == PHOTO else times[frame]
            found = table.part(ends[frame], ends[frame + 1], (width, height))
            items += faces_of(sample, found, settings.faces, time_us)
        builder.add(sample.sample_id, items, size)
    return builder.columns()
