"""RAF-DB, Real-world Affective Faces: the 15,339 photos of its basic part, one class each.

    root/basic/EmoLabel/list_patition_label.txt                  `train_00001.jpg 5` a line (the name is theirs)
    root/basic/Image/aligned/train_00001_aligned.jpg
    root/basic/Image/original/train_00001.jpg
    root/basic/Annotation/boundingbox/train_00001_boundingbox.txt    `x1 y1 x2 y2` in px of the original; optional

The root may be basic/ itself. The form that circulates, with the aligned photos alone, is read too:

    root/train/1/train_00001_aligned.jpg, root/test/1/...        folders 1 to 7; also below root/DATASET

Classes: surprise, fear, disgust, happiness, sadness, anger, neutral (1 to 7). Source: Li, Deng and Du, Reliable
Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the Wild, CVPR 2017. Given for
research that is not commercial, on request by a person with a post at a university.

The split is the data set's own, train and test, which the names begin with. It has no val.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from stages.errors import DataError, SettingError
from stages.index.datasets._photos import first_there, leads_out, names_in, photos_below, require_some_there
from stages.index.layout import require_layout
from stages.index.manifest import Box, box_problem, is_unwritable, printable
from stages.index.options import options_of
from stages.index.raw import Corpus, RawSample, Source
from stages.index.tabular import read_text
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "RAF-DB (basic)"
SOURCE = "Li, Deng and Du, Reliable Crowdsourcing and Deep Locality-Preserving Learning, CVPR 2017"
FACES = "whole"
LAYOUT = """\
basic/EmoLabel/list_patition_label.txt
basic/Image/aligned/train_00001_aligned.jpg
basic/Image/original/train_00001.jpg
basic/Annotation/boundingbox/train_00001_boundingbox.txt    optional, for images: original
"""
CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")

_TABLES = ("basic/EmoLabel/list_patition_label.txt", "EmoLabel/list_patition_label.txt")
_PARTS = ("train", "test")
_DIGITS = 9  # of a number; int() refuses very long ones


class Options(Settings):
    """Which photos of a face are taken.

    Attributes:
        images: `aligned`, the authors' crops of 100x100 px, or `original`, photos with the face's box where
            Annotation/boundingbox is there.
    """

    images: Literal["aligned", "original"] = "aligned"


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read the list of classes, or the class folders. sample_id: the path below the root.

    Recorded: `bad_row`, `bad_label`, `bad_split` (a name that begins with neither train nor test), `bad_name`,
    `bad_box`, `no_box` (a box file that is not there where others are), `contradictory` (lines of one photo that
    disagree), `permission`. A line that repeats an earlier one is counted.

    Raises:
        SettingError: an option that is not there; `images: original` of the form that has none.
        DataError: another layout, an empty list, or none of the photos is there.
    """
    options = options_of(source, Options)
    require_layout(source, TITLE, {})
    table = first_there(source.root, _TABLES)
    above = next((below for below in ("", "DATASET/") if first_there(source.root, [f"{below}train/1"])), None)
    if table is None and above is not None:
        return _of_folders(source, above, options, ledger)
    if table is None:
        require_layout(source, TITLE, {_TABLES[0]: "the classes"})
    return _of_table(source, str(table), options, ledger)


def _of_table(source: Source, table: str, options: Options, ledger: Ledger) -> Corpus:
    basic = table.removesuffix("/".join(table.split("/")[-2:]))
    folder = f"{basic}Image/{options.images}"
    require_layout(source, TITLE, {folder: f"the {options.images} photos"})
    samples: dict[str, RawSample] = {}
    repeated = 0
    for number, line in enumerate(read_text(source.root / table, source.place).splitlines(), 1):
        raw = _sample(line, f"{table} line {number}", folder, source, ledger) if line.strip() else None
        if raw is not None and (known := samples.setdefault(raw.sample_id, raw)) is not raw:
            if known == raw:
                repeated += 1
            else:
                ledger.record(raw.sample_id, "contradictory", f"{table} line {number}: another class than before")
    kept = [raw for raw in samples.values() if raw.sample_id not in ledger]
    there = set(photos_below(source.root, folder, ledger))
    require_some_there({raw.path for raw in kept}, there, table, source.place)
    unnamed = len(there - samples.keys() - ledger.entries.keys())
    notes = [f"{unnamed} photo(s) of {folder} are not in {table}"] if unnamed else []
    if options.images == "original":
        kept = _boxed(kept, source.root, f"{basic}Annotation/boundingbox", ledger, notes)
    return Corpus(tuple(kept), source.root, repeated, tuple(notes))


def _sample(line: str, where: str, folder: str, source: Source, ledger: Ledger) -> RawSample | None:
    """The sample of a line; None, and why in the ledger, where there is none."""
    name, _, label = line.strip().replace("\t", " ").rpartition(" ")
    name = name.strip()
    stem, dot, extension = name.rpartition(".")
    if not dot:
        ledger.record(where, "bad_row", f"a photo's name and a class are needed, there is {printable(line.strip())!r}")
        return None
    path = f"{folder}/{stem}_aligned.{extension}" if folder.endswith("aligned") else f"{folder}/{name}"
    split = next((part for part in _PARTS if name.startswith(part)), None)
    if is_unwritable(path) or leads_out(path):
        ledger.record(printable(path), "bad_name", f"{where}: a name has no control character and no .. in it")
    elif not (label.isdecimal() and len(label) <= _DIGITS and 1 <= int(label) <= len(CLASSES)):
        ledger.record(path, "bad_label", f"{where}: the class is {label!r}, not 1 to {len(CLASSES)}")
    elif split is None and source.splits:
        ledger.record(path, "bad_split", f"{where}: the name begins with neither train nor test")
    else:
        return RawSample(path, path, "image", (CLASSES[int(label) - 1],), split if source.splits else None)
    return None


def _boxed(samples: list[RawSample], root: Path, folder: str, ledger: Ledger, notes: list[str]) -> list[RawSample]:
    """The samples with their faces' boxes."""
    try:
        there = names_in(root / folder)
    except OSError:
        notes.append(f"{folder} is not there: which face of a photo its class is of is not told")
        return samples
    boxed = []
    for raw in samples:
        name = raw.path.rpartition("/")[2].rpartition(".")[0] + "_boundingbox.txt"
        box = _box(f"{root}/{folder}/{name}") if name in there else None
        if isinstance(box, Box):
            boxed.append(replace(raw, boxes=(box,)))
        elif box is None:
            ledger.record(raw.sample_id, "no_box", f"{folder}/{name} is not there")
        else:
            ledger.record(raw.sample_id, "bad_box", f"{folder}/{name}: {box}")
    return boxed


def _box(path: str) -> Box | str:
    """The box of a file, or what is wrong with it."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            x1, y1, x2, y2 = (float(cell) for cell in handle.read(1000).replace(",", " ").split())
    except OSError as error:
        return str(error.strerror)
    except ValueError:
        return "four numbers are needed"
    box = Box(x1, y1, x2, y2, "face")
    return box_problem(box) or box


def _of_folders(source: Source, above: str, options: Options, ledger: Ledger) -> Corpus:
    """The form with a folder per class under train and test."""
    if options.images != "aligned":
        raise SettingError(
            f"{source.place}.options.images is {options.images!r}, and {source.root} holds class folders of aligned "
            "photos: set images: aligned, or give the root with basic/"
        )
    folders = {f"{above}{part}/{number}": (part, label) for part in _PARTS for number, label in enumerate(CLASSES, 1)}
    require_layout(source, TITLE, {folder: f"photos of the class {label}" for folder, (_, label) in folders.items()})
    samples = [
        RawSample(path, path, "image", (label,), part if source.splits else None)
        for folder, (part, label) in folders.items()
        for path in photos_below(source.root, folder, ledger)
    ]
    if not samples and not len(ledger):
        raise DataError(f"{source.place}.root {source.root} has no photos in its class folders: unpack them to there")
    return Corpus(tuple(samples), source.root)
