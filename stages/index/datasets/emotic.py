"""Adapter `emotic`: EMOTIC, persons in their surroundings, each with some of 26 emotion categories.

    ROOT/Annotations/Annotations.mat                      the structs train, val and test, an entry for each photo
    ROOT/emotic/mscoco/images/COCO_train2014_....jpg      also framesdb, emodb_small and ade20k; or without emotic/

The form that circulates in place of the .mat: train.csv, val.csv and test.csv with the columns Folder, Filename, BBox,
Categorical_Labels and Continuous_Labels (and others, which are not read), in ROOT or in ROOT/emotic_pre. Where both are
there the .mat is read.

A sample is a person: `FOLDER/FILENAME#k`, counted from 1 as the photo's persons are listed, with the person's box, the
categories as EMOTIC writes them (`Doubt/Confusion`), and valence, arousal and dominance (1 to 10) as values. In train
one annotator told both; in val and test several did, of whom the union of categories and the mean of numbers counts.
All persons of a photo are one group. With `target: valence3` a sample is a photo, see `Options`.

Kosti et al., "Context Based Emotion Recognition using EMOTIC Dataset", TPAMI 2019, https://arxiv.org/abs/2003.13401.
The data set is for research, given out by its authors on request.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

from stages.errors import DataError, SettingError
from stages.index.datasets._photos import leads_out, photos_below, require_some_there
from stages.index.layout import require_layout, some, wrong_layout
from stages.index.manifest import SPLITS, Box, Numbers, box_problem, is_unwritable, printable
from stages.index.matlab import read_mat
from stages.index.options import options_of
from stages.index.raw import Corpus, RawSample, Source
from stages.index.splits import assign_splits
from stages.index.tabular import read_rows
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "EMOTIC"
SOURCE = "Kosti et al., Context Based Emotion Recognition using EMOTIC Dataset, TPAMI 2019, arXiv:2003.13401"
FACES = "found"
LAYOUT = """\
ROOT/Annotations/Annotations.mat      or train.csv, val.csv, test.csv in ROOT or ROOT/emotic_pre
ROOT/emotic/mscoco/images/*.jpg       or without emotic/
ROOT/emotic/framesdb/images/*.jpg
ROOT/emotic/emodb_small/images/*.jpg
ROOT/emotic/ade20k/images/*.jpg
"""

CATEGORIES = (
    "Affection", "Anger", "Annoyance", "Anticipation", "Aversion", "Confidence", "Disapproval", "Disconnection",
    "Disquietment", "Doubt/Confusion", "Embarrassment", "Engagement", "Esteem", "Excitement", "Fatigue", "Fear",
    "Happiness", "Pain", "Peace", "Pleasure", "Sadness", "Sensitivity", "Suffering", "Surprise", "Sympathy", "Yearning",
)  # fmt: skip
DIMENSIONS = ("valence", "arousal", "dominance")
DATABASES = ("mscoco", "framesdb", "emodb_small", "ade20k")
NEGATIVE_BELOW, NEUTRAL_UP_TO = 3.5, 6.5
"""On whole numbers Gupta et al. 2018: 1 to 3 negative, 4 to 6 neutral, 7 to 10 positive."""

_MATS = ("Annotations/Annotations.mat", "annotations/Annotations.mat", "Annotations.mat")
_TABLES = ("", "emotic_pre")
_COLUMNS = ("Folder", "Filename", "BBox", "Categorical_Labels", "Continuous_Labels")
_ENTRY = {"filename", "folder", "person"}
_FIELDS = {
    *_ENTRY, *DIMENSIONS, "body_bbox", "annotations_categories", "combined_categories", "annotations_continuous",
    "combined_continuous", "categories",
}  # fmt: skip
_KNOWN = {re.sub(r"\s", "", name).casefold(): name for name in CATEGORIES}
_NO_BOX = Box(0.0, 0.0, 0.0, 0.0, "person")
_LONGEST = 2000  # characters of a cell


class Options(Settings):
    """What of EMOTIC is read.

    Attributes:
        target: `categories`: a sample is a person, its labels the categories. `valence3`: a sample is a photo, with all
            persons' boxes; its label follows from the mean valence of its persons: below 3.5 `negative`, up to 6.5
            `neutral`, above it `positive` (what Gupta et al. 2018 train on first, see docs/finetune.md).
        split: `own`: EMOTIC's 70:10:20. `joined`: the same with val in train, so about 80:20. `paper`: 80:20 made from
            all photos, of DAG-Net, which does not say which photos are where.
        seed: of the split `paper`.
    """

    target: Literal["categories", "valence3"] = "categories"
    split: Literal["own", "joined", "paper"] = "own"
    seed: int = 0


@dataclass(frozen=True)
class _Person:
    """A person as either form tells it; `problem` is (reason, detail) of one that cannot be used."""

    image: str
    part: str
    box: Box
    categories: tuple[str, ...]
    values: Numbers
    where: str
    problem: tuple[str, str] | None = None


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read the annotations; no photo is opened.

    Recorded in the ledger: `bad_row` (no file name; cells that are no lists), `bad_name` (a control character, or a
    name that leads out of the images), `bad_box` (not four numbers, or no area), `bad_label` (none of the 26),
    `no_label` (a person without a category), `no_valence` (with `valence3`: a photo none of whose persons has one),
    `contradictory` (a photo that is in two of train, val and test).

    Raises:
        SettingError: an option that there is not, or `images` or `columns`; `split` where no split is wanted.
        DataError: the root is not laid out as EMOTIC, the .mat is damaged or another one, a table lacks a column, or
            none of the annotated photos is there.
    """
    options = options_of(source, Options)
    if options.split != "own" and not source.splits:
        place = source.place
        raise SettingError(
            f"{place}.options.split is {options.split!r}, and {place}.use puts every sample into one split: remove one"
        )
    notes: list[str] = []
    people, merged = _usable(_people(source, ledger, notes), source, options, ledger)
    images = _images(source, people, ledger, notes)
    raws = _photos(people, images, ledger) if options.target == "valence3" else _persons(people, images)
    if options.target == "categories" and (silent := sum(not raw.values for raw in raws)):
        notes.append(f"{silent} person(s) have no valence, arousal or dominance")
    return Corpus(_split(raws, source, options), source.root, merged, tuple(notes))


def _people(source: Source, ledger: Ledger, notes: list[str]) -> Iterator[_Person]:
    require_layout(source, TITLE, {})
    for path in _MATS:
        if (source.root / path).is_file():
            return _of_mat(source.root / path, source.place, ledger)
    for folder in _TABLES:
        there = [part for part in SPLITS if (source.root / folder / f"{part}.csv").is_file()]
        if there:
            lacking = [f"{part}.csv" for part in SPLITS if part not in there]
            notes += [f"{name} is not there: its part is missing" for name in lacking]
            return (
                person
                for part in there
                for person in _of_csv(source.root / folder / f"{part}.csv", part, source.place, ledger)
            )
    raise wrong_layout(source, TITLE, {_MATS[0]: "the annotations; or train.csv, val.csv and test.csv in its place"})


def _of_mat(path: Path, place: str, ledger: Ledger) -> Iterator[_Person]:
    found = read_mat(path, place, SPLITS, _FIELDS)
    for part in SPLITS:
        entries = _structs(found.get(part))
        if not entries or not entries[0].keys() >= _ENTRY:
            has = some(sorted(entries[0])) if entries else "nothing"
            raise DataError(
                f"{place}: {path} is not EMOTIC's: expected structs train, val and test with the fields "
                f"{', '.join(sorted(_ENTRY))}; of these {part} has {has or 'none'}"
            )
        for number, entry in enumerate(entries, 1):
            where = f"{path.name} {part}({number})"
            if (image := _image(_text(entry["folder"]), _text(entry["filename"]), where, ledger)) is None:
                continue
            if not (people := _structs(entry["person"])):
                ledger.record(image, "bad_row", f"{where} has no person")
            for person in people:
                yield _of_struct(person, image, part, where)


def _of_struct(person: dict[str, Any], image: str, part: str, where: str) -> _Person:
    annotators = _structs(person.get("annotations_categories"))
    categories = _names(person.get("combined_categories"))
    categories = categories or [name for one in annotators for name in _names(one.get("categories"))]
    rated = _structs(person.get("annotations_continuous"))
    combined = _structs(person.get("combined_continuous"))
    values = []
    for name in DIMENSIONS:
        told = _finite(combined, name) or _finite(rated, name)
        values.append(math.fsum(told) / len(told) if told else math.nan)
    corners = person.get("body_bbox")
    return _checked(image, part, where, corners if _is_numbers(corners) else [], categories, values)


def _structs(value: object) -> list[dict[str, Any]]:
    """A struct array's structs; none for anything else."""
    return value if isinstance(value, list) and value and isinstance(value[0], dict) else []


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _names(cell: object) -> list[str]:
    """The texts of a cell, or a text alone."""
    return [name for name in map(_text, cell if isinstance(cell, list) else [cell]) if name]


def _is_numbers(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(isinstance(one, float) for one in value)


def _finite(structs: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The finite numbers of a field, one of each struct that has one."""
    values = [one.get(name) for one in structs]
    return [value[0] for value in values if _is_numbers(value) and len(value) == 1 and math.isfinite(value[0])]


def _of_csv(path: Path, part: str, place: str, ledger: Ledger) -> Iterator[_Person]:
    for row in read_rows(path, place, _COLUMNS, ledger):
        folder, filename, box, categories, values = (row.cells[name] for name in _COLUMNS)
        if (image := _image(folder, filename, row.where, ledger)) is None:
            continue
        corners, names, numbers = _numbers(box), _listed(categories), _numbers(values)
        if names is None or numbers is None or len(numbers) not in (0, len(DIMENSIONS)):
            said = f"{row.where}: Categorical_Labels is {categories[:60]!r}, Continuous_Labels {values[:60]!r}"
            yield _Person(image, part, _NO_BOX, (), (), row.where, ("bad_row", said))
            continue
        yield _checked(image, part, row.where, corners or (), names, numbers or (math.nan,) * len(DIMENSIONS))


def _listed(cell: str) -> list[str] | None:
    """The texts of `['Peace', 'Esteem']`; None where it is no list of texts."""
    if len(cell) > _LONGEST:
        return None
    try:
        parsed = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    fits = isinstance(parsed, list | tuple) and all(isinstance(name, str) for name in parsed)
    return [name.strip() for name in parsed] if fits else None


def _numbers(cell: str) -> tuple[float, ...] | None:
    """The numbers of `[1, 2, nan]`, with or without commas; None where it is no list of numbers."""
    words = re.split(r"[,\s]+", cell[:_LONGEST].strip().strip("[]()").strip())
    try:
        return tuple(float(word) for word in words if word)
    except ValueError:
        return None


def _image(folder: str, filename: str, where: str, ledger: Ledger) -> str | None:
    """The photo's path below the images, or None for one that is recorded."""
    folder = folder.replace("\\", "/").strip("/")
    if not folder or not filename:
        ledger.record(where, "bad_row", "folder or filename is empty")
        return None
    path = f"{folder}/{filename}"
    if is_unwritable(path) or leads_out(path):
        ledger.record(printable(path), "bad_name", f"{where}: a name has no control character and no .. in it")
        return None
    return path


def _checked(
    image: str, part: str, where: str, corners: Sequence[float], categories: Sequence[str], values: Sequence[float]
) -> _Person:
    """A person with known categories, in their order, and the numbers that are told; or with what is wrong."""
    known = {_KNOWN.get(re.sub(r"\s", "", name).casefold(), "") for name in categories}
    told = tuple(sorted((name, value) for name, value in zip(DIMENSIONS, values, strict=True) if math.isfinite(value)))
    box, problem = _NO_BOX, None
    if len(corners) == 4:
        x1, y1, x2, y2 = corners
        box = Box(x1, y1, x2, y2, "person")
    if len(corners) != 4 or any(math.isnan(value) for value in corners):
        problem = "bad_box", f"{where}: body_bbox is {list(corners)}, not four numbers"
    elif said := box_problem(box):
        problem = "bad_box", f"{where}: {said}"
    elif "" in known:
        unknown = next(name for name in categories if re.sub(r"\s", "", name).casefold() not in _KNOWN)
        problem = "bad_label", f"{where}: {unknown!r} is none of the 26 categories"
    return _Person(image, part, box, tuple(sorted(known)), told, where, problem)


def _usable(
    people: Iterator[_Person], source: Source, options: Options, ledger: Ledger
) -> tuple[list[tuple[str, _Person]], int]:
    """The persons that can be used under their sample_ids, and how many rows repeated one."""
    usable: list[tuple[str, _Person]] = []
    numbers: dict[str, int] = {}
    parts: dict[str, str] = {}
    seen: set[tuple[object, ...]] = set()
    merged = 0
    own = source.splits and options.split != "paper"
    for person in people:
        part = parts.setdefault(person.image, person.part)
        told = (person.image, person.box, person.categories, person.values, person.part if own else "")
        if told in seen and person.problem is None:
            merged += 1
            continue
        seen.add(told)
        number = numbers[person.image] = numbers.get(person.image, 0) + 1
        name = f"{person.image}#{number}"
        if person.problem is not None:
            ledger.record(name, *person.problem)
        elif own and part != person.part:
            ledger.record(name, "contradictory", f"{person.where}: the photo is in {part} as well")
        elif not person.categories and options.target == "categories":
            ledger.record(name, "no_label", f"{person.where}: the person has no category")
        else:
            usable.append((name, person))
    return usable, merged


def _images(source: Source, people: Sequence[tuple[str, _Person]], ledger: Ledger, notes: list[str]) -> str:
    """What stands before an image's path below the root: `emotic/` or nothing.

    Raises:
        DataError: none of the photos is there.
    """
    root, named = source.root, {person.image for _, person in people}
    databases = sorted({*DATABASES, *(image.partition("/")[0] for image in named)})
    prefix, there = "emotic/", set[str]()
    for prefix in ("emotic/", ""):
        folders = [prefix + database for database in databases if (root / prefix / database).is_dir()]
        if there := {path for folder in folders for path in photos_below(root, folder, ledger)}:
            break
    else:
        prefix = "emotic/"
    paths = {prefix + image for image in named}
    require_some_there(paths, there, "the annotations", source.place)
    if unnamed := len(there - paths):
        notes.append(f"{unnamed} photo(s) have no annotation that can be used and are left out")
    return prefix


def _persons(people: Sequence[tuple[str, _Person]], prefix: str) -> list[RawSample]:
    return [
        RawSample(
            sample_id=name,
            path=prefix + person.image,
            media="image",
            labels=person.categories,
            split=person.part,
            group=person.image,
            boxes=(person.box,),
            values=person.values,
        )
        for name, person in people
    ]


def _photos(people: Sequence[tuple[str, _Person]], prefix: str, ledger: Ledger) -> list[RawSample]:
    """One sample per photo, with the means over its persons."""
    shown: dict[str, list[_Person]] = {}
    for _, person in people:
        shown.setdefault(person.image, []).append(person)
    raws = []
    for image, persons in shown.items():
        told: dict[str, list[float]] = {}
        for name, value in (pair for one in persons for pair in one.values):
            told.setdefault(name, []).append(value)
        values = tuple((name, math.fsum(told[name]) / len(told[name])) for name in sorted(told))
        if "valence" not in told:
            ledger.record(image, "no_valence", f"{persons[0].where}: no person of the photo has a valence")
            continue
        label = valence_class(dict(values)["valence"])
        boxes = tuple(one.box for one in persons)
        raws.append(RawSample(image, prefix + image, "image", (label,), persons[0].part, boxes=boxes, values=values))
    return raws


def valence_class(valence: float) -> str:
    """`negative`, `neutral` or `positive` for a mean valence of 1 to 10."""
    if valence < NEGATIVE_BELOW:
        return "negative"
    return "neutral" if valence <= NEUTRAL_UP_TO else "positive"


def _split(raws: Sequence[RawSample], source: Source, options: Options) -> tuple[RawSample, ...]:
    """The samples with the splits that are asked for."""
    if not source.splits:
        return tuple(replace(raw, split=None) for raw in raws)
    if options.split == "paper":
        made = assign_splits(raws, val=0.0, test=0.2, seed=options.seed, place=source.place)
        return tuple(replace(raw, split=split) for raw, split in zip(raws, made, strict=True))
    if options.split == "joined":
        return tuple(replace(raw, split="train" if raw.split == "val" else raw.split) for raw in raws)
    return tuple(raws)
