"""FER+: the pictures of FER2013 with the votes of ten people each.

`fer2013new.csv` has a row for each row of `fer2013.csv`, in the same order: Usage, Image name, and how many voted for
each of eight classes, for `unknown` and for `NF` (no face). Rows without an Image name are pictures that FER+ dropped.
The pictures come from that table, or from the folders `FER2013Train`, `FER2013Valid` and `FER2013Test` that the
authors' script writes (their `label.csv` says the same again and is not read).

Classes: neutral, happiness, surprise, sadness, anger, disgust, fear, contempt. As in the authors' code a single vote
counts as none, and a picture belongs to the class with more than half of the votes that are left, those for unknown
and NF included. What has no such class is left out and counted in a note: no majority, or one for unknown or NF.

With `labels: distribution` a sample also has the shares of the eight classes in the votes that are left, and a training
picture needs no majority: its class is the one with the most votes. Ties stay out, and val and test go by majority, as
the authors judge every kind of training. (Their own training on distributions cuts off the smallest shares as well.)

Barsoum et al., Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution, ICMI
2016, https://arxiv.org/abs/1608.01041. The votes are published under the MIT licence (github.com/microsoft/FERPlus);
for the pictures see `fer2013`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stages.errors import DataError
from stages.index.datasets._photos import photos_below, require_some_there
from stages.index.datasets.fer2013 import find_table, row_path, split_of_usage
from stages.index.layout import require_layout
from stages.index.manifest import is_unwritable, printable
from stages.index.options import options_of
from stages.index.packed import PackedRow, read_packed
from stages.index.raw import Corpus, RawSample, Source
from stages.index.tabular import Row, read_rows, read_text
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "FER+"
SOURCE = "Barsoum et al. 2016, https://arxiv.org/abs/1608.01041"
FACES = "whole"
LAYOUT = """\
fer2013new.csv                  Usage,Image name,neutral,happiness,...,contempt,unknown,NF: the votes
fer2013.csv                     the pictures of FER2013, row by row (or icml_face_data.csv)
or in its place
FER2013Train/fer0000000.png     Usage Training
FER2013Valid/...                Usage PublicTest
FER2013Test/...                 Usage PrivateTest
"""
VOTES = "fer2013new.csv"
CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_OTHERS = ("unknown", "NF")
_FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}

Find = Callable[[str, str | None, int], str | None]
"""Image name, split and line of the votes -> the picture's path; None where a bad row of the table was recorded."""


class Options(Settings):
    """What the votes become.

    Attributes:
        labels: `majority`, or `distribution`: shares as well, and more training pictures.
    """

    labels: Literal["majority", "distribution"] = "majority"


@dataclass
class _Found:
    """What has been read so far."""

    samples: dict[str, RawSample] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    merged: int = 0


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read the votes, and where the pictures lie.

    sample_id: the Image name without its ending where the pictures are in a table, else the path below the root.
    Recorded: `bad_row`, `bad_name`, `bad_split`, `bad_label` (no counts of votes), `contradictory` (an Image name with
    two votes).

    Raises:
        SettingError: an unknown option, `images` or `columns`.
        DataError: the votes or the pictures are not there, or do not belong together.
    """
    options = options_of(source, Options)
    table = find_table(source.root)
    above = next((a for a in ("", "data/") if any((source.root / a / f).is_dir() for f in _FOLDERS.values())), None)
    expected = {VOTES: "the votes"}
    if table is None and above is None:
        expected["fer2013.csv"] = f"the pictures of FER2013; or {', '.join(_FOLDERS.values())}"
    require_layout(source, TITLE, expected)
    rows = list(read_rows(source.root / VOTES, source.place, ("Usage", "Image name", *CLASSES, *_OTHERS), ledger))
    if not rows and not len(ledger):
        raise DataError(f"{source.place}: {source.root / VOTES} has a header and no rows: is it complete?")
    there: set[str] = set()
    if table is not None:
        find = _in_table(source, table, rows, ledger)
    else:
        there = {path for name in _FOLDERS.values() for path in _photos(source.root, f"{above}{name}", ledger)}
        find = _in_folders(above or "")
    found = _Found()
    for row in rows:
        _take(row, find, options, source, found, ledger)
    samples = [raw for raw in found.samples.values() if raw.sample_id not in ledger]
    if table is None:
        named = [raw.path for raw in samples]
        require_some_there(named, there, VOTES, source.place)
        found.left_out["of which there are no votes"] = len(there) - len(there & _named(rows, above or ""))
    if not samples and not len(ledger):
        raise DataError(f"{source.place}: no picture of {source.root / VOTES} has a class: is it complete?")
    notes = tuple(f"{count} picture(s) {why} are left out" for why, count in sorted(found.left_out.items()) if count)
    return Corpus(tuple(samples), source.root, found.merged, notes)


def class_of(votes: Sequence[int], *, strict: bool) -> tuple[str | None, str]:
    """The class that votes give a picture.

    Args:
        votes: (10,) counts of the eight `CLASSES`, unknown and NF, those of 1 set to 0.
        strict: whether it needs more than half of the votes, or only more than any other.

    Returns:
        The class and "", or None and why there is none.
    """
    most = max(votes)
    if strict and 2 * most <= sum(votes):
        return None, "without a class that more than half voted for"
    if votes.count(most) > 1:
        return None, "with as many votes for another class"
    at = votes.index(most)
    return (CLASSES[at], "") if at < len(CLASSES) else (None, "voted unknown or no face")


def _take(row: Row, find: Find, options: Options, source: Source, found: _Found, ledger: Ledger) -> None:
    """Add the sample of a row of the votes, or record or count why there is none."""
    name, usage = row.cells["Image name"], row.cells["Usage"]
    if not name:
        found.left_out["that FER+ dropped"] += 1
        return
    if "/" in name or "\\" in name or is_unwritable(name):
        ledger.record(printable(f"{row.where}: {name[:80]}"), "bad_name", "the Image name is no file's name")
        return
    split = split_of_usage(usage)
    path = find(name, split, _line_of(row.where))
    if path is None:
        return
    sample_id = path if "#" not in path else name.rpartition(".")[0] or name
    if split is None and source.splits:
        ledger.record(sample_id, "bad_split", f"{row.where}: Usage is {usage[:40]!r}, not that of FER2013")
        return
    votes = _votes(row)
    if votes is None:
        ledger.record(sample_id, "bad_label", f"{row.where}: its votes are not ten counts")
        return
    is_distribution = options.labels == "distribution"
    label, why = class_of(votes, strict=not is_distribution or split != "train")
    if label is None:
        found.left_out[why] += 1
        return
    counted = [(name, float(vote)) for name, vote in zip(CLASSES, votes, strict=False) if vote]  # the first eight
    shares = tuple(sorted(counted)) if is_distribution else ()
    raw = RawSample(sample_id, path, "image", (label,), split if source.splits else None, shares=shares)
    known = found.samples.setdefault(sample_id, raw)
    if known is not raw:
        if (known.labels, known.split, known.shares) == (raw.labels, raw.split, raw.shares):
            found.merged += 1
        else:
            ledger.record(sample_id, "contradictory", f"{row.where}: an earlier row says otherwise of {name}")


def _votes(row: Row) -> list[int] | None:
    """The ten counts of a row, 0 for a single vote; None where they are none."""
    cells = [row.cells[name] for name in (*CLASSES, *_OTHERS)]
    if not all(cell.isdecimal() and len(cell) < 7 for cell in cells):
        return None
    votes = [int(cell) for cell in cells]
    return [vote if vote > 1 else 0 for vote in votes]


def _in_table(source: Source, table: str, rows: Sequence[Row], ledger: Ledger) -> Find:
    """Where the picture of each line of the votes lies in the table.

    Raises:
        DataError: the two have another number of rows, or another Usage in a row.
    """
    bad = Ledger("index")
    of_table = {row.line: row for row in read_packed(source.root / table, source.place, ("Usage",), bad)}
    for where, (reason, detail) in bad.entries.items():
        ledger.record(where, reason, detail)
    lines = sorted([*of_table, *map(_line_of, bad.entries)])
    text = read_text(source.root / VOTES, source.place)
    told = [number for number, line in enumerate(io.StringIO(text, newline=""), 1) if line.strip()][1:]
    if len(told) != len(lines):
        raise DataError(
            f"{source.place}.root {source.root}: {VOTES} has {len(told)} rows and {table} {len(lines)}: "
            "they must be of the same pictures in the same order"
        )
    # row by row, not line by line: either file may have empty lines
    pictures = {at: of_table[line] for at, line in zip(told, lines, strict=True) if line in of_table}
    for row in rows:
        _require_same(row, pictures, source)

    def find(name: str, split: str | None, line: int) -> str | None:
        return row_path(table, pictures[line]) if line in pictures else None

    return find


def _line_of(where: str) -> int:
    """The line of `Row.where`."""
    return int(where.rpartition(" ")[2])


def _require_same(row: Row, pictures: Mapping[int, PackedRow], source: Source) -> None:
    """Refuse a row of the votes whose picture has another Usage; `pictures`: line of the votes -> row of the table."""
    picture = pictures.get(_line_of(row.where))
    if picture is not None and row.cells["Usage"].casefold() != picture.cells["Usage"].casefold():
        raise DataError(
            f"{source.place}.root {source.root}: {row.where} has the Usage {row.cells['Usage'][:40]!r} and "
            f"{picture.where} {picture.cells['Usage'][:40]!r}: they must be of the same pictures in the same order"
        )


def _in_folders(above: str) -> Find:
    def find(name: str, split: str | None, line: int) -> str | None:
        return f"{above}{_FOLDERS[split or 'train']}/{name}"

    return find


def _photos(root: Path, folder: str, ledger: Ledger) -> Iterator[str]:
    return photos_below(root, folder, ledger) if (root / folder).is_dir() else iter(())


def _named(rows: Sequence[Row], above: str) -> set[str]:
    """The paths that the votes name."""
    folders = {split: f"{above}{folder}" for split, folder in _FOLDERS.items()}
    return {f"{folders[split_of_usage(row.cells['Usage']) or 'train']}/{row.cells['Image name']}" for row in rows}
