"""A picture with what the model saw: face boxes, attention weights, the answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LONGEST_PX, LEAST_PX = 1280, 480
_STRONG, _WEAK, _DARK, _INK, _FAINT = (255, 176, 0), (168, 178, 188), (24, 26, 30), (255, 255, 255), (160, 166, 174)
_CAPTION_LINES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Place = tuple[float, float, float, float]
"""x1 y1 x2 y2, px of the picture."""


def scale_of(size: tuple[int, int]) -> float:
    """What a photo's (width, height) px are multiplied by: its longer side comes to lie within `LEAST_PX` and
    `LONGEST_PX`, so that tags are legible on a small photo and files of a large one stay small."""
    longest = max(size)
    return min(max(longest, LEAST_PX), LONGEST_PX) / longest


def annotate(image: Image.Image, boxes: np.ndarray, attention: np.ndarray, answer: Mapping[str, float]) -> Image.Image:
    """A copy of the photo, scaled by `scale_of`, with a frame and its weight at each face, above a caption.

    Args:
        image: RGB.
        boxes: (n, 4) px of `image`; what lies outside of the photo is not drawn.
        attention: (n,) weights, 0..1; a heavier face has a thicker, warmer frame.
        answer: class -> probability; the caption names the most probable classes first.
    """
    scale = scale_of(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    photo = image.resize(size, Image.Resampling.LANCZOS) if scale != 1 else image.copy()
    draw = ImageDraw.Draw(photo)
    unit = max(2, round(max(size) / 320))
    font = ImageFont.load_default(max(13, unit * 6))
    strongest = max(float(attention.max(initial=0.0)), 1e-6)
    tags: list[Place] = []
    # The strongest is drawn last and lies on top; the tags lie above all frames.
    order = np.argsort(attention, kind="stable").tolist()
    places = [_inside(boxes[i] * scale, size) for i in range(len(boxes))]
    shares = [float(weight) / strongest for weight in attention]
    colours = [_between(share) for share in shares]
    for i in order:
        width = max(1, round(unit * (0.6 + 1.4 * shares[i])))
        draw.rectangle(places[i], outline=_DARK, width=width + 1)  # a dark rim sets the frame off from bright ground
        draw.rectangle(places[i], outline=colours[i], width=width)
    for i in reversed(order):
        tags.append(_tag(draw, places[i], f"{attention[i]:.2f}", font, colours[i], tags))
    return _with_caption(photo, answer, font)


def _between(share: float) -> tuple[int, int, int]:
    red, green, blue = (round(w + (s - w) * share) for w, s in zip(_WEAK, _STRONG, strict=True))
    return red, green, blue


def _inside(box: np.ndarray, size: tuple[int, int]) -> Place:
    x1, y1, x2, y2 = np.clip(box, 0, [size[0] - 1, size[1] - 1] * 2).tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _tag(
    draw: ImageDraw.ImageDraw, face: Place, text: str, font: Font, colour: tuple[int, int, int], taken: list[Place]
) -> Place:
    """Write a face's weight above its frame, or below or at its side, where no other tag is; never over the border."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 7, bottom - top + 7
    x1, y1, x2, y2 = face
    above, below = y1 - height - 1, y2 + 1  # the spare px keeps rounding from making it touch its own face
    corners = [(x1, above), (x1, below), (x2 - width, above), (x2 - width, below), (x2 + 1, y1), (x1, y1)]
    spots = [_shifted(corner, width, height, draw.im.size) for corner in corners]
    spot = min(spots, key=lambda one: sum(_overlap(one, other) for other in [*taken, face]))
    draw.rectangle(spot, fill=colour)
    draw.text((spot[0] + 4 - left, spot[1] + 4 - top), text, font=font, fill=_DARK)
    return spot


def _shifted(corner: tuple[float, float], width: float, height: float, size: tuple[int, int]) -> Place:
    x = min(max(round(corner[0]), 0), max(size[0] - width - 1, 0))
    y = min(max(round(corner[1]), 0), max(size[1] - height - 1, 0))
    return x, y, x + width, y + height


def _overlap(a: Place, b: Place) -> float:
    """Area that two places share, px²."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _with_caption(photo: Image.Image, answer: Mapping[str, float], font: Font) -> Image.Image:
    """The photo above a strip with the classes, the most probable first, on as many lines as needed, at most three."""
    draw = ImageDraw.Draw(photo)
    room = photo.width - 16
    parts = [
        _shortened(draw, name, f" {value:.2f}", font, room)
        for name, value in sorted(answer.items(), key=lambda item: -item[1])
    ]
    lines: list[list[str]] = []
    for part in parts:
        if lines and draw.textlength("   ".join([*lines[-1], part]), font=font) <= room:
            lines[-1].append(part)
        else:
            lines.append([part])
    del lines[_CAPTION_LINES:]
    step = round((draw.textbbox((0, 0), "Ag", font=font)[3]) * 1.35)
    framed = Image.new("RGB", (photo.width, photo.height + step * len(lines) + 12), _DARK)
    framed.paste(photo, (0, 0))
    pen = ImageDraw.Draw(framed)
    for i, line in enumerate(lines):
        x, y = 8.0, photo.height + 6 + i * step
        for j, part in enumerate(line):
            pen.text((x, y), part, font=font, fill=_STRONG if i == j == 0 else _INK if i == 0 else _FAINT)
            x += pen.textlength(part + "   ", font=font)
    return framed


def _shortened(draw: ImageDraw.ImageDraw, name: str, value: str, font: Font, room: float) -> str:
    """`name` and its value, the name cut with an ellipsis where it is wider than `room` px."""
    cut = len(name)
    while cut > 1 and draw.textlength((name if cut == len(name) else f"{name[:cut]}…") + value, font=font) > room:
        cut -= 1
    return (name if cut == len(name) else f"{name[:cut]}…") + value
