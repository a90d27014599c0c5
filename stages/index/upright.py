"""A decoded frame's pixels, and which way they are to be turned. What is decided: see `clips`."""

from __future__ import annotations

import struct

from av.video.frame import VideoFrame
from PIL import Image

_TURNS = {  # signs of a, b, c, d in the display matrix: x' = ax + cy, y' = bx + dy, y down
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
_QUARTERS = {  # degrees counter-clockwise, as PyAV tells them
    90: Image.Transpose.ROTATE_90,
    -90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
}
SIDEWAYS = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)
"""Turns after which a frame is as high as it was wide."""


def turn_of(frame: VideoFrame) -> Image.Transpose | None:
    """How to turn a frame upright by its display matrix; None: not at all."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV meets a kind of side data that it does not know
        return _QUARTERS.get(frame.rotation)
    if data is None:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    most = max(map(abs, (a, b, c, d)))
    return _TURNS.get((_sign(a, most), _sign(b, most), _sign(c, most), _sign(d, most)))


def _sign(value: int, most: int) -> int:
    return 0 if abs(value) * 1000 < most else (value > 0) - (value < 0)


def picture(frame: VideoFrame) -> Image.Image:
    """A frame's pixels as they are stored, of mode RGB, transparency over white."""
    alpha = any(component.is_alpha for component in frame.format.components)
    mode = "RGBA" if alpha else "RGB"
    # Not `to_image`: its copies, row by row in Python, take three times as long as decoding.
    plane = frame.reformat(format="rgba" if alpha else "rgb24", threads=1).planes[0]
    size, stride = (frame.width, frame.height), plane.line_size
    image = Image.frombytes(mode, size, memoryview(plane), "raw", mode, abs(stride), 1 if stride > 0 else -1)
    if alpha:
        image = Image.alpha_composite(Image.new("RGBA", size, "white"), image).convert("RGB")
    return image
