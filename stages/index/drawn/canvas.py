"""A pen that draws in local coordinates through a similarity, on an oversampled Pillow image.

Shapes become polygons before they are turned and scaled, so a rotated figure has the exact geometry of its truth and
no picture is ever resampled by an angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Grid = npt.NDArray[np.floating]
"""Any shape, any float."""
Points = npt.NDArray[np.float64]
"""(N, 2) float64, x to the right and y down."""


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` (0..1) of the way from `first` to `second`, channels 0..255."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def dim(colour: Colour, factor: float) -> Colour:
    """`colour` times `factor`, each channel kept in 0..255."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def oval(x: float, y: float, rx: float, ry: float, count: int = 40) -> Points:
    """The outline of an ellipse: (count, 2) points."""
    turn = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def bezier(*controls: tuple[float, float], count: int = 20) -> Points:
    """A Bezier curve of any degree through its first and last control point: (count, 2) points."""
    t = np.linspace(0, 1, count)[:, None]
    degree = len(controls) - 1
    curve = np.zeros((count, 2))
    for power, control in enumerate(controls):
        curve += math.comb(degree, power) * t**power * (1 - t) ** (degree - power) * np.asarray(control, dtype=float)
    return curve


@dataclass(frozen=True)
class Similarity:
    """Local coordinates -> px: turn by `angle` (radians, clockwise as seen), scale, move (0, 0) to (x, y)."""

    x: float
    y: float
    scale: float
    angle: float = 0.0

    def __call__(self, points: npt.ArrayLike) -> Points:
        """Map (N, 2) local points to (N, 2) px."""
        local = np.asarray(points, dtype=float)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned = local @ np.array([[cos, sin], [-sin, cos]])
        return turned * self.scale + (self.x, self.y)

    def back(self, columns: Grid, rows: Grid) -> tuple[Grid, Grid]:
        """Map px coordinates (any shapes that broadcast) back to local x and y."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy = (columns - self.x) / self.scale, (rows - self.y) / self.scale
        return cos * dx + sin * dy, cos * dy - sin * dx


class Pen:
    """Draws polygons and strokes on `image`, given in the coordinates of `place` before oversampling.

    Args:
        image: `oversampling` times as large as the picture it will be reduced to.
        place: local coordinates to px of the reduced picture.
        oversampling: how many px of `image` make one px of the reduced picture.
    """

    def __init__(self, image: Image.Image, place: Similarity, oversampling: int) -> None:
        self._draw = ImageDraw.Draw(image)
        self._place = place
        self._oversampling = oversampling

    def _px(self, points: npt.ArrayLike) -> list[tuple[float, float]]:
        # Pillow fills whole pixels from their corner; half a pixel is the centre.
        mapped = self._place(points) * self._oversampling - 0.5
        return [(float(x), float(y)) for x, y in mapped]

    def fill(self, points: npt.ArrayLike, colour: Colour) -> None:
        """Fill the polygon through (N, 2) points."""
        self._draw.polygon(self._px(points), fill=colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse."""
        self.fill(oval(x, y, rx, ry), colour)

    def box(self, x1: float, y1: float, x2: float, y2: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.fill([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], colour)

    def stroke(self, points: npt.ArrayLike, width: float, colour: Colour) -> None:
        """Draw an open line with round ends, `width` in local units."""
        path = self._px(points)
        px = width * self._place.scale * self._oversampling
        self._draw.line(path, fill=colour, width=max(1, round(px)), joint="curve")
        for x, y in (path[0], path[-1]):
            self._draw.ellipse((x - px / 2, y - px / 2, x + px / 2, y + px / 2), fill=colour)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, colour: Colour) -> None:
        """Draw the outline of an ellipse, `width` in local units, centred on the outline."""
        outline = oval(x, y, rx, ry)
        self.stroke(np.concatenate([outline, outline[:1]]), width, colour)


def blob(x: Grid, y: Grid, cx: float, cy: float, rx: float, ry: float) -> Grid:
    """A Gaussian bump of height 1 at (cx, cy) with standard deviations (rx, ry), over grids x and y."""
    return np.exp(-0.5 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2))


def mirrored(points: Sequence[tuple[float, float]] | Points) -> Points:
    """A left half, listed top to bottom, closed by its mirror image in x = 0."""
    half = np.asarray(points, dtype=float)
    return np.concatenate([half, half[::-1] * (-1.0, 1.0)])
