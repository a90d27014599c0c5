"""Eight expressions of a drawn face: brows, eyes, nose and mouth, in the local coordinates of `faces.py`.

What moves in which expression follows Ekman and Friesen's description of them (Unmasking the Face, 1975): brows down
and together in anger, inner ends up in sadness and fear, high in surprise; eyes wide in fear and surprise; the upper
lip up and the nose wrinkled in disgust; one corner of the mouth up in contempt.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from stages.index.drawn.canvas import Pen, Points, bezier, dim, mix
from stages.index.drawn.features import EYE_X, EYE_Y, MOUTH_Y, NOSE_Y, SIDES, draw_brow, draw_eyes_between, eye_lids
from stages.index.drawn.style import FaceStyle

_MOUTH_X = 0.28
_TEETH, _THROAT = (242, 238, 230), (64, 22, 26)


@dataclass(frozen=True)
class Mood:
    """How far each part is from a neutral face; lengths in local units, y down.

    Attributes:
        brow_in, brow_arch, brow_out: how far the brows' inner ends, middles and outer ends sink; below 0 they rise.
        pinch: how far the inner ends come together.
        cock: how far one brow rises beyond the other.
        wide: height of the upper lid over the eye's middle, 1 is neutral.
        squint: depth of the lower lid, 1 is neutral.
        droop: how far the outer corners of the eyes sink.
        corner: how far the corners of the mouth sink.
        sneer: how far one corner rises beyond the other.
        stretch: how far the corners go apart.
        middle: how far the line between the lips sinks in the middle.
        opening: how far apart the lips are.
        round: 0 for lips that meet in a point, 1 for a round mouth.
        lips: thickness of the lips, 1 is neutral.
        teeth: how much of the open mouth shows upper teeth, 0..1.
        wrinkle: folds on the nose and beside it, 0..1.
        furrow: lines between the brows, 0..1.
        forehead: lines across the forehead, 0..1.
        cheeks: folds from the nose to beside the mouth, 0..1.
    """

    brow_in: float = 0.0
    brow_arch: float = 0.0
    brow_out: float = 0.0
    pinch: float = 0.0
    cock: float = 0.0
    wide: float = 1.0
    squint: float = 1.0
    droop: float = 0.0
    corner: float = 0.0
    sneer: float = 0.0
    stretch: float = 0.0
    middle: float = 0.0
    opening: float = 0.0
    round: float = 0.0
    lips: float = 1.0
    teeth: float = 0.0
    wrinkle: float = 0.0
    furrow: float = 0.0
    forehead: float = 0.0
    cheeks: float = 0.0

    def corners(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The left and the right corner of the mouth as seen, local."""
        x, y = _MOUTH_X + self.stretch, MOUTH_Y + self.corner
        return (-x, y), (x + 0.3 * self.sneer, y - self.sneer)


_STRONGEST = {
    "angry": Mood(
        brow_in=0.135, brow_arch=0.11, brow_out=-0.06, pinch=0.08, wide=0.78, squint=0.7, corner=0.05, stretch=-0.03,
        middle=-0.025, lips=0.5, furrow=1.0,
    ),
    "disgust": Mood(
        brow_in=0.09, brow_arch=0.09, brow_out=0.04, pinch=0.03, wide=0.55, squint=0.35, corner=0.09, middle=-0.085,
        opening=0.075, lips=1.15, teeth=1.0, wrinkle=1.0, cheeks=0.7,
    ),
    "fear": Mood(
        brow_in=-0.16, brow_arch=-0.06, brow_out=0.01, pinch=0.07, wide=1.5, squint=1.15, corner=0.06, stretch=0.07,
        middle=0.01, opening=0.13, round=0.55, lips=0.75, teeth=0.55, forehead=0.8,
    ),
    "happy": Mood(
        brow_arch=-0.05, brow_out=-0.01, wide=0.88, squint=0.45, corner=-0.11, stretch=0.09, middle=0.03, opening=0.14,
        teeth=1.0, cheeks=1.0,
    ),
    "sad": Mood(
        brow_in=-0.11, brow_arch=0.04, brow_out=0.08, pinch=0.03, wide=0.68, squint=0.9, droop=0.06, corner=0.11,
        stretch=-0.01, middle=-0.04, lips=1.1,
    ),
    "surprise": Mood(
        brow_in=-0.13, brow_arch=-0.19, brow_out=-0.12, wide=1.6, squint=1.2, stretch=-0.12, middle=-0.03,
        opening=0.27, round=1.0, lips=0.9, forehead=1.0,
    ),
    "neutral": Mood(),
    "contempt": Mood(
        brow_in=0.03, brow_arch=0.03, cock=0.12, wide=0.76, squint=0.7, corner=0.02, sneer=0.15, middle=-0.005, lips=0.8
    ),
}  # fmt: skip

MOODS = tuple(_STRONGEST)
"""The expressions."""


def mood_of(label: str, strength: float = 1.0) -> Mood:
    """An expression of some strength.

    Args:
        label: one of `MOODS`.
        strength: 0 (neutral) to 1.

    Raises:
        ValueError: there is no such expression, or the strength is out of range.
    """
    if label not in _STRONGEST:
        raise ValueError(f"expression is {label!r}: give one of {', '.join(MOODS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: give a number from 0 to 1")
    calm, full = _STRONGEST["neutral"], _STRONGEST[label]

    def between(name: str) -> float:
        return getattr(calm, name) + strength * (getattr(full, name) - getattr(calm, name))

    return Mood(**{field.name: between(field.name) for field in fields(Mood)})


def draw_mood(pen: Pen, style: FaceStyle, mood: Mood) -> None:
    """Mouth, eyes, brows and folds of a face."""
    _draw_folds(pen, style, mood)
    _draw_mouth(pen, style, mood)
    inner, outer = 0.0, mood.droop
    upper, lower = eye_lids(style, 0.2 * mood.wide, 0.15 * mood.squint, inner, outer)
    draw_eyes_between(pen, style, upper, lower)
    for side in SIDES:
        lift = mood.cock if side > 0 else 0.0
        draw_brow(
            pen,
            style,
            (side * (EYE_X - 0.19 - mood.pinch), EYE_Y - 0.215 + mood.brow_in - 0.5 * lift),
            (side * (EYE_X + 0.02), EYE_Y - 0.31 + mood.brow_arch - 1.3 * lift),
            (side * (EYE_X + 0.2), EYE_Y - 0.20 + mood.brow_out - 0.6 * lift),
        )


def _line(mood: Mood, drop: float) -> Points:
    """The curve from corner to corner whose middle lies `drop` below the upper lip's edge: (20, 2)."""
    (x1, y1), (x2, y2) = mood.corners()
    middle = MOUTH_Y + mood.middle + drop
    control = (8 * middle - y1 - y2) / 6  # of a cubic through the middle
    share = (1 + 2 * mood.round) / 3  # a third is a parabola
    return bezier((x1, y1), (share * x1, control), (share * x2, control), (x2, y2))


def _draw_mouth(pen: Pen, style: FaceStyle, mood: Mood) -> None:
    upper, lower = _line(mood, 0.0), _line(mood, mood.opening)
    top, bottom = _line(mood, -0.06 * mood.lips), _line(mood, mood.opening + 0.10 * mood.lips)
    top[:, 1] += 0.018 * np.exp(-((top[:, 0] / 0.06) ** 2))  # the bow
    pen.fill(np.concatenate([top, upper[::-1]]), dim(style.lips, 0.9))
    pen.fill(np.concatenate([lower, bottom[::-1]]), style.lips)
    if mood.opening > 0.005:
        pen.fill(np.concatenate([upper, lower[::-1]]), _THROAT)
        if mood.teeth > 0.05:
            pen.fill(np.concatenate([upper, _line(mood, mood.teeth * mood.opening)[::-1]]), _TEETH)
        pen.stroke(lower, 0.022, dim(style.lips, 0.7))
    pen.stroke(upper, 0.032, dim(style.lips, 0.5))


def _draw_folds(pen: Pen, style: FaceStyle, mood: Mood) -> None:
    """The lines that a strong expression leaves in the skin; weak ones fade into it."""

    def shade(strength: float) -> tuple[int, int, int]:
        return mix(style.skin, dim(style.skin, 0.62), min(1.0, strength))

    if mood.forehead > 0.05:
        for y in (-0.60, -0.52):
            pen.stroke(bezier((-0.3, y + 0.03), (0.0, y - 0.03), (0.3, y + 0.03)), 0.022, shade(mood.forehead))
    (x1, y1), (x2, y2) = mood.corners()
    for side, x, y in ((-1, x1, y1), (1, x2, y2)):
        if mood.furrow > 0.05:
            pen.stroke([(side * 0.05, -0.34), (side * 0.035, -0.18)], 0.028, shade(mood.furrow))
        if mood.wrinkle > 0.05:
            for at in (-0.04, 0.03, 0.1):
                line = bezier((side * 0.02, at), (side * 0.08, at - 0.02), (side * 0.13, at + 0.05))
                pen.stroke(line, 0.022, shade(mood.wrinkle))
            pen.stroke(bezier((side * 0.15, NOSE_Y - 0.06), (side * 0.27, NOSE_Y), (side * 0.3, 0.5)), 0.03, shade(1.0))
        if mood.cheeks > 0.05:
            line = bezier((side * 0.22, 0.26), (x + side * 0.1, 0.32), (x + side * 0.11, y + 0.05))
            pen.stroke(line, 0.026, shade(mood.cheeks))
        if mood.sneer > 0.03 and side > 0:
            pen.stroke(bezier((x + 0.02, y - 0.08), (x + 0.08, y), (x + 0.02, y + 0.07)), 0.03, shade(8 * mood.sneer))
