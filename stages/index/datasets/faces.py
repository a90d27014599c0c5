"""Faces and other pictures, for a network that tells whether there is a face (Meen et al.'s first stage).

The root has two folders, `faces` (or `positives`) and `others` (or `negatives`). Pictures may lie in them at any depth
down to four folders; the first folder below is where they come from, and the subset: `faces/fer2013/...` is of subset
fer2013. Labels: face, other. There are no splits and no groups, so `data.split` makes them.

This is a layout, not a published data set: the paper put its own together, faces from data sets of face recognition
(CK+ and VGGFace2 among them) and the others from data sets of objects and of scenery. Their terms hold.
"""

from __future__ import annotations

from pathlib import Path

from stages.errors import DataError
from stages.index.datasets._photos import folders_of, photos_below
from stages.index.layout import require_layout, wrong_layout
from stages.index.options import NoOptions, options_of
from stages.index.raw import Corpus, RawSample, Source
from stages.ledger import Ledger

TITLE = "faces and other pictures"
SOURCE = "the face detection stage of Meen et al."
FACES = "whole"
LAYOUT = """\
faces/SOURCE/*.png        pictures of one face each (or positives/); SOURCE may be left out, or folders lie below it
others/SOURCE/*.png       pictures without a face (or negatives/)
"""
CLASSES = {"face": ("faces", "positives"), "other": ("others", "negatives")}
"""Label -> the names that its folder may have."""


class Options(NoOptions):
    """There are none."""


def read(source: Source, ledger: Ledger) -> Corpus:
    """List the pictures of both folders. sample_id: the path below the root. Recorded: `bad_name`, `permission`.

    Raises:
        SettingError: an option, `images` or `columns` is given.
        DataError: a folder is not there, is there under both of its names, or has no pictures.
    """
    options_of(source, Options)
    require_layout(source, TITLE, {})
    there = folders_of(source.root, source.place)
    found = {label: [name for name in there if name.casefold() in names] for label, names in CLASSES.items()}
    if lacking := {CLASSES[label][0]: f"or {CLASSES[label][1]}" for label, names in found.items() if not names}:
        raise wrong_layout(source, TITLE, lacking)
    samples: list[RawSample] = []
    for label, names in found.items():
        if len(names) > 1:
            raise DataError(f"{source.place}.root {source.root} has {' and '.join(names)}: put all into one of them")
        samples += _of(source, label, names[0], ledger)
    return Corpus(tuple(samples), source.root)


def _of(source: Source, label: str, folder: str, ledger: Ledger) -> list[RawSample]:
    samples = []
    for path in photos_below(source.root, folder, ledger):
        inner = path.split("/")[1:-1]
        samples.append(RawSample(path, path, "image", (label,), subset=inner[0] if inner else ""))
    if not samples:
        raise DataError(f"{source.place}: {Path(source.root, folder)} has no pictures, and both classes need some")
    return samples
