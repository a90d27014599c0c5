import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.index.drawn.canvas import Pen, Similarity, bezier, blob, dim, mirrored, mix, oval

numbers = st.floats(-50, 50)


def test_colours_are_mixed_and_dimmed_within_range() -> None:
    assert mix((0, 100, 200), (100, 200, 0), 0.25) == (25, 125, 150)
    assert dim((100, 200, 250), 1.5) == (150, 255, 255)
    assert dim((100, 200, 250), 0.5) == (50, 100, 125)


def test_a_quarter_turn_takes_right_to_down() -> None:
    place = Similarity(10, 20, 2, math.pi / 2)
    np.testing.assert_allclose(place([(1, 0), (0, 1)]), [(10, 22), (8, 20)], atol=1e-12)


@given(numbers, numbers, st.floats(0.1, 100), st.floats(-4, 4), numbers, numbers)
def test_back_undoes_the_similarity(x: float, y: float, scale: float, angle: float, u: float, v: float) -> None:
    place = Similarity(x, y, scale, angle)
    px = place([(u, v)])
    back = place.back(px[:, :1], px[:, 1:])
    np.testing.assert_allclose([back[0][0, 0], back[1][0, 0]], [u, v], atol=1e-6)


def test_bezier_runs_from_its_first_to_its_last_control() -> None:
    curve = bezier((0, 0), (1, 2), (2, 0), count=5)
    np.testing.assert_allclose(curve[[0, 2, 4]], [(0, 0), (1, 1), (2, 0)])


def test_oval_and_mirrored_outlines() -> None:
    points = oval(1, 2, 3, 4)
    np.testing.assert_allclose(((points - (1, 2)) / (3, 4)) ** 2 @ np.ones(2), 1)
    np.testing.assert_allclose(mirrored([(-1, 0), (-2, 1)]), [(-1, 0), (-2, 1), (2, 1), (1, 0)])


def test_blob_is_one_at_its_middle() -> None:
    assert blob(np.array([2.0]), np.array([3.0]), 2, 3, 1, 1)[0] == 1
    assert blob(np.array([3.0]), np.array([3.0]), 2, 3, 1, 1)[0] == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("oversampling", [1, 2, 4])
def test_the_pen_fills_the_pixels_of_a_box_and_no_other(oversampling: int) -> None:
    image = Image.new("RGB", (12 * oversampling, 10 * oversampling))
    Pen(image, Similarity(2, 1, 2), oversampling).box(0.5, 1, 3, 3, (255, 255, 255))
    rows, columns = np.nonzero(np.asarray(image)[:, :, 0])
    # The box covers px 3..8 by 3..7. Pillow counts both ends of a polygon as inside: at most one px more.
    for covered, first, last in ((columns, 3, 8), (rows, 3, 7)):
        assert abs(covered.min() - first * oversampling) <= 1
        assert abs(covered.max() + 1 - last * oversampling) <= 1
        assert abs(covered.mean() + 0.5 - (first + last) / 2 * oversampling) <= 0.5


def test_a_stroke_has_the_width_asked_for() -> None:
    image = Image.new("RGB", (60, 40))
    Pen(image, Similarity(0, 0, 10), 1).stroke([(1, 2), (5, 2)], 0.8, (255, 255, 255))
    column = np.asarray(image)[:, 30, 0]
    assert 7 <= int((column > 0).sum()) <= 9
