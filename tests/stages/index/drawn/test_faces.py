import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.index.drawn.faces import FacePlace, FaceTruth, draw_body, draw_face, face_truth
from stages.index.drawn.scenes import MAX_ANGLE, REACH_DOWN, REACH_UP, REACH_X
from stages.index.drawn.style import HAIR_STYLES, PAINTS, FaceStyle

BLANK = (96, 140, 120)


def style(seed: int = 0, **changes: object) -> FaceStyle:
    looks = FaceStyle.draw_lots(np.random.default_rng(seed))
    return dataclasses.replace(looks, **changes)  # pyright: ignore[reportArgumentType]


def drawn(looks: FaceStyle, place: FacePlace, expression: float) -> tuple[np.ndarray, FaceTruth]:
    image = Image.new("RGB", (300, 300), BLANK)
    truth = draw_face(image, looks, place, expression)
    return np.asarray(image).astype(int), truth


def around(pixels: np.ndarray, point: tuple[float, float], radius: int) -> np.ndarray:
    """The (2r+1, 2r+1, 3) pixels around a point."""
    x, y = (math.floor(value) for value in point)
    return pixels[y - radius : y + radius + 1, x - radius : x + radius + 1]


def test_the_box_is_centred_on_the_place_and_as_high_as_asked() -> None:
    box = face_truth(style(), FacePlace(150, 140, 100, 12), 0.3).box
    assert (box[0] + box[2]) / 2 == pytest.approx(150)
    assert (box[1] + box[3]) / 2 == pytest.approx(140)
    assert box[3] - box[1] == pytest.approx(100)
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(1.44 / 1.83)


@given(st.floats(-30, 30), st.floats(44, 150), st.floats(-1, 1))
def test_landmarks_turn_with_the_head_about_the_middle_of_the_box(angle: float, height: float, value: float) -> None:
    upright = np.array(face_truth(style(), FacePlace(0, 0, height), value).landmarks)
    turned = np.array(face_truth(style(), FacePlace(0, 0, height, angle), value).landmarks)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    np.testing.assert_allclose(turned, upright @ np.array([[cos, sin], [-sin, cos]]), atol=1e-6)
    # Upright: eyes level, the nose between them, mirror-symmetric mouth; left is left as seen.
    assert upright[0, 0] == -upright[1, 0] < 0
    assert upright[3, 0] == -upright[4, 0] < 0
    assert upright[0, 1] == upright[1, 1] < upright[2, 1] < upright[3, 1] == upright[4, 1]


def test_a_smile_lifts_and_widens_the_corners_of_the_mouth() -> None:
    frown, neutral, smile = (np.array(face_truth(style(), FacePlace(0, 0, 100), e).landmarks)[4] for e in (-1, 0, 1))
    assert smile[1] < neutral[1] < frown[1]
    assert smile[0] > neutral[0]


@pytest.mark.parametrize("angle", [-12.0, 0.0, 12.0])
@pytest.mark.parametrize("height", [50.0, 130.0])
def test_the_pupils_are_drawn_where_the_truth_says(angle: float, height: float) -> None:
    for seed in range(12):
        pixels, truth = drawn(style(seed), FacePlace(150, 150, height, angle), 0.0)
        for eye in truth.landmarks[:2]:
            assert around(pixels, eye, 1).sum(axis=2).min() < 150, (seed, eye)


@pytest.mark.parametrize("value", [-1.0, -0.4, 0.0, 0.4, 1.0])
def test_the_mouth_ends_where_the_truth_says(value: float) -> None:
    """At the corners the drawing has the dark line between the lips; beyond them it has skin."""
    looks = style(2, beard=False, skin=(236, 190, 154))
    pixels, truth = drawn(looks, FacePlace(150, 150, 150), value)
    (left, y_left), (right, y_right) = truth.landmarks[3:]
    for x, y, inward in ((left, y_left, 1), (right, y_right, -1)):
        inside = around(pixels, (x + 2 * inward, y), 3).sum(axis=2).min()
        outside = around(pixels, (x - 6 * inward, y), 1).sum(axis=2).min()
        assert inside < 0.8 * outside


def test_only_a_smile_shows_teeth() -> None:
    bright = []
    for value in (-1.0, 0.0, 1.0):
        pixels, truth = drawn(style(2, skin=(126, 82, 56)), FacePlace(150, 150, 140), value)
        mouth = np.array(truth.landmarks[3:]).mean(axis=0)
        x, y = (int(value) for value in mouth)
        patch = pixels[y - 5 : y + 25, x - 8 : x + 9]
        bright.append(int((patch.min(axis=2) > 150).sum()))
    assert bright[:2] == [0, 0]
    assert bright[2] > 50


def test_paint_is_visible_inside_the_box_and_changes_nothing_else() -> None:
    for paint in PAINTS:
        for height in (44.0, 120.0):
            place = FacePlace(150, 150, height, -7)
            plain, truth = drawn(style(4), place, 0.5)
            painted, _ = drawn(style(4, paint=paint), place, 0.5)
            rows, columns = np.nonzero((plain != painted).any(axis=2))
            x1, y1, x2, y2 = truth.box
            assert columns.min() >= x1
            assert columns.max() <= x2
            assert rows.min() >= y1
            assert rows.max() <= y2
            assert len(rows) > 0.03 * (x2 - x1) * (y2 - y1)
            near = np.abs(painted - paint).sum(axis=2) < 120
            assert near.sum() > 0.01 * (x2 - x1) * (y2 - y1)
            assert face_truth(style(4, paint=paint), place, 0.5).paint


def test_glasses_are_visible_around_the_eyes() -> None:
    place = FacePlace(150, 150, 44)
    plain, truth = drawn(style(5), place, -0.5)
    worn, worn_truth = drawn(style(5, glasses=True), place, -0.5)
    rows, _ = np.nonzero((plain != worn).any(axis=2))
    assert worn_truth.glasses
    assert not truth.glasses
    assert len(rows) > 100
    assert rows.min() >= truth.box[1]
    assert rows.max() < truth.landmarks[3][1]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(HAIR_STYLES), st.floats(-MAX_ANGLE, MAX_ANGLE), st.integers(0, 30), st.floats(44, 100))
@example("curly", -12.0, 0, 44.0)
def test_a_head_stays_within_the_reach_that_scenes_leave_for_it(
    hair: str, angle: float, seed: int, height: float
) -> None:
    pixels, _ = drawn(style(seed, hair_style=hair), FacePlace(150, 150, height, angle), 0.0)
    rows, columns = np.nonzero((pixels != BLANK).any(axis=2))
    # a pixel that the edge passes through is drawn, and one beside it is blended
    assert columns.min() >= np.floor(150 - REACH_X * height) - 1
    assert columns.max() <= np.ceil(150 + REACH_X * height) + 1
    assert rows.min() >= np.floor(150 - REACH_UP * height) - 1
    assert rows.max() <= np.ceil(150 + REACH_DOWN * height) + 1


def test_looks_vary_and_do_not_depend_on_what_the_caller_decides() -> None:
    looks = [FaceStyle.draw_lots(np.random.default_rng(seed)) for seed in range(60)]
    assert len({look.skin for look in looks}) == 6
    assert {look.hair_style for look in looks} == set(HAIR_STYLES)
    decided = FaceStyle.draw_lots(np.random.default_rng(9), glasses=True, paint=True)
    assert dataclasses.replace(decided, glasses=False, paint=None) == looks[9]
    assert decided.paint in PAINTS


def test_a_body_begins_below_the_chin() -> None:
    image = Image.new("RGB", (300, 300), BLANK)
    place = FacePlace(150, 80, 60, 5)
    draw_body(image, style(), place)
    rows, _ = np.nonzero((np.asarray(image) != BLANK).any(axis=2))
    assert rows.min() >= place.y + place.height / 2 - 1
    assert rows.max() == 299


def test_a_face_may_reach_over_the_edge() -> None:
    image = Image.new("RGB", (60, 60), BLANK)
    truth = draw_face(image, style(), FacePlace(0, 0, 80), 0.0)
    assert truth.box[0] < 0
    assert (np.asarray(image)[0, 0] != BLANK).any()


@pytest.mark.parametrize(("value", "height"), [(1.2, 80.0), (-1.01, 80.0), (0.0, 0.0), (0.0, -3.0), (math.nan, 80.0)])
def test_impossible_faces_are_refused(value: float, height: float) -> None:
    with pytest.raises(ValueError, match=r"expression is|height is"):
        draw_face(Image.new("RGB", (60, 60)), style(), FacePlace(30, 30, height), value)
