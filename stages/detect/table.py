"""detections.csv: every face of every photo and of the chosen frames of clips, for people and for the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.detect.faces import LANDMARKS
from stages.detect.run import Detections
from stages.tables import write_csv

COLUMNS = (
    *("sample_id", "frame", "time_s", "face", "track", "x1", "y1", "x2", "y2", "score"),
    *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"),
)


def write_table(path: Path, detections: Detections) -> None:
    """Write the table, sorted by sample_id; px to a hundredth, an empty cell where there is no score or landmark.

    `time_s` (s, of presentation) and `track` (who a face is through time) are a clip's; a photo leaves them empty.
    """
    write_csv(path, COLUMNS, _rows(detections))


def _rows(detections: Detections) -> Iterator[tuple[object, ...]]:
    for sample_id in sorted(detections.items):
        faces, times = detections.faces(sample_id), detections.times.get(sample_id)
        # a photo is one frame: there are many
        places = [(0, i) for i in range(len(faces))] if times is None else detections.places(sample_id).tolist()
        tracks = [] if times is None else detections.tracks(sample_id).tolist()
        for i, (frame, face) in enumerate(places):
            box, points = (_cells(part[i].reshape(-1), 2) for part in (faces.boxes, faces.landmarks))
            time_s, track = ("", "") if times is None else (f"{times[frame] / 1e6:.6f}", tracks[i])
            yield (sample_id, frame, time_s, face, track, *box, *_cells(faces.scores[i : i + 1], 6), *points)


def _cells(values: np.ndarray, digits: int) -> list[str]:
    return ["" if np.isnan(value) else f"{float(value):.{digits}f}" for value in values]
