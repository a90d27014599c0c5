"""Attention on disk: how much each face of a sample weighed, `sample_id, frame, face, weight`.

`attention/heads/HEAD-sSEED.csv` is train's, `attention/fused/NAME.csv` is fuse's.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.tables import write_csv

COLUMNS = ("sample_id", "frame", "face", "weight")

Row = tuple[str, int, int, float]
"""sample_id, frame, face in stored order, weight in [0, 1]."""


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows in the order given, weights to six digits; the file appears whole or not at all."""
    write_csv(path, COLUMNS, ((sample_id, frame, face, f"{weight:.6g}") for sample_id, frame, face, weight in rows))


def read(path: Path) -> list[Row]:
    """What `write` wrote."""
    with open(path, newline="", encoding="utf-8") as handle:
        return [(r["sample_id"], int(r["frame"]), int(r["face"]), float(r["weight"])) for r in csv.DictReader(handle)]


def mean_of(members: Sequence[Iterable[Row]], weights: Sequence[float]) -> list[Row]:
    """The members' attention averaged with weights that sum to 1; a face that a member left out weighs 0 there."""
    total: dict[tuple[str, int, int], float] = defaultdict(float)
    for rows, share in zip(members, weights, strict=True):
        for sample_id, frame, face, weight in rows:
            total[sample_id, frame, face] += share * weight
    return [(*key, total[key]) for key in sorted(total)]
