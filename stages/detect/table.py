"""detections.csv: every face of every photo, for people and for the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.detect.faces import LANDMARKS
from stages.detect.run import Detections
from stages.tables import write_csv

COLUMNS = (
    *("sample_id", "frame", "face", "x1", "y1", "x2", "y2", "score"),
    *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"),
)


def write_table(path: Path, detections: Detections) -> None:
    """Write the table, sorted by sample_id; px to a hundredth, an empty cell where there is no score or landmark."""
    write_csv(path, COLUMNS, _rows(detections))


def _rows(detections: Detections) -> Iterator[tuple[object, ...]]:
    for sample_id in sorted(detections.items):
        faces = detections.faces(sample_id)
        for i in range(len(faces)):
            box, points = (_cells(part[i].reshape(-1), 2) for part in (faces.boxes, faces.landmarks))
            yield (sample_id, 0, i, *box, *_cells(faces.scores[i : i + 1], 6), *points)


def _cells(values: np.ndarray, digits: int) -> list[str]:
    return ["" if np.isnan(value) else f"{float(value):.{digits}f}" for value in values]
