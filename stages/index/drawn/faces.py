"""One drawn face: its geometry, its picture and its truth.

Local coordinates: the origin is the middle of the face's oval, the unit is half the oval's height, x to the right, y
down. The truth is computed by the same similarity that places the drawing.

The truth box is drawn where MTCNN (Zhang et al. 2016, https://arxiv.org/abs/1604.02878; weights of facenet-pytorch
2.5.3) puts its own: `BOX` was fitted to its boxes on drawn scenes. It reaches from the forehead to the chin and stays
upright when the head is turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stages.index.drawn.canvas import Pen, Points, Similarity, bezier, blob, dim, mirrored, mix
from stages.index.drawn.features import (
    EYE_X,
    EYE_Y,
    MOUTH_Y,
    NOSE_Y,
    SIDES,
    draw_brows,
    draw_eyes,
    draw_lenses,
    draw_mouth,
    draw_nose,
    draw_paint,
    draw_rims,
    mouth_corner,
)
from stages.index.drawn.hair import TOP, draw_hair_before, draw_hair_behind
from stages.index.drawn.moods import Mood, draw_mood
from stages.index.drawn.style import FaceStyle

BOX = (-0.72, -0.81, 0.72, 1.02)
"""Truth box of an upright face, local: x1, y1, x2, y2."""

_TILE = (-1.25, TOP, 1.25, 1.5)


@dataclass(frozen=True)
class FacePlace:
    """Where a face is drawn.

    Attributes:
        x, y: centre of the truth box, px.
        height: height of the truth box, px.
        angle: turn in the picture's plane, degrees, clockwise as seen.
    """

    x: float
    y: float
    height: float
    angle: float = 0.0

    def similarity(self) -> Similarity:
        """Local coordinates -> px."""
        scale = self.height / (BOX[3] - BOX[1])
        angle, middle = math.radians(self.angle), (BOX[1] + BOX[3]) / 2 * scale
        return Similarity(self.x + math.sin(angle) * middle, self.y - math.cos(angle) * middle, scale, angle)


@dataclass(frozen=True)
class FaceTruth:
    """What is known of a drawn face, px of the picture.

    Attributes:
        box: x1, y1, x2, y2.
        landmarks: five (x, y): left eye, right eye, nose, left and right corner of the mouth; left as seen.
        expression: -1 (frown) to 1 (smile).
        glasses: whether it wears glasses.
        paint: whether its cheeks are painted.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    expression: float
    glasses: bool
    paint: bool


def face_truth(style: FaceStyle, place: FacePlace, expression: float, mood: Mood | None = None) -> FaceTruth:
    """The truth of the face that `draw_face` draws with the same arguments."""
    half_height, half_width = place.height / 2, place.height * (BOX[2] - BOX[0]) / (BOX[3] - BOX[1]) / 2
    mouth_x, mouth_y = mouth_corner(expression)
    corners = ((-mouth_x, mouth_y), (mouth_x, mouth_y)) if mood is None else mood.corners()
    local = [(-EYE_X, EYE_Y), (EYE_X, EYE_Y), (0.0, NOSE_Y), *corners]
    return FaceTruth(
        box=(place.x - half_width, place.y - half_height, place.x + half_width, place.y + half_height),
        landmarks=tuple((float(x), float(y)) for x, y in place.similarity()(local)),
        expression=expression,
        glasses=style.glasses,
        paint=style.paint is not None,
    )


def draw_face(
    image: Image.Image, style: FaceStyle, place: FacePlace, expression: float, mood: Mood | None = None
) -> FaceTruth:
    """Draw head and neck onto an RGB picture, in place.

    Args:
        image: RGB; what reaches over its edges is cut off.
        style: the person's looks.
        place: where, how large, how turned.
        expression: -1 (frown) to 1 (smile).
        mood: in place of what `expression` makes of mouth, eyes and brows.

    Returns:
        The truth of the face, in px of `image`.

    Raises:
        ValueError: the expression is outside -1..1 or the height is not positive.
    """
    if not -1 <= expression <= 1:
        raise ValueError(f"expression is {expression}: give a number from -1 (frown) to 1 (smile)")
    if not place.height > 0:
        raise ValueError(f"height is {place.height}: give a positive number of px")
    similarity = place.similarity()
    reach = similarity([(x, y) for x in _TILE[::2] for y in _TILE[1::2]])
    left, top = (math.floor(value) for value in reach.min(axis=0))
    right, bottom = (math.ceil(value) for value in reach.max(axis=0))
    oversampling = 4 if place.height < 80 else 3
    size = (right - left, bottom - top)
    tile = Image.new("RGBA", (size[0] * oversampling, size[1] * oversampling), (*style.skin, 0))
    moved = Similarity(similarity.x - left, similarity.y - top, similarity.scale, similarity.angle)
    _draw_head(Pen(tile, moved, oversampling), Pen(tile, _upright(moved), oversampling), style, expression, mood)
    tile = tile.reduce(oversampling)
    image.paste(_shaded(tile, moved, style, expression), (left, top), tile.getchannel("A"))
    return face_truth(style, place, expression, mood)


def draw_body(image: Image.Image, style: FaceStyle, place: FacePlace, oversampling: int = 1) -> None:
    """Draw shoulders, arms, chest and legs below a face, down to the picture's edge, in place.

    Args:
        image: RGB, `oversampling` times the size of the picture that `place` is given in.
        style: the person's looks.
        place: the face's place.
        oversampling: see `Pen`.
    """
    pen = Pen(image, _upright(place.similarity()), oversampling)
    cloth, trousers = dim(style.clothes, style.light), dim(mix(style.clothes, (40, 44, 60), 0.8), style.light)
    floor = 60.0  # beyond any picture's lower edge
    pen.fill(mirrored([(-1.0, 3.6), (-0.9, floor)]), trousers)
    pen.box(-0.04, 4.6, 0.04, floor, dim(trousers, 0.75))
    shoulder = bezier((-0.3, 1.12), (-0.9, 1.25), (-1.35, 1.3), (-1.42, 2.1))
    pen.fill(mirrored(np.concatenate([shoulder, [(-1.42, 3.9), (-1.06, 3.95), (-1.02, 4.2)]])), cloth)
    for side in SIDES:
        pen.oval(side * 1.22, 4.0, 0.19, 0.24, dim(style.skin, 0.9 * style.light))
        pen.box(side * 1.04, 3.6, side * 1.42, 3.9, cloth)
        pen.stroke([(side * 1.0, 2.1), (side * 1.02, 3.9)], 0.05, dim(cloth, 0.8))
    pen.oval(0.0, 1.27, 0.4, 0.19, dim(cloth, 0.82))


def _upright(similarity: Similarity) -> Similarity:
    """The similarity of neck and body: not turned, hung below the turned head's chin."""
    x, y = similarity([(0.0, 0.9)])[0]
    return Similarity(float(x), float(y) - 0.9 * similarity.scale, similarity.scale)


def _outline(style: FaceStyle) -> Points:
    """The face's oval: an ellipse above, a fuller or narrower chin below: (60, 2)."""
    turn = np.linspace(-math.pi / 2, 3 * math.pi / 2, 60, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    below = np.sign(cos) * np.abs(cos) ** style.jaw
    return np.stack([style.width * np.where(sin > 0, below, cos), sin], axis=1)


def _draw_head(pen: Pen, upright: Pen, style: FaceStyle, expression: float, mood: Mood | None) -> None:
    draw_hair_behind(pen, style)
    upright.fill([(-0.3, 0.5), (0.3, 0.5), (0.34, 1.2), (0.0, 1.36), (-0.34, 1.2)], dim(style.skin, 0.8))
    for side in SIDES:
        pen.oval(side * style.width, 0.0, 0.1, 0.18, dim(style.skin, 0.9))
        pen.oval(side * (style.width + 0.01), 0.0, 0.05, 0.11, dim(style.skin, 0.76))
    outline = _outline(style)
    pen.fill(outline, style.skin)
    if style.beard:
        lower = outline[outline[:, 1] > 0.12]
        jaw = lower[np.argsort(lower[:, 0])]
        inner = jaw[::-1] * (0.78, 0.5) + (0.0, 0.2)
        pen.fill(np.concatenate([jaw, inner]), mix(style.skin, style.hair, 0.55))
    draw_lenses(pen, style)
    draw_nose(pen, style)
    if mood is None:
        draw_mouth(pen, style, expression)
        draw_eyes(pen, style, expression)
        draw_brows(pen, style, expression)
    else:
        draw_mood(pen, style, mood)
    draw_paint(pen, style)
    draw_rims(pen, style)
    draw_hair_before(pen, style)


def _shaded(tile: Image.Image, similarity: Similarity, style: FaceStyle, expression: float) -> Image.Image:
    """Soft light over the flat drawing: the head's roundness, sockets, cheeks, the nose's shadow, the chin."""
    columns = np.arange(tile.width, dtype=np.float32)[None, :] + 0.5
    rows = np.arange(tile.height, dtype=np.float32)[:, None] + 0.5
    x, y = similarity.back(columns, rows)
    light = 1.04 - 0.2 * np.clip(x / style.width, -1.2, 1.2) ** 2 + 0.07 * style.side * x
    light -= 0.1 * np.clip(y - 0.2, 0, 1)
    for side in SIDES:
        light -= 0.10 * blob(x, y, side * (EYE_X - 0.1), EYE_Y - 0.04, 0.14, 0.1)
        light += 0.07 * blob(x, y, side * 0.42, 0.2, 0.16, 0.13)
    light += 0.06 * blob(x, y, 0.0, 0.05, 0.06, 0.2) - 0.09 * blob(x, y, 0.0, NOSE_Y + 0.15, 0.13, 0.04)
    light -= 0.07 * blob(x, y, 0.0, MOUTH_Y + 0.2 + 0.03 * expression, 0.18, 0.04)
    colours = np.asarray(tile.convert("RGB"), dtype=np.float32)
    shaded = colours * (light * style.light).astype(np.float32)[:, :, None]
    return Image.fromarray(np.clip(shaded + 0.5, 0, 255).astype(np.uint8))
