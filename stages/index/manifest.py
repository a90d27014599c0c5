"""The manifest: what a corpus holds, one row a sample, as one CSV file with deterministic bytes."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from sys import intern

from stages.errors import DataError, MissingInputError
from stages.tables import write_csv

COLUMNS = ("sample_id", "path", "media", "labels", "split", "group", "subset", "boxes", "shares", "values", "content")
SPLITS = ("train", "val", "test")
MEDIA = ("image", "video")
BOX_KINDS = ("face", "person")
LABEL_SEPARATOR = ";"

Numbers = tuple[tuple[str, float], ...]
"""(name, number) pairs, sorted by name."""

# Control characters would break a row into lines, lone surrogates (names that are not UTF-8) cannot be written.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Box:
    """A given box: px of the upright original, x to the right, y down, `x2 > x1`, `y2 > y1`, finite.

    It may reach over the photo's border. `kind` is `"face"` or `"person"`.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to be classified: a photo or a clip, or some boxes of one.

    Attributes:
        sample_id: unique in the manifest.
        path: posix; relative to the images root, or absolute.
        media: `"image"` or `"video"`.
        labels: unique class names; empty means unlabelled: predicted, not scored.
        split: `"train"`, `"val"` or `"test"`.
        group: the subject, film or scene that must not be on two sides of a split; `""` for none.
        subset: a name for a part of the corpus that is reported apart; `""` for none.
        boxes: given boxes, in the order of the source.
        content: SHA-256 of the file's bytes, or of a packed picture's (see `packed`), 64 hex digits.
        shares: label -> how much of the annotators' votes it has, sorted by label, above 0, with a sum of 1; empty
            where the data set tells none. The labels themselves are what is predicted and scored.
        values: name -> number of what the data set rates, such as valence; sorted by name.
    """

    sample_id: str
    path: str
    media: str
    labels: tuple[str, ...]
    split: str
    group: str
    subset: str
    boxes: tuple[Box, ...]
    content: str
    shares: Numbers = ()
    values: Numbers = ()

    def located(self, images: Path) -> Path:
        """The file: `path` under the images root, or `path` itself where it is absolute."""
        return images / PurePosixPath(self.path)


@dataclass(frozen=True)
class Manifest:
    """All samples of a corpus, sorted by sample_id.

    Raises:
        DataError: two samples have one sample_id.
    """

    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.samples, key=lambda sample: sample.sample_id))
        object.__setattr__(self, "samples", ordered)
        if len(self.by_id) != len(ordered):
            twice = next(a.sample_id for a, b in pairwise(ordered) if a.sample_id == b.sample_id)
            raise DataError(f"sample_id {twice!r} occurs more than once: each sample needs its own")

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """sample_id -> sample."""
        return {sample.sample_id: sample for sample in self.samples}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Every label that occurs, sorted: the order of class indices and of probability columns."""
        return tuple(sorted({label for sample in self.samples for label in sample.labels}))

    def write(self, path: Path) -> None:
        """Write the CSV: UTF-8, `\\n` line ends, equal manifests are equal bytes. The file appears whole or not at all.

        Raises:
            DataError: a sample holds a value that the file cannot hold (it names the sample and the value).
        """
        for sample in self.samples:
            if (problem := sample_problem(sample)) is not None:
                raise DataError(f"sample '{printable(sample.sample_id)}' cannot be written to {path}: {problem}")
        write_csv(path, COLUMNS, (_row(sample) for sample in self.samples))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what `write` wrote.

        Raises:
            MissingInputError: there is no such file.
            DataError: the file is not a manifest, or is damaged; names the line.
        """
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise MissingInputError(f"{path} is not there: run `kuleshov index` to write it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a manifest ({error}): run `kuleshov index` again") from None
        return cls(tuple(_samples(text, path)))


def _row(sample: Sample) -> tuple[str, ...]:
    boxes = [[float(box.x1), float(box.y1), float(box.x2), float(box.y2), box.kind] for box in sample.boxes]
    return (
        sample.sample_id,
        sample.path,
        sample.media,
        LABEL_SEPARATOR.join(sample.labels),
        sample.split,
        sample.group,
        sample.subset,
        json.dumps(boxes, separators=(",", ":")),
        _written(sample.shares),
        _written(sample.values),
        sample.content,
    )


def _written(numbers: Numbers) -> str:
    return json.dumps(dict(numbers), separators=(",", ":"), ensure_ascii=False) if numbers else ""


def _samples(text: str, path: Path) -> Iterator[Sample]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    labels: dict[str, tuple[str, ...]] = {}

    def damaged(problem: str) -> DataError:
        return DataError(f"{path} line {reader.line_num}: {problem}; run `kuleshov index` to write it anew")

    try:
        header = next(reader, None)
        if header != list(COLUMNS):
            raise damaged(f"is not the header of a manifest (expected {','.join(COLUMNS)})")
        for row in reader:
            if len(row) != len(COLUMNS):
                raise damaged(f"has {len(row)} fields, a manifest has {len(COLUMNS)}")
            sample = _sample(row, labels)
            if isinstance(sample, str):
                raise damaged(sample)
            if (problem := sample_problem(sample)) is not None:
                raise damaged(problem)
            yield sample
    except csv.Error as error:
        raise damaged(str(error)) from None


def _sample(row: list[str], known: dict[str, tuple[str, ...]]) -> Sample | str:
    """The sample of one row, or what is wrong with its boxes.

    Values that often repeat are one object for all samples (`known`: cell -> labels): it saves half of the memory.
    """
    sample_id, path, media, labels, split, group, subset, boxes, shares, values, content = row
    given = _boxes(boxes) if boxes != "[]" else ()
    if isinstance(given, str):
        return given
    numbers = [_numbers(name, cell) if cell else () for name, cell in (("shares", shares), ("values", values))]
    for problem in numbers:
        if isinstance(problem, str):
            return problem
    names = known.get(labels)
    if names is None:
        names = known[labels] = tuple(labels.split(LABEL_SEPARATOR)) if labels else ()
    path = sample_id if path == sample_id else path
    told = [one for one in numbers if not isinstance(one, str)]
    return Sample(
        *(sample_id, path, intern(media), names, intern(split), intern(group), intern(subset), given, content), *told
    )


def _boxes(cell: str) -> tuple[Box, ...] | str:
    """The boxes of one cell, or what is wrong with them."""
    try:
        parsed = json.loads(cell)
        if not isinstance(parsed, list):
            raise TypeError
        return tuple(Box(float(x1), float(y1), float(x2), float(y2), kind) for x1, y1, x2, y2, kind in parsed)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return f"boxes are {cell[:80]!r}, not a JSON list of [x1,y1,x2,y2,kind]"


def _numbers(name: str, cell: str) -> Numbers | str:
    """The numbers of one cell, or what is wrong with them."""
    try:
        parsed = json.loads(cell)
        return tuple(sorted((key, float(value)) for key, value in parsed.items()))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return f"{name} are {cell[:80]!r}, not a JSON object of numbers"


def sample_problem(sample: Sample) -> str | None:
    """What makes a sample unfit for a manifest, in one line; None when it is fit."""
    if not sample.sample_id or not sample.path:
        return "sample_id and path must not be empty"
    values = (sample.sample_id, sample.path, sample.group, sample.subset, *sample.labels)
    if not "".join(values).isprintable():  # quick, and false for more than what cannot be written
        for value in values:
            if is_unwritable(value):
                return f"'{printable(value)}' has a control character or is not valid Unicode"
    if sample.media not in MEDIA:
        return f"media is {sample.media!r}, not one of {', '.join(MEDIA)}"
    if sample.split not in SPLITS:
        return f"split is {sample.split!r}, not one of {', '.join(SPLITS)}"
    if _unfit(sample.labels):
        return f"labels are {sample.labels!r}: each must be given once, not be empty and not hold {LABEL_SEPARATOR!r}"
    if len(sample.content) != 64 or sample.content.strip("0123456789abcdef"):
        return f"content is {sample.content!r}, not a SHA-256 of 64 hex digits"
    for box in sample.boxes:
        if (problem := box_problem(box)) is not None:
            return problem
    return _numbers_problem(sample) if sample.shares or sample.values else None


def _numbers_problem(sample: Sample) -> str | None:
    for name, number in (*sample.shares, *sample.values):
        if not name or is_unwritable(name) or LABEL_SEPARATOR in name or not math.isfinite(number):
            return f"'{printable(name)}' is {number}: a name and a finite number are needed"
    for numbers in (sample.shares, sample.values):
        if [name for name, _ in numbers] != sorted({name for name, _ in numbers}):
            return f"{numbers}: each name must be there once, in their order"
    if sample.shares and not (min(share for _, share in sample.shares) > 0 and _is_one(sample.shares)):
        return f"shares are {dict(sample.shares)}: each must be above 0, and their sum 1"
    return None


def _is_one(shares: Numbers) -> bool:
    return abs(math.fsum(share for _, share in shares) - 1) <= 1e-6


@lru_cache(maxsize=4096)
def _unfit(labels: tuple[str, ...]) -> bool:
    return len(set(labels)) != len(labels) or any(not x or LABEL_SEPARATOR in x for x in labels)


def box_problem(box: Box) -> str | None:
    """What makes a box unusable, in one line; None when it is usable."""
    if not all(math.isfinite(value) for value in (box.x1, box.y1, box.x2, box.y2)):
        return f"box {box.x1:g},{box.y1:g},{box.x2:g},{box.y2:g} is not finite"
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        return f"box {box.x1:g},{box.y1:g},{box.x2:g},{box.y2:g} has no area (x2 > x1 and y2 > y1 are needed)"
    if box.kind not in BOX_KINDS:
        return f"box kind is {box.kind!r}, not one of {', '.join(BOX_KINDS)}"
    return None


def is_unwritable(text: str) -> bool:
    """Whether a text has control characters or lone surrogates (a file name that is not UTF-8)."""
    return _UNWRITABLE.search(text) is not None


def printable(text: str) -> str:
    """The text with what `is_unwritable` objects to as backslash escapes, fit for a ledger or a message."""
    return _UNWRITABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
