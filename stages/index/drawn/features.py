"""Eyes, brows, nose, mouth, glasses and paint of a drawn face, in the local coordinates of `faces.py`.

`expression` runs from -1 (frown) over 0 (neutral) to 1 (smile). It moves the corners of the mouth, opens the mouth,
raises the cheeks (which narrows the eyes) and bends the brows: the inner ends rise in a frown, as in sadness.
"""

from __future__ import annotations

import numpy as np

from stages.index.drawn.canvas import Pen, Points, bezier, dim, mix, oval
from stages.index.drawn.style import FaceStyle

EYE_X, EYE_Y = 0.335, -0.09
NOSE_Y = 0.24
MOUTH_Y = 0.55
SIDES = (-1, 1)


def mouth_corner(expression: float) -> tuple[float, float]:
    """The right-hand corner of the mouth, local; the left-hand one mirrors it."""
    smile, frown = max(expression, 0.0), max(-expression, 0.0)
    return 0.28 + 0.07 * smile + 0.02 * frown, MOUTH_Y - 0.10 * smile + 0.09 * frown


def _mouth_line(expression: float, drop: float) -> Points:
    """The curve from corner to corner whose middle lies `drop` below the closed mouth's middle: (20, 2)."""
    x, y = mouth_corner(expression)
    middle = MOUTH_Y + 0.05 * expression + drop
    control = 2 * middle - y  # of a parabola through the middle
    return bezier((-x, y), (0.0, control), (x, y))


def draw_mouth(pen: Pen, style: FaceStyle, expression: float) -> None:
    """Two lips, the line between them, teeth when smiling, folds beside a strong expression."""
    smile, frown = max(expression, 0.0), max(-expression, 0.0)
    opening = 0.15 * max(0.0, smile - 0.25)
    upper, lower = _mouth_line(expression, -0.01), _mouth_line(expression, opening)
    lip_top = _mouth_line(expression, -0.07 + 0.02 * smile)
    lip_top[:, 1] += 0.018 * np.exp(-((lip_top[:, 0] / 0.06) ** 2))  # the bow
    lip_bottom = _mouth_line(expression, opening + 0.10)
    pen.fill(np.concatenate([lip_top, upper[::-1]]), dim(style.lips, 0.9))
    pen.fill(np.concatenate([lower, lip_bottom[::-1]]), style.lips)
    if opening > 0.005:
        pen.fill(np.concatenate([upper, lower[::-1]]), (242, 238, 230))
        pen.stroke(lower, 0.022, dim(style.lips, 0.7))
    pen.stroke(upper, 0.032, dim(style.lips, 0.5))
    strength = max(smile, frown)
    if strength > 0.35:
        x, y = mouth_corner(expression)
        fold = mix(style.skin, dim(style.skin, 0.66), min(1.0, strength))
        for side in SIDES:
            if smile:
                line = bezier((side * 0.24, 0.26), (side * (x + 0.1), 0.32), (side * (x + 0.12), y + 0.05))
            else:
                line = bezier(
                    (side * (x + 0.03), y - 0.02), (side * (x + 0.08), y + 0.05), (side * (x + 0.08), y + 0.13)
                )
            pen.stroke(line, 0.026, fold)


def draw_nose(pen: Pen, style: FaceStyle) -> None:
    """Bridge, tip and nostrils."""
    pen.fill(
        np.concatenate(
            [
                bezier((-0.05, -0.05), (-0.09, 0.12), (-0.15, NOSE_Y + 0.02)),
                bezier((-0.15, NOSE_Y + 0.1), (0.0, NOSE_Y + 0.14), (0.15, NOSE_Y + 0.1)),
                bezier((0.15, NOSE_Y + 0.02), (0.09, 0.12), (0.05, -0.05)),
            ]
        ),
        dim(style.skin, 0.93),
    )
    pen.oval(0.0, NOSE_Y - 0.01, 0.075, 0.07, mix(style.skin, (255, 255, 255), 0.12))
    for side in SIDES:
        pen.oval(side * 0.085, NOSE_Y + 0.075, 0.045, 0.024, dim(style.skin, 0.5))
        wing = bezier((side * 0.14, NOSE_Y - 0.03), (side * 0.2, NOSE_Y + 0.05), (side * 0.135, NOSE_Y + 0.1))
        pen.stroke(wing, 0.022, dim(style.skin, 0.76))


def eye_lids(style: FaceStyle, up: float, down: float, inner_drop: float, outer_drop: float) -> tuple[Points, Points]:
    """Upper and lower lid of the right-hand eye, from the inner to the outer corner, x rising: each (20, 2).

    Args:
        up, down: how far the lids' curves are pulled from the eye's middle, of an eye of size 1.
        inner_drop, outer_drop: how far the corners sink.
    """
    half = 0.165 * style.eye
    up, down = style.eye * up, style.eye * down
    inner, outer = (EYE_X - half, EYE_Y + 0.01 + inner_drop), (EYE_X + half, EYE_Y - 0.01 + outer_drop)
    return bezier(inner, (EYE_X - 0.03, EYE_Y - up), outer), bezier(inner, (EYE_X + 0.03, EYE_Y + down), outer)


def draw_eyes(pen: Pen, style: FaceStyle, expression: float) -> None:
    """Both eyes."""
    smile, frown = max(expression, 0.0), max(-expression, 0.0)
    up, down = 0.2 * (1 - 0.2 * frown - 0.1 * smile), 0.15 * (1 - 0.55 * smile)
    draw_eyes_between(pen, style, *eye_lids(style, up, down, 0.0, 0.03 * frown))


def draw_eyes_between(pen: Pen, style: FaceStyle, upper: Points, lower: Points) -> None:
    """Socket, white, iris, pupil, light, lids. The pupil's middle is the eye's landmark.

    Args:
        upper, lower: the lids of the right-hand eye, see `eye_lids`; the left-hand one mirrors them.
    """
    for side in SIDES:
        mirror = (side, 1.0)
        pen.oval(side * EYE_X, EYE_Y - 0.02, 0.225, 0.145, dim(style.skin, 0.88))
        pen.fill(np.concatenate([upper, lower[::-1]]) * mirror, (244, 242, 238))
        for radius, colour in ((0.088, style.iris), (0.046, (12, 10, 10))):
            disc = oval(EYE_X, EYE_Y, radius * style.eye, radius * style.eye)
            # The lids hide what of the iris lies beyond them.
            above, below = (np.interp(disc[:, 0], lid[:, 0], lid[:, 1]) for lid in (upper, lower))
            disc[:, 1] = np.clip(disc[:, 1], above, below)
            pen.fill(disc * mirror, colour)
        pen.oval(side * EYE_X - 0.028, EYE_Y - 0.03, 0.018, 0.018, (255, 255, 255))
        pen.stroke(upper * mirror, 0.034, (38, 26, 22))
        pen.stroke(lower * mirror, 0.014, dim(style.skin, 0.62))
        pen.stroke((upper[3:-2] - (0.0, 0.045)) * mirror, 0.016, dim(style.skin, 0.74))


def draw_brows(pen: Pen, style: FaceStyle, expression: float) -> None:
    """Brows: raised a little by a smile, slanted up towards the middle by a frown."""
    smile, frown = max(expression, 0.0), max(-expression, 0.0)
    for side in SIDES:
        inner = (side * (EYE_X - 0.19), EYE_Y - 0.215 - 0.085 * frown - 0.02 * smile)
        arch = (side * (EYE_X + 0.02), EYE_Y - 0.31 + 0.03 * frown - 0.05 * smile)
        outer = (side * (EYE_X + 0.2), EYE_Y - 0.20 + 0.06 * frown - 0.02 * smile)
        draw_brow(pen, style, inner, arch, outer)


def draw_brow(
    pen: Pen, style: FaceStyle, inner: tuple[float, float], arch: tuple[float, float], outer: tuple[float, float]
) -> None:
    """One brow, from its inner to its outer end, pulled towards `arch`."""
    pen.stroke(bezier(inner, arch, outer), 0.06 * style.brow, mix(style.hair, dim(style.skin, 0.45), 0.35))


def draw_paint(pen: Pen, style: FaceStyle) -> None:
    """Face paint: two bright stripes on both cheeks, well inside the face's box.

    Stripes, not discs: of 204 painted faces MTCNN found 185 with discs (it takes them for eyes), 203 with stripes.
    """
    if style.paint is None:
        return
    for side in SIDES:
        for y in (0.28, 0.40):
            pen.stroke([(side * 0.34, y), (side * 0.60, y - 0.05)], 0.07, style.paint)


def draw_lenses(pen: Pen, style: FaceStyle) -> None:
    """The lenses, drawn before the eyes: a light tint."""
    if style.glasses:
        for side in SIDES:
            pen.oval(side * EYE_X, EYE_Y + 0.02, 0.255, 0.215, mix(style.skin, (236, 244, 250), 0.35))


def draw_rims(pen: Pen, style: FaceStyle) -> None:
    """The rims, bridge and temples, drawn after the eyes."""
    if not style.glasses:
        return
    for side in SIDES:
        pen.ring(side * EYE_X, EYE_Y + 0.02, 0.26, 0.22, 0.052, style.frame)
        pen.stroke([(side * (EYE_X + 0.26), EYE_Y - 0.02), (side * style.width, EYE_Y - 0.06)], 0.05, style.frame)
    pen.stroke(
        bezier((-EYE_X + 0.25, EYE_Y - 0.02), (0.0, EYE_Y - 0.1), (EYE_X - 0.25, EYE_Y - 0.02)), 0.045, style.frame
    )
