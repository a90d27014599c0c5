"""One person through time, on made-up movements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.detect.tracks import GAP_S, longest, track

MARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])

Face = tuple[float, float, float]
"""x and y of the centre, and the side, px."""


def run(frames: Sequence[Sequence[Face]], step_s: float = 0.04, *, marks: bool = True) -> list[list[int]]:
    """The tracks of each frame's faces."""
    faces = np.array([face for frame in frames for face in frame], float).reshape(-1, 3)
    corners = faces[:, :2] - faces[:, 2:] / 2
    landmarks = corners[:, None] + MARKS * faces[:, None, 2:]
    counts = np.array([len(frame) for frame in frames], np.int64)
    ids = track(
        np.round(np.arange(len(frames)) * step_s * 1e6).astype(np.int64),
        counts,
        np.concatenate([corners, corners + faces[:, 2:]], axis=1).astype(np.float32),
        (landmarks if marks else np.full_like(landmarks, np.nan)).astype(np.float32),
    )
    assert ids.dtype == np.int64
    return [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])] if len(frames) else []


@pytest.mark.parametrize("marks", [True, False])
def test_two_people_who_sit(marks: bool) -> None:
    swaying = [[(100 + 5 * np.sin(i), 100, 60), (200 - 5 * np.cos(i), 105, 64)] for i in range(50)]
    assert run(swaying, marks=marks) == [[0, 1]] * 50
    turned = [frame[::-1] if i % 2 else frame for i, frame in enumerate(swaying)]
    assert run(turned, marks=marks) == [[1, 0] if i % 2 else [0, 1] for i in range(50)]
    assert run(swaying[:16], step_s=4, marks=marks) == [[0, 1]] * 16, "16 frames over a minute"


def test_one_walks_through() -> None:
    walking = [[(30 + 6.0 * i, 100, 60)] for i in range(100)]
    assert run(walking) == [[0]] * 100


def test_two_who_cross() -> None:
    crossing = [[(100 + 4.0 * i, 100, 60), (300 - 4.0 * i, 100, 60)] for i in range(50)]
    assert run(crossing) == [[0, 1]] * 50
    hidden = [frame[:1] if 20 <= i <= 30 else frame for i, frame in enumerate(crossing)]
    assert run(hidden) == [[0] if 20 <= i <= 30 else [0, 1] for i in range(50)]


def test_away_and_back() -> None:
    here: list[Face] = [(100, 100, 60)]
    within, beyond = int(GAP_S / 0.04) - 1, int(GAP_S / 0.04) + 2
    assert run([here, *[[]] * within, here])[-1] == [0]
    assert run([here, *[[]] * beyond, here])[-1] == [1]
    assert run([here, here, here], step_s=10) == [[0], [0], [0]], "frames far apart: the frame before always counts"
    assert run([here, [], here], step_s=10) == [[0], [], [1]]


def test_somebody_new() -> None:
    sitting: Face = (100, 100, 60)
    assert run([[sitting], [(170, 100, 60), sitting], [sitting, (170, 100, 60)]]) == [[0], [1, 0], [0, 1]]
    assert run([[sitting], [(165, 100, 60)]], step_s=5) == [[0], [1]], "the neighbour is not the one who left"
    assert run([[sitting], [(100, 100, 25)]]) == [[0], [1]], "a face in the background"


def test_the_limit_grows_with_time() -> None:
    assert run([[(100, 100, 60)], [(140, 100, 60)]], step_s=0.04) == [[0], [1]]
    assert run([[(100, 100, 60)], [(140, 100, 60)]], step_s=1.0) == [[0], [0]]
    assert run([[(100, 100, 60)], [(120, 100, 60)]], step_s=0.04) == [[0], [0]], "boxes that overlap"


def test_without_faces() -> None:
    assert run([]) == []
    assert run([[], [], []]) == [[], [], []]
    assert run([[], [(50, 50, 30)], []]) == [[], [0], []]
    assert run([[(50, 50, 0), (50, 50, 0)], [(50, 50, 0)]])[0] == [0, 1], "boxes without an area"


faces = st.tuples(st.floats(0, 300), st.floats(0, 300), st.floats(10, 80))


@given(frames=st.lists(st.lists(faces, max_size=5), max_size=8), step_s=st.floats(0.01, 5), data=st.data())
def test_whatever_the_faces(frames: list[list[Face]], step_s: float, data: st.DataObject) -> None:
    ids = run(frames, step_s)
    assert [len(frame) for frame in ids] == [len(frame) for frame in frames]
    assert all(len(set(frame)) == len(frame) for frame in ids)
    flat = [number for frame in ids for number in frame]
    firsts = list(dict.fromkeys(flat))
    assert firsts == list(range(len(firsts))), "numbered in the order of first appearance"
    assert run(frames, step_s) == ids
    keep = data.draw(st.integers(0, len(frames)))
    assert run(frames[:keep], step_s) == ids[:keep], "what comes later changes nothing"


def test_longest() -> None:
    assert longest(np.array([0, 1, 1, 0, 2, 1])) == 1
    assert longest(np.array([0, 1, 1, 0])) == 0
    assert longest(np.zeros(0, np.int64)) is None


def test_arrays_that_do_not_fit() -> None:
    boxes, marks = np.zeros((2, 4)), np.zeros((2, 5, 2))
    with pytest.raises(ValueError, match="do not fit"):
        track(np.array([0]), np.array([1]), boxes, marks)
    with pytest.raises(ValueError, match="do not fit"):
        track(np.array([0]), np.array([1, 1]), boxes, marks)
    with pytest.raises(ValueError, match="ascend"):
        track(np.array([5, 5]), np.array([1, 1]), boxes, marks)
