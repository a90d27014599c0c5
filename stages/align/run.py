"""Alignment: the crops of every face, per template, into the store (`TEMPLATE/pixels`, uint8 RGB).

A photo or frame is decoded once for all templates, and its crops are cut, in a decoding process; crops that are in the
store cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from cache.keys import BlockSpec, key_list
from cache.store import Store
from cache.writer import BlockWriter
from stages.align.cut import Cut, Cutter, Media, Piece
from stages.align.templates import Template, find
from stages.blocks import BlockRow, Counts, block_rows
from stages.decoding.pool import Decoded, decoded
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem
from stages.detect.settings import FaceSource
from stages.errors import MediaError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import by_content
from stages.ledger import Ledger
from stages.making import style
from stages.progress import counter
from stages.timing import Timings

VERSION = 3
"""Raise it when the crops of the same photo, boxes and template change. 2: antialiased between the whole factors.
3: upright boxes within the photo are resized, not sampled."""


def crops_spec(template: Template, detections_key: str, source: FaceSource) -> BlockSpec:
    """The block of a template's crops.

    Args:
        detections_key: of the detections block that the faces come from.
        source: which faces, see `DetectSettings.faces`.
    """
    height, width = template.size
    return BlockSpec(
        source=template.name,
        tap="pixels",
        level="face",
        shape=(height, width, 3),
        extractor_version=VERSION,
        preprocessing={
            **template.describe(),
            "colour": "RGB",
            "interpolation": "box reduce, bilinear",
            "faces": source,
        },
        inputs={"detections": detections_key},
        numerics={"dtype": "uint8"},
    )


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    detections: Detections,
    templates: Sequence[str],
    source: FaceSource,
    ledger: Ledger,
    timings: Timings | None = None,
) -> tuple[list[BlockRow], Counts]:
    """Cut the crops that are not in the store yet; record photos and clips that cannot be read in the ledger.

    A sample without a face has no item here. Of a clip whose reading ends in the middle, what was cut before stays.

    Args:
        timings: takes what `decode`, `align` (cutting), `write` and `wait` took.

    Returns the rows of the stage's block manifest, and what was done.

    Raises:
        SettingError: there is no such template.
    """
    timings = Timings() if timings is None else timings
    chosen = tuple(find(name) for name in sorted(set(templates)))
    specs = [crops_spec(template, detections.key, source) for template in chosen]
    blocks = [store.open(spec) for spec in specs]
    readable = detections.readable(manifest.samples)
    picked = detections.pick(readable)
    lacking = [~block.has(picked.keys) for block in blocks]
    computed = failed = 0
    if any(lack.any() for lack in lacking):
        contents = {readable[i].content for i in picked.owner[np.logical_or.reduce(lacking)].tolist()}
        missing = [set(key_list(picked.keys[lack])) for lack in lacking]
        todo = _todo(manifest, detections, missing, contents)
        with ExitStack() as stack:
            how = style("pillow", "numpy", "av")
            writers = [stack.enter_context(store.writer(spec, how)) for spec in specs]
            answers = stack.enter_context(closing(decoded(Cutter(images_root, chosen, source == "whole"), todo)))
            bar = stack.enter_context(counter(total=len(contents), desc="align", unit="photo"))
            for media, failure in _write(answers, writers, timings):
                bar.update()
                computed += failure is None
                if failure is not None:
                    failed += len(media.samples)
                    for sample in media.samples:
                        ledger.record(sample.sample_id, *failure)
            with timings.measure("write"):
                for writer in writers:
                    writer.flush()
        blocks = [store.open(spec) for spec in specs]
    keys = list(dict.fromkeys(key_list(picked.keys)))
    rows = [row for block in blocks for row in block_rows(block, keys)]
    return rows, Counts(len(detections.items), computed, failed)


def _todo(
    manifest: Manifest, detections: Detections, missing: Sequence[set[bytes]], contents: Collection[str]
) -> Iterator[Media]:
    """Per photo or clip that lacks crops (one of `contents`): the samples that want them, and the items, each once."""
    for content, shared in by_content(manifest).items():
        if content not in contents:
            continue
        times: np.ndarray | None = None
        frames: dict[int, dict[bytes, Piece]] = {}
        samples: list[Sample] = []
        for sample in shared:
            if sample.sample_id not in detections.items:
                continue
            times = detections.times.get(sample.sample_id)  # all samples of a clip have the same
            wanted = False
            for number, items in enumerate(detections.by_frame(sample.sample_id)):
                if pieces := _pieces(items, missing):
                    frames.setdefault(number, {}).update(pieces)
                    wanted = True
            if wanted:
                samples.append(sample)
        if frames:
            numbers = sorted(frames)
            yield Media(
                tuple(samples),
                None if times is None else tuple(times[numbers].tolist()),
                tuple(tuple(frames[number].values()) for number in numbers),
            )


def _pieces(items: Sequence[FaceItem], missing: Sequence[set[bytes]]) -> dict[bytes, Piece]:
    """The items of a frame whose crops are missing in at least one template, by their keys."""
    pieces: dict[bytes, Piece] = {}
    for item in items:
        if lacking := tuple(number for number, keys in enumerate(missing) if item.key in keys):
            pieces[item.key] = Piece(item.key, item.faces.boxes, item.faces.landmarks, lacking)
    return pieces


def _write(
    answers: Iterator[Decoded[Media, Cut | MediaError]], writers: Sequence[BlockWriter], timings: Timings
) -> Iterator[tuple[Media, tuple[str, str] | None]]:
    """Write crops as they come; yields each photo or clip when it is through, and the failure (reason, detail)."""
    for answer in timings.each("wait", answers):
        value, failure = answer.value, None
        if isinstance(value, Cut):
            timings.add("decode", answer.seconds - value.seconds, 1)
            timings.add("align", value.seconds, sum(len(crops.pixels) for crops in value.crops))
            with timings.measure("write"):
                for crops in value.crops:
                    writers[crops.template].add(crops.key, crops.pixels)
        else:
            timings.add("decode", answer.seconds)
            failure = (value.reason, value.detail)
        if answer.last:
            yield answer.job, failure
