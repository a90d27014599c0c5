"""Arithmetic of reading: neighbouring items as one run, and rows of many items padded side by side."""

from __future__ import annotations

import numpy as np


def join_runs(places: np.ndarray, counts: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Items without rows left out, and items that follow each other in store and request made one.

    Args:
        places: (n,) int64, where each item's rows start.
        counts: (n,) int64, how many it has.
        step: distance of two rows of an item.

    Returns:
        places and counts of the runs, in the order asked for.
    """
    if not counts.all():
        places, counts = places[counts > 0], counts[counts > 0]
    new = places[1:] != places[:-1] + counts[:-1] * step
    if new.all():
        return places, counts
    first = np.flatnonzero(np.concatenate([[True], new]))
    return places[first], np.add.reduceat(counts, first)


def pad(rows: np.ndarray, offsets: np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of B items side by side: values (B, N, ...), zero where padded, and mask (B, N) bool, True = a real row.

    Args:
        rows: (R, ...), the items one after another.
        offsets: (B + 1,) int64 into `rows`.
        width: N; by default the most rows of any item, at least 1. Of an item with more, the first N are kept.

    Raises:
        ValueError: width is below 1.
    """
    counts = np.diff(offsets)
    if width is None:
        width = max(int(counts.max(initial=0)), 1)
    if width < 1:
        raise ValueError(f"width is {width}: a batch is at least 1 row wide")
    column = np.arange(width)
    mask = column < counts[:, None]  # (B, N)
    values = np.zeros((len(counts), width, *rows.shape[1:]), rows.dtype)
    if len(counts) and int(counts.max()) > width:
        rows = rows[(offsets[:-1, None] + column)[mask]]
    values[mask] = rows
    return values, mask
