"""Tables for people and for DVC: one way to write a CSV file, so that equal rows are equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.whole import whole


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows in the order given: UTF-8, `\\n` line ends, None as an empty cell, floats in their shortest form.

    The file appears whole or not at all; its folder is made.
    """
    with whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
