"""Drawn places: two indoors, two outdoors, told apart by palette and furniture.

Coordinates: the unit is the picture's height, x from 0 to width/height, y from 0 (top) to 1 (bottom).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image

from stages.index.drawn.canvas import Colour, Pen, Similarity, bezier, dim, mix

INDOOR, OUTDOOR = "indoor", "outdoor"
SETTINGS = (INDOOR, OUTDOOR)
TINTS = {INDOOR: (1.04, 1.0, 0.92), OUTDOOR: (0.98, 1.0, 1.04)}
"""What a setting's light does to the whole picture: a factor per channel."""

_WALLS: tuple[Colour, ...] = ((226, 204, 170), (214, 186, 168), (204, 196, 158), (222, 190, 150))
_WOODS: tuple[Colour, ...] = ((134, 90, 56), (160, 112, 70), (108, 70, 46))
_BOOKS: tuple[Colour, ...] = ((150, 60, 52), (60, 84, 110), (190, 150, 80), (76, 104, 72), (110, 78, 96))
_SKIES: tuple[Colour, ...] = ((112, 172, 226), (134, 190, 232), (150, 196, 222))
_LEAVES: tuple[Colour, ...] = ((60, 118, 58), (82, 138, 64), (52, 100, 66))


def draw_setting(image: Image.Image, setting: str, rng: np.random.Generator, oversampling: int) -> None:
    """Fill an RGB picture with a place, in place.

    Args:
        image: `oversampling` times the size of the picture it will be reduced to.
        setting: `indoor` (a living room or a cafe) or `outdoor` (a park or a beach).
        rng: chooses the place, its colours and where its things stand.
        oversampling: see `Pen`.

    Raises:
        KeyError: the setting is none of `SETTINGS`.
    """
    scale = image.height / oversampling
    pen = Pen(image, Similarity(0.0, 0.0, scale), oversampling)
    places = _PLACES[setting]
    places[int(rng.integers(len(places)))](pen, image.width / image.height, rng)


def _one_of(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _gradient(pen: Pen, width: float, top: float, bottom: float, first: Colour, last: Colour) -> None:
    edges = np.linspace(top, bottom, 25)
    for step, (y1, y2) in enumerate(pairwise(edges)):
        pen.box(0, float(y1), width, float(y2) + 0.01, mix(first, last, step / 23))


def _window(pen: Pen, x: float, y: float, wide: float, high: float) -> None:
    pen.box(x - 0.02, y - 0.02, x + wide + 0.02, y + high + 0.02, (246, 240, 228))
    pen.box(x, y, x + wide, y + high, (196, 214, 222))
    pen.box(x + wide / 2 - 0.008, y, x + wide / 2 + 0.008, y + high, (246, 240, 228))
    pen.box(x, y + high / 2 - 0.008, x + wide, y + high / 2 + 0.008, (246, 240, 228))


def _shelf(pen: Pen, x: float, y: float, wide: float, wood: Colour, rng: np.random.Generator) -> None:
    """Three boards of books."""
    pen.box(x, y, x + wide, y + 0.56, dim(wood, 0.6))
    for board in range(3):
        floor = y + 0.18 * (board + 1)
        at = x + 0.015
        while at < x + wide - 0.05:
            thick, tall = float(rng.uniform(0.018, 0.035)), float(rng.uniform(0.09, 0.14))
            pen.box(at, floor - tall, at + thick, floor, _one_of(_BOOKS, rng))
            at += thick + 0.004
        pen.box(x, floor, x + wide, floor + 0.016, wood)


def _living_room(pen: Pen, width: float, rng: np.random.Generator) -> None:
    wall, wood = _one_of(_WALLS, rng), _one_of(_WOODS, rng)
    pen.box(0, 0, width, 0.78, wall)
    for x in np.arange(0.03, width, 0.12):
        pen.box(float(x), 0, float(x) + 0.03, 0.75, mix(wall, (255, 255, 255), 0.12))
    pen.box(0, 0.75, width, 0.78, (240, 232, 216))
    pen.box(0, 0.78, width, 1, wood)
    for y in (0.83, 0.89, 0.95):
        pen.box(0, y, width, y + 0.005, dim(wood, 0.8))
    left = bool(rng.random() < 0.5)
    _window(pen, 0.08 if left else width - 0.48, 0.08, 0.4, 0.36)
    _shelf(pen, width - 0.42 if left else 0.06, 0.18, 0.36, wood, rng)
    middle = width / 2 + float(rng.uniform(-0.08, 0.08))
    pen.box(middle - 0.13, 0.1, middle + 0.13, 0.29, dim(wood, 0.7))
    pen.box(middle - 0.11, 0.12, middle + 0.11, 0.27, _one_of(_BOOKS, rng))
    sofa = _one_of(_BOOKS, rng)
    pen.box(width * 0.15, 0.58, width * 0.85, 0.9, sofa)
    pen.box(width * 0.15, 0.74, width * 0.85, 0.92, dim(sofa, 0.82))


def _cafe(pen: Pen, width: float, rng: np.random.Generator) -> None:
    wall, wood = dim(_one_of(_WALLS, rng), 0.86), _one_of(_WOODS, rng)
    pen.box(0, 0, width, 1, wall)
    for row, y in enumerate(np.arange(0, 0.62, 0.07)):
        pen.box(0, float(y), width, float(y) + 0.006, dim(wall, 0.9))
        for x in np.arange(0.09 * (row % 2), width, 0.18):
            pen.box(float(x), float(y), float(x) + 0.006, float(y) + 0.07, dim(wall, 0.9))
    board = float(rng.uniform(0.12, width - 0.6))
    pen.box(board - 0.02, 0.1, board + 0.5, 0.42, wood)
    pen.box(board, 0.12, board + 0.48, 0.4, (46, 54, 50))
    for y in (0.18, 0.24, 0.3, 0.35):
        pen.box(board + 0.05, y, board + float(rng.uniform(0.2, 0.42)), y + 0.01, (206, 206, 196))
    pen.box(0, 0.62, width, 1, dim(wood, 0.85))
    pen.box(0, 0.6, width, 0.65, mix(wood, (255, 240, 220), 0.25))
    for x in np.arange(float(rng.uniform(0.1, 0.25)), width, 0.4):
        pen.stroke([(float(x), 0), (float(x), 0.07)], 0.008, (50, 46, 44))
        pen.fill([(x - 0.02, 0.06), (x + 0.02, 0.06), (x + 0.07, 0.13), (x - 0.07, 0.13)], (196, 92, 52))
        pen.oval(float(x), 0.135, 0.035, 0.015, (255, 236, 180))


def _sky(pen: Pen, width: float, horizon: float, rng: np.random.Generator) -> None:
    sky = _one_of(_SKIES, rng)
    _gradient(pen, width, 0, horizon, sky, mix(sky, (244, 246, 240), 0.7))
    sun = float(rng.uniform(0.1, width - 0.1))
    pen.oval(sun, 0.1, 0.06, 0.06, (255, 240, 170))
    for _ in range(3):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0.06, 0.3))
        for shift, size in ((-0.07, 0.035), (0.0, 0.05), (0.08, 0.03)):
            pen.oval(x + shift, y, 0.08, size, (248, 250, 250))


def _park(pen: Pen, width: float, rng: np.random.Generator) -> None:
    leaf = _one_of(_LEAVES, rng)
    grass = mix(leaf, (150, 196, 88), 0.5)
    _sky(pen, width, 0.6, rng)
    hill = bezier((0, 0.56), (width * 0.3, float(rng.uniform(0.36, 0.5))), (width * 0.7, 0.6), (width, 0.46))
    pen.fill(np.concatenate([hill, [(width, 1), (0, 1)]]), mix(leaf, (170, 200, 190), 0.45))
    ground = bezier((0, 0.62), (width / 2, 0.56), (width, 0.64))
    pen.fill(np.concatenate([ground, [(width, 1), (0, 1)]]), grass)
    path = float(rng.uniform(0.3, width - 0.3))
    pen.fill([(path - 0.02, 0.6), (path + 0.03, 0.6), (path + 0.3, 1), (path - 0.2, 1)], (214, 196, 156))
    trees = np.linspace(0.08, width - 0.08, 5) + rng.uniform(-0.08, 0.08, 5)
    for x in (float(value) for value in trees):
        foot, size = float(rng.uniform(0.6, 0.68)), float(rng.uniform(0.1, 0.15))
        pen.box(x - 0.018, foot - 0.24, x + 0.018, foot, (104, 76, 52))
        shade = dim(leaf, float(rng.uniform(0.8, 1.1)))
        for dx, dy in ((-0.6, 0.1), (0.6, 0.1), (0.0, -0.5), (0.0, 0.1)):
            pen.oval(x + dx * size, foot - 0.28 + dy * size, size * 0.75, size * 0.75, shade)
        pen.oval(x - 0.3 * size, foot - 0.34, size * 0.4, size * 0.35, mix(shade, (220, 240, 150), 0.2))


def _beach(pen: Pen, width: float, rng: np.random.Generator) -> None:
    _sky(pen, width, 0.45, rng)
    _gradient(pen, width, 0.44, 0.64, (36, 116, 168), (84, 178, 196))
    for _ in range(8):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0.47, 0.6))
        pen.stroke([(x, y), (x + 0.1, y)], 0.006, (186, 222, 230))
    boat = float(rng.uniform(0.15, width - 0.15))
    pen.fill([(boat, 0.27), (boat, 0.44), (boat + 0.11, 0.44)], (250, 250, 246))
    pen.fill([(boat - 0.07, 0.45), (boat + 0.12, 0.45), (boat + 0.08, 0.48), (boat - 0.04, 0.48)], (170, 60, 54))
    shore = bezier((0, 0.62), (width * 0.4, 0.68), (width, 0.6))
    pen.fill(np.concatenate([shore, [(width, 1), (0, 1)]]), (238, 220, 168))
    pen.stroke(shore, 0.014, (250, 250, 246))
    for x in (float(rng.uniform(0.1, 0.3)), width - float(rng.uniform(0.1, 0.3))):
        pen.stroke([(x, 0.42), (x, 0.84)], 0.012, (246, 244, 238))
        pen.fill(bezier((x - 0.2, 0.5), (x - 0.12, 0.3), (x + 0.12, 0.3), (x + 0.2, 0.5)), (222, 72, 64))
        pen.fill(bezier((x - 0.07, 0.5), (x - 0.05, 0.3), (x + 0.05, 0.3), (x + 0.07, 0.5)), (250, 246, 236))


_PLACES: dict[str, tuple[Callable[[Pen, float, np.random.Generator], None], ...]] = {
    INDOOR: (_living_room, _cafe),
    OUTDOOR: (_park, _beach),
}
