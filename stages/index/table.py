"""Adapter `csv`: a table with one row per photo, or per box of a photo.

Columns: `path` and `label`, and optionally `sample_id`, `split`, `group`, `subset`, `x1`, `y1`, `x2`, `y2` (px of the
upright photo), `box_kind` (face, which is the default, or person). Rows that share a sample_id are one sample with
several boxes; without that column the path is the sample_id. Several labels are parted by `;`, no label means
unlabelled. A backslash in a path is read as `/`. Cells are stripped of blanks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from stages.errors import DataError, SettingError
from stages.index.manifest import BOX_KINDS, LABEL_SEPARATOR, Box, box_problem, is_unwritable, printable
from stages.index.options import NoOptions, options_of
from stages.index.raw import Corpus, RawSample, Source, media_of, split_of
from stages.index.tabular import delimiter_of, text_of
from stages.ledger import Ledger

REQUIRED = ("path", "label")
CORNERS = ("x1", "y1", "x2", "y2")
OURS = (*REQUIRED, "sample_id", "split", "group", "subset", *CORNERS, "box_kind")


class _BadRow(Exception):
    def __init__(self, sample_id: str, reason: str, detail: str) -> None:
        super().__init__(sample_id, reason, detail)
        self.sample_id, self.reason, self.detail = sample_id, reason, detail


@dataclass
class _Merged:
    """What the rows of one sample_id have come to so far."""

    sample: RawSample
    boxes: list[Box]


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read the table at `source.root`.

    Rows that repeat an earlier one are counted and dropped. Recorded in the ledger, by sample_id: `bad_row` (too many
    or too few cells), `no_path`, `bad_name` (a control character), `bad_split`, `bad_box`, `contradictory` (rows of
    one sample_id that disagree).

    Raises:
        SettingError: `columns` names what is not a column of ours, or a column that the file does not have; an
            option is given.
        DataError: the file is missing, empty, has no rows, or is not a table.
    """
    options_of(source, NoOptions)
    unknown = sorted(set(source.columns) - set(OURS))
    if unknown:
        raise SettingError(f"{source.place}.columns has {unknown[0]!r}: the columns to map are {', '.join(OURS)}")
    text = _decode(source)
    merged: dict[str, _Merged] = {}
    repeated = 0
    for row in _rows(text, source, ledger):
        known = merged.setdefault(row.sample_id, _Merged(row, []))
        if differs := _difference(known.sample, row):
            ledger.record(row.sample_id, "contradictory", f"rows of one sample disagree: {differs}")
        elif known.sample is not row and all(box in known.boxes for box in row.boxes):
            repeated += 1
        known.boxes.extend(box for box in row.boxes if box not in known.boxes)
    if not merged and not len(ledger):
        raise DataError(f"{source.root} has a header and no rows: there is nothing to index")
    kept = (replace(m.sample, boxes=tuple(m.boxes)) for name, m in merged.items() if name not in ledger)
    return Corpus(tuple(kept), source.images or source.root.parent, repeated)


def _decode(source: Source) -> str:
    path = source.root
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{source.place}.root {path} is not there: give the csv file") from None
    except OSError as error:
        raise DataError(f"{source.place}.root {path} cannot be read ({error.strerror}): give the csv file") from None
    text = text_of(data)
    if not text.strip():
        raise DataError(f"{path} is empty: a header line with {' and '.join(REQUIRED)} is needed")
    return text


def _rows(text: str, source: Source, ledger: Ledger) -> Iterator[RawSample]:
    """Yield one sample per readable row, with at most one box."""
    path = source.root
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), skipinitialspace=True)
    try:
        header = [name.strip() for name in next((row for row in reader if row), [])]
        places = _places(header, source)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path.name} line {reader.line_num}"
            try:
                if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                    raise _BadRow(where, "bad_row", f"{len(cells)} cells, the header has {len(header)}")
                yield _sample({ours: cells[place].strip() for ours, place in places.items()}, where)
            except _BadRow as bad:
                ledger.record(printable(bad.sample_id), bad.reason, f"{where}: {bad.detail}")
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not csv: {error}") from None


def _places(header: list[str], source: Source) -> dict[str, int]:
    """Our column name -> its index in the file, for the columns that the file has and that are wanted."""
    columns, path = source.columns, source.root
    asked = {ours: columns.get(ours, ours) for ours in OURS if ours in columns or ours in REQUIRED or ours in header}
    if any(corner in asked for corner in CORNERS):
        asked |= {corner: columns.get(corner, corner) for corner in CORNERS}
    if not source.splits:
        asked.pop("split", None)
    places = {}
    for ours, theirs in asked.items():
        if theirs not in header:
            there = printable(", ".join(header))[:300]
            raise SettingError(
                f"{source.place}.columns: {path} has no column {theirs!r} (for {ours}); it has {there}; "
                f"map it with columns: {{{ours}: NAME}}"
            )
        if header.count(theirs) > 1:
            raise DataError(f"{path} has the column {theirs!r} {header.count(theirs)} times: rename all but one")
        places[ours] = header.index(theirs)
    return places


def _sample(cells: dict[str, str], where: str) -> RawSample:
    path = cells["path"].replace("\\", "/")
    sample_id = cells.get("sample_id", "") or (PurePosixPath(path).as_posix() if path else where)
    if not path:
        raise _BadRow(sample_id, "no_path", "the path is empty")
    if any(is_unwritable(cell) for cell in cells.values()):
        raise _BadRow(sample_id, "bad_name", "a cell has a control character")
    word = cells.get("split", "")
    split = split_of(word)
    if word and split is None:
        raise _BadRow(sample_id, "bad_split", f"split is {word!r}, not train, val or test")
    labels = sorted({label.strip() for label in cells["label"].split(LABEL_SEPARATOR)} - {""})
    box = _box(cells, sample_id)
    return RawSample(
        sample_id=sample_id,
        path=PurePosixPath(path).as_posix(),
        media=media_of(path),
        labels=tuple(labels),
        split=split,
        group=cells.get("group", ""),
        subset=cells.get("subset", ""),
        boxes=() if box is None else (box,),
    )


def _box(cells: dict[str, str], sample_id: str) -> Box | None:
    kind = cells.get("box_kind", "").casefold() or BOX_KINDS[0]
    corners = [cells.get(corner, "") for corner in CORNERS]
    if not any(corners):
        return None
    shown = ", ".join(f"{name} {value or 'missing'}" for name, value in zip(CORNERS, corners, strict=True))
    try:
        # float() would take 1_000 for a thousand
        x1, y1, x2, y2 = (float("nothing" if "_" in corner else corner) for corner in corners)
    except ValueError:
        raise _BadRow(sample_id, "bad_box", f"four numbers are needed, there are {shown}") from None
    box = Box(x1, y1, x2, y2, kind)
    if (problem := box_problem(box)) is not None:
        raise _BadRow(sample_id, "bad_box", problem)
    return box


def _difference(one: RawSample, other: RawSample) -> str:
    """What two rows of one sample_id disagree about, or nothing."""
    for name in ("path", "labels", "split", "group", "subset"):
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            return f"{name} {a!r} and {b!r}"
    return ""
