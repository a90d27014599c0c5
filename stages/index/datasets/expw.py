"""ExpW, Expression in-the-Wild: photos from a search engine, and a class for each of 91,793 faces in them.

    root/label/label.lst        one face a line; also root/label.lst
    root/image/origin/*.jpg     also root/image, root/origin; all of it below root/data as well

A line is `image_name face_id_in_image face_box_top face_box_left face_box_right face_box_bottom
face_box_cascade_confidence expression_label`, parted by blanks, box in px.

Classes: angry, disgust, fear, happy, sad, surprise, neutral (0 to 6). Source: Zhang, Luo, Loy and Tang, From Facial
Expression Recognition to Interpersonal Relation Prediction, IJCV 2018 (arXiv 1609.06426). Offered for research that is
not commercial, on the authors' page.

A sample is a face: it has the face's box, the group is the photo, and the sample_id ends in `#` and the face's number.
The data set has no split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from stages.errors import DataError
from stages.index.datasets._photos import first_there, leads_out, photos_below, require_some_there
from stages.index.layout import require_layout
from stages.index.manifest import Box, box_problem, is_unwritable, printable
from stages.index.options import options_of
from stages.index.raw import Corpus, RawSample, Source
from stages.index.tabular import read_text
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "ExpW (Expression in-the-Wild)"
SOURCE = "Zhang et al., From Facial Expression Recognition to Interpersonal Relation Prediction, IJCV 2018"
FACES = "given"
LAYOUT = """\
label/label.lst       one face a line: name, number, top, left, right, bottom, confidence, class
image/origin/*.jpg
"""
CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

_LABELS = ("label/label.lst", "label.lst", "data/label/label.lst", "data/label.lst")
_IMAGES = ("image/origin", "data/image/origin", "origin", "data/origin", "image", "data/image")
_CELLS = 8
_DIGITS = 9  # of a number; int() refuses very long ones


class Options(Settings):
    """Which faces are taken.

    Attributes:
        min_confidence: faces whose box the authors' detector gave less than this are left out, and counted; the file
            has values from about 10 up. null: all faces.
    """

    min_confidence: float | None = None


@dataclass
class _Found:
    """What the lines have come to so far."""

    samples: dict[str, RawSample] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    repeated: int = 0
    unsure: int = 0


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read label.lst, one sample a face. sample_id: the photo's path below the root, `#` and the face's number.

    Recorded: `bad_row` (not eight cells, or no numbers), `bad_label`, `bad_box`, `bad_name`, `contradictory` (lines of
    one face that disagree), `permission`. A line that repeats an earlier one is counted.

    Raises:
        SettingError: an option that is not there.
        DataError: another layout, no face at all, or none of the photos is there.
    """
    options = options_of(source, Options)
    require_layout(source, TITLE, {})
    table, images = first_there(source.root, _LABELS), first_there(source.root, _IMAGES)
    if table is None or images is None:
        expected = {_LABELS[0]: "the faces' classes"} if table is None else {}
        require_layout(source, TITLE, expected | ({_IMAGES[0]: "the photos"} if images is None else {}))
    found = _Found()
    for number, line in enumerate(read_text(source.root / str(table), source.place).splitlines(), 1):
        if line.strip():
            _add(found, line, f"{table} line {number}", f"{images}/", options, ledger)
    samples = [raw for sample_id, raw in found.samples.items() if sample_id not in ledger]
    if not samples and not len(ledger):
        raise DataError(
            f"{source.place}: {source.root / str(table)} has no face"
            + (f" with a confidence of {options.min_confidence:g}: lower options.min_confidence" * bool(found.unsure))
        )
    there = set(photos_below(source.root, str(images), ledger))
    require_some_there(found.named, there, str(table), source.place)
    notes = _notes(found, len(there - found.named), str(images))
    return Corpus(tuple(samples), source.root, found.repeated, tuple(notes))


def _notes(found: _Found, unnamed: int, images: str) -> list[str]:
    notes = [f"{found.unsure} face(s) below options.min_confidence are left out"] if found.unsure else []
    return notes + ([f"{unnamed} photo(s) of {images} have no face in label.lst"] if unnamed else [])


def _add(found: _Found, line: str, where: str, images: str, options: Options, ledger: Ledger) -> None:
    """Add the face of a line, or record why it cannot be used."""
    cells = line.rsplit(None, _CELLS - 1)  # a name may hold blanks
    if len(cells) != _CELLS:
        ledger.record(where, "bad_row", f"{len(cells)} cells, {_CELLS} are needed")
        return
    name, face, top, left, right, bottom, confidence, label = cells
    path = images + name.strip()
    sample_id = f"{path}#{face}"
    found.named.add(path)
    try:
        box = Box(float(left), float(top), float(right), float(bottom), "face")
        sure = float(confidence)
        if not face.isdecimal() or math.isnan(sure):
            raise ValueError
    except ValueError:
        ledger.record(where, "bad_row", f"numbers are needed after the name, there are {' '.join(cells[1:])}")
        return
    if is_unwritable(sample_id) or leads_out(path):
        ledger.record(printable(sample_id), "bad_name", f"{where}: a name has no control character and no .. in it")
    elif (problem := box_problem(box)) is not None:
        ledger.record(sample_id, "bad_box", f"{where}: {problem}")
    elif not label.isdecimal() or len(label) > _DIGITS or int(label) >= len(CLASSES):
        ledger.record(sample_id, "bad_label", f"{where}: the class is {label!r}, not 0 to {len(CLASSES) - 1}")
    elif options.min_confidence is not None and sure < options.min_confidence:
        found.unsure += 1
    else:
        raw = RawSample(sample_id, path, "image", (CLASSES[int(label)],), group=path, boxes=(box,))
        if (known := found.samples.setdefault(sample_id, raw)) is raw:
            return
        if known == raw:
            found.repeated += 1
        else:
            ledger.record(sample_id, "contradictory", f"{where}: another box or class than in an earlier line")
