"""Adapter `afew`: AFEW, clips of films in seven classes, of the audio-video task of the EmotiW challenges.

    ROOT/Train_AFEW/Angry/000046280.avi      also Train, ...; Angry Disgust Fear Happy Neutral Sad Surprise
    ROOT/Val_AFEW/Angry/001000960.avi        also Val, Validation, ...
    ROOT/Test_AFEW/000000020.avi             optional: the challenge's clips, without labels

Labels: angry, disgust, fear, happy, neutral, sad, surprise. The sample_id is the path below the root. What films the
clips are from is not in their names, so there are no groups; the challenge keeps films on one side of its splits.
Other folders beside the classes (such as AlignedFaces_LBPTOP_Points) are passed over and noted.

The test labels were never given out, so papers report on Val: `evaluate_on_val` makes it the split test, subset `Val`.

Dhall et al., "Collecting Large, Richly Annotated Facial-Expression Databases from Movies", IEEE MultiMedia 2012. Given
out for research after an agreement with the authors is signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages.errors import DataError, SettingError
from stages.index.datasets._photos import folders_of, names_in
from stages.index.layout import require_layout, some, wrong_layout
from stages.index.manifest import is_unwritable, printable
from stages.index.options import options_of
from stages.index.raw import VIDEO_EXTENSIONS, Corpus, RawSample, Source, extension_of, split_of
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "AFEW"
SOURCE = (
    "Dhall et al., Collecting Large, Richly Annotated Facial-Expression Databases from Movies, IEEE MultiMedia 2012"
)
FACES = "found"
LAYOUT = """\
ROOT/Train_AFEW/Angry/*.avi       Angry Disgust Fear Happy Neutral Sad Surprise
ROOT/Val_AFEW/Angry/*.avi
ROOT/Test_AFEW/*.avi              optional, without labels
"""
CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

_OFFICIAL = {"train": "Train_AFEW", "val": "Val_AFEW", "test": "Test_AFEW"}
_DEEPEST = 3  # folders below Test_AFEW


class Options(Settings):
    """Which clips of AFEW are read, and what Val is for.

    Attributes:
        evaluate_on_val: Val is what results are reported on, as in Aminbeidokhti et al. 2019: its clips are of the
            split test, subset `Val`, and nothing is in val. They say of no clips that settings were chosen by.
        test: whether the clips of Test_AFEW, which have no labels, are read, where they are there: split test, subset
            `Test`.
    """

    evaluate_on_val: bool = False
    test: bool = True


def read(source: Source, ledger: Ledger) -> Corpus:
    """List the clips; none is opened.

    Recorded in the ledger: `no_label` (a clip beside the class folders of train or val), `bad_name` (a name that no CSV
    can hold), `permission` (a folder that cannot be listed).

    Raises:
        SettingError: an option that there is not, or `images` or `columns`; `evaluate_on_val` where no split is wanted.
        DataError: the root is not laid out as AFEW, has two folders for one split or class, or holds no clip; or
            `evaluate_on_val` without Val.
    """
    options = options_of(source, Options)
    if options.evaluate_on_val and not source.splits:
        place = source.place
        raise SettingError(
            f"{place}.options.evaluate_on_val is true, and {place}.use puts every clip into one split: remove one"
        )
    parts = _parts(source)
    if options.evaluate_on_val and "val" not in parts:
        raise DataError(
            f"{source.place}.root {source.root} has no {_OFFICIAL['val']}, and {source.place}.options.evaluate_on_val "
            "reports on it: unpack it there, or set that to false"
        )
    notes: list[str] = []
    samples: list[RawSample] = []
    for split, folder in parts.items():
        if split == "test" and options.test:
            samples += _unlabelled(source.root, folder, ledger)
        elif split != "test":
            samples += _labelled(source, split, folder, options, ledger, notes)
    if not samples and not len(ledger):
        looked_for = ", ".join(sorted(VIDEO_EXTENSIONS))
        raise DataError(f"{source.place}.root {source.root}: no clip in {', '.join(parts.values())} ({looked_for})")
    notes += [f"{_OFFICIAL[split]} is not there" for split in ("train", "val") if split not in parts]
    return Corpus(tuple(samples), source.root, notes=tuple(notes))


def _parts(source: Source) -> dict[str, str]:
    """Split -> the folder that holds it, as it is spelled; train or val is there."""
    require_layout(source, TITLE, {})
    parts: dict[str, str] = {}
    for name in folders_of(source.root, source.place):
        split = split_of(name.casefold().removesuffix("_afew"))
        if split is None:
            continue
        _add(parts, split, name, source, "")
    if not parts.keys() & {"train", "val"}:
        raise wrong_layout(
            source, TITLE, {_OFFICIAL[split]: f"{split}, a folder for each class" for split in ("train", "val")}
        )
    return {split: parts[split] for split in _OFFICIAL if split in parts}


def _add(folders: dict[str, str], meaning: str, name: str, source: Source, above: str) -> None:
    """Note a folder's name under what it means; two that mean the same are refused."""
    if meaning in folders:
        raise DataError(
            f"{source.place}.root {source.root} has {above}{folders[meaning]} and {above}{name}, which both mean "
            f"{meaning}: keep one"
        )
    folders[meaning] = name


def _labelled(
    source: Source, split: str, folder: str, options: Options, ledger: Ledger, notes: list[str]
) -> Iterator[RawSample]:
    """The clips of a split's class folders."""
    classes: dict[str, str] = {}
    others = []
    for name in folders_of(source.root / folder, source.place):
        if name.casefold() in CLASSES:
            _add(classes, name.casefold(), name, source, f"{folder}/")
        else:
            others.append(name)
    if not classes:
        raise wrong_layout(source, TITLE, {f"{folder}/{name.capitalize()}": "clips of that class" for name in CLASSES})
    if lacking := [name.capitalize() for name in CLASSES if name not in classes]:
        notes.append(f"{folder} has no folder {some(lacking)}")
    if others:
        notes.append(f"{folder}: passed over {some(others)}, which is no class")
    for path in _clips(source.root, folder, ledger, deepest=0):
        ledger.record(path, "no_label", f"the clip lies in {folder} and in no class folder")
    told = "test" if split == "val" and options.evaluate_on_val else split
    for label in CLASSES:
        if label in classes:
            for path in _clips(source.root, f"{folder}/{classes[label]}", ledger, deepest=0):
                yield RawSample(path, path, "video", (label,), told, subset={"val": "Val"}.get(split, ""))


def _unlabelled(root: Path, folder: str, ledger: Ledger) -> Iterator[RawSample]:
    for path in _clips(root, folder, ledger, deepest=_DEEPEST):
        yield RawSample(path, path, "video", (), "test", subset="Test")


def _clips(root: Path, folder: str, ledger: Ledger, deepest: int) -> Iterator[str]:
    """Yield the posix path below the root of every clip in a folder, and in folders in it, sorted by folder."""
    try:
        names = sorted(names_in(root / folder))
    except OSError as error:
        ledger.record(printable(folder), "permission", f"the folder cannot be listed: {error.strerror}")
        return
    for name in names:
        path = f"{folder}/{name}"
        if name.startswith("."):
            continue
        if extension_of(name) not in VIDEO_EXTENSIONS:
            if deepest and (root / path).is_dir():
                yield from _clips(root, path, ledger, deepest - 1)
        elif is_unwritable(name):
            ledger.record(printable(path), "bad_name", "the name has a control character or is not UTF-8: rename it")
        else:
            yield path
