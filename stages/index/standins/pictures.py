"""Pictures of one drawn face with a known expression, and of none, for stand-ins of data sets of faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from stages.index.drawn.canvas import Pen, Similarity, bezier, dim, mix
from stages.index.drawn.clips import write_frames
from stages.index.drawn.faces import FacePlace, draw_body, draw_face
from stages.index.drawn.moods import MOODS, mood_of
from stages.index.drawn.scenes import OVERSAMPLING, finish
from stages.index.drawn.settings import SETTINGS, draw_setting
from stages.index.drawn.style import CLOTHES, HAIRS, FaceStyle

_LOOKS, _PICTURE, _OTHER = 4, 5, 6  # streams of random numbers; the demo data set has those below
_WEAKEST = 0.7  # of an expression


def face_photo(
    seed: int, index: int, label: str, size: int, *, person: int | None = None, grey: bool = False
) -> Image.Image:
    """One drawn face, about two thirds of the picture high.

    Args:
        seed: 0 or above, of the whole data set.
        index: 0 or above: where the face is, how strong its expression, what is behind it.
        label: one of `moods.MOODS`.
        size: width and height, px.
        person: who it is; by default `index`.
        grey: a picture of mode L instead of RGB.

    Returns:
        The picture; the same for the same arguments, on one kind of machine.

    Raises:
        ValueError: the label is none of these.
    """
    rng = np.random.default_rng((seed, _PICTURE, index))
    style = _looks(seed, index if person is None else person)
    setting, still, place = _background(style, size, rng)
    strength = 0.0 if label == "neutral" else float(rng.uniform(_WEAKEST, 1.0))
    draw_face(still, style, place, 0.0, mood_of(label, strength))
    image = finish(still, setting, rng)
    return image.convert("L") if grey else image


def face_clip(
    path: Path, seed: int, index: int, label: str, frames: int, size: int, *, person: int | None = None
) -> None:
    """Write a clip of one face that goes from neutral to `label` and back.

    Args:
        path: the file, `.mp4` or `.avi`.
        seed, index, label, person: as `face_photo`.
        frames: how many, at least 1; 12 per second.
        size: width and height, px, even.

    Raises:
        ValueError: the label is none of `moods.MOODS`.
    """
    if label not in MOODS:
        raise ValueError(f"expression is {label!r}: give one of {', '.join(MOODS)}")
    write_frames(path, _moving(seed, index, label, frames, size, person), (size, size))


def other_photo(seed: int, index: int, size: int, *, grey: bool = False) -> Image.Image:
    """A drawn place with things in it and no face.

    Args:
        seed, size, grey: as `face_photo`.
        index: 0 or above: which place, and what is in it.
    """
    rng = np.random.default_rng((seed, _OTHER, index))
    setting = SETTINGS[int(rng.integers(len(SETTINGS)))]
    canvas = Image.new("RGB", (size * OVERSAMPLING, size * OVERSAMPLING))
    draw_setting(canvas, setting, rng, OVERSAMPLING)
    for _ in range(int(rng.integers(1, 5))):
        place = Similarity(
            *(float(rng.uniform(0.2, 0.8)) * size, float(rng.uniform(0.25, 0.85)) * size),
            *(float(rng.uniform(0.1, 0.3)) * size, float(rng.uniform(-0.3, 0.3))),
        )
        _THINGS[int(rng.integers(len(_THINGS)))](Pen(canvas, place, OVERSAMPLING), rng)
    image = finish(canvas.reduce(OVERSAMPLING), setting, rng)
    return image.convert("L") if grey else image


def _ball(pen: Pen, rng: np.random.Generator) -> None:
    colour, other = (CLOTHES[int(at)] for at in rng.choice(len(CLOTHES), 2, replace=False))
    pen.oval(0, 0, 1, 1, colour)
    pen.fill(np.concatenate([bezier((-0.95, -0.3), (0, -0.7), (0.95, -0.3)), [(0.95, 0.3), (-0.95, 0.3)]]), other)


def _box(pen: Pen, rng: np.random.Generator) -> None:
    colour = CLOTHES[int(rng.integers(len(CLOTHES)))]
    pen.box(-1, -0.8, 1, 0.9, colour)
    pen.box(-1, -0.8, 1, -0.5, dim(colour, 0.75))
    pen.box(-0.12, -0.8, 0.12, 0.9, mix(colour, (236, 220, 180), 0.7))


def _plant(pen: Pen, rng: np.random.Generator) -> None:
    pot = HAIRS[int(rng.integers(2, 6))]
    for x in np.linspace(-0.9, 0.9, int(rng.integers(4, 8))):
        leaf = bezier((0, 0.2), (float(x) * 0.4, -0.8), (float(x), -1.0 + abs(float(x)) * 0.5))
        pen.stroke(leaf, 0.16, (60, int(rng.integers(100, 150)), 64))
    pen.fill([(-0.5, 0.2), (0.5, 0.2), (0.38, 1.0), (-0.38, 1.0)], pot)
    pen.box(-0.55, 0.15, 0.55, 0.32, dim(pot, 0.85))


_THINGS: tuple[Callable[[Pen, np.random.Generator], None], ...] = (_ball, _box, _plant)


def _looks(seed: int, person: int) -> FaceStyle:
    rng = np.random.default_rng((seed, _LOOKS, person))
    return FaceStyle.draw_lots(rng, glasses=bool(rng.random() < 0.2))


def _background(style: FaceStyle, size: int, rng: np.random.Generator) -> tuple[str, Image.Image, FacePlace]:
    """The setting's name, the picture with the body and no head yet, and the head's place."""
    setting = SETTINGS[int(rng.integers(len(SETTINGS)))]
    height = size * float(rng.uniform(0.58, 0.68))
    place = FacePlace(
        size * float(rng.uniform(0.46, 0.54)), size * float(rng.uniform(0.5, 0.56)), height, float(rng.uniform(-10, 10))
    )
    canvas = Image.new("RGB", (size * OVERSAMPLING, size * OVERSAMPLING))
    draw_setting(canvas, setting, rng, OVERSAMPLING)
    draw_body(canvas, style, place, OVERSAMPLING)
    return setting, canvas.reduce(OVERSAMPLING), place


def _moving(seed: int, index: int, label: str, frames: int, size: int, person: int | None) -> Iterator[Image.Image]:
    rng = np.random.default_rng((seed, _PICTURE, index))
    style = _looks(seed, index if person is None else person)
    setting, still, place = _background(style, size, rng)
    phase, peak = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(_WEAKEST, 1.0))
    grain = int(rng.integers(2**32))
    for frame in range(frames):
        turn = 2 * math.pi * frame / 30 + phase
        strength = peak * math.sin(math.pi * (frame + 0.5) / frames)
        picture = still.copy()
        moved = FacePlace(
            place.x + 0.01 * size * math.sin(turn), place.y, place.height, place.angle + 3 * math.cos(turn)
        )
        draw_face(picture, style, moved, 0.0, mood_of(label, strength))
        yield finish(picture, setting, np.random.default_rng(grain))  # one light and one grain for the whole clip
