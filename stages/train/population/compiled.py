"""Loops that numba compiles: steps of optimisers in one pass over memory, and sums over each sample's faces.

Not imported without numba; see `optimisers.py` and `segments.py`, whose other ways differ by rounding. Numbers are
float32, arrays C-contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """As `stages.loops.compiled`, but division by zero gives inf as in numpy: its check would keep loops scalar."""
    # sums may be taken in another order, or they would be scalar as well
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    try:
        return numba.njit(cache=True, **options)(function)  # pyright: ignore[reportReturnType] - called as it is
    except RuntimeError:  # no folder that may be written to
        return numba.njit(**options)(function)  # pyright: ignore[reportReturnType] - called as it is


@_compiled
def adam(
    flat: np.ndarray,
    gradient: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    starts: np.ndarray,
    rates: np.ndarray,
    decays: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """See `optimisers.Adam`. `numbers`: beta 1, beta 2, 1 - beta 1, 1 - beta 2, the two corrections, epsilon."""
    beta2, new1, new2, first, second, epsilon = numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    members = len(rates)
    for part in range(len(starts) - 1):
        length = (starts[part + 1] - starts[part]) // members
        for member in range(members):
            begin = starts[part] + member * length
            end = begin + length
            values, grads, means, squares = flat[begin:end], gradient[begin:end], mean[begin:end], square[begin:end]
            rate, decay = rates[member] / first, decays[member]
            for i in range(length):
                slope = grads[i] + decay * values[i]
                moved = means[i] + new1 * (slope - means[i])
                spread = beta2 * squares[i] + new2 * slope * slope
                means[i], squares[i] = moved, spread
                values[i] -= rate * moved / (np.sqrt(spread) / second + epsilon)


@_compiled
def sgd(
    flat: np.ndarray,
    gradient: np.ndarray,
    velocity: np.ndarray,
    starts: np.ndarray,
    rates: np.ndarray,
    decays: np.ndarray,
    momentum: np.float32,
) -> None:
    """See `optimisers.Sgd`."""
    members = len(rates)
    for part in range(len(starts) - 1):
        length = (starts[part + 1] - starts[part]) // members
        for member in range(members):
            begin = starts[part] + member * length
            end = begin + length
            values, grads, speeds = flat[begin:end], gradient[begin:end], velocity[begin:end]
            rate, decay = rates[member], decays[member]
            for i in range(length):
                speed = momentum * speeds[i] + grads[i] + decay * values[i]
                speeds[i] = speed
                values[i] -= rate * speed


@_compiled
def pooled(rows: np.ndarray, weights: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """See `segments.Segments`."""
    for member in range(counts.shape[0]):
        face = 0
        for sample in range(counts.shape[1]):
            total = out[member, sample]
            total[:] = 0
            for _ in range(counts[member, sample]):
                weight, row = weights[member, face, 0], rows[member, face]
                for i in range(len(total)):
                    total[i] += weight * row[i]
                face += 1


@_compiled
def spread(samples: np.ndarray, weights: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """See `segments.Segments`."""
    for member in range(counts.shape[0]):
        face = 0
        for sample in range(counts.shape[1]):
            row = samples[member, sample]
            for _ in range(counts[member, sample]):
                weight, place = weights[member, face, 0], out[member, face]
                for i in range(len(row)):
                    place[i] = weight * row[i]
                face += 1
        out[member, face:] = 0


@_compiled
def plus(rows: np.ndarray, samples: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """See `segments.Segments`."""
    for member in range(counts.shape[0]):
        face = 0
        for sample in range(counts.shape[1]):
            other = samples[member, sample]
            for _ in range(counts[member, sample]):
                row, place = rows[member, face], out[member, face]
                for i in range(len(row)):
                    place[i] = row[i] + other[i]
                face += 1
        out[member, face:] = 0


@_compiled
def dots(rows: np.ndarray, samples: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """See `segments.Segments`."""
    for member in range(counts.shape[0]):
        face = 0
        for sample in range(counts.shape[1]):
            other = samples[member, sample]
            for _ in range(counts[member, sample]):
                row, total = rows[member, face], np.float32(0)
                for i in range(len(row)):
                    total += row[i] * other[i]
                out[member, face, 0] = total
                face += 1
        out[member, face:] = 0


@_compiled
def softmax(scores: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """See `segments.Segments`."""
    for member in range(counts.shape[0]):
        face = 0
        for sample in range(counts.shape[1]):
            end = face + counts[member, sample]
            if end > face:
                most = scores[member, face, 0]
                for i in range(face + 1, end):
                    most = max(most, scores[member, i, 0])
                total = np.float32(0)
                for i in range(face, end):
                    out[member, i, 0] = np.exp(scores[member, i, 0] - most)
                    total += out[member, i, 0]
                for i in range(face, end):
                    out[member, i, 0] /= total
            face = end
        out[member, face:] = 0


@_compiled
def softmax_back(weights: np.ndarray, gradient: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """See `segments.Segments`."""
    for member in range(counts.shape[0]):
        face = 0
        for sample in range(counts.shape[1]):
            end = face + counts[member, sample]
            along = np.float32(0)
            for i in range(face, end):
                along += weights[member, i, 0] * gradient[member, i, 0]
            for i in range(face, end):
                out[member, i, 0] = weights[member, i, 0] * (gradient[member, i, 0] - along)
            face = end
        out[member, face:] = 0
