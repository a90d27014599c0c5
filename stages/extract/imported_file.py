"""Reading a file of somebody's own features: .npz or .csv, checked before anything is written."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from stages.errors import DataError
from stages.index.manifest import printable

Level = Literal["global", "frame", "face"]
"""The levels at which features can be imported."""

INDEX = {"frame": "frame_index", "face": "face_index"}
"""Level -> the column that counts a sample's rows; a file of level `global` has none."""

_NOT_AN_ARRAY = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What numpy raises for a damaged, encrypted or foreign array in a zip file."""


@dataclass(frozen=True)
class Table:
    """What a file holds: n rows.

    Attributes:
        sample_ids: n of them.
        index: (n,) int64, the file's `frame_index` or `face_index`; zeros at level `global`.
        features: (n, D) float32, finite, n and D at least 1.
        sha256: of the file's bytes, 64 hex digits.
    """

    sample_ids: list[str]
    index: np.ndarray
    features: np.ndarray
    sha256: str


def read_table(path: Path, level: Level) -> Table:
    """Read a file of features.

    `.npz`: arrays `sample_id` (n,) text, `features` (n, D) numbers, and, at the level that counts them, `frame_index`
    or `face_index` (n,) whole numbers; other arrays are left alone. `.csv`: UTF-8, commas, the same columns by name,
    and every other column a feature, in the file's order.

    Raises:
        DataError: the file cannot be read, is not of this form, is empty, or holds a value that is no finite number;
            names the file and the array, line or sample.
    """
    form = path.suffix.lower()
    if form not in {".npz", ".csv"}:
        raise DataError(f"{path}: its ending is {form!r}; use .npz or .csv")
    try:
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            handle.seek(0)
            ids, index, values = (_npz if form == ".npz" else _csv)(handle, path, level)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); name a file of features") from None
    if not len(values):
        raise DataError(f"{path}: it has no rows; a row a {'sample' if level == 'global' else level} is needed")
    if not values.shape[1]:
        raise DataError(f"{path}: its rows have no features; at least one number a row is needed")
    return Table(ids, index, _as_float32(values, ids, path), digest)


def _as_float32(values: np.ndarray, ids: list[str], path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(values, np.float32)
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"{path}: feature {column} of sample '{printable(ids[row])}' is {values[row, column]}: "
            "each must be a finite number that float32 holds"
        )
    return features


def _npz(handle: IO[bytes], path: Path, level: Level) -> tuple[list[str], np.ndarray, np.ndarray]:
    is_zip = zipfile.is_zipfile(handle)
    handle.seek(0)
    try:
        archive = np.load(handle, allow_pickle=False) if is_zip else None
    except _NOT_AN_ARRAY as error:
        raise DataError(f"{path}: not readable as .npz ({_said(error)}); write it with numpy.savez") from None
    if archive is None:
        raise DataError(f"{path}: not a zip file, which .npz is; write it with numpy.savez")
    with archive:
        _check_columns(archive.files, path, level)
        ids = _array(archive, "sample_id", path)
        features = _array(archive, "features", path)
        index = _array(archive, INDEX[level], path) if level in INDEX else np.zeros(len(features), np.int64)
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise DataError(f"{path}: sample_id is {_kind(ids)}; it must be (n,) text, as numpy.array(list of str)")
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise DataError(f"{path}: features is {_kind(features)}; it must be (n, D) numbers")
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(f"{path}: {INDEX[level]} is {_kind(index)}; it must be (n,) whole numbers")
    lengths = {len(ids), len(features), len(index)}
    if len(lengths) > 1:
        raise DataError(f"{path}: its arrays have {' and '.join(map(str, sorted(lengths)))} rows; give each row one")
    return ids.tolist(), index.astype(np.int64), features


def _array(archive: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.atleast_1d(archive[name])
    except _NOT_AN_ARRAY as error:
        raise DataError(
            f"{path}: array {name} cannot be read ({_said(error)}); write it with numpy.savez, without Python objects"
        ) from None


def _kind(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_columns(names: list[str], path: Path, level: Level) -> None:
    needed = ["sample_id", *([INDEX[level]] if level in INDEX else [])]
    if path.suffix.lower() == ".npz":
        needed.append("features")
    for name in needed:
        if name not in names:
            there = printable(", ".join(names))[:200]
            raise DataError(f"{path}: it has no {name}, which level {level} needs; it has {there or 'nothing'}")
    for other, name in INDEX.items():
        if name in names and other != level:
            raise DataError(
                f"{path}: it has {name}, which level {level} does not take; remove it, or use level {other}"
            )


def _csv(handle: IO[bytes], path: Path, level: Level) -> tuple[list[str], np.ndarray, np.ndarray]:
    try:
        text = handle.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next((row for row in reader if row), [])]
        _check_columns(header, path, level)
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}: it has the column '{printable(twice)}' more than once; rename all but one")
        at = {name: header.index(name) for name in ("sample_id", *INDEX.values()) if name in header}
        columns = [place for place in range(len(header)) if place not in at.values()]
        ids, index, rows = [], [], []
        for cells in filter(None, reader):
            where = f"{path} line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells, the header has {len(header)}; mend the line")
            ids.append(cells[at["sample_id"]])
            index.append(_whole(cells[at[INDEX[level]]], where, INDEX[level]) if level in INDEX else 0)
            rows.append(_numbers([cells[place] for place in columns], [header[place] for place in columns], where))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not csv ({error}); mend the line") from None
    features = np.stack(rows) if rows else np.empty((0, len(columns)))
    return ids, np.array(index, np.int64), features


def _whole(cell: str, where: str, name: str) -> int:
    if not cell.strip().isdecimal() or not cell.isascii() or len(cell) > 18:
        raise DataError(f"{where}: {name} is '{printable(cell)[:40]}', not a whole number from 0 on")
    return int(cell)


def _numbers(cells: list[str], names: list[str], where: str) -> np.ndarray:
    """(D,) float64."""
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            values[i] = float("nothing" if "_" in cell else cell)  # float() would take 1_000 for a thousand
        except ValueError:
            raise DataError(
                f"{where}: column '{printable(names[i])}' is '{printable(cell)[:40]}', not a number; every column "
                "but sample_id, frame_index and face_index is a feature"
            ) from None
    return values
