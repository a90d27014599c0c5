"""A picture with what the model saw: face boxes, attention weights, the answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LONGEST_PX = 1280
_STRONG, _WEAK, _INK = (255, 176, 0), (150, 160, 170), (255, 255, 255)


def annotate(image: Image.Image, boxes: np.ndarray, attention: np.ndarray, answer: Mapping[str, float]) -> Image.Image:
    """Draw boxes and the answer on a copy of the photo, shrunk to at most `LONGEST_PX`.

    Args:
        image: RGB.
        boxes: (n, 4) px of `image`.
        attention: (n,) weights, 0..1; a heavier face has a thicker, warmer frame.
        answer: class -> probability.
    """
    scale = min(1.0, LONGEST_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    photo = image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image.copy()
    draw = ImageDraw.Draw(photo)
    unit = max(2, round(max(size) / 320))
    font = ImageFont.load_default(max(12, unit * 6))
    strongest = max(float(attention.max(initial=0.0)), 1e-6)
    for i in np.argsort(attention, kind="stable"):
        share = float(attention[i]) / strongest
        colour = tuple(round(w + (s - w) * share) for w, s in zip(_WEAK, _STRONG, strict=True))
        x1, y1, x2, y2 = (float(v) * scale for v in boxes[i])
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(1, round(unit * (0.6 + 1.4 * share))))
        _tag(draw, (x1, y1), f"{attention[i]:.2f}", font, colour)
    return _with_caption(photo, answer, font)


def _tag(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, ...],
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x, y = max(0.0, corner[0]), max(0.0, corner[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), text, font=font, fill=(20, 20, 20))


def _with_caption(
    photo: Image.Image, answer: Mapping[str, float], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> Image.Image:
    """The photo above a strip with the most probable classes, as many as fit in its width."""
    ordered = sorted(answer.items(), key=lambda item: -item[1])
    measure = ImageDraw.Draw(photo)
    text = ""
    for label, probability in ordered:
        longer = f"{text}   {label} {probability:.2f}" if text else f"{label} {probability:.2f}"
        if text and measure.textlength(longer, font=font) > photo.width - 16:
            break
        text = longer
    height = round(measure.textbbox((0, 0), text or "x", font=font)[3] * 1.7)
    framed = Image.new("RGB", (photo.width, photo.height + height), (24, 26, 30))
    framed.paste(photo, (0, 0))
    ImageDraw.Draw(framed).text((8, photo.height + height * 0.2), text, font=font, fill=_INK)
    return framed
