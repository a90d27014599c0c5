"""The clips of a manifest: which frames of each are looked at.

A clip's frames are chosen among those that it has. Their times are read once and kept in the block `media/times`; its
size goes to `media/size`, as a photo's does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cache.keys import BlockSpec, item_keys
from cache.store import Store
from stages.blocks import BlockRow, block_rows
from stages.decoding.pool import decoded
from stages.detect.corpus import SIZE_SPEC
from stages.errors import MediaError
from stages.index.clips import Probe
from stages.index.frames import ClipSettings, select
from stages.index.manifest import Manifest, Sample
from stages.index.samples import TRANSIENT, by_content, probe_shared
from stages.making import style
from stages.progress import progress
from stages.timing import Timings

NOT_DETECTED = ("not_detected", "no detections in the store; kuleshov detect says why")
"""Reason and detail of what no run has looked at."""

TIMES_SPEC = BlockSpec(
    source="media",
    tap="times",
    level="frame",
    shape=(),
    extractor_version=1,
    preprocessing={"unit": "microseconds", "of": "presentation"},
    numerics={"dtype": "int64"},
)
"""One item a clip, one row for each of its frames that can be decoded."""


@dataclass(frozen=True)
class Clips:
    """The clips of a manifest.

    Attributes:
        times: content -> (T,) int64 µs of the chosen frames.
        failed: content -> why it has none.
        rows: of the stage's block manifest.
    """

    times: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows: list[BlockRow] = field(default_factory=list)


def read_clips(manifest: Manifest, store: Store, settings: ClipSettings) -> Clips:
    """The frames that an earlier run found; a clip that no run looked into is among `failed`."""
    contents = list(_shared(manifest))
    if not contents:
        return Clips()
    block = store.open(TIMES_SPEC)
    keys = item_keys(contents)
    here = block.has(keys).tolist()
    clips = Clips(rows=block_rows(block, keys))
    for content, key, known in zip(contents, keys, here, strict=True):
        if not known:
            clips.failed[content] = NOT_DETECTED
            continue
        times, status, detail = block.item(key)
        if status == "ok":
            clips.times[content] = times[select(times, settings, content)]
        else:
            clips.failed[content] = (status, detail)
    return clips


def _shared(manifest: Manifest) -> dict[str, list[Sample]]:
    """Content of each clip -> the samples that have it. What one of them calls a clip is one for all: there is one
    item a content. (`kuleshov index` gives them one kind, by the bytes.)"""
    if not any(sample.media == "video" for sample in manifest.samples):
        return {}
    shared = by_content(manifest).items()
    return {content: some for content, some in shared if any(sample.media == "video" for sample in some)}


def look_into_clips(
    manifest: Manifest, images_root: Path, store: Store, settings: ClipSettings, timings: Timings
) -> Clips:
    """As `read_clips`, after reading the times of the clips that the store does not know yet.

    A clip without a frame that can be decoded is remembered as such; what may pass (a missing file) is tried again.
    A clip is known if the store has its times and its size, or that it has none: a run that was cut short, or `gc` or
    `pull` of one block, may have left one without the other.
    """
    shared = _shared(manifest)
    if not shared:
        return Clips()
    keys = item_keys(shared)
    statuses, sized = store.open(TIMES_SPEC).statuses(keys), store.open(SIZE_SPEC).has(keys)
    todo = [
        _Ask(tuple(some), images_root, status == "ok")
        for some, status, has_size in zip(shared.values(), statuses, sized, strict=True)
        if not status or (status == "ok" and not has_size)
    ]
    passing: dict[str, tuple[str, str]] = {}
    if todo:
        how = style("av")
        with store.writer(TIMES_SPEC, how) as times, store.writer(SIZE_SPEC, how) as sizes:
            for answer in progress(decoded(_probe, todo), total=len(todo), desc="clips", unit="clip"):
                content, found = answer.job.samples[0].content, answer.value
                timings.add("decode", answer.seconds)
                [key] = item_keys([content])
                if isinstance(found, Probe):
                    times.add(key, found.times_us)
                    sizes.add(key, np.array([found.size], np.int32))
                elif found.reason in TRANSIENT:
                    passing[content] = (found.reason, found.detail)
                elif answer.job.timed:  # another version could read it: fail it here, or it would be asked for ever
                    sizes.add(key, None, status=found.reason, detail=found.detail)
                else:
                    times.add(key, None, status=found.reason, detail=found.detail)
    clips = read_clips(manifest, store, settings)
    clips.failed.update(passing)
    return clips


@dataclass(frozen=True)
class _Ask:
    """A clip to look into: the samples that share it, and whether the store has its times."""

    samples: tuple[Sample, ...]
    images_root: Path
    timed: bool


def _probe(ask: _Ask) -> Iterator[Probe | MediaError]:
    """In a decoding process."""
    try:
        yield probe_shared(ask.samples, ask.images_root)
    except MediaError as error:
        yield error
