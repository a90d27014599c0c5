"""What `preprocess` does to RGB pixels, compiled by numba: 10 times as fast, the same bits. Imports numba."""

from __future__ import annotations

import numpy as np

from stages.loops import compiled


@compiled
def planes(pixels: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Look up each value, and put one channel after the other.

    Args:
        pixels: uint8 (B, H, W, 3).
        levels: float32 (3, 256): what becomes of each value of a channel.

    Returns:
        float32 (B, 3, H, W).
    """
    rows, height, width, _ = pixels.shape
    out = np.empty((rows, 3, height, width), np.float32)
    for row in range(rows):
        for y in range(height):
            for x in range(width):
                out[row, 0, y, x] = levels[0, pixels[row, y, x, 0]]
                out[row, 1, y, x] = levels[1, pixels[row, y, x, 1]]
                out[row, 2, y, x] = levels[2, pixels[row, y, x, 2]]
    return out
