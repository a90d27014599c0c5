"""The similarity transform: exact where it can be, best where it cannot, and never a mirror."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.align.similarity import fit_box, fit_similarity

coordinates = st.integers(-300, 300).map(float)
points = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=8, unique=True).map(np.array)
angles = st.floats(-math.pi, math.pi)
scales = st.floats(0.01, 100)


def similarity(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[a, -b, x], [b, a, y]])


def moved(matrix: np.ndarray, source: np.ndarray) -> np.ndarray:
    return source @ matrix[:, :2].T + matrix[:, 2]


def loss(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    return float(((moved(matrix, source) - target) ** 2).sum())


@given(points, angles, scales, coordinates, coordinates)
def test_a_known_transform_is_recovered(source: np.ndarray, angle: float, scale: float, x: float, y: float) -> None:
    known = similarity(angle, scale, x, y)
    found = fit_similarity(source, moved(known, source))
    assert found is not None
    assert found.shape == (2, 3)
    assert found == pytest.approx(known, abs=1e-6 * max(1.0, scale) * 300)


@given(points, st.data())
def test_any_points_get_the_best_similarity_and_no_mirror(source: np.ndarray, data: st.DataObject) -> None:
    size = len(source)
    target = np.array(data.draw(st.lists(st.tuples(coordinates, coordinates), min_size=size, max_size=size)))
    found = fit_similarity(source, target)
    if found is None:  # no scale above 0: shrinking to the targets' middle is best
        spread = ((target - target.mean(0)) ** 2).sum()
        for angle in np.linspace(-math.pi, math.pi, 24):
            turned = similarity(angle, 1e-3, 0, 0)
            turned[:, 2] = target.mean(0) - turned[:, :2] @ source.mean(0)
            assert loss(turned, source, target) >= spread - 1e-6 * (1 + spread)
        return
    (a, b, _), (c, d, _) = found
    assert (a, b) == (pytest.approx(d, abs=1e-9), pytest.approx(-c, abs=1e-9))
    assert a * d - b * c > 0
    best = loss(found, source, target)
    scale, angle = math.hypot(a, c), math.atan2(c, a)
    for step in (1e-3, -1e-3):
        for change in range(4):
            values = [angle, scale, found[0, 2], found[1, 2]]
            values[change] += step
            assert loss(similarity(*values), source, target) >= best - 1e-6 * (1 + best)


def test_the_mirrored_face_is_turned_not_mirrored() -> None:
    face = np.array([[30.0, 50], [65, 50], [48, 71], [33, 92], [62, 92]])
    found = fit_similarity(face, face * [-1, 1])
    assert found is not None
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.full((5, 2), 7.0), np.arange(10.0).reshape(5, 2)),
        (np.full((5, 2), np.nan), np.arange(10.0).reshape(5, 2)),
        (np.array([[0, 0], [np.inf, 1]]), np.array([[0.0, 0], [1, 1]])),
        (np.array([[0.0, 0], [1, 1]]), np.array([[0.0, 0], [np.nan, 1]])),
        (np.array([[0.0, 0], [1, 1]]), np.array([[3.0, 3], [3, 3]])),
        (np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]]), np.array([[2.0, 0], [0, 0], [2, 2], [0, 2]])),
    ],
)
def test_where_no_similarity_fits(source: np.ndarray, target: np.ndarray) -> None:
    assert fit_similarity(source, target) is None


def test_a_box_fills_its_crop() -> None:
    matrix = fit_box(np.array([10, 20, 30, 100]), (40, 60))
    assert moved(matrix, np.array([[10.0, 20], [30, 100], [20, 60]])).tolist() == [[0, 0], [60, 40], [30, 20]]
    assert np.isfinite(fit_box(np.array([5, 5, 5, 5]), (48, 48))).all()
