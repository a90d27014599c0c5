import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest

from stages.index.drawn.clips import (
    CLIP_SIZE,
    FRAMES_PER_SECOND,
    ClipPlan,
    draw_frames,
    peak_label,
    plan_clip,
    write_clip,
)
from stages.index.drawn.faces import face_truth


@pytest.fixture(scope="module")
def short() -> ClipPlan:
    """A clip cut to its first eight frames."""
    plan = plan_clip(1, 2)
    return dataclasses.replace(plan, places=plan.places[:8], expressions=plan.expressions[:8])


def test_the_peak_decides_the_label() -> None:
    assert peak_label((0.1, -0.9, 0.5)) == "negative"
    assert peak_label((0.1, -0.2, 0.5)) == "positive"
    assert peak_label((0.1, -0.12, 0.0)) == "neutral"


def test_every_clip_has_the_label_of_its_peak_and_moves() -> None:
    plans = [plan_clip(seed, index) for seed in (0, 4) for index in range(120)]
    for plan in plans:
        assert peak_label(plan.expressions) == plan.label
        assert 24 <= len(plan.expressions) == len(plan.places) <= 48
        assert plan.label == "neutral" or max(map(abs, plan.expressions)) >= 0.7
        assert np.std(plan.expressions) > 0.02
        for place, expression in zip(plan.places, plan.expressions, strict=True):
            x1, y1, x2, y2 = face_truth(plan.style, place, expression).box
            assert x1 >= 0
            assert y1 >= 0
            assert x2 <= CLIP_SIZE[0]
            assert y2 <= CLIP_SIZE[1]
    first = plans[:60]
    assert sorted({(plan.label, plan.split) for plan in first}) == [
        (label, split) for label in ("negative", "neutral", "positive") for split in ("test", "train", "val")
    ]
    assert sum(plan.split == "train" for plan in first) == 36
    assert sum(plan.split == "test" for plan in first) == 15


def test_a_clip_is_written_as_it_was_drawn(short: ClipPlan, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", short)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == FRAMES_PER_SECOND
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    drawn = [np.asarray(frame) for frame in draw_frames(short)]
    assert len(frames) == len(drawn) == 8
    for decoded, frame in zip(frames, drawn, strict=True):
        assert decoded.shape == (CLIP_SIZE[1], CLIP_SIZE[0], 3)
        assert np.abs(decoded.astype(int) - frame).mean() < 8


def test_equal_plans_give_equal_bytes(short: ClipPlan, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mp4", short)
    write_clip(tmp_path / "c.mp4", dataclasses.replace(short, seed=2))
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b
    assert a != c
