"""FER2013: 35,887 grey faces of 48 x 48 px, in seven classes.

The data set is a table, `fer2013.csv` (emotion, pixels, Usage), with a picture in each row; Kaggle's later
`icml_face_data.csv` is the same with the columns in another order and blanks before their names. A sample is called by
its row, `fer0000000` being the first: rows are not merged, since the published splits count all of them, and pictures
that are there twice have one content. Where the pictures were written to folders, `train/angry/...`, the names
`PublicTest_...` and `PrivateTest_...` tell the split, and the folder that of others.

Classes: angry, disgust, fear, happy, sad, surprise, neutral (0 to 6). Usage: Training is train, PublicTest val,
PrivateTest test. No groups: the data set names no persons.

Goodfellow et al., Challenges in Representation Learning: A report on three machine learning contests, 2013,
https://arxiv.org/abs/1307.0414. The data are had from Kaggle (Challenges in Representation Learning: Facial Expression
Recognition Challenge) under its rules, for research.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stages.errors import DataError
from stages.index.datasets._photos import folders_of, photos_below
from stages.index.layout import require_layout, some, wrong_layout
from stages.index.manifest import printable
from stages.index.options import NoOptions, options_of
from stages.index.packed import PackedRow, Place, read_packed
from stages.index.raw import Corpus, RawSample, Source, split_of
from stages.ledger import Ledger

TITLE = "FER2013"
SOURCE = "Goodfellow et al. 2013, https://arxiv.org/abs/1307.0414"
FACES = "whole"
LAYOUT = """\
fer2013.csv              emotion,pixels,Usage: a picture in each row (or icml_face_data.csv)
or
train/CLASS/*.jpg        CLASS: angry, disgust, fear, happy, neutral, sad, surprise
test/CLASS/*.jpg         PublicTest_*.jpg is val, PrivateTest_*.jpg test
"""
CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""By the number that the table has for them."""

SPLITS = {"training": "train", "publictest": "val", "privatetest": "test"}
"""Usage in lower case -> split."""

_TABLES = ("fer2013.csv", "icml_face_data.csv")
_USAGES = "Training, PublicTest, PrivateTest"


class Options(NoOptions):
    """There are none."""


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read the table, or where there is none the folders. A table is read once, without decoding its pictures.

    Recorded: `bad_row`, `bad_label` (no number from 0 to 6), `bad_split` (another Usage); of folders `bad_name`,
    `permission`. What is wrong with a row's picture is found when it is indexed.

    Raises:
        SettingError: an option, `images` or `columns` is given.
        DataError: neither a table nor folders of classes are there, or the table is none of pictures.
    """
    options_of(source, Options)
    if (table := find_table(source.root)) is not None:
        require_layout(source, TITLE, {})
        samples = tuple(_of_table(source, table, ledger))
        if not samples and not len(ledger):
            raise DataError(f"{source.place}: {source.root / table} has a header and no rows: is it complete?")
        return Corpus(samples, source.root)
    require_layout(source, TITLE, {})
    if not _parts(source):
        raise wrong_layout(source, TITLE, {_TABLES[0]: "a row per picture; or folders train/CLASS and test/CLASS"})
    return _of_folders(source, ledger)


def find_table(root: Path) -> str | None:
    """The path below the root of the table of pictures; None where there is none."""
    places = (f"{folder}{name}" for folder in ("", "fer2013/") for name in _TABLES)
    return next((place for place in places if (root / place).is_file()), None)


def row_name(line: int) -> str:
    """What the picture of a line of the table is called; the first picture is in line 2."""
    return f"fer{line - 2:07d}"


def row_path(table: str, row: PackedRow) -> str:
    """The path of a row's picture."""
    return Place(table, row.offset, row.length).path


def split_of_usage(usage: str) -> str | None:
    """The split that a Usage is; None where it is none."""
    return SPLITS.get(usage.strip().casefold())


def _of_table(source: Source, table: str, ledger: Ledger) -> Iterator[RawSample]:
    columns = ("emotion", "Usage") if source.splits else ("emotion",)
    numbers = {str(number): label for number, label in enumerate(CLASSES)}
    for row in read_packed(source.root / table, source.place, columns, ledger):
        emotion, split = row.cells["emotion"], None
        if emotion not in numbers:
            ledger.record(row_name(row.line), "bad_label", f"{row.where}: emotion is {emotion[:40]!r}, not 0 to 6")
            continue
        if source.splits and (split := split_of_usage(row.cells["Usage"])) is None:
            said = f"{row.where}: Usage is {row.cells['Usage'][:40]!r}, not one of {_USAGES}"
            ledger.record(row_name(row.line), "bad_split", said)
            continue
        yield RawSample(row_name(row.line), row_path(table, row), "image", (numbers[emotion],), split)


def _parts(source: Source) -> dict[str, str]:
    """Folders of the root that are a split, and which."""
    splits = {name: split_of_usage(name) or split_of(name) for name in folders_of(source.root, source.place)}
    return {name: split for name, split in splits.items() if split is not None}


def _of_folders(source: Source, ledger: Ledger) -> Corpus:
    samples: list[RawSample] = []
    strange: Counter[str] = Counter()
    for part, split in _parts(source).items():
        for path in photos_below(source.root, part, ledger):
            folder = path.split("/")[1]
            label = folder.casefold()
            if label not in CLASSES:
                strange[f"{part}/{folder}" if path.count("/") > 1 else part] += 1
                continue
            usage = split_of_usage(path.rpartition("/")[2].partition("_")[0])
            samples.append(RawSample(path, path, "image", (label,), (usage or split) if source.splits else None))
    if not samples and not len(ledger):
        raise DataError(
            f"{source.place}.root {source.root} has no photos in folders of the classes of {TITLE} "
            f"({', '.join(CLASSES)}) below {', '.join(_parts(source))}; photos lie in {some(sorted(strange)) or 'none'}"
        )
    notes = [f"{n} photo(s) in {printable(place)}, which is no class, are left out" for place, n in strange.items()]
    return Corpus(tuple(samples), source.root, notes=tuple(notes))
