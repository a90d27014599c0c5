"""Drawn clips: one face whose expression moves through time; the strongest expression of the clip decides its label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stages.index.drawn.faces import FacePlace, draw_body, draw_face
from stages.index.drawn.rules import LABELS, NEUTRAL, POSITIVE, label_of
from stages.index.drawn.scenes import OVERSAMPLING, SPLIT_CYCLE
from stages.index.drawn.settings import SETTINGS, TINTS, draw_setting
from stages.index.drawn.style import FaceStyle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CLIP_SIZE = (320, 240)
FRAMES_PER_SECOND = 12


@dataclass(frozen=True)
class ClipPlan:
    """A clip before it is drawn.

    Attributes:
        seed, index: what it depends on.
        label: `negative`, `neutral` or `positive`: of the expression that is strongest over the clip.
        split: `train`, `val` or `test`.
        setting: `indoor` or `outdoor`.
        style: the person's looks.
        places: one per frame (24 to 48), px of the frame.
        expressions: one per frame, -1 to 1.
    """

    seed: int
    index: int
    label: str
    split: str
    setting: str
    style: FaceStyle
    places: tuple[FacePlace, ...]
    expressions: tuple[float, ...]

    @property
    def name(self) -> str:
        """`clip_0000`: unique per clip, in the order of the indices."""
        return f"clip_{self.index:04d}"


def peak_label(expressions: tuple[float, ...]) -> str:
    """The label of a clip: that of the expression furthest from 0."""
    return label_of([max(expressions, key=abs)], [True])


def plan_clip(seed: int, index: int) -> ClipPlan:
    """Everything about a clip but its pixels; the same for the same (seed, index), both 0 or above."""
    rng = np.random.default_rng((seed, 2, index))
    cell, block = index % len(LABELS), index // len(LABELS)
    label = LABELS[cell]
    frames = int(rng.integers(24, 49))
    setting = SETTINGS[int(rng.integers(len(SETTINGS)))]
    style = FaceStyle.draw_lots(rng, glasses=bool(rng.random() < 0.35))
    return ClipPlan(
        seed=seed,
        index=index,
        label=label,
        split=SPLIT_CYCLE[(block + 7 * cell) % len(SPLIT_CYCLE)],
        setting=setting,
        style=style,
        places=_sway(frames, rng),
        expressions=_course(label, frames, rng),
    )


def _course(label: str, frames: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Rise and fall of the expression: a weak contrary one at the start, then the one that decides."""
    time = np.arange(frames) / (frames - 1)
    peak_at = float(rng.uniform(0.5, 0.9))
    if label == NEUTRAL:
        values = 0.12 * np.sin(2 * math.pi * (time * rng.uniform(0.5, 1.5) + rng.uniform()))
    else:
        sign = 1 if label == POSITIVE else -1
        rise = np.exp(-(((time - peak_at) / rng.uniform(0.16, 0.26)) ** 2))
        values = sign * (rng.uniform(0.8, 1.0) * rise - rng.uniform(0.05, 0.25) * np.clip(1 - time / 0.35, 0, 1))
    return tuple(round(float(value), 3) for value in np.clip(values, -1, 1))


def _sway(frames: int, rng: np.random.Generator) -> tuple[FacePlace, ...]:
    """A head that sways a few px and degrees and keeps its size."""
    height = float(rng.uniform(92, 116))
    x, y = float(rng.uniform(110, 210)), float(rng.uniform(116, 130))
    phase, lean = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(-6, 6))
    places = []
    for frame in range(frames):
        turn = 2 * math.pi * frame / 30 + phase
        places.append(
            FacePlace(x + 4 * math.sin(turn), y + 1.5 * math.cos(2 * turn), height, lean + 4 * math.cos(turn))
        )
    return tuple(places)


def draw_frames(plan: ClipPlan) -> Iterator[Image.Image]:
    """The clip's frames: RGB pictures of `CLIP_SIZE`."""
    rng = np.random.default_rng((plan.seed, 3, plan.index))
    canvas = Image.new("RGB", (CLIP_SIZE[0] * OVERSAMPLING, CLIP_SIZE[1] * OVERSAMPLING))
    draw_setting(canvas, plan.setting, rng, OVERSAMPLING)
    draw_body(canvas, plan.style, plan.places[0], OVERSAMPLING)
    still = canvas.reduce(OVERSAMPLING)
    gain = np.asarray(TINTS[plan.setting], dtype=np.float32) * np.float32(rng.uniform(0.86, 1.04))
    for place, expression in zip(plan.places, plan.expressions, strict=True):
        frame = still.copy()
        draw_face(frame, plan.style, place, expression)
        tinted = np.asarray(frame, dtype=np.float32) * gain
        yield Image.fromarray(np.clip(tinted + 0.5, 0, 255).astype(np.uint8))


def write_clip(path: Path, plan: ClipPlan) -> None:
    """Write an MP4 (H.264 where PyAV has it, else MPEG-4), 12 frames per second; equal plans give equal bytes."""
    write_frames(path, draw_frames(plan), CLIP_SIZE)


def write_frames(path: Path, frames: Iterable[Image.Image], size: tuple[int, int]) -> None:
    """Write pictures as an MP4 (H.264 where PyAV has it, else MPEG-4) or, where the name ends so, an AVI (MPEG-4).

    Args:
        path: the file, `.mp4` or `.avi`.
        frames: RGB, all of `size`; shown 12 per second. Equal pictures give equal bytes.
        size: width and height, px, both even.
    """
    import av

    kind = path.suffix.removeprefix(".")
    codec, options = "mpeg4", {"qscale": "2"}
    if kind == "avi":
        options = {"flags": "+qscale", "global_quality": "236"}  # of 1 to 31 times 118; alone, qscale is not heard
    elif "libx264" in av.codecs_available:
        codec, options = "libx264", {"crf": "16", "preset": "fast"}
    with av.open(str(path), "w", format=kind, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # slices, and with them the bytes, depend on it
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
