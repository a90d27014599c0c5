"""Tables as people's programs write them: with a BOM or without, CRLF, commas, semicolons or tabs, other encodings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import DataError
from stages.index.manifest import printable
from stages.ledger import Ledger

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        where: the file's name and the line, for messages.
        cells: column -> cell without blanks around it, of the columns that were asked for and are there.
    """

    where: str
    cells: dict[str, str]


def text_of(data: bytes) -> str:
    """A text file's content: UTF-8 with or without a BOM, UTF-16 with one, else Windows' Latin."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # what spreadsheets call "Unicode text"
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "cp1252"):  # cp1252 is latin-1 with quotes and dashes in place of control characters
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def delimiter_of(text: str) -> str:
    """The delimiter that the header line holds most of, outside quotes; the comma where it holds none."""
    header = re.sub('"[^"]*"', "", text.strip("\r\n").partition("\n")[0])
    return max(_DELIMITERS, key=header.count)  # max keeps the first of equals


def read_text(path: Path, place: str) -> str:
    """A text file of a data set.

    Args:
        place: where params.yaml names the data set, for messages.

    Raises:
        DataError: it is not there, cannot be read, or holds nothing.
    """
    try:
        text = text_of(path.read_bytes())
    except OSError as error:
        raise DataError(f"{place}: {path} cannot be read ({error.strerror}): is the data set complete?") from None
    if not text.strip():
        raise DataError(f"{place}: {path} is empty: is the data set complete?")
    return text


def read_rows(
    path: Path, place: str, required: Sequence[str], ledger: Ledger, optional: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of a table with a header. Rows with too few or too many cells are recorded as `bad_row`.

    Args:
        path: the table.
        place: where params.yaml names the data set, for messages.
        required: columns that must be there, by name; capitals do not count.
        ledger: where bad rows go, under the file's name and the line.
        optional: columns that may be there.

    Raises:
        DataError: the file cannot be read or is not csv, or a column is not there, or twice; says which there are.
    """
    text = read_text(path, place)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), skipinitialspace=True)
    try:
        header = [name.strip() for name in next((row for row in reader if row), [])]
        places = _places(header, path, place, required, optional)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path.name} line {reader.line_num}"
            if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                ledger.record(where, "bad_row", f"{len(cells)} cells, the header has {len(header)}")
                continue
            yield Row(where, {name: cells[at].strip() for name, at in places.items()})
    except csv.Error as error:
        raise DataError(f"{place}: {path} line {reader.line_num} is not csv: {error}") from None


def _places(
    header: list[str], path: Path, place: str, required: Sequence[str], optional: Sequence[str]
) -> dict[str, int]:
    """Column -> its index."""
    plain = [name.casefold() for name in header]
    places = {}
    for name in (*required, *optional):
        count = plain.count(name.casefold())
        if count > 1:
            raise DataError(f"{place}: {path} has the column {name!r} {count} times: rename all but one")
        if count:
            places[name] = plain.index(name.casefold())
        elif name in required:
            there = printable(", ".join(header))[:300]
            raise DataError(f"{place}: {path} has no column {name!r}; expected {', '.join(required)}, found {there}")
    return places
