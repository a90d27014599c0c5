"""Features: the very rows of the store, which faces of a sample, and what happens where something is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.keys import BlockSpec, item_key
from stages.errors import DataError, MissingInputError
from stages.ledger import Ledger
from stages.train.features import HELD_BYTES, Features, gather
from stages.train.rows import StoredRows


def gathered(
    world: Any, most: int = 15, taps: tuple[str, ...] = ("embedding",), held: int = HELD_BYTES
) -> tuple[Features, Ledger]:
    inputs = world.inputs()
    faces = [inputs.plans["resnet29"].blocks[tap] for tap in taps]
    globals_ = [inputs.plans["effnet_lite0"].blocks["pooled"]]
    ledger = Ledger("train")
    found = gather(
        world.samples,
        world.store,
        world.detections,
        faces,
        globals_,
        max_faces=most,
        ledger=ledger,
        held_bytes=held,
    )
    return found, ledger


def in_memory(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """The very arrays of faces and of global features."""
    assert isinstance(features.faces, np.ndarray)
    assert isinstance(features.global_, np.ndarray)
    return features.faces, features.global_


def test_the_same_rows_as_one_by_one(populated: Any) -> None:
    features, ledger = gathered(populated, taps=("wide", "embedding"))
    assert len(ledger) == 0
    assert features.samples == tuple(populated.samples)
    faces, global_ = in_memory(features)
    assert faces.dtype == global_.dtype == features.boxes.dtype == np.float32
    for i, sample in enumerate(populated.samples):
        span = slice(features.offsets[i], features.offsets[i + 1])
        stored = populated.faces[sample.sample_id]
        assert np.array_equal(faces[span], np.concatenate([stored["wide"], stored["embedding"]], axis=1))
        assert np.array_equal(global_[i], populated.globals_[sample.sample_id].astype(np.float32))
        assert features.face_index[span].tolist() == list(range(i % 4))
    assert len(features.faces) == features.offsets[-1] == sum(i % 4 for i in range(40))


def test_a_sample_without_faces_counts(world: Any) -> None:
    world.add("a", "calm", count=0)
    world.add("b", "calm", count=3)
    features, ledger = gathered(world)
    assert len(features) == 2
    assert features.offsets.tolist() == [0, 0, 3]
    assert len(ledger) == 0


def test_no_sample_with_a_face(world: Any) -> None:
    world.add("a", "calm", count=0)
    features, _ = gathered(world)
    assert features.faces.shape == (0, 6)
    assert features.batch(np.array([0])).face_mask.tolist() == [[False]]


def test_max_faces_keeps_the_largest_in_stored_order(world: Any) -> None:
    sides = [10, 40, 20, 40, 30]
    boxes = np.array([[5, 5, 5 + side, 5 + side] for side in sides])
    world.add("a", "calm", boxes=boxes)
    world.add("b", "calm", boxes=boxes[:2])
    features, _ = gathered(world, most=3)
    assert features.face_index.tolist() == [1, 3, 4, 0, 1]
    assert features.offsets.tolist() == [0, 3, 5]
    assert np.array_equal(features.faces[:3], world.faces["a"]["embedding"][[1, 3, 4]])
    assert np.array_equal(features.faces[3:], world.faces["b"]["embedding"])
    features, _ = gathered(world, most=1)
    assert features.face_index.tolist() == [1, 1]  # of two equals the first


def test_boxes_are_relative_to_the_photo(world: Any) -> None:
    world.add("a", "calm", boxes=np.array([[20, 10, 100, 60]]))
    features, _ = gathered(world)
    np.testing.assert_allclose(features.boxes, [[0.1, 0.1, 0.5, 0.6]], atol=1e-7)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 39), min_size=1, max_size=9))
def test_batches_are_padded(populated_features: Features, rows: list[int]) -> None:
    features = populated_features
    batch = features.batch(np.array(rows))
    counts = [row % 4 for row in rows]
    assert batch.faces.shape == (len(rows), max(1, *counts) if len(rows) > 1 else max(1, counts[0]), 6)
    assert batch.face_mask.sum(1).tolist() == counts
    assert np.array_equal(batch.global_.numpy(), features.global_[np.array(rows)])
    for i, row in enumerate(rows):
        span = slice(features.offsets[row], features.offsets[row + 1])
        assert np.array_equal(batch.faces[i, : counts[i]].numpy(), features.faces[span])
        assert np.array_equal(batch.boxes[i, : counts[i]].numpy(), features.boxes[span])
        assert batch.face_mask[i, : counts[i]].all()
        assert not batch.faces[i, counts[i] :].any()
        assert not batch.boxes[i, counts[i] :].any()


@pytest.fixture
def populated_features(populated: Any) -> Features:
    return gathered(populated)[0]


def test_missing_features_are_recorded(world: Any) -> None:
    world.add("good", "calm")
    world.add("no_global", "calm", globals_=False)
    world.add("no_faces", "calm", faces=False)
    world.fail("unread", "calm")
    features, ledger = gathered(world)
    assert [s.sample_id for s in features.samples] == ["good"]
    assert ledger.entries == {
        "no_global": ("no_features", "effnet_lite0/pooled: missing; run kuleshov extract"),
        "no_faces": ("no_features", "resnet29/embedding: missing; run kuleshov extract"),
        "unread": ("truncated", "the JPEG data end too soon"),
    }


def test_a_failed_item_is_recorded_with_its_status(world: Any) -> None:
    world.add("good", "calm")
    world.add("bad", "calm", globals_=False)
    with world.store.writer(world.inputs().plans["effnet_lite0"].blocks["pooled"]) as writer:
        writer.add(item_key(world.samples[1].content), None, status="non_finite")
    _, ledger = gathered(world)
    assert ledger.entries == {"bad": ("no_features", "effnet_lite0/pooled: non_finite; run kuleshov extract")}


def test_a_block_that_was_never_extracted_stops(world: Any) -> None:
    world.add("faceless", "calm", count=0)  # has all it needs, and must not hide that the faces' block is empty
    world.add("a", "calm", faces=False)
    with pytest.raises(MissingInputError, match=r"^resnet29/embedding: .*run kuleshov extract$"):
        gathered(world)


def test_nothing_complete_stops(world: Any) -> None:
    world.add("a", "calm", faces=False)
    world.add("b", "calm", globals_=False)
    with pytest.raises(MissingInputError, match=r"run kuleshov extract"):
        gathered(world)
    world.samples.clear()
    world.fail("c", "calm")
    with pytest.raises(MissingInputError, match=r"run kuleshov extract"):
        gathered(world)


def test_no_samples_are_no_features(world: Any) -> None:
    features, _ = gathered(world)
    assert len(features) == 0
    assert (features.faces.shape, features.global_.shape, features.offsets.tolist()) == ((0, 6), (0, 5), [0])


def test_rows_that_do_not_fit_the_detections(world: Any) -> None:
    world.add("a", "calm", count=2)
    other = BlockSpec("resnet29", "other", "face", (6,), 1)
    with world.store.writer(other) as writer:
        writer.add(world.items["a"][0].key, np.zeros((3, 6), np.float32))
    globals_ = [world.inputs().plans["effnet_lite0"].blocks["pooled"]]
    with pytest.raises(DataError, match=r"resnet29/other: 3 rows for 2 of the detections"):
        gather(world.samples, world.store, world.detections, [other], globals_, max_faces=9, ledger=Ledger("t"))


def test_rows_of_other_items_stop_though_their_sum_is_right(world: Any) -> None:
    world.add("a", "calm", count=2)
    world.add("b", "glad", count=2)
    other = BlockSpec("resnet29", "other", "face", (6,), 1)
    with world.store.writer(other) as writer:
        writer.add(world.items["a"][0].key, np.zeros((1, 6), np.float32))
        writer.add(world.items["b"][0].key, np.zeros((3, 6), np.float32))
    globals_ = [world.inputs().plans["effnet_lite0"].blocks["pooled"]]
    with pytest.raises(DataError, match=r"resnet29/other: 1 rows for 2 of the detections"):
        gather(world.samples, world.store, world.detections, [other], globals_, max_faces=9, ledger=Ledger("t"))


def test_what_stays_in_the_store_gives_the_same_to_the_bit(populated: Any) -> None:
    """Two blocks side by side, samples trimmed to two faces, samples without a face, two names of one photo."""
    copy = populated.samples[3]
    populated.samples.append(replace(copy, sample_id="twin"))
    populated.items["twin"], populated.sizes["twin"] = populated.items["s03"], populated.sizes["s03"]
    held, _ = gathered(populated, most=2, taps=("wide", "embedding"))
    stored, _ = gathered(populated, most=2, taps=("wide", "embedding"), held=0)
    in_memory(held)
    assert isinstance(stored.faces, StoredRows)
    assert isinstance(stored.global_, StoredRows)
    assert stored.faces.shape == held.faces.shape == (52, 9)  # of 0, 1, 2, 2 faces ten times, and the twin
    scales = held.scales(np.arange(0, 40, 3))
    of_store = stored.scales(np.arange(0, 40, 3))
    assert [part.tobytes() for pair in of_store for part in pair] == [p.tobytes() for pair in scales for p in pair]
    for ours, theirs in ((stored, held), (stored.scaled(*scales), held.scaled(*scales))):
        for rows in ([0, 4, 8], [5], [40, 3, 3, 12, 39], list(range(41))):
            a, b = ours.batch(np.array(rows)), theirs.batch(np.array(rows))
            for name in ("faces", "face_mask", "boxes", "global_"):
                assert getattr(a, name).numpy().tobytes() == getattr(b, name).numpy().tobytes(), (name, rows)


def test_the_limit_counts_all_features(populated: Any) -> None:
    held, _ = gathered(populated)
    size = sum(part.nbytes for part in in_memory(held))
    assert isinstance(gathered(populated, held=size)[0].faces, np.ndarray)
    assert isinstance(gathered(populated, held=size - 1)[0].faces, StoredRows)


def test_two_names_of_one_photo_share_its_features(world: Any) -> None:
    world.add("a", "calm", count=2)
    copy = world.samples[0]
    world.samples.append(replace(copy, sample_id="b"))
    world.items["b"], world.sizes["b"] = world.items["a"], world.sizes["a"]
    features, _ = gathered(world)
    assert np.array_equal(features.faces[:2], features.faces[2:])


def test_scales_are_the_training_rows_alone(populated_features: Features) -> None:
    features, rows = populated_features, np.arange(0, 40, 3)
    faces, global_ = features.scales(rows)
    of_rows = np.concatenate([features.faces[features.offsets[r] : features.offsets[r + 1]] for r in rows])
    np.testing.assert_allclose(faces[0], of_rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(faces[1], of_rows.std(0), atol=1e-6)
    np.testing.assert_allclose(global_[0], features.global_[rows].mean(0), atol=1e-6)
    stored_faces, stored_global = in_memory(features)
    stored_faces[features.offsets[1] : features.offsets[3]] += 1000  # samples 1 and 2 are not training rows
    stored_global[1] += 1000
    again = features.scales(rows)
    assert all(np.array_equal(a, b) for a, b in zip((*faces, *global_), (*again[0], *again[1]), strict=True))
    scaled = features.scaled(faces, global_)
    np.testing.assert_allclose(scaled.global_[rows].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.global_[rows].std(0), 1, atol=1e-5)


def test_a_constant_feature_is_not_divided_by_nothing(world: Any) -> None:
    for name in "ab":
        world.add(name, "calm", count=0)
    features, _ = gathered(world)
    in_memory(features)[1][:] = 7
    faces, global_ = features.scales(np.array([0, 1]))
    assert global_[1].tolist() == [1.0] * 5
    assert (faces[0].tolist(), faces[1].tolist()) == ([0.0] * 6, [1.0] * 6)  # no face among the rows
    assert not in_memory(features.scaled(faces, global_))[1].any()
