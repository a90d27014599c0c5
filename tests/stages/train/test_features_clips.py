"""Features of clips: faces of all frames, whole frames as their mean, beside photos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cache.keys import FACES, BlockSpec, frame_key, item_key
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem, Faces
from stages.errors import MissingInputError
from stages.extract.settings import IMPORTED
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.train.features import HELD_BYTES, Features, gather

TIMES = np.array([0, 40_000, 80_000])
COUNTS = (2, 0, 3)
"""Faces of each frame of the clip."""

BROUGHT = BlockSpec(IMPORTED, "voice", "global", (2,), 1, numerics={"dtype": "float32"})


def clip_of(world: Any, name: str = "clip", lost: int | None = None) -> np.ndarray:
    """A clip of three frames beside what the world has; `lost` has no whole-frame features. Returns those (3, 5)."""
    inputs = world.inputs()
    sample = Sample(name, f"{name}.mp4", "video", ("a",), "train", "", "", (), "ef" * 32)
    rng = np.random.default_rng(7)
    items: list[FaceItem] = []
    whole = rng.normal(size=(len(TIMES), 5)).astype(np.float16)
    for i, (time_us, count) in enumerate(zip(TIMES.tolist(), COUNTS, strict=True)):
        corners = rng.uniform(0, 50, (count, 2))
        boxes = np.concatenate([corners, corners + 10 + np.arange(count)[:, None]], axis=1).astype(np.float32)
        faces = Faces(boxes, np.zeros(count, np.float32), np.zeros((count, 5, 2), np.float32), (200, 100))
        key = frame_key(sample.content, time_us, region=FACES)
        items.append(FaceItem(key, faces))
        if count:
            with world.store.writer(inputs.plans["resnet29"].blocks["embedding"]) as writer:
                writer.add(key, np.full((count, 6), i, np.float32) + np.arange(count)[:, None] / 10)
        if i != lost:
            with world.store.writer(inputs.plans["effnet_lite0"].blocks["pooled"]) as writer:
                writer.add(frame_key(sample.content, time_us), whole[i : i + 1])
    world.samples.append(sample)
    world.items[name], world.sizes[name] = items, (200, 100)
    return whole.astype(np.float32)


def gathered(world: Any, most: int = 15, held: int = HELD_BYTES, brought: bool = False) -> tuple[Features, Ledger]:
    inputs, ledger = world.inputs(), Ledger("train")
    detections: Detections = replace(world.detections, times={"clip": TIMES})
    found = gather(
        world.samples,
        world.store,
        detections,
        [inputs.plans["resnet29"].blocks["embedding"]],
        [inputs.plans["effnet_lite0"].blocks["pooled"], *([BROUGHT] if brought else [])],
        max_faces=most,
        ledger=ledger,
        held_bytes=held,
    )
    return found, ledger


@pytest.fixture
def mixed(world: Any) -> Any:
    world.add("first", "a", count=2)
    world.add("last", "b", count=1)
    return world


@pytest.mark.parametrize("held", [0, HELD_BYTES])
def test_a_clip_has_the_faces_of_its_frames_and_their_mean(mixed: Any, held: int) -> None:
    whole = clip_of(mixed)
    features, ledger = gathered(mixed, held=held)
    assert not len(ledger)
    assert [sample.sample_id for sample in features.samples] == ["first", "last", "clip"]
    assert np.diff(features.offsets).tolist() == [2, 1, 5]
    mine = features.faces[np.arange(3, 8)]
    np.testing.assert_allclose(mine[:, 0], [0, 0.1, 2, 2.1, 2.2], rtol=1e-6)
    assert features.face_index[3:].tolist() == [0, 1, 2, 3, 4]
    assert features.places.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]
    global_ = features.global_[np.arange(3)]
    assert np.array_equal(global_[2], whole.astype(np.float64).mean(0).astype(np.float32))
    assert np.array_equal(global_[0], mixed.globals_["first"].astype(np.float32))


def test_the_largest_faces_of_all_frames_are_kept(mixed: Any) -> None:
    clip_of(mixed)
    features, _ = gathered(mixed, most=2)
    assert features.places[3:].tolist() == [[0, 1], [2, 2]]  # of two equally large ones the first


def test_imported_features_are_the_whole_clips(mixed: Any) -> None:
    clip_of(mixed)
    rows = np.array([[1, 2], [3, 4], [0.1, 0.2]], np.float32)
    with mixed.store.writer(BROUGHT) as writer:
        for sample, row in zip(mixed.samples, rows, strict=True):
            writer.add(item_key(sample.content), row[None])
    features, ledger = gathered(mixed, brought=True)
    assert not len(ledger)
    assert np.array_equal(features.global_[np.arange(3)][:, 5:], rows)


def test_a_clip_with_a_frame_lost_is_recorded(mixed: Any) -> None:
    clip_of(mixed, lost=1)
    features, ledger = gathered(mixed)
    assert [sample.sample_id for sample in features.samples] == ["first", "last"]
    assert ledger.reasons() == {"no_features": 1}


def test_nothing_was_extracted(world: Any) -> None:
    clip_of(world)
    detections = replace(world.detections, times={"clip": TIMES})
    blocks = [world.inputs().plans["effnet_lite0"].blocks["map"]]
    with pytest.raises(MissingInputError, match="run kuleshov extract"):
        gather(world.samples, world.store, detections, [], blocks, max_faces=5, ledger=Ledger("train"))
