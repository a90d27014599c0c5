"""Who the persons of samples are, and what their items are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.keys import FACES, box_region, frame_key, item_key, key_list
from stages.detect.detections import Detections, ItemColumns
from stages.detect.faces import FaceItem, Faces
from stages.detect.persons import around, clipped, find_persons
from stages.detect.settings import PersonSettings
from stages.index.manifest import Box, Sample

SIZE = (400, 300)
CONTENT, OTHER = "ab" * 32, "cd" * 32


def sample(name: str, *boxes: Box, content: str = CONTENT, media: str = "image") -> Sample:
    return Sample(name, name, media, (), "train", "", "", boxes, content)


def person(*corners: float) -> Box:
    x1, y1, x2, y2 = corners
    return Box(x1, y1, x2, y2, "person")


def faces(*boxes: Sequence[float], size: tuple[int, int] = SIZE) -> Faces:
    rows = np.zeros((len(boxes), 15), np.float32)
    rows[:, :4] = np.array(boxes, np.float32).reshape(-1, 4)
    return Faces.from_rows(rows, size)


def detections(found: dict[str, list[Faces]], times: dict[str, np.ndarray] | None = None) -> Detections:
    """Of each sample its frames' faces."""
    items = {
        name: [FaceItem(item_key(CONTENT, frame_s=number, region=FACES), one) for number, one in enumerate(frames)]
        for name, frames in found.items()
    }
    return Detections(ItemColumns.of(items), dict.fromkeys(items, SIZE), {}, "0" * 64, times or {})


def of_box(content: str, box: Sequence[float], time_us: int | None = None) -> bytes:
    x1, y1, x2, y2 = box
    return frame_key(content, time_us, region=box_region(x1, y1, x2, y2))


def test_given_persons_are_the_persons_in_the_order_of_the_manifest() -> None:
    samples = [
        sample("a", person(90, 10, 150.25, 200), Box(5, 5, 20, 20, "face"), person(10, 10, 60, 200)),
        sample("b", person(10, 10, 60, 200)),
        sample("c", person(10, 10, 60, 200), content=OTHER),
    ]
    found = find_persons(samples, detections({name: [faces([40, 40, 60, 60])] for name in "abc"}))
    assert found.owner.tolist() == [0, 0, 1, 2]
    assert found.boxes.tolist()[:2] == [[90, 10, 150.25, 200], [10, 10, 60, 200]]
    keys = key_list(found.keys)
    assert keys[0] == of_box(CONTENT, (90, 10, 150.25, 200))
    assert keys[1] == keys[2], "the same box of the same photo is one item"
    assert len({*keys}) == 3, "another box, or the same box of another photo, is another"
    assert found.unfit == ()
    assert [found.of(i) for i in range(3)] == [slice(0, 2), slice(2, 3), slice(3, 4)]


def test_without_them_there_is_a_person_around_each_face() -> None:
    samples = [sample("a"), sample("none"), sample("face", Box(5, 5, 20, 20, "face"))]
    found = find_persons(
        samples,
        detections({"a": [faces([100, 50, 120, 80], [300, 200, 390, 290])], "none": [faces()], "face": [faces()]}),
    )
    assert found.owner.tolist() == [0, 0], "no face and no person's box is no person"
    # 1.5 widths to the sides, half a height above and 4 under it; the second reaches over the border
    assert found.boxes.tolist() == [[70, 35, 150, 200], [165, 155, 400, 300]]
    assert key_list(found.keys)[0] == of_box(CONTENT, (70, 35, 150, 200))
    assert len(found.of(1).indices(2)) == 3
    assert found.of(1).start == found.of(1).stop == 2


def test_how_far_a_person_reaches_is_a_setting_and_another_reach_other_items() -> None:
    given = replace(detections({"a": [faces([100, 50, 120, 80])]}), around=PersonSettings(sides=0, up=0, down=0))
    found = find_persons([sample("a")], given)
    assert found.boxes.tolist() == [[100, 50, 120, 80]]
    wider = find_persons([sample("a")], replace(given, around=PersonSettings(sides=1, up=1, down=2)))
    assert wider.boxes.tolist() == [[80, 20, 140, 140]]
    assert key_list(found.keys) != key_list(wider.keys)


def test_a_box_of_a_person_and_the_same_around_a_face_are_one_item() -> None:
    found = find_persons(
        [sample("a"), sample("b", person(70, 35, 150, 200))],
        detections({"a": [faces([100, 50, 120, 80])], "b": [faces()]}),
    )
    first, second = key_list(found.keys)
    assert first == second


def test_last_bits_of_a_face_change_nothing() -> None:
    here = find_persons([sample("a")], detections({"a": [faces([100.1, 50.2, 120.3, 80.4])]}))
    there = find_persons([sample("a")], detections({"a": [faces([100.10001, 50.2, 120.3, 80.40001])]}))
    assert key_list(here.keys) == key_list(there.keys)


def test_a_box_out_of_the_photo_is_no_person_and_is_told() -> None:
    boxes = [(-50, -50, 500, 400), (400, 10, 450, 90), (0, 0, 3, 2), (-9, 5, 0.5, 60)]
    samples = [sample("a", *(person(*box) for box in boxes)), sample("b", person(0, 300, 9, 310))]
    found = find_persons(samples, detections({"a": [faces()], "b": [faces([5, 5, 50, 50])]}))
    assert found.boxes.tolist() == [[-50, -50, 500, 400], [0, 0, 3, 2]], "larger than the photo, and a few px, are fine"
    assert [number for number, _ in found.unfit] == [0, 0, 1]
    assert found.unfit[0][1] == (
        "less than a px of the person's box 400, 10, 450, 90 lies in the photo of 400 x 300 px; correct the box"
    )
    assert 1 not in found.owner.tolist(), "its face is not taken instead: it has a given person"


def test_clips_have_given_persons_in_every_frame_and_others_around_the_frame_s_own_faces() -> None:
    times = np.array([0, 40_000, 80_000])
    frames = [faces([100, 50, 120, 80]), faces(), faces([100, 50, 120, 80], [200, 50, 220, 80])]
    samples = [sample("own", media="video"), sample("photo"), sample("given", person(1, 2, 30, 40), media="video")]
    found = find_persons(
        samples,
        detections(
            {"own": frames, "photo": [faces([100, 50, 120, 80])], "given": frames}, {"own": times, "given": times}
        ),
    )
    assert found.owner.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert found.frame.tolist() == [0, 2, 2, 0, 0, 1, 2]
    assert found.places.tolist() == [[0, 0], [2, 0], [2, 1], [0, 0], [0, 0], [1, 0], [2, 0]]
    assert found.offsets(3).tolist() == [0, 3, 4, 7]
    at_face = (70, 35, 150, 200)
    wanted = [(at_face, 0), (at_face, 80_000), ((170, 35, 250, 200), 80_000), (at_face, None)]
    wanted += [((1, 2, 30, 40), time_us) for time_us in times.tolist()]
    assert key_list(found.keys) == [of_box(CONTENT, box, time_us) for box, time_us in wanted]


def test_no_samples_have_no_persons() -> None:
    found = find_persons([], detections({}))
    assert (len(found), found.boxes.shape, found.keys.dtype.itemsize) == (0, (0, 4), 16)
    assert (found.places.shape, found.offsets(0).tolist()) == ((0, 2), [0])


def test_a_sample_that_could_not_be_read_is_no_question() -> None:
    with pytest.raises(KeyError):
        find_persons([sample("gone", person(1, 2, 30, 40))], detections({}))


CORNER = st.floats(-300, 700, width=32)


@given(st.lists(st.tuples(CORNER, CORNER, st.floats(1, 300, width=32), st.floats(1, 300, width=32)), max_size=5))
def test_persons_around_faces_lie_in_the_photo_in_whole_px(drawn: list[tuple[float, float, float, float]]) -> None:
    found = find_persons([sample("a")], detections({"a": [faces(*((x, y, x + w, y + h) for x, y, w, h in drawn))]}))
    assert len(found) + len(found.unfit) == len(drawn)
    assert np.array_equal(found.boxes, np.rint(found.boxes))
    assert np.array_equal(found.boxes, clipped(found.boxes, np.array([SIZE] * len(found)).reshape(-1, 2)))
    assert (found.boxes[:, 2:] - found.boxes[:, :2] >= 1).all()
    assert key_list(found.keys) == [of_box(CONTENT, [abs(v) for v in box]) for box in found.boxes.tolist()], "no -0.000"


def test_the_defaults_hold_a_standing_figure_from_head_to_hip() -> None:
    """In heads of 1: the crown at 0, a face's box 0.8 high and 0.6 wide from 0.2 on, shoulders 2 wide, hips at 4."""
    [[left, top, right, bottom]] = around(np.array([[-0.3, 0.2, 0.3, 1.0]]), PersonSettings()).tolist()
    assert top <= 0
    assert left <= -1 < 1 <= right
    assert 4 <= bottom < 4.5
