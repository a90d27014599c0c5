"""What `pixels` does, compiled by numba: 4 to 7 times as fast, the same bits. Imports numba."""

from __future__ import annotations

import numpy as np

from stages.loops import compiled

_BITS, _MASK = np.uint64(21), np.uint64((1 << 21) - 1)
_SHIFT = np.uint64(42)
_FITTING = np.int64(((1 << 21) - 1) // 255)  # px of a bin whose sums fit
_OFFSET = np.float32(127.5 / 128)
_SCALE = np.float32(128)


@compiled
def table(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> summed-area table uint64 (H + 1, W + 1), three channels of 21 bits each, wrapping around."""
    height, width, _ = pixels.shape
    sums = np.empty((height + 1, width + 1), np.uint64)
    sums[0] = 0
    for y in range(height):
        row = np.uint64(0)
        sums[y + 1, 0] = 0
        for x in range(width):
            row += (
                np.uint64(pixels[y, x, 0])
                + (np.uint64(pixels[y, x, 1]) << _BITS)
                + (np.uint64(pixels[y, x, 2]) << _SHIFT)
            )
            sums[y + 1, x + 1] = sums[y, x + 1] + row
    return sums


@compiled
def means(sums: np.ndarray, boxes: np.ndarray, height: int, width: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of rectangles resized to height x width, see `pixels.PixelTable.means`.

    Args:
        sums: uint64 (H + 1, W + 1).
        boxes: int64 (n, 4).

    Returns:
        float32 (n, stop - start, width, 3).
    """
    out = np.empty((len(boxes), stop - start, width, 3), np.float32)
    first, last = np.empty(width, np.int64), np.empty(width, np.int64)
    for number in range(len(boxes)):
        x, y = boxes[number, 0], boxes[number, 1]
        columns, rows = boxes[number, 2] - x, boxes[number, 3] - y
        for i in range(width):
            first[i] = x + i * columns // width
            last[i] = x - (-(i + 1) * columns) // width
        for row in range(start, stop):
            top, bottom = y + row * rows // height, y - (-(row + 1) * rows) // height
            tall = np.float32(bottom - top) * _SCALE
            for i in range(width):
                left, right = first[i], last[i]
                area = tall * np.float32(right - left)
                if (bottom - top) * (right - left) <= _FITTING:
                    packed = sums[bottom, right] - sums[bottom, left] - sums[top, right] + sums[top, left]
                    red, green, blue = packed & _MASK, (packed >> _BITS) & _MASK, packed >> _SHIFT
                else:
                    red, green, blue = _large(sums, top, bottom, left, right)
                out[number, row - start, i, 0] = np.float32(red) / area - _OFFSET
                out[number, row - start, i, 1] = np.float32(green) / area - _OFFSET
                out[number, row - start, i, 2] = np.float32(blue) / area - _OFFSET
    return out


@compiled
def _large(sums: np.ndarray, top: int, bottom: int, left: int, right: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """The three sums of a bin that is cut into strips of rows that fit."""
    red, green, blue = np.uint64(0), np.uint64(0), np.uint64(0)
    strip = max(_FITTING // (right - left), 1)
    for begin in range(top, bottom, strip):
        end = min(begin + strip, bottom)
        packed = sums[end, right] - sums[end, left] - sums[begin, right] + sums[begin, left]
        red += packed & _MASK
        green += (packed >> _BITS) & _MASK
        blue += packed >> _SHIFT
    return red, green, blue
