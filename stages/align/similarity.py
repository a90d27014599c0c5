"""The similarity transform that fits points best: rotation, one scale, translation (Umeyama 1991, eqs. 34-43)."""

from __future__ import annotations

import numpy as np


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Least-squares similarity from `source` to `target` points, without reflection.

    Args:
        source, target: (n, 2) float, n >= 2.

    Returns:
        (2, 3) float64 matrix M with target ~ M[:, :2] @ source + M[:, 2]; None where the source points coincide, where
        points are not finite, and where no scale above 0 fits (the target is the mirrored source).
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        return None
    mean_s, mean_t = source.mean(0), target.mean(0)
    centred_s, centred_t = source - mean_s, target - mean_t
    variance = (centred_s**2).sum() / len(source)
    if variance < 1e-8:
        return None
    u, singular, vt = np.linalg.svd(centred_t.T @ centred_s / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / variance
    if scale <= 0:
        return None
    linear = scale * rotation
    return np.column_stack([linear, mean_t - linear @ mean_s])


def fit_box(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The affine map of a box (x1, y1, x2, y2) onto a crop of `size` (height, width): (2, 3) float64."""
    x1, y1, x2, y2 = (float(v) for v in box)
    scale_x, scale_y = size[1] / max(x2 - x1, 1e-6), size[0] / max(y2 - y1, 1e-6)
    return np.array([[scale_x, 0, -x1 * scale_x], [0, scale_y, -y1 * scale_y]])
