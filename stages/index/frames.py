"""Which frames of a clip are looked at.

`uniform` and `random` take `count` frames, 16 unless told otherwise: "we sampled 16 random frames from the video clips"
(Aminbeidokhti et al. 2019, on training). The text says no more, so `random` is just that: any 16 different frames, in
the order of time. Which ones follows from the seed and the clip's content by a hash: the same on every machine, and a
larger count adds frames to those of a smaller one. `uniform` takes the middle frame of each of `count` stretches of
(nearly) equally many frames, as temporal segment networks do in testing (Wang et al. 2016).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from stages.settings import Settings

FrameChoice = Literal["every", "uniform", "random", "rate"]


class ClipSettings(Settings):
    """Which frames of a clip are looked at. A clip with fewer frames than asked for gives all of them, each once.

    Attributes:
        frames: `every` frame; `uniform`: `count` frames spread evenly; `random`: any `count` frames; `rate`: `fps`
            frames a second.
        count: of `uniform` and `random`; the others do not look at it.
        fps: of `rate`, and only there: frames per second of presentation time.
        seed: of `random`.
    """

    frames: FrameChoice = "uniform"
    count: int = Field(default=16, ge=1)
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fps_goes_with_rate(self) -> ClipSettings:
        if self.frames == "rate" and self.fps is None:
            raise ValueError("frames: rate needs fps, the frames per second to look at")
        if self.frames != "rate" and self.fps is not None:
            raise ValueError(f"fps is for frames: rate, and frames is {self.frames}: remove one")
        return self


def select(times_us: np.ndarray, settings: ClipSettings, content: str) -> np.ndarray:
    """Which of a clip's frames are looked at.

    Args:
        times_us: (n,) int64, presentation times in microseconds, ascending, each once.
        settings: which frames.
        content: SHA-256 (hex) of the clip's bytes.

    Returns:
        (k,) int64: their positions in `times_us`, ascending, each once; none where there is no frame.
    """
    n = len(times_us)
    if settings.frames == "rate":
        return _at_rate(np.asarray(times_us, np.int64), settings.fps or 0.0)
    if settings.frames == "every" or n <= settings.count:
        return np.arange(n, dtype=np.int64)
    if settings.frames == "uniform":
        return (2 * np.arange(settings.count, dtype=np.int64) + 1) * n // (2 * settings.count)
    return _drawn(times_us, settings, content)


def _drawn(times_us: np.ndarray, settings: ClipSettings, content: str) -> np.ndarray:
    """The frames with the lowest hashes."""
    begun = hashlib.sha256(f"{settings.seed}\x1f{content}\x1f".encode())
    lots = []
    for position, time in enumerate(times_us.tolist()):
        lot = begun.copy()
        lot.update(str(time).encode())
        lots.append((lot.digest(), position))
    return np.array(sorted(position for _, position in sorted(lots)[: settings.count]), np.int64)


def _at_rate(times_us: np.ndarray, fps: float) -> np.ndarray:
    """The frames nearest to 0, 1 / fps, 2 / fps, ... seconds after the first; of two, the earlier one.

    Nearest, because containers round times, to whole milliseconds in Matroska: the frame shown at a moment would often
    be the one before. A frame is nearest up to the middle to the next; the last one as far as from the middle before.
    """
    if len(times_us) == 0:
        return np.zeros(0, np.int64)
    since = (times_us - times_us[0]) / 1e6
    middles = (since[:-1] + since[1:]) / 2
    until = np.append(middles, 2 * since[-1] - middles[-1] if len(middles) else 0.0)
    moments = np.floor(until * fps)  # how many of 1 / fps, 2 / fps, ... fall to this frame or to one before it
    return np.flatnonzero(np.diff(moments, prepend=-1.0) > 0).astype(np.int64)
