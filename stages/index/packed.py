"""Pictures that lie in the rows of a table, as FER2013's do: a cell of grey values from 0 to 255, in rows from the top.

Such a picture's path is `TABLE.csv#OFFSET+LENGTH`: where its cell lies in the table, in bytes. Its content is the
SHA-256 of what the cell says, not of how or where it is written, so that a table in another order holds the same
pictures. A table is read line by line: it may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stages.errors import DataError, MediaError
from stages.index.contents import Content
from stages.index.manifest import printable
from stages.index.tabular import text_of
from stages.ledger import Ledger

if TYPE_CHECKING:
    from PIL import Image

_PLACE = re.compile(r"(.+\.csv)#(0|[1-9][0-9]{0,15})\+([1-9][0-9]{0,15})", re.DOTALL)
_LONGEST = 1 << 20  # bytes of a line, or of a cell
_GREY = re.compile(rb"[01]?[0-9]?[0-9]|2[0-4][0-9]|25[0-5]")
_AROUND = b' \t"'  # of a cell


@dataclass(frozen=True)
class Place:
    """Where a packed picture lies.

    Attributes:
        table: the path of the table, as in the picture's path.
        offset: of the first byte of the cell.
        length: bytes of the cell.
    """

    table: str
    offset: int
    length: int

    @property
    def path(self) -> str:
        """As `place_of` reads it."""
        return f"{self.table}#{self.offset}+{self.length}"


@dataclass(frozen=True)
class PackedRow:
    """A row of a table of pictures.

    Attributes:
        line: of the file, from 1; the header's is 1.
        where: the file's name and the line, for messages.
        cells: column -> cell without blanks and quotes around it, of the columns that were asked for.
        offset, length: of the cell with the picture, see `Place`; without blanks and quotes around it.
    """

    line: int
    where: str
    cells: dict[str, str]
    offset: int
    length: int


def place_of(path: str) -> Place | None:
    """The place that a sample's path names; None for the path of a file."""
    if "#" not in path or (match := _PLACE.fullmatch(path)) is None:
        return None
    return Place(match[1], int(match[2]), int(match[3]))


def contents(paths: Sequence[str]) -> Iterator[Content | MediaError]:
    """Yield each packed picture's content, in the order given; for one that cannot be read the error, not raised.

    A table is opened once for all of its pictures that follow each other. Nothing is remembered.

    Args:
        paths: see `Place.path`, absolute or from the working folder.

    Yields:
        Content: the SHA-256 of the picture; `size` is that of its cell.
        MediaError: `missing`, `permission`, `not_a_file` or `unreadable` of the table; `truncated` of a cell with too
            few numbers or that reaches over the table's end; `decode_error` of one that holds other things than grey
            values. The detail names the path.

    Raises:
        ValueError: a path is that of a file.
    """
    for table, places in groupby(map(_required, paths), key=lambda place: place.table):
        try:
            handle = _opened(Path(table))
        except MediaError as error:
            yield from (MediaError(error.reason, f"{place.path}: {error.detail}") for place in places)
            continue
        with handle:
            yield from (_content(handle, place) for place in places)


def _required(path: str) -> Place:
    if (place := place_of(path)) is None:
        raise ValueError(f"{path} is not the place of a packed picture")
    return place


def _content(handle: BinaryIO, place: Place) -> Content | MediaError:
    try:
        return Content(_digest(*_pixels(_cell(handle, place))), place.length)
    except MediaError as error:
        return MediaError(error.reason, f"{place.path}: {error.detail}")


def open_packed(images: Path, place: Place, content: str) -> Image.Image:
    """A packed picture.

    Args:
        images: the folder that a relative path of the table starts from.
        place: where it lies.
        content: what it was when it was indexed.

    Returns:
        RGB, the three channels alike.

    Raises:
        MediaError: `missing`, `permission` or `unreadable` of the table; `changed`: the picture of that content is not
            at that place any more. The detail names the path.
    """
    from PIL import Image  # here: index opens no picture

    try:
        with _opened(images / place.table) as handle:
            side, pixels = _pixels(_cell(handle, place))
            found = _digest(side, pixels)
    except MediaError as error:
        if error.reason not in ("truncated", "decode_error"):
            reason = "unreadable" if error.reason == "not_a_file" else error.reason
            raise MediaError(reason, f"{place.path}: {error.detail}") from None
        found, side, pixels = "", 0, b""
    if found != content:
        raise MediaError("changed", f"{place.path} changed since it was indexed; run kuleshov index")
    return Image.frombytes("L", (side, side), pixels).convert("RGB")


def read_packed(
    path: Path, place: str, columns: Sequence[str], ledger: Ledger, picture: str = "pixels"
) -> Iterator[PackedRow]:
    """Yield the rows of a table of pictures, one line each, parted by commas. No picture is decoded.

    Rows with too few or too many cells, or without a picture, are recorded as `bad_row`, under the file's name and the
    line.

    Args:
        path: the table; UTF-8 or Windows' Latin, with or without a BOM, CRLF or LF.
        place: where params.yaml names the data set, for messages.
        columns: those to tell; capitals and blanks around a name do not count.
        ledger: where bad rows go.
        picture: the column with the grey values.

    Raises:
        DataError: the file cannot be read, has no header, lacks a column, or has a line that is longer than a picture.
    """
    try:
        with open(path, "rb") as handle:
            header, at = _header(handle, path, place)
            wanted = {name: _index(header, name, path, place) for name in columns}
            cell = _index(header, picture, path, place)
            line = 1
            while raw := handle.readline(_LONGEST):
                line, offset, at = line + 1, at, at + len(raw)
                where = f"{path.name} line {line}"
                if len(raw) == _LONGEST:
                    raise DataError(f"{place}: {where} of {path} has more than {_LONGEST} bytes: no table of pictures")
                cells = raw.rstrip(b"\r\n").split(b",")
                if len(cells) == 1 and not cells[0].strip():
                    continue
                if len(cells) != len(header):
                    ledger.record(where, "bad_row", f"{len(cells)} cells, the header has {len(header)}")
                    continue
                inner = cells[cell].strip(_AROUND)
                if not inner:
                    ledger.record(where, "bad_row", f"no {picture}")
                    continue
                offset += sum(map(len, cells[:cell])) + cell + cells[cell].index(inner)
                yield PackedRow(
                    *(line, where, {name: text_of(cells[i].strip(_AROUND)).strip() for name, i in wanted.items()}),
                    *(offset, len(inner)),
                )
    except OSError as error:
        raise DataError(f"{place}: {path} cannot be read ({error.strerror}): is the data set complete?") from None


def _header(handle: BinaryIO, path: Path, place: str) -> tuple[list[str], int]:
    """The names of the columns in lower case, and where the first row begins."""
    raw = handle.readline(_LONGEST)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{place}: {path} is UTF-16: write it as UTF-8")
    if not raw.strip():
        raise DataError(f"{place}: {path} is empty or begins with an empty line: a header is needed")
    return [name.strip(' \t\r\n"').casefold() for name in text_of(raw).split(",")], len(raw)


def _index(header: list[str], name: str, path: Path, place: str) -> int:
    if (count := header.count(name.casefold())) != 1:
        there = printable(", ".join(header))[:300]
        found = f"has the column {name!r} {count} times" if count else f"has no column {name!r}"
        raise DataError(f"{place}: {path} {found}; found {there}")
    return header.index(name.casefold())


def _opened(table: Path) -> BinaryIO:
    try:
        if table.exists() and not table.is_file():  # opening a pipe would wait for ever
            raise MediaError("not_a_file", "the table is not a file")
        return open(table, "rb")
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path that no file can have
        raise MediaError("missing", "the table is not there") from None
    except PermissionError:
        raise MediaError("permission", "the table may not be read by this user") from None
    except OSError as error:
        raise MediaError("unreadable", f"the table: {error.strerror or error}") from None


def _cell(handle: BinaryIO, place: Place) -> bytes:
    if place.length > _LONGEST:
        raise MediaError("decode_error", f"a cell has at most {_LONGEST} bytes")
    try:
        handle.seek(place.offset)
        cell = handle.read(place.length)
    except OSError as error:
        raise MediaError("unreadable", f"the table: {error.strerror or error}") from None
    if len(cell) != place.length:
        raise MediaError("truncated", "the table ends before the picture does")
    return cell


def _pixels(cell: bytes) -> tuple[int, bytes]:
    """The side of the square picture, px, and its grey values, row by row.

    Raises:
        MediaError: `truncated`: not as many numbers as a square has; `decode_error`: not all are grey values.
    """
    pixels = _greys(cell)
    side = isqrt(len(pixels))
    if not pixels or side * side != len(pixels):
        raise MediaError("truncated", f"{len(pixels)} grey values do not fill a square")
    return side, pixels


def _greys(cell: bytes) -> bytes:
    """The numbers of a cell, each of one to three digits; a third of the time that int() takes."""
    import numpy as np  # here: index needs none for files

    text = np.frombuffer(b"   %b " % cell, np.uint8)
    digits = text - 48  # of other signs 10 or more
    is_digit = digits < 10
    last = np.flatnonzero(is_digit[:-1] & ~is_digit[1:])
    tens = is_digit[last - 1]
    hundreds = tens & is_digit[last - 2]
    values = digits[last].astype(np.uint16)
    values += digits[last - 1] * tens.astype(np.uint16) * np.uint16(10)
    values += digits[last - 2] * hundreds.astype(np.uint16) * np.uint16(100)
    is_long = hundreds & is_digit[last - 3]
    if not (is_digit | (text == 32)).all() or is_long.any() or values.max(initial=0) > 255:
        first = next(one for one in cell.split(b" ") if one and _GREY.fullmatch(one) is None)
        raise MediaError("decode_error", f"{printable(text_of(first))[:40]!r} is not a grey value from 0 to 255")
    return values.astype(np.uint8).tobytes()


def _digest(side: int, pixels: bytes) -> str:
    return hashlib.sha256(f"grey uint8 {side} {side}\n".encode() + pixels).hexdigest()
