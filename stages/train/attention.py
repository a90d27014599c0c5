"""Attention on disk: how much each face of a sample weighed, `sample_id, frame, face, weight`.

`attention/heads/HEAD-sSEED.csv` is train's, `attention/fused/NAME.csv` is fuse's.

What a head looks at beside faces (regions of a frame, frames, patches) is in `attention/heads/HEAD-sSEED.safetensors`:
for each name float16 (R, ...), a row for each frame or person, and
- `offsets`, int64 (n + 1,): the rows of sample i are those from `offsets[i]` to `offsets[i + 1]`;
- `places`, int64 (R, 2): the frame of the sample that a row is of, and which of the frame's stored faces or persons.
The metadata have `level`, `frame` or `person`, and `samples`, the ids as JSON, in that order.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from stages.tables import write_csv
from stages.train.answering import Looks
from stages.whole import whole

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


def write_looks(path: Path, sample_ids: Sequence[str], looks: Looks) -> None:
    """Write what a head looks at beside faces; the file appears whole or not at all."""
    if taken := sorted({"offsets", "places"} & set(looks.values)):
        raise ValueError(f"a head calls what it looks at {taken[0]!r}, which is a name of the file's own")
    arrays = {name: np.ascontiguousarray(values, np.float16) for name, values in looks.values.items()}
    about = {"level": looks.level, "samples": json.dumps(list(sample_ids))}
    with whole(path) as temporary:
        save_file({**arrays, "offsets": looks.offsets, "places": looks.places}, temporary, about)


def read_looks(path: Path) -> tuple[tuple[str, ...], Looks]:
    """Sample ids, and what `write_looks` wrote."""
    with safe_open(path, "numpy") as file:
        about = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    offsets, places = arrays.pop("offsets"), arrays.pop("places")
    values = {name: value.astype(np.float32) for name, value in arrays.items()}
    return tuple(json.loads(about["samples"])), Looks(about["level"], offsets, places, values)
