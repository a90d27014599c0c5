"""Reads AffectNet's annotations: lists line by line, arrays of one number without numpy's loader."""

from __future__ import annotations

import ast
import csv
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from stages.errors import DataError
from stages.index.datasets._photos import names_in
from stages.index.manifest import printable
from stages.index.tabular import delimiter_of, read_text, text_of
from stages.ledger import Ledger

COLUMNS = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks"),
    *("expression", "valence", "arousal"),
)
_WANTED = tuple(name for name in COLUMNS if name != "facial_landmarks")
_LONGEST = 4096  # bytes of a file with one number
_MAGIC = b"\x93NUMPY"
_FORM = re.compile(r"([<>|=]?)([USiuf])(\d+)")
_CODES = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f4": "f", "f8": "d"}


@dataclass(frozen=True, slots=True)
class Fields:
    """An annotation as it is written.

    Attributes:
        where: the file, and the line of a list, for messages.
        path: the photo; of a list relative to the folder of photos, of arrays below the root.
        expression, valence, arousal: numbers as text.
        box: x, y, width and height as text; empty where none is given at all.
    """

    where: str
    path: str
    expression: str
    valence: str
    arousal: str
    box: tuple[str, ...] = ()


def of_list(path: Path, place: str, ledger: Ledger) -> Iterator[Fields]:
    """Yield the rows of a list, with or without a header. Rows with another number of cells go down as `bad_row`.

    Raises:
        DataError: the file cannot be read, is empty or not csv, or its header lacks a column.
    """
    lines = _lines(path, place)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise DataError(f"{place}: {path} is empty: is the data set complete?")
    has_header = COLUMNS[0].casefold() in first.casefold()
    reader = csv.reader(chain([first], lines), delimiter=delimiter_of(first) if has_header else ",")
    try:
        header = [name.strip().casefold() for name in next(reader)] if has_header else [c.casefold() for c in COLUMNS]
        lacking = [name for name in _WANTED if name.casefold() not in header]
        if lacking:
            there = printable(", ".join(header))[:300]
            raise DataError(
                f"{place}: {path} has no column {lacking[0]!r}; expected {', '.join(_WANTED)}, found {there}"
            )
        at = [header.index(name.casefold()) for name in _WANTED]
        for cells in reader:
            where = f"{path.name} line {reader.line_num}"
            if len(cells) != len(header):
                if any(cell.strip() for cell in cells):
                    ledger.record(where, "bad_row", f"{len(cells)} cells, {len(header)} are needed")
                continue
            name, x, y, width, height, expression, valence, arousal = (cells[i].strip() for i in at)
            yield Fields(where, name, expression, valence, arousal, (x, y, width, height))
    except csv.Error as error:
        raise DataError(f"{place}: {path} line {reader.line_num} is not csv: {error}") from None


def _lines(path: Path, place: str) -> Iterator[str]:
    """The lines of a text file of any size, each decoded by itself."""
    try:
        with path.open("rb") as handle:
            if handle.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                yield from read_text(path, place).splitlines(keepends=True)
                return
            handle.seek(0)
            for line in handle:
                yield text_of(line)
    except OSError as error:
        raise DataError(f"{place}: {path} cannot be read ({error.strerror}): is the data set complete?") from None


def of_arrays(root: Path, part: str, photos: Sequence[str], ledger: Ledger) -> Iterator[Fields]:
    """Yield the annotation of each photo of a part that has one. Recorded: `no_label`, `bad_row`.

    Args:
        root: of the data set.
        part: `train_set` or `val_set`.
        photos: paths below the root.
        ledger: where photos without a readable annotation go.
    """
    folder = f"{part}/annotations"
    there = names_in(root / folder)
    for path in photos:
        stem = path.rpartition("/")[2].rpartition(".")[0]
        names = [f"{stem}_{kind}.npy" for kind in ("exp", "val", "aro")]
        if names[0] not in there:
            ledger.record(path, "no_label", f"{folder}/{names[0]} is not there")
            continue
        told = [""] * 3
        try:
            for index, name in enumerate(names):
                told[index] = _scalar(f"{root}/{folder}/{name}") if name in there else ""
        except (OSError, ValueError) as error:
            ledger.record(path, "bad_row", f"{folder}: {error}")
            continue
        yield Fields(folder, path, told[0], told[1], told[2])


def _scalar(path: str) -> str:
    """The one number of a .npy file, as text. 100,000 photos have 300,000 such files: os.open is the quickest way.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not an array of one number.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        data = os.read(handle, _LONGEST)
    finally:
        os.close(handle)
    try:
        return _number(data)
    except ValueError as error:
        raise ValueError(f"{path.rpartition('/')[2]} {error}") from None


@lru_cache(maxsize=4096)
def _number(data: bytes) -> str:
    """The one number of a .npy file's bytes; ValueError says what else they are. numpy's loader is 7 times slower."""
    if data[:6] != _MAGIC or len(data) < 12:
        raise ValueError("is not an array of numpy")
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    form = _form(data[start:end])
    if form is None:
        raise ValueError("is not an array of one number")
    order, kind, size = form
    cell = data[end : end + (size * 4 if kind == "U" else size)]
    if len(cell) != (size * 4 if kind == "U" else size):
        raise ValueError("is cut off")
    if kind == "U":
        return cell.decode("utf-32-be" if order == ">" else "utf-32-le").rstrip("\0").strip()
    if kind == "S":
        return cell.decode("ascii").rstrip("\0").strip()
    return repr(struct.unpack((">" if order == ">" else "<") + _CODES[f"{kind}{size}"], cell)[0])


@lru_cache(maxsize=256)
def _form(header: bytes) -> tuple[str, str, int] | None:
    """Byte order, kind and size of the one number that a header tells of; None for anything else."""
    try:
        told = ast.literal_eval(header.decode("latin-1").strip())
        match = _FORM.fullmatch(told["descr"])
        if match is None or told["shape"] not in ((), (1,)):
            return None
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return None
    order, kind, size = match[1], match[2], int(match[3])
    return (order, kind, size) if 0 < size <= 64 and (kind in "US" or f"{kind}{size}" in _CODES) else None
