"""Predictions on disk: what `train` and `fuse` write, and `evaluate` and `report` read.

One CSV file per trained member: `predictions/heads/HEAD-sSEED.csv` and `predictions/fused/NAME.csv`. The columns are
`sample_id, split, label`, then one per class, in the order in which the head answers. `label` is empty (predicted,
not scored) or several joined by `;`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.errors import DataError, MissingInputError
from stages.tables import write_csv

COLUMNS = ("sample_id", "split", "label")
TOLERANCE = 1e-3
"""How far from one a row's probabilities may sum: rounding to 7 digits stays far below it, logits do not."""

Kind = Literal["head", "fused"]
_FOLDERS: dict[str, Kind] = {"heads": "head", "fused": "fused"}
_COMMANDS: dict[Kind, str] = {"head": "kuleshov train", "fused": "kuleshov fuse"}
_HEAD_NAME = re.compile(r"^(?P<head>.+)-s(?P<seed>\d+)$")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The class probabilities of one trained head (one seed) or of one ensemble.

    Attributes:
        name: the file's name without `.csv`; for a head `HEAD-sSEED`.
        kind: `"head"` or `"fused"`.
        head: the head's name without its seed; an ensemble's own name.
        seed: the seed a head was trained with (0 or more); None for an ensemble.
        sample_ids: n distinct ids.
        splits: n words, such as `train`, `val`, `test`.
        labels: n tuples; empty for an unlabelled sample.
        classes: k distinct names, the columns of `probabilities`.
        probabilities: float64 (n, k), each row non-negative and summing to 1 within `TOLERANCE`.

    Raises:
        DataError: for anything that is not as said above, naming the first sample concerned.
    """

    name: str
    kind: Kind
    head: str
    seed: int | None
    sample_ids: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        problem = _shape_problem(self) or _name_problem(self) or _value_problem(self)
        if problem is not None:
            raise DataError(f"predictions {self.name!r}: {problem}; run `{_COMMANDS[self.kind]}` again")

    def __len__(self) -> int:
        return len(self.sample_ids)


def _shape_problem(p: Predictions) -> str | None:
    n, k = len(p.sample_ids), len(p.classes)
    if p.probabilities.dtype != np.float64 or p.probabilities.shape != (n, k):
        return f"probabilities are {p.probabilities.dtype} {p.probabilities.shape}, expected float64 {(n, k)}"
    if len(p.splits) != n or len(p.labels) != n:
        return f"{n} sample ids, but {len(p.splits)} splits and {len(p.labels)} labels"
    return None


def _name_problem(p: Predictions) -> str | None:
    if not p.classes:
        return "no class column after sample_id, split, label"
    for name in p.classes:
        if not name or ";" in name:
            return f"class name {name!r} is empty or has a ';'"
    for what, names in (("class", p.classes), ("sample_id", p.sample_ids)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            return f"{what} {twice[0]!r} occurs more than once ({len(twice)} such)"
    return None


def _value_problem(p: Predictions) -> str | None:
    sums = p.probabilities.sum(axis=1)
    for bad, what in (
        (~np.isfinite(p.probabilities).all(axis=1), "has a probability that is NaN or infinite"),
        ((p.probabilities < 0).any(axis=1), "has a negative probability"),
        (np.abs(sums - 1) > TOLERANCE, "has probabilities that do not sum to 1"),
    ):
        rows = np.flatnonzero(bad)
        if rows.size:
            first = rows[0]
            total = f" (sum {sums[first]:.6g})" if what.endswith("1") else ""
            return f"sample {p.sample_ids[first]!r} {what}{total}, as do {rows.size - 1} more"
    return None


def split_name(name: str, kind: Kind) -> tuple[str, int | None]:
    """`gupta_c-s0` of kind `head` -> (`gupta_c`, 0); an ensemble's name -> (name, None).

    Raises:
        DataError: a head's name that does not end in `-sSEED`.
    """
    if kind == "fused":
        return name, None
    match = _HEAD_NAME.match(name)
    if match is None:
        raise DataError(f"predictions {name!r}: a head's file is named HEAD-sSEED.csv, such as gupta_c-s0.csv")
    return match["head"], int(match["seed"])


def write(path: Path, predictions: Predictions) -> None:
    """Write predictions as CSV: equal predictions are equal bytes.

    Rows are sorted by sample_id. A probability is rounded to 7 significant digits (float32 has no more) and written
    in the shortest form that reads back as that number. The file appears whole or not at all.
    """
    write_csv(path, (*COLUMNS, *predictions.classes), _rows(predictions))


def _rows(predictions: Predictions) -> Iterator[tuple[str, ...]]:
    for i in sorted(range(len(predictions)), key=predictions.sample_ids.__getitem__):
        values = (repr(float(f"{value:.7g}") + 0.0) for value in predictions.probabilities[i].tolist())
        yield (predictions.sample_ids[i], predictions.splits[i], ";".join(predictions.labels[i]), *values)


def read(path: Path, kind: Kind | None = None) -> Predictions:
    """Read what `write` wrote.

    Args:
        path: `.../heads/HEAD-sSEED.csv` or `.../fused/NAME.csv`.
        kind: taken from the folder's name (`heads`, `fused`) when None.

    Raises:
        MissingInputError: no such file.
        DataError: a foreign or damaged file: missing columns, not a number, NaN, rows that do not sum to 1, a
            sample_id twice, a name without a seed.
    """
    if kind is None:
        kind = _FOLDERS.get(path.parent.name)
    if kind is None:
        raise DataError(f"{path}: predictions lie in a folder named heads or fused; move the file there")
    if not path.is_file():
        raise MissingInputError(f"{path} is not there: run `{_COMMANDS[kind]}` first")
    head, seed = split_name(path.stem, kind)
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            classes, rows, values = _parse(csv.reader(handle))
        return Predictions(
            name=path.stem,
            kind=kind,
            head=head,
            seed=seed,
            sample_ids=tuple(row[0] for row in rows),
            splits=tuple(row[1] for row in rows),
            labels=tuple(tuple(part for part in row[2].split(";") if part) for row in rows),
            classes=classes,
            probabilities=np.array(values, dtype=np.float64).reshape(len(rows), len(classes)),
        )
    except (DataError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {error}") from error


def _parse(lines: Iterable[list[str]]) -> tuple[tuple[str, ...], list[list[str]], list[list[float]]]:
    """The classes, the text columns and the numbers of a file. Columns go by place: a class may be named `label`."""
    iterator = iter(lines)
    header = next(iterator, [])
    missing = [name for name, found in zip(COLUMNS, [*header, "", "", ""], strict=False) if name != found]
    if missing:
        raise DataError(f"the header is {','.join(header)!r}, expected sample_id,split,label, then the classes")
    texts: list[list[str]] = []
    values: list[list[float]] = []
    for line, row in enumerate(iterator, start=2):
        if len(row) != len(header):
            raise DataError(f"row {line} has {len(row)} columns, the header {len(header)}")
        try:
            numbers = [float(cell) for cell in row[3:]]
        except ValueError as error:
            raise DataError(f"row {line} (sample {row[0]!r}): {error}") from None
        texts.append(row[:3])
        values.append(numbers)
    return tuple(header[3:]), texts, values


def read_all(folder: Path) -> list[Predictions]:
    """Read every file of `folder/heads` and `folder/fused`: heads by name and seed, then ensembles by name.

    Raises:
        MissingInputError: neither folder has a file.
        DataError: as `read`.
    """
    members = [read(path) for name in _FOLDERS for path in (folder / name).glob("*.csv")]
    if not members:
        raise MissingInputError(f"{folder} has no predictions: run `kuleshov train` first")
    return sorted(members, key=lambda p: (p.kind != "head", p.head, -1 if p.seed is None else p.seed))
