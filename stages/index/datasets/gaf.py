"""GAF 2.0 and 3.0, the group photos of the EmotiW challenges of 2017 to 2020.

    root/Train/Positive/*.jpg          also train, Training
    root/Train/Neutral/*.jpg
    root/Train/Negative/*.jpg
    root/Validation/Positive/*.jpg     also Val, Valid, validation, ...; classes as under Train
    root/Test/*.jpg                    optional: the challenge's photos without labels

Classes: positive, neutral, negative. Source: Dhall, Kaur, Goecke and Gedeon, EmotiW 2018: Audio-Video, Student
Engagement and Group-Level Affect Prediction, ICMI 2018 (2.0); Ghosh, Dhall, Sebe and Gedeon, IJCNN 2019 (3.0). The
photos are given for research after an agreement with the organisers is signed.

Splits: the labels of Test were never published, so Gupta et al. (ICMI workshop 2018, section 3.1) part the validation
set: EVAL, 1,000 photos, is what results are reported on, and VAL, the other 3,346, is what settings are chosen by.
Their list is not in the paper: give it as `evaluation`, or let as many photos be drawn. EVAL is the split test here,
with the subset `EVAL`; the rest is val, `VAL`. Photos of Test are unlabelled and in the split test too, subset `test`;
`unseen` takes labelled ones for them out of the validation set.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field, field_validator

from stages.errors import DataError, SettingError
from stages.index.datasets._photos import folders_of, photos_below, spelled
from stages.index.layout import require_layout, some
from stages.index.options import options_of
from stages.index.raw import Corpus, RawSample, Source, split_of
from stages.index.tabular import read_text
from stages.ledger import Ledger
from stages.settings import Settings

TITLE = "GAF (Group Affect Database 2.0, 3.0)"
SOURCE = "Dhall et al., EmotiW 2018, ICMI 2018; Ghosh et al., Predicting Group Cohesiveness in Images, IJCNN 2019"
FACES = "found"
LAYOUT = """\
Train/Positive/*.jpg
Train/Neutral/*.jpg
Train/Negative/*.jpg
Validation/Positive/*.jpg
Validation/Neutral/*.jpg
Validation/Negative/*.jpg
Test/*.jpg                    optional, without labels
"""
CLASSES = ("positive", "neutral", "negative")
EVAL, VAL, UNSEEN = "EVAL", "VAL", "TEST"

_OFFICIAL = {"train": "Train", "val": "Validation", "test": "Test"}


class Options(Settings):
    """What of the validation set is held out to report on.

    Attributes:
        evaluation: how many photos of the validation set are EVAL, drawn by `evaluation_seed`, each class by its share;
            or the path of a text file with one name a line (with or without folders and extension); or null: none.
        evaluation_seed: of the draw, 0 or above.
        unseen: how many more of them stand for the challenge's test set, whose labels nobody has: drawn in the same way
            from what EVAL leaves, split test, subset `TEST`.
        retrain: VAL's photos are in the split train too, as in table 2 of Gupta et al.; their subset stays `VAL`.
        test: whether the unlabelled photos of Test are taken, where they are there.
    """

    evaluation: int | str | None = 1000
    evaluation_seed: int = Field(0, ge=0)
    unseen: int = Field(0, ge=0)
    retrain: bool = False
    test: bool = True

    @field_validator("evaluation", mode="before")
    @classmethod
    def _count_or_path(cls, value: object) -> object:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (is_count or value is None or (isinstance(value, str) and value.strip())):
            raise ValueError("give a count of 1 or more, the path of a list of names, or null")
        return value


def read(source: Source, ledger: Ledger) -> Corpus:
    """List the photos of the three parts. sample_id: the path below the root. Recorded: `bad_name`, `permission`.

    With `source.splits` false no split is given, and EVAL is not drawn: the subsets are train, VAL and test.

    Raises:
        SettingError: `evaluation` takes more photos than there are or all; what parts the validation set where no split
            is wanted; `retrain` or `unseen` without `evaluation`.
        DataError: another layout, a class without photos, or a list that does not fit the validation set.
    """
    options = options_of(source, Options)
    _require_sense(options, source)
    folders = _folders(source)
    notes: list[str] = []
    parts = {part: _part(source, part, folder, ledger, notes) for part, folder in folders.items()}
    if source.splits and options.evaluation is not None:
        parts["val"] = _parted(parts["val"], parts["train"], options, source)
    if not options.test:
        parts.pop("test", None)
    samples = [raw for part in parts.values() for raw in part]
    if not source.splits:
        samples = [replace(raw, split=None) for raw in samples]
    return Corpus(tuple(samples), source.root, notes=tuple(notes))


def _parted(val: Sequence[RawSample], train: Sequence[RawSample], options: Options, source: Source) -> list[RawSample]:
    """The validation set as EVAL, TEST and VAL."""
    chosen = dict.fromkeys(_chosen(val, train, options, source), EVAL)
    left = [raw for raw in val if raw.sample_id not in chosen]
    if options.unseen >= len(left):
        raise SettingError(
            f"{source.place}.options.unseen is {options.unseen}, and EVAL leaves {len(left)} photo(s) of validation, "
            "of which some must be left for VAL: give fewer"
        )
    chosen |= dict.fromkeys(_drawn(left, options.unseen, options.evaluation_seed), UNSEEN)
    rest = "train" if options.retrain else "val"
    return [
        replace(raw, split="test", subset=chosen[raw.sample_id])
        if raw.sample_id in chosen
        else replace(raw, split=rest)
        for raw in val
    ]


def _require_sense(options: Options, source: Source) -> None:
    place = f"{source.place}.options"
    if options.unseen and options.evaluation is None:
        raise SettingError(f"{place}.unseen is {options.unseen} and {place}.evaluation null: give evaluation as well")
    if options.retrain and options.evaluation is None:
        raise SettingError(
            f"{place}.retrain is true and {place}.evaluation null: every photo would be trained on; "
            "give evaluation, or set retrain: false"
        )
    asked = sorted(options.model_fields_set & {"evaluation", "evaluation_seed", "retrain", "unseen"})
    if asked and not source.splits and (options.retrain or options.evaluation is not None):
        raise SettingError(
            f"{place}.{asked[0]} parts the validation set, and {source.place}.use puts every photo into one split: "
            "remove one of them"
        )


def _folders(source: Source) -> dict[str, str]:
    """The part (train, val, test) -> its folder's name; test only where it is there."""
    require_layout(source, TITLE, {})
    names: dict[str, list[str]] = {}
    for name in folders_of(source.root, source.place):
        if (part := split_of(name)) is not None:
            names.setdefault(part, []).append(name)
    for part, some_names in names.items():
        if len(some_names) > 1:
            raise DataError(
                f"{source.place}.root {source.root} has {' and '.join(some_names)}, which all mean {part}: keep one"
            )
    folders = {part: names[part][0] if part in names else _OFFICIAL[part] for part in ("train", "val")}
    expected = {
        f"{folder}/{_class_folder(source, folder, name)}": f"photos of the class {name}"
        for folder in folders.values()
        for name in CLASSES
    }
    require_layout(source, TITLE, expected)
    return folders | ({"test": names["test"][0]} if "test" in names else {})


def _class_folder(source: Source, folder: str, name: str) -> str:
    """A class folder's name as it is spelled, or the official one."""
    there = folders_of(source.root / folder, source.place) if (source.root / folder).is_dir() else []
    return spelled(name.capitalize(), there)


def _part(source: Source, part: str, folder: str, ledger: Ledger, notes: list[str]) -> list[RawSample]:
    """The photos of a part. Those of Test are unlabelled, unless they lie in class folders."""
    samples: list[RawSample] = []
    stray: list[str] = []
    subset = VAL if part == "val" else part
    for path in photos_below(source.root, folder, ledger):
        inner = path.split("/")[1:]
        label = inner[0].casefold() if len(inner) > 1 else ""
        if label in CLASSES or (part == "test" and not label):
            samples.append(RawSample(path, path, "image", (label,) if label else (), part, subset=subset))
        else:
            stray.append(path)
    if stray:
        notes.append(f"{len(stray)} photo(s) of {folder} are in no class folder and left out, the first {stray[0]}")
    counts = Counter(label for raw in samples for label in raw.labels)
    lacking = [name for name in CLASSES if not counts[name]] if part != "test" else []
    if lacking:
        raise DataError(
            f"{source.place}.root {source.root}: {folder} has no photo of the class {lacking[0]}: "
            "is the data set unpacked completely?"
        )
    return samples


def _chosen(val: Sequence[RawSample], train: Sequence[RawSample], options: Options, source: Source) -> set[str]:
    """The sample_ids of EVAL."""
    place = f"{source.place}.options.evaluation"
    if isinstance(options.evaluation, int):
        if options.evaluation >= len(val):
            raise SettingError(
                f"{place} is {options.evaluation}, and the validation set has {len(val)} photo(s), of which some "
                "must be left for VAL: give fewer, or null"
            )
        return _drawn(val, options.evaluation, options.evaluation_seed)
    path = source.base / str(options.evaluation)
    names = [line.strip() for line in read_text(path, place).splitlines() if line.strip()]
    return _listed(names, val, train, f"{place}: {path}")


def _drawn(val: Sequence[RawSample], count: int, seed: int) -> set[str]:
    """So many photos, each class by its share (largest remainders), the same whatever the folder is called."""
    classes: dict[str, list[RawSample]] = {}
    for raw in val:
        classes.setdefault(raw.labels[0], []).append(raw)
    exact = {label: count * len(members) / len(val) for label, members in classes.items()}
    quotas = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (quotas[label] - exact[label], label))
    for label in by_remainder[: count - sum(quotas.values())]:
        quotas[label] += 1

    def rank(raw: RawSample) -> bytes:
        name = f"{seed}/{raw.labels[0]}/{raw.path.rpartition('/')[2]}"
        return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return {raw.sample_id for label, members in classes.items() for raw in sorted(members, key=rank)[: quotas[label]]}


def _listed(names: Sequence[str], val: Sequence[RawSample], train: Sequence[RawSample], place: str) -> set[str]:
    """The sample_ids that a list names.

    Raises:
        DataError: the list does not fit.
    """
    known = _by_name(val)
    plain = [_plain(name) for name in names]
    if foreign := [name for name, key in zip(names, plain, strict=True) if key not in known]:
        of_train = _by_name(train)
        where = ", a photo of the training set" if _plain(foreign[0]) in of_train else ""
        raise DataError(
            f"{place} names {len(foreign)} photo(s) that are not in the validation set, the first {foreign[0]!r}{where}"
            ": give a list of photos of this data set's validation set"
        )
    if several := [name for name, key in zip(names, plain, strict=True) if len(known[key]) > 1]:
        raise DataError(
            f"{place} has {len(several)} name(s) that several photos have, the first {several[0]!r} "
            f"({some(known[_plain(several[0])])}): write them with the class folder"
        )
    found = Counter(known[key][0] for key in plain)
    if twice := [sample_id for sample_id, count in found.items() if count > 1]:
        raise DataError(f"{place} names {len(twice)} photo(s) more than once, the first {twice[0]!r}: name each once")
    if len(found) == len(val):
        raise DataError(f"{place} names all {len(val)} photos of the validation set: leave some for VAL")
    return set(found)


def _by_name(samples: Sequence[RawSample]) -> dict[str, list[str]]:
    """Every name that a list may have for a photo -> sample_ids."""
    names: dict[str, list[str]] = {}
    for raw in samples:
        parts = raw.path.casefold().split("/")
        stem = parts[-1].rpartition(".")[0]
        for folders in ([], parts[-2:-1], parts[:-1]):
            for last in (parts[-1], stem):
                names.setdefault("/".join((*folders, last)), []).append(raw.sample_id)
    return names


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./").casefold()
