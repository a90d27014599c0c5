"""Clips through align: each frame with its own faces. Real MP4 files; the faces are given."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.keys import FACES, frame_key
from cache.store import Store
from stages.align.run import crops_spec, run
from stages.align.templates import find
from stages.align.warp import crop_matrix, warp
from stages.blocks import Counts
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem, Faces
from stages.index.clips import probe, read_frames
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.timing import Timings

TEMPLATES = ("arc112", "box48")
FACES_OF_FRAME = (1, 0, 2, 1, 3)
NO_FRAME = 10**9
"""A time, in microseconds, at which the clip is long over."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clips")
    write_clip(place / "clip.mp4", plan_clip(0, 0))
    (place / "same.mp4").write_bytes((place / "clip.mp4").read_bytes())
    return place


@pytest.fixture(scope="module")
def sample(root: Path) -> Sample:
    content = hashlib.sha256((root / "clip.mp4").read_bytes()).hexdigest()
    return Sample("clip.mp4", "clip.mp4", "video", (), "train", "", "", (), content)


@pytest.fixture
def manifest(sample: Sample) -> Manifest:
    return Manifest((sample, replace(sample, sample_id="same.mp4", path="same.mp4")))


@pytest.fixture(scope="module")
def times(root: Path) -> np.ndarray:
    """Five frames of the clip."""
    return probe(root / "clip.mp4").times_us[[0, 3, 4, 9, 20]]


def detections_of(manifest: Manifest, times: np.ndarray) -> Detections:
    """One to three faces in all frames but the second, each elsewhere."""
    items: list[FaceItem] = []
    for number, (time_us, count) in enumerate(zip(times.tolist(), FACES_OF_FRAME, strict=True)):
        left = 20.0 + 7 * number + 60 * np.arange(count)[:, None]
        boxes = np.concatenate([left, left * 0 + 50, left + 70, left * 0 + 140], axis=1).astype(np.float32)
        landmarks = np.full((count, 5, 2), np.nan, np.float32)
        faces = Faces(boxes, np.ones(count, np.float32), landmarks, (320, 240))
        items.append(FaceItem(frame_key(manifest.samples[0].content, time_us, region=FACES), faces))
    names = [one.sample_id for one in manifest.samples]
    return Detections(
        dict.fromkeys(names, items), dict.fromkeys(names, (320, 240)), {}, "0" * 64, dict.fromkeys(names, times)
    )


def test_each_frame_is_cut_where_its_own_faces_are(
    root: Path, manifest: Manifest, times: np.ndarray, tmp_path: Path
) -> None:
    detections, store, timings, ledger = detections_of(manifest, times), Store(tmp_path), Timings(), Ledger("align")
    rows, counts = run(manifest, root, store, detections, TEMPLATES, "found", ledger, timings)
    assert (counts, len(ledger), len(rows)) == (Counts(total=2, computed=1, failed=0), 0, 2 * 4)
    assert timings.spent["decode"].items == 4, "no face in one of the five"
    frames = list(read_frames(root / "clip.mp4", times.tolist()))
    for template in map(find, TEMPLATES):
        block = store.open(crops_spec(template, detections.key, "found"))
        for frame, item in zip(frames, detections.items["clip.mp4"], strict=True):
            assert block.has(np.array([item.key]))[0] == bool(len(item.faces))
            if len(item.faces):
                wanted = [
                    warp(frame, crop_matrix(box, landmarks, template), template.size)
                    for box, landmarks in zip(item.faces.boxes, item.faces.landmarks, strict=True)
                ]
                assert np.array_equal(block.item(item.key)[0], np.stack(wanted))


def test_frames_whose_crops_are_there_are_not_cut_again(
    root: Path, manifest: Manifest, times: np.ndarray, tmp_path: Path
) -> None:
    few = detections_of(manifest, times)
    items = {name: list(some)[:3] for name, some in few.items.items()}
    few = replace(few, items=items, times=dict.fromkeys(few.times, times[:3]))
    run(manifest, root, Store(tmp_path), few, TEMPLATES, "found", Ledger("align"))
    timings = Timings()
    all_of_them = detections_of(manifest, times)
    rows, _ = run(manifest, root, Store(tmp_path), all_of_them, TEMPLATES, "found", Ledger("align"), timings)
    assert (timings.spent["decode"].items, timings.spent["align"].items) == (2, 2 * (1 + 3))
    assert len(rows) == 2 * 4


def test_what_was_cut_before_the_damage_stays(
    root: Path, manifest: Manifest, times: np.ndarray, tmp_path: Path
) -> None:
    late = np.array([*times[:4], NO_FRAME])
    detections, ledger = detections_of(manifest, late), Ledger("align")
    rows, counts = run(manifest, root, Store(tmp_path), detections, ["box48"], "found", ledger)
    assert set(ledger.entries) == {"clip.mp4", "same.mp4"}
    assert (counts, len(rows)) == (Counts(total=2, computed=0, failed=2), 3)
    timings = Timings()
    run(manifest, root, Store(tmp_path), detections, ["box48"], "found", Ledger("align"), timings)
    assert timings.spent["decode"].items == 0, "the three are there"
