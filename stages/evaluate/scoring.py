"""Which samples of a split are scored, what their labels are, and how they hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stages.errors import DataError, MissingInputError
from stages.evaluate.statistics import Bootstrap, Ints
from stages.index.manifest import Manifest, Sample
from stages.predictions import COMMANDS, WORDS, Predictions, require_held_out

FEW_UNITS = 20  # below this a bootstrap over units is known to be too narrow


@dataclass(frozen=True, eq=False)
class Frame:
    """The scored samples of one split: those with exactly one label, sorted by id.

    Attributes:
        split: the split's name.
        ids: n sample ids.
        row: sample id -> its place in `ids`.
        actual: int64 (n,), index into `classes`.
        units: int64 (n,), what is resampled together.
        unit: `"sample"` or `"group"`.
        subsets: n names ("" = none).
        n_unscored: samples of the split with no label or several.
        classes: the members' columns first, then classes that only the manifest has.
        known: how many of `classes` are the members' columns.
        largest: the largest class of train ("" if train has no labelled sample), the first by name of equals.
        n_train: samples of train with that class alone.
        without_training: classes with samples among `ids` but none in train, or no column.
    """

    split: str
    ids: tuple[str, ...]
    row: Mapping[str, int]
    actual: Ints
    units: Ints
    unit: str
    subsets: tuple[str, ...]
    n_unscored: int
    classes: tuple[str, ...]
    known: int
    largest: str
    n_train: int
    without_training: tuple[str, ...]

    def bootstrap(self, resamples: int, seed: int) -> Bootstrap:
        """How all n samples are resampled; `.take` for some of them."""
        return Bootstrap(self.units, resamples, seed)

    def without_samples(self) -> Frame:
        """The same classes with nothing to score, and nothing to learn a baseline from."""
        nothing = {"ids": (), "row": {}, "actual": self.actual[:0], "units": self.units[:0], "subsets": ()}
        return replace(self, **nothing, n_unscored=0, largest="", n_train=0, without_training=())

    @property
    def baseline(self) -> Ints:
        """int64 (n,): the answer "always the largest class of train". Only where `largest` is not empty."""
        return np.full(len(self.ids), self.classes.index(self.largest), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Answers:
    """One member's answers to scored samples.

    Attributes:
        rows: int64 (m,), places in `Frame.ids`, ascending.
        predicted: int64 (m,), index into `Frame.classes`: the most probable class, the first of equals.
    """

    rows: Ints
    predicted: Ints


def inside(predictions: Sequence[Predictions], manifest: Manifest, split: str) -> list[Sample]:
    """The samples of a split, where the predictions may be scored on it.

    Raises:
        MissingInputError: no predictions.
        DataError: the split is not in the manifest; members whose classes differ; two members of one name;
            predictions that are not of this manifest; a member whose fine-tuned weights have seen samples of the split.
    """
    if not predictions:
        raise MissingInputError("no predictions to evaluate: run `kuleshov train` first")
    _check_members(predictions, manifest)
    found = [sample for sample in manifest.samples if sample.split == split]
    if not found:
        present = ", ".join(sorted({sample.split for sample in manifest.samples})) or "none"
        raise DataError(
            f"split {split!r} is not in the manifest; choose one of those present: {present} (evaluate.split), or give "
            f"it samples (data.split, or the data's own split)"
        )
    for p in predictions:
        require_held_out(f"{WORDS[p.kind]} {p.name}", p.sample_ids, p.splits, p.seen, split)
    return found


def frame(predictions: Sequence[Predictions], manifest: Manifest, split: str) -> Frame:
    """Gather what is scored. Raises as `inside`."""
    samples = inside(predictions, manifest, split)
    scored = [sample for sample in samples if len(sample.labels) == 1]
    train = Counter(s.labels[0] for s in manifest.samples if s.split == "train" and len(s.labels) == 1)
    trained = {label for s in manifest.samples if s.split == "train" for label in s.labels}
    largest = min(train, key=lambda name: (-train[name], name)) if train else ""
    columns = predictions[0].classes
    labels = {sample.labels[0] for sample in scored}
    extra = sorted((labels | ({largest} if largest else set())) - set(columns))
    classes = (*columns, *extra)
    units, unit = units_of(scored)
    return Frame(
        split=split,
        ids=tuple(sample.sample_id for sample in scored),
        row={sample.sample_id: i for i, sample in enumerate(scored)},
        actual=np.array([classes.index(sample.labels[0]) for sample in scored], dtype=np.int64),
        units=units,
        unit=unit,
        subsets=tuple(sample.subset for sample in scored),
        n_unscored=len(samples) - len(scored),
        classes=classes,
        known=len(columns),
        largest=largest,
        n_train=train[largest],
        without_training=tuple(sorted(name for name in labels if name not in trained or name not in columns)),
    )


def units_of(scored: Sequence[Sample]) -> tuple[Ints, str]:
    """Number the groups, int64 (n,); a sample without a group is a unit of its own. And what a unit is: `group`, or
    `sample` where each has its own."""
    numbers: dict[tuple[str, str], int] = {}
    keys = [("group", s.group) if s.group else ("sample", s.sample_id) for s in scored]
    units = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return units, "group" if len(numbers) < len(scored) else "sample"


def _check_members(predictions: Sequence[Predictions], manifest: Manifest) -> None:
    first = predictions[0]
    for name, count in Counter((p.kind, p.name) for p in predictions).items():
        if count > 1:
            raise DataError(f"predictions {name[1]!r} are given {count} times; give each member once")
    for p in predictions:
        if p.classes != first.classes:
            raise DataError(
                f"predictions {p.name!r} have classes {', '.join(p.classes)} but {first.name!r} has "
                f"{', '.join(first.classes)}; run `kuleshov train` and `kuleshov fuse` again"
            )
        for sample_id, split, labels in zip(p.sample_ids, p.splits, p.labels, strict=True):
            sample = manifest.by_id.get(sample_id)
            if sample is None:
                problem = "is not in the manifest"
            elif (split, labels) != (sample.split, sample.labels):
                there = f"{sample.split}/{';'.join(sample.labels)}"
                problem = f"is {split}/{';'.join(labels)} here and {there} in the manifest"
            else:
                continue
            raise DataError(f"predictions {p.name!r}: sample {sample_id!r} {problem}; run `{COMMANDS[p.kind]}` again")


def answers(member: Predictions, frame: Frame) -> Answers:
    """A member's answers to the scored samples it has."""
    found = [(frame.row[sample_id], i) for i, sample_id in enumerate(member.sample_ids) if sample_id in frame.row]
    pairs = np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
    best = member.probabilities.argmax(axis=1) if len(member) else np.zeros(0, dtype=np.int64)
    return Answers(pairs[:, 0], best[pairs[:, 1]].astype(np.int64))


def leaks(manifest: Manifest, split: str, untrained: Collection[str] = ()) -> list[str]:
    """What of a split is in train as well, but for subsets that nothing is trained on (`untrained`)."""
    samples = manifest.samples
    judged = [sample for sample in samples if sample.split == split]
    train = [s for s in samples if s.split == "train" and split != "train" and s.subset not in untrained]
    shared = {
        "groups": {s.group for s in judged if s.group} & {s.group for s in train},
        "files of the same content": {s.content for s in judged if s.content} & {s.content for s in train},
    }
    return [
        f"{what} in both train and {split}: {len(both)}; the scores flatter" for what, both in shared.items() if both
    ]


def warnings(frame: Frame) -> list[str]:
    """What makes the scores of this split less than they seem: few units, classes unknown."""
    found = few_units(frame.units, frame.unit)
    if frame.without_training:
        found.append(f"classes without a training sample, recall 0: {', '.join(frame.without_training)}")
    if not frame.ids:
        found.append(f"no sample of {frame.split} has exactly one label: nothing is scored")
    return found


def few_units(units: Ints, unit: str) -> list[str]:
    """A warning where a bootstrap over so few units is too narrow."""
    n_units = len(np.unique(units))
    if not 0 < n_units < FEW_UNITS:
        return []
    return [f"only {n_units} {unit}s are resampled: the intervals are rough, probably too narrow"]


def interval_note(units: Ints, unit: str, resamples: int, seed: int) -> dict[str, Any]:
    """How the intervals came about, for metrics.json and the report's captions."""
    return {
        "level": 0.95,
        "method": "percentile bootstrap; exact binomial where a proportion is 0 or 1",
        "unit": unit,
        "n_units": len(np.unique(units)),
        "resamples": resamples,
        "seed": seed,
    }
