"""AffectNet: faces from search engines with one of eight expressions, valence and arousal, annotated by hand.

    root/Manually_Annotated_file_lists/training.csv      also beside the photos' folder
    root/Manually_Annotated_file_lists/validation.csv
    root/Manually_Annotated_Images/1/0a1b.jpg            also Manually_Annotated/Manually_Annotated_Images, or the root

with the columns subDirectory_filePath, face_x, face_y, face_width, face_height (px), facial_landmarks, expression,
valence, arousal (-1 to 1; -2: none given); a list without a header has these in this order. Or the smaller release:

    root/train_set/images/0.jpg                          a face each; and val_set
    root/train_set/annotations/0_exp.npy, 0_val.npy, 0_aro.npy

Classes: neutral, happy, sad, surprise, fear, disgust, anger, contempt (0 to 7), none, uncertain, no-face (8 to 10).
Source: Mollahosseini, Hasani and Mahoor, AffectNet, IEEE Transactions on Affective Computing 2019. Given for research
that is not commercial, on request by the head of a group.

The split is the data set's own, train and val. Its test set was never published: papers report on val. Lists are read
line by line, since the official one of training has 400 MB.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from stages.errors import DataError
from stages.index.datasets._affectnet import Fields, of_arrays, of_list
from stages.index.datasets._photos import first_there, leads_out, photos_below, require_some_there
from stages.index.layout import require_layout, wrong_layout
from stages.index.manifest import Box, Numbers, box_problem, is_unwritable, printable
from stages.index.options import options_of
from stages.index.raw import Corpus, RawSample, Source
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "AffectNet"
SOURCE = "Mollahosseini, Hasani and Mahoor, AffectNet, IEEE Transactions on Affective Computing 10(1), 2019"
FACES = "found"
LAYOUT = """\
Manually_Annotated_file_lists/training.csv
Manually_Annotated_file_lists/validation.csv
Manually_Annotated_Images/*/*.jpg

or
train_set/images/*.jpg
train_set/annotations/*_exp.npy, *_val.npy, *_aro.npy
val_set/images/*.jpg
val_set/annotations/*_exp.npy, *_val.npy, *_aro.npy
"""
CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
OTHERS = ("none", "uncertain", "no-face")

_LISTS = {"train": "training.csv", "val": "validation.csv"}
_SETS = {"train": "train_set", "val": "val_set"}
_ABOVE = ("Manually_Annotated_file_lists/", "", "Manually_Annotated/Manually_Annotated_file_lists/")
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_NONE_GIVEN = -2.0
_ALL = {str(number): label for number, label in enumerate((*CLASSES, *OTHERS))}


class Options(Settings):
    """Which classes are taken.

    Attributes:
        contempt: false for the seven classes of older data sets.
        others: whether photos of the classes none, uncertain and no-face are taken, under these names.
    """

    contempt: bool = True
    others: bool = False

    def takes(self, label: str) -> bool:
        """Whether photos of a class are taken."""
        return self.others if label in OTHERS else self.contempt or label != "contempt"


@dataclass
class _Found:
    """What the annotations have come to so far."""

    samples: dict[str, RawSample] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    repeated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def read(source: Source, ledger: Ledger) -> Corpus:
    """Read the lists, or the arrays. sample_id: the path below the root; `values`: valence and arousal, where given.

    Recorded: `bad_row`, `bad_label`, `bad_box`, `bad_value`, `bad_name`, `contradictory` (rows of one photo that
    disagree), `no_label` (a photo without an array of its expression), `permission`. Rows that repeat an earlier one
    are counted.

    Raises:
        SettingError: an option that is not there.
        DataError: another layout, no annotation at all, or none of the photos is there.
    """
    options = options_of(source, Options)
    require_layout(source, TITLE, {})
    found = _Found()
    if first_there(source.root, tuple(_SETS.values())) is not None:
        there, folder = _arrays(found, source, options, ledger), "the folders images"
    else:
        there, folder = _lists(found, source, options, ledger), "the folder of photos"
    if not found.named and not len(ledger):
        raise DataError(f"{source.place}.root {source.root} has no annotation: is the data set unpacked completely?")
    require_some_there(found.named, there, "the annotations", source.place)
    notes = []
    if found.left_out:
        counts = ", ".join(f"{label} {count}" for label, count in sorted(found.left_out.items()))
        notes.append(f"left out as options say: {counts}")
    if unnamed := len(there - found.named - ledger.entries.keys()):
        notes.append(f"{unnamed} photo(s) in {folder} have no annotation")
    kept = tuple(raw for sample_id, raw in found.samples.items() if sample_id not in ledger)
    return Corpus(kept, source.root, found.repeated, tuple(notes))


def _lists(found: _Found, source: Source, options: Options, ledger: Ledger) -> set[str]:
    """Add what the two lists say; the photos that are there."""
    tables = {part: first_there(source.root, [above + name for above in _ABOVE]) for part, name in _LISTS.items()}
    require_layout(
        source, TITLE, {_ABOVE[0] + _LISTS[part]: "the annotations" for part, table in tables.items() if table is None}
    )
    images = first_there(source.root, _IMAGES)
    prefix = f"{images}/" if images else ""
    for part, table in tables.items():
        for fields in of_list(source.root / str(table), source.place, ledger):
            path = prefix + fields.path.replace("\\", "/")
            _add(found, path, part if source.splits else None, fields, options, ledger)
    return set(photos_below(source.root, images or "", ledger))


def _arrays(found: _Found, source: Source, options: Options, ledger: Ledger) -> set[str]:
    """Add what the arrays of both sets say; the photos that are there."""
    wanted = {f"{name}/{inner}": f"the {inner}" for name in _SETS.values() for inner in ("images", "annotations")}
    if lacking := {path: what for path, what in wanted.items() if not (source.root / path).is_dir()}:
        raise wrong_layout(source, TITLE, lacking)
    there: set[str] = set()
    for part, name in _SETS.items():
        photos = sorted(photos_below(source.root, f"{name}/images", ledger))
        there.update(photos)
        for fields in of_arrays(source.root, name, photos, ledger):
            _add(found, fields.path, part if source.splits else None, fields, options, ledger)
    return there


def _add(found: _Found, path: str, split: str | None, fields: Fields, options: Options, ledger: Ledger) -> None:
    """Add the sample of one annotation, or record why it cannot be used."""
    if not fields.path or is_unwritable(path) or leads_out(path):
        name = printable(path) if fields.path else fields.where
        ledger.record(name, "bad_name", f"{fields.where}: the photo's name cannot be used")
        return
    found.named.add(path)
    label = _ALL.get(fields.expression)
    if label is None:
        ledger.record(
            path, "bad_label", f"{fields.where}: expression is {fields.expression!r}, not 0 to {len(_ALL) - 1}"
        )
        return
    if not options.takes(label):
        found.left_out[label] += 1
        return
    boxes, values = _boxes(fields.box, label), _values(fields)
    for reason, problem in (("bad_box", boxes), ("bad_value", values)):
        if isinstance(problem, str):
            ledger.record(path, reason, f"{fields.where}: {problem}")
    if isinstance(boxes, str) or isinstance(values, str):
        return
    raw = RawSample(path, path, "image", (label,), split, boxes=boxes, values=values)
    if (known := found.samples.setdefault(path, raw)) is not raw:
        if known == raw:
            found.repeated += 1
        else:
            ledger.record(path, "contradictory", f"{fields.where}: another class, box, value or split than before")


def _boxes(cells: tuple[str, ...], label: str) -> tuple[Box, ...] | str:
    """The face's box, or what is wrong with it. Photos without a face need none."""
    try:
        x, y, width, height = (float(cell) for cell in cells or ("", "", "", ""))
    except ValueError:
        if not cells or label == OTHERS[-1]:
            return ()
        return f"four numbers are needed, there are {', '.join(cells)}"
    box = Box(x, y, x + width, y + height, "face")
    problem = box_problem(box)
    return (box,) if problem is None else () if label == OTHERS[-1] else problem


def _values(fields: Fields) -> Numbers | str:
    """Valence and arousal as far as they are given, or what is wrong with them."""
    told = []
    for name, cell in (("arousal", fields.arousal), ("valence", fields.valence)):
        try:
            number = float(cell) if cell else _NONE_GIVEN
        except ValueError:
            return f"{name} is {cell!r}, not a number"
        if number == _NONE_GIVEN:
            continue
        if not -1 <= number <= 1:
            return f"{name} is {cell}, not -1 to 1 (nor -2 for none)"
        told.append((name, number))
    return tuple(told)
