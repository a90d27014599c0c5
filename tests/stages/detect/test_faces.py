"""Which faces count, and under which key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.keys import FACES, WHOLE, box_region, item_key
from stages.detect.faces import Faces, faces_of, iou
from stages.index.manifest import Box, Sample

SIZE = (100, 80)
FOUND = Faces(
    boxes=np.array([[10, 10, 50, 50], [60, 20, 80, 40]], np.float32),
    scores=np.array([0.9, 0.8], np.float32),
    landmarks=np.arange(20, dtype=np.float32).reshape(2, 5, 2),
    size=SIZE,
)


def sample(*boxes: Box) -> Sample:
    return Sample("a", "a.png", "image", (), "train", "", "", boxes, "ab" * 32)


def test_found_is_one_item_with_every_face() -> None:
    [item] = faces_of(sample(), FOUND, "found")
    assert item.key == item_key("ab" * 32, region=FACES)
    assert item.faces is FOUND
    [none] = faces_of(sample(), Faces.none(SIZE), "found")
    assert len(none.faces) == 0


def test_whole_takes_the_landmarks_of_the_largest_overlap() -> None:
    [item] = faces_of(sample(), FOUND, "whole")
    assert item.key == item_key("ab" * 32, region=WHOLE)
    assert item.faces.boxes.tolist() == [[0, 0, 100, 80]]
    assert item.faces.scores.tolist() == [np.float32(0.9)]
    assert np.array_equal(item.faces.landmarks, FOUND.landmarks[:1])
    [bare] = faces_of(sample(), Faces.none(SIZE), "whole")
    assert bare.faces.boxes.tolist() == [[0, 0, 100, 80]]
    assert np.isnan(bare.faces.scores).all()
    assert bare.faces.landmarks.shape == (1, 5, 2)
    assert np.isnan(bare.faces.landmarks).all()


def test_given_boxes_take_the_landmarks_that_fit_them() -> None:
    fits, misses, person = (
        Box(62, 21, 82, 41, "face"),
        Box(0, 60, 20, 80, "face"),
        Box(10, 10, 50, 50, "person"),
    )
    first, second = faces_of(sample(fits, person, misses), FOUND, "given")
    assert first.key == item_key("ab" * 32, region=box_region(62, 21, 82, 41))
    assert first.faces.boxes.tolist() == [[62, 21, 82, 41]]
    assert first.faces.scores.tolist() == [np.float32(0.8)]
    assert np.array_equal(first.faces.landmarks, FOUND.landmarks[1:])
    assert second.faces.boxes.tolist() == [[0, 60, 20, 80]]
    assert np.isnan(second.faces.landmarks).all()
    assert faces_of(sample(), FOUND, "given") == []
    assert faces_of(sample(person), FOUND, "given") == []


@pytest.mark.parametrize(("x2", "landmarks"), [(22.0, False), (23.0, True)])
def test_landmarks_are_taken_over_an_iou_of_three_tenths(x2: float, landmarks: bool) -> None:
    # (x2 - 10) / 40 of the first face: 0.3 exactly is not enough
    [item] = faces_of(sample(Box(10, 10, x2, 50, "face")), FOUND, "given")
    assert np.isfinite(item.faces.landmarks).all() == landmarks


def test_a_corrected_box_is_another_item_and_leaves_the_others() -> None:
    before = faces_of(sample(Box(1, 1, 9, 9, "face"), Box(20, 1, 30, 9, "face")), FOUND, "given")
    after = faces_of(sample(Box(1, 1, 9, 9.5, "face"), Box(20, 1, 30, 9, "face")), FOUND, "given")
    assert before[0].key != after[0].key
    assert before[1].key == after[1].key


boxes = st.tuples(*[st.integers(-20, 20)] * 4)


@given(boxes, boxes)
def test_iou_counts_pixels(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    cells = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
    union = len(cells[0] | cells[1])
    shared = len(cells[0] & cells[1])
    assert iou(a, b) == pytest.approx(shared / union if shared else 0.0)
    assert iou(a, b) == iou(b, a)


def test_rows_go_round() -> None:
    back = Faces.from_rows(FOUND.to_rows(), SIZE)
    assert FOUND.to_rows().shape == (2, 15)
    assert FOUND.to_rows()[1].tolist() == [60, 20, 80, 40, np.float32(0.8), *range(10, 20)]
    for name in ("boxes", "scores", "landmarks"):
        assert np.array_equal(getattr(back, name), getattr(FOUND, name))
    part = back.part(1, 2, (7, 8))
    assert part.boxes.tolist() == [[60, 20, 80, 40]]
    assert part.landmarks.shape == (1, 5, 2)
    assert part.size == (7, 8)
