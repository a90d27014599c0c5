"""Hair and hats of a drawn face, in the local coordinates of `faces.py`."""

from __future__ import annotations

import math

import numpy as np

from stages.index.drawn.canvas import Pen, Points, bezier, dim, mirrored, mix
from stages.index.drawn.style import FaceStyle

TOP = -1.6
"""How far up any hair reaches (the bun)."""


def _dome(rx: float, top: float, side_y: float) -> Points:
    """The outline of the head's top from the right side over the crown to the left: (30, 2)."""
    turn = np.linspace(0, math.pi, 30)
    return np.stack([rx * np.cos(turn), side_y + (top - side_y) * np.sin(turn)], axis=1)


def draw_hair_behind(pen: Pen, style: FaceStyle) -> None:
    """What hangs behind face and neck."""
    shade = dim(style.hair, 0.78)
    wide = style.width + 0.14
    if style.hair_style == "long":
        fall = bezier((0.0, -1.22), (-wide - 0.1, -1.2), (-wide, -0.2), (-wide - 0.2, 1.35), (-0.2, 1.25))
        pen.fill(mirrored(fall), shade)
    elif style.hair_style == "bob":
        fall = bezier((0.0, -1.24), (-wide - 0.25, -1.25), (-wide - 0.15, 0.1), (-wide - 0.15, 1.05), (-0.25, 0.75))
        pen.fill(mirrored(fall), shade)
    elif style.hair_style == "bun":
        pen.oval(0.0, -1.28, 0.3, 0.28, shade)
    elif style.hair_style == "curly":
        for turn in np.linspace(-0.12 * math.pi, 1.12 * math.pi, 13):
            pen.oval(wide * math.cos(turn), -0.3 - 0.75 * math.sin(turn), 0.25, 0.25, shade)


def _hairline(style: FaceStyle) -> Points:
    """The lower edge of the hair on the forehead, from the left temple to the right."""
    edge = style.width + 0.03
    left, right = (-edge, -0.08), (edge, -0.08)
    if style.hair_style in ("parted", "long"):
        return np.concatenate(
            [
                bezier(left, (-0.62, -0.55), (-0.2, -0.84), count=12),
                bezier((-0.2, -0.84), (0.55, -0.72), right, count=12),
            ]
        )
    if style.hair_style in ("fringe", "bob"):
        return bezier(left, (-0.72, -0.56), (0.0, -0.66), (0.72, -0.56), right)
    if style.hair_style in ("bun", "buzz"):
        return bezier((-edge, -0.25), (-0.72, -0.86), (0.72, -0.86), (edge, -0.25))
    return bezier(left, (-0.72, -0.8), (0.72, -0.8), right)


def draw_hair_before(pen: Pen, style: FaceStyle) -> None:
    """What lies on the forehead and the crown."""
    if style.hair_style == "beanie":
        _draw_beanie(pen, style)
        return
    colour, rim, top = style.hair, style.width + 0.09, -1.2
    if style.hair_style == "buzz":
        colour, rim, top = mix(style.hair, style.skin, 0.25), style.width + 0.03, -1.06
    line = _hairline(style)
    pen.fill(np.concatenate([line, _dome(rim, top, float(line[0, 1]))]), colour)
    if style.hair_style == "curly":
        for turn in np.linspace(0.08 * math.pi, 0.92 * math.pi, 8):
            pen.oval(0.62 * math.cos(turn), -0.45 - 0.42 * math.sin(turn), 0.17, 0.17, colour)
    elif style.hair_style != "buzz":
        # One lighter strand says where the light falls.
        x = 0.35 * style.side
        strand = bezier((x - 0.25, -0.9), (x, -1.08), (x + 0.25, -0.9), count=10)
        pen.stroke(strand, 0.05, mix(colour, (255, 240, 220), 0.2))


def _draw_beanie(pen: Pen, style: FaceStyle) -> None:
    rim = style.width + 0.07
    band = bezier((-rim, -0.34), (-0.5, -0.6), (0.5, -0.6), (rim, -0.34))
    pen.fill(np.concatenate([band, _dome(rim, -1.26, -0.34)]), style.accent)
    for y, shade in ((0.1, 0.74), (0.17, 0.84)):
        pen.stroke(band - (0.0, y - 0.06), 0.1, dim(style.accent, shade))
