"""Pictures: frames where the faces are, tags inside of the picture, a caption that fits, whatever the photo's size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.predict.annotate import LEAST_PX, LONGEST_PX, annotate, scale_of

GROUND = (40, 90, 60)
ORANGE = (255, 176, 0)
ANSWER = {"positive": 0.7, "neutral": 0.2, "negative": 0.1}


def drawn(size: tuple[int, int], boxes: list[list[float]], weights: list[float], answer: dict[str, float] = ANSWER):
    image = Image.new("RGB", size, GROUND)
    before = image.tobytes()
    picture = annotate(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(weights), answer)
    assert image.tobytes() == before
    return np.asarray(picture).astype(int)


def near(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel - colour).max() <= 3)


def test_frames_are_where_the_faces_are() -> None:
    picture = drawn((640, 480), [[100, 100, 200, 220], [400, 300, 480, 400]], [0.9, 0.1])
    for x, y in ((100, 160), (200, 160), (150, 220), (101, 101 + 60)):
        assert near(picture[y, x], ORANGE), (x, y)
    for x, y in ((400, 350), (480, 350), (440, 400)):
        assert not near(picture[y, x], GROUND)
        assert not near(picture[y, x], ORANGE)
    for x, y in ((150, 160), (440, 350), (300, 240), (10, 10)):  # inside of the faces, and elsewhere
        assert near(picture[y, x], GROUND), (x, y)


@pytest.mark.parametrize(("size", "scale"), [((48, 48), 10), ((480, 200), 1), ((1280, 300), 1), ((5120, 2560), 0.25)])
def test_scale(size: tuple[int, int], scale: float) -> None:
    assert scale_of(size) == scale
    x1, y1, x2, y2 = (size[0] * 0.25, size[1] * 0.25, size[0] * 0.75, size[1] * 0.75)
    picture = drawn(size, [[x1, y1, x2, y2]], [1.0])
    assert LEAST_PX <= picture.shape[1] == size[0] * scale <= LONGEST_PX
    assert near(picture[round(size[1] * scale / 2), round(x1 * scale) + 1], ORANGE)
    assert near(picture[round(size[1] * scale / 2), round(size[0] * scale / 2)], GROUND)


def test_tags_at_the_borders_are_whole() -> None:
    """As many pixels of tag for a face in a corner as for one in the middle."""

    def tag_pixels(box: list[float]) -> int:
        picture = drawn((640, 480), [box], [1.0])[:480]
        x1, y1, x2, y2 = (round(v) for v in box)
        outside = np.ones(picture.shape[:2], bool)
        outside[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1] = False
        return int((np.abs(picture - GROUND).max(-1) > 3)[outside].sum())

    middle = tag_pixels([300, 200, 340, 240])
    assert middle > 300
    for box in ([0, 0, 40, 40], [599, 0, 639, 40], [0, 439, 40, 479], [599, 439, 639, 479], [630, 200, 639, 220]):
        assert tag_pixels([float(v) for v in box]) == pytest.approx(middle, rel=0.05), box


def test_without_a_face_only_the_caption() -> None:
    picture = drawn((640, 480), [], [])
    assert (picture[:480] == GROUND).all()
    assert picture.shape[0] > 490
    assert (picture[480:].max(-1) > 200).any()


def test_the_best_class_comes_first_and_in_colour() -> None:
    one = drawn((640, 480), [], [], {"a": 0.1, "b": 0.9})[480:]
    other = drawn((640, 480), [], [], {"b": 0.9, "a": 0.1})[480:]
    assert np.array_equal(one, other)
    orange = np.flatnonzero((np.abs(one - ORANGE).max(-1) < 30).any(0))
    white = np.flatnonzero((one.min(-1) > 230).any(0))
    assert 5 < orange.min() < orange.max() < white.min()


LONG = {"a class with a name so long that no picture could ever hold it in one line " * 3: 0.5}


@pytest.mark.parametrize("answer", [LONG, {f"class {i}": 1 / 26 for i in range(26)}, {"x": 1.0}, {}])
@pytest.mark.parametrize("size", [(48, 48), (30, 500), (500, 30), (1, 1), (3000, 2000)])
def test_captions_stay_inside(answer: dict[str, float], size: tuple[int, int]) -> None:
    picture = drawn(size, [], [], answer)
    height = round(size[1] * scale_of(size))
    assert picture.shape[0] - height < 140
    strip = picture[height:]
    if picture.shape[1] > 100:
        assert (strip[:, -7:] == (24, 26, 30)).all()
    assert (strip[-3:] == (24, 26, 30)).all()


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.floats(-300, 900, width=32)] * 4), max_size=6),
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
)
def test_any_box_can_be_drawn(boxes: list[tuple[float, float, float, float]], size: tuple[int, int]) -> None:
    ordered = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in boxes]
    drawn(size, ordered, [1 / max(len(boxes), 1)] * len(boxes))
