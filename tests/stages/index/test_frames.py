"""Which frames are looked at: as many as asked for, in order, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.index.frames import ClipSettings, select

CONTENT = "ab" * 32
gaps = st.lists(st.integers(1, 3_000_000), min_size=0, max_size=80)
starts = st.integers(-(10**7), 10**9)


def times(start: int, steps: list[int]) -> np.ndarray:
    return np.cumsum([start, *steps]).astype(np.int64)


def even(n: int, fps: float) -> np.ndarray:
    return np.round(np.arange(n) * 1e6 / fps).astype(np.int64)


def chosen(clip: np.ndarray, content: str = CONTENT, **settings: object) -> list[int]:
    positions = select(clip, ClipSettings.model_validate(settings), content)
    assert positions.dtype == np.int64
    return positions.tolist()


@given(start=starts, steps=gaps, frames=st.sampled_from(["every", "uniform", "random"]), count=st.integers(1, 40))
def test_as_many_as_asked_for_in_order(start: int, steps: list[int], frames: str, count: int) -> None:
    clip = times(start, steps)
    found = chosen(clip, frames=frames, count=count)
    assert found == sorted(set(found))
    assert found[0] >= 0
    assert found[-1] < len(clip)
    assert len(found) == (len(clip) if frames == "every" else min(count, len(clip)))


@given(start=starts, steps=gaps, fps=st.floats(0.01, 1000))
def test_at_a_rate_every_moment_has_its_nearest_frame(start: int, steps: list[int], fps: float) -> None:
    clip = times(start, steps)
    found = chosen(clip, frames="rate", fps=fps)
    assert found == sorted(set(found))
    assert found[0] == 0
    nearest = set()
    for k in range(int((clip[-1] - clip[0]) / 1e6 * fps) + 1):
        away = np.abs(clip - clip[0] - k * 1e6 / fps)
        nearest.add(tuple(np.flatnonzero(away <= away.min() + 1e-3).tolist()))  # two where the moment lies between them
    assert all(set(some) & set(found) for some in nearest)
    assert len(found) <= len(nearest) + 1  # one more after the last frame's time, if that frame is nearest


def test_an_empty_clip() -> None:
    none = np.zeros(0, np.int64)
    assert [chosen(none, frames=frames) for frames in ("every", "uniform", "random")] == [[], [], []]
    assert chosen(none, frames="rate", fps=5) == []


def test_uniform_takes_the_middles() -> None:
    assert chosen(even(100, 25), count=4) == [12, 37, 62, 87]
    assert chosen(even(9, 25), count=3) == [1, 4, 7]
    assert chosen(even(100, 25), count=1) == [50]
    assert len(chosen(even(100, 25))) == 16


@pytest.mark.parametrize("fps", [24000 / 1001, 25.0, 29.97, 30.0, 59.94])
def test_at_the_clips_own_rate_every_frame(fps: float) -> None:
    assert chosen(even(500, fps), frames="rate", fps=fps) == list(range(500))
    in_milliseconds = np.round(np.arange(500) * 1e3 / fps).astype(np.int64) * 1000  # as Matroska has them
    assert chosen(in_milliseconds, frames="rate", fps=fps) == list(range(500))
    assert chosen(in_milliseconds, frames="rate", fps=1000 * fps) == list(range(500))


def test_at_lower_rates() -> None:
    assert chosen(even(76, 25), frames="rate", fps=1) == [0, 25, 50, 75]
    assert chosen(even(30, 30), frames="rate", fps=10) == list(range(0, 30, 3))
    frozen = np.array([0, 40_000, 80_000, 5_000_000, 5_040_000])
    assert chosen(frozen, frames="rate", fps=1) == [0, 2, 3]
    assert chosen(frozen + 7_000_000, frames="rate", fps=0.001) == [0]


def test_random_frames_follow_from_seed_and_content() -> None:
    clip = even(1000, 25)
    first = chosen(clip, frames="random")
    assert first == chosen(clip, frames="random")
    assert first != chosen(clip, frames="random", seed=1)
    assert first != chosen(clip, "cd" * 32, frames="random")
    assert set(first) < set(chosen(clip, frames="random", count=32)), "a larger count adds frames"
    assert first == [21, 37, 275, 384, 481, 494, 526, 621, 713, 720, 725, 802, 818, 892, 928, 966]


def test_random_frames_lie_anywhere() -> None:
    clip = even(50, 25)
    drawn = np.zeros(50)
    for seed in range(400):
        drawn[chosen(clip, frames="random", count=10, seed=seed)] += 1
    assert drawn.sum() == 4000
    assert (np.abs(drawn - 80) < 5 * np.sqrt(80 * 0.8)).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": 0}, "greater than or equal to 1"),
        ({"frames": "rate", "fps": 0}, "greater than 0"),
        ({"frames": "rate", "fps": float("inf")}, "finite"),
        ({"frames": "rate", "fps": float("nan")}, "finite|greater than 0"),
        ({"frames": "rate"}, "needs fps"),
        ({"fps": 5}, "fps is for frames: rate, and frames is uniform"),
        ({"frames": "some"}, "'every', 'uniform', 'random' or 'rate'"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"frame": "every"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClipSettings.model_validate(settings)
