"""Adapter `ckplus`: CK+, posed faces that go from neutral to the peak of an expression.

    ROOT/cohn-kanade-images/S005/001/S005_001_00000011.png           subject, sequence, photos by number
    ROOT/Emotion/S005/001/S005_001_00000011_emotion.txt              of 327 of the 593 sequences: a number, 1 to 7

Also with extended-cohn-kanade-images/ or Emotion_labels/ around or in place of these. Labels: anger, contempt, disgust,
fear, happy, sadness, surprise (1 to 7), and neutral where it is asked for. A sample is a photo, its sample_id the path
below the root, its group the subject. The data set has no split of its own: `index` makes one by subjects.

The label is of the peak, which is the last photo; as is the habit, the last `last` photos of a sequence get it.

Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR workshops 2010. Given out for research after an agreement
is signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from stages.index.datasets._photos import first_there, folders_of, names_in, require_some_there
from stages.index.layout import require_layout
from stages.index.manifest import printable
from stages.index.options import options_of
from stages.index.raw import Corpus, RawSample, Source
from stages.index.tabular import text_of
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "CK+"
SOURCE = "Lucey et al., The Extended Cohn-Kanade Dataset (CK+), CVPR workshops 2010"
FACES = "found"
LAYOUT = """\
ROOT/cohn-kanade-images/S005/001/S005_001_00000001.png ...
ROOT/Emotion/S005/001/S005_001_00000011_emotion.txt          of the sequences that have a label
"""
CLASSES = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
NEUTRAL = "neutral"

_IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images", "extended-cohn-kanade-images")
_LABELS = ("Emotion", "Emotion_labels/Emotion", "Emotion_labels")
_PHOTO = re.compile(r"(S\d+_\d+_\d+)\.(png|tiff?|jpe?g)", re.IGNORECASE)
_LABEL = re.compile(r"(S\d+_\d+_\d+)_emotion\.txt", re.IGNORECASE)


class Options(Settings):
    """Which photos of a sequence are read.

    Attributes:
        last: how many at the end of each labelled sequence, with its label.
        neutral: whether the first photo of every sequence, number 1, is read as neutral. Of a sequence without it, or
            with a label of that very photo, none is.
        unlabelled: whether the last photos of sequences without a label are read, without one.
    """

    last: int = Field(3, ge=1)
    neutral: bool = False
    unlabelled: bool = False


@dataclass
class _Sequence:
    """The photos of a sequence by their stems, and the labels told: stem of the photo -> class."""

    subject: str
    photos: dict[str, str]
    labels: dict[str, str]


def read(source: Source, ledger: Ledger) -> Corpus:
    """List the sequences and read their labels; no photo is opened.

    A label whose photo is not there makes a sample all the same, which `index` records as missing. Recorded in the
    ledger, under SUBJECT/SEQUENCE: `bad_label` (a label that is no number from 1 to 7), `contradictory` (two labels),
    `unreadable` (a folder or file that cannot be read).

    Raises:
        SettingError: an option that there is not, or `images` or `columns`.
        DataError: the root is not laid out as CK+, or none of the labelled photos is there.
    """
    options = options_of(source, Options)
    require_layout(source, TITLE, {})
    images, labels = first_there(source.root, _IMAGES), first_there(source.root, _LABELS)
    if images is None or labels is None:
        lacking = {_IMAGES[0]: "photos by subject and sequence"} if images is None else {}
        lacking |= {_LABELS[0]: "labels by subject and sequence"} if labels is None else {}
        require_layout(source, TITLE, lacking)
    images, labels = images or _IMAGES[0], labels or _LABELS[0]
    notes: list[str] = []
    sequences = _sequences(source, images, labels, ledger, notes)
    samples, there = [], set[str]()
    for name, sequence in sorted(sequences.items()):
        there.update(f"{images}/{name}/{photo}" for photo in sequence.photos.values())
        if name not in ledger:
            samples += _samples(f"{images}/{name}", sequence, options)
    if options.neutral and (late := sum(bool(s.photos) and not _is_first(min(s.photos)) for s in sequences.values())):
        notes.append(f"{late} sequence(s) lack their first photo: none of theirs is neutral")
    require_some_there([sample.path for sample in samples], there, labels, source.place)
    return Corpus(tuple(samples), source.root, notes=tuple(notes))


def _sequences(source: Source, images: str, labels: str, ledger: Ledger, notes: list[str]) -> dict[str, _Sequence]:
    """SUBJECT/SEQUENCE -> what is there of it."""
    found: dict[str, _Sequence] = {}
    others = 0
    for top in (images, labels):
        for name, names in _leaves(source, top, ledger):
            sequence = found.setdefault(name, _Sequence(name.partition("/")[0], {}, {}))
            for one in names:
                if top == images and (match := _PHOTO.fullmatch(one)):
                    sequence.photos[match[1]] = one
                elif top == labels and (match := _LABEL.fullmatch(one)):
                    _tell(source, f"{labels}/{name}/{one}", name, match[1], sequence, ledger)
                else:
                    others += 1
    if others:
        notes.append(f"{others} file(s) in the folders of sequences are no photo or label by their names: passed over")
    if silent := sum(not sequence.labels for sequence in found.values()):
        notes.append(f"{silent} of {len(found)} sequence(s) have no label")
    return found


def _leaves(source: Source, top: str, ledger: Ledger) -> Iterator[tuple[str, list[str]]]:
    """Yield SUBJECT/SEQUENCE and the names of the files in it, sorted, hidden ones left out."""
    for subject in folders_of(source.root / top, source.place):
        for number in folders_of(source.root / top / subject, source.place):
            name = f"{subject}/{number}"
            try:
                names = names_in(source.root / top / name)
            except OSError as error:
                ledger.record(printable(name), "unreadable", f"{top}/{name} cannot be listed: {error.strerror}")
                continue
            yield name, sorted(one for one in names if not one.startswith("."))


def _tell(source: Source, path: str, name: str, stem: str, sequence: _Sequence, ledger: Ledger) -> None:
    """Put what a label's file says to the sequence, or record why it cannot be."""
    try:
        text = text_of((source.root / path).read_bytes()).strip()
    except OSError as error:
        ledger.record(name, "unreadable", f"{path} cannot be read: {error.strerror}")
        return
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number not in range(1, len(CLASSES) + 1):
        ledger.record(name, "bad_label", f"{path} holds {text[:40]!r}, not a number from 1 to {len(CLASSES)}")
        return
    label = CLASSES[int(number) - 1]
    if others := {*sequence.labels.values()} - {label}:
        ledger.record(name, "contradictory", f"{path} says {label}, another file of the sequence {others.pop()}")
    sequence.labels[stem] = label


def _is_first(stem: str) -> bool:
    """Whether a photo is the first of its sequence: where it is lost, the next is not neutral any more."""
    return stem.rpartition("_")[2].lstrip("0") == "1"


def _samples(folder: str, sequence: _Sequence, options: Options) -> Iterator[RawSample]:
    """The photos of a sequence that are asked for."""

    def sample(stem: str, *labels: str) -> RawSample:
        path = f"{folder}/{sequence.photos.get(stem, f'{stem}.png')}"
        return RawSample(path, path, "image", labels, group=sequence.subject)

    stems = sorted(sequence.photos)
    first = [stem for stem in stems[:1] if options.neutral and _is_first(stem) and stem not in sequence.labels]
    for stem in first:
        yield sample(stem, NEUTRAL)
    if sequence.labels:
        peak, label = max(sequence.labels.items())
        shown = [stem for stem in sorted({*stems, peak}) if stem <= peak and stem not in first]
        yield from (sample(stem, label) for stem in shown[-options.last :])
    elif options.unlabelled:
        yield from (sample(stem) for stem in [one for one in stems if one not in first][-options.last :])
