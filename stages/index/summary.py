"""What a person should know about a manifest: counts, and what may be wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stages.index.manifest import SPLITS, Manifest, Sample


@dataclass(frozen=True)
class SetSummary:
    """Counts over one of a manifest's data sets.

    Attributes:
        samples: how many there are.
        splits: split -> samples, for the splits that have some.
        labels: label -> samples, sorted; a sample with two labels counts for both.
        classes: label -> split -> samples, likewise, for all three splits.
        unlabelled: samples without a label.
        left_out: the data set's own label -> samples that its map of labels leaves out of the manifest.
    """

    samples: int
    splits: dict[str, int]
    labels: dict[str, int]
    classes: dict[str, dict[str, int]]
    unlabelled: int
    left_out: dict[str, int]


@dataclass
class IndexSummary:
    """Counts over a manifest.

    Attributes:
        samples: how many there are.
        splits: split -> samples, for all three splits.
        classes: label -> split -> samples; a sample with two labels counts for both.
        unlabelled: samples without a label.
        duplicates: samples whose file has the same bytes as an earlier sample's, other than boxes of one path.
        merged_rows: rows of the source that repeated another and were dropped.
        warnings: one line each.
        sets: the place of a data set in params.yaml -> its counts; the main one first.
    """

    samples: int
    splits: dict[str, int]
    classes: dict[str, dict[str, int]]
    unlabelled: int
    duplicates: int
    merged_rows: int
    warnings: list[str] = field(default_factory=list)
    sets: dict[str, SetSummary] = field(default_factory=dict)


def summarise_set(samples: Sequence[Sample], left_out: Mapping[str, int]) -> SetSummary:
    """Count the samples of one data set."""
    splits = Counter(sample.split for sample in samples)
    classes = classes_of(samples)
    return SetSummary(
        samples=len(samples),
        splits={split: splits[split] for split in SPLITS if splits[split]},
        labels={label: sum(counts.values()) for label, counts in classes.items()},
        classes=classes,
        unlabelled=sum(not sample.labels for sample in samples),
        left_out=dict(left_out),
    )


def summarise(manifest: Manifest, merged_rows: int = 0, sets: Mapping[str, SetSummary] | None = None) -> IndexSummary:
    """Count, and look for what would spoil an experiment: leaks between splits, classes that cannot be learned."""
    splits = Counter(sample.split for sample in manifest)
    classes = classes_of(manifest.samples)
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample in manifest:
        by_content[sample.content].append(sample)
    shared = [samples for samples in by_content.values() if len(samples) > 1]
    return IndexSummary(
        samples=len(manifest),
        splits={split: splits[split] for split in SPLITS},
        classes=classes,
        unlabelled=sum(not sample.labels for sample in manifest),
        duplicates=sum(len({sample.path for sample in samples}) - 1 for samples in shared),
        merged_rows=merged_rows,
        warnings=[*_class_warnings(classes), *_group_warnings(manifest), *_content_warnings(shared)],
        sets=dict(sets or {}),
    )


def classes_of(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Label -> split -> samples, labels sorted, for all three splits."""
    classes: dict[str, dict[str, int]] = {}
    for sample in samples:
        for label in sample.labels:
            classes.setdefault(label, dict.fromkeys(SPLITS, 0))[sample.split] += 1
    return dict(sorted(classes.items()))


ENOUGH = 20
"""Samples of train from which on a label that one of them has is worth a word."""


def _class_warnings(classes: dict[str, dict[str, int]]) -> list[str]:
    learned = [label for label, counts in classes.items() if counts["train"]]
    warnings = []
    if not learned:
        warnings.append("no sample of train has a label: nothing can be trained")
    elif len(learned) == 1:
        warnings.append(f"train has a single class, {learned[0]!r}: nothing can be told apart")
    for label, counts in classes.items():
        if learned and not counts["train"]:
            where = " and ".join(split for split in ("val", "test") if counts[split])
            warnings.append(f"class {label!r} is in {where} only: it cannot be learned")
    single = [label for label in learned if classes[label]["train"] == 1]
    if single and sum(counts["train"] for counts in classes.values()) >= ENOUGH:
        warnings.append(f"labels of a single sample of train: {', '.join(map(repr, single))}: are they misspelt?")
    plain: dict[str, str] = {}
    for label in classes:
        other = plain.setdefault(label.strip().casefold(), label)
        if other != label:
            warnings.append(
                f"classes {other!r} and {label!r} differ by capitals or blanks alone: data.labels can join them"
            )
    return warnings


def _group_warnings(manifest: Manifest) -> list[str]:
    sides: dict[str, set[str]] = defaultdict(set)
    for sample in manifest:
        if sample.group:
            sides[sample.group].add(sample.split)
    torn = sorted(group for group, splits in sides.items() if len(splits) > 1)
    if not torn:
        return []
    where = " and ".join(split for split in SPLITS if split in sides[torn[0]])
    return [f"{len(torn)} group(s) on more than one side, such as {torn[0]!r} in {where}: scores may be too good"]


def _content_warnings(shared: list[list[Sample]]) -> list[str]:
    warnings = []
    torn = [samples for samples in shared if len({sample.split for sample in samples}) > 1]
    if torn:
        a, b = _first_pair(torn[0], "split")
        warnings.append(
            f"{len(torn)} file(s) in more than one split, such as {a.sample_id!r} in {a.split} and "
            f"{b.sample_id!r} in {b.split}: scores may be too good"
        )
    # With boxes, two people in one photo may well feel differently.
    plain = [[sample for sample in samples if sample.labels and not sample.boxes] for samples in shared]
    unsure = [samples for samples in plain if len({sample.labels for sample in samples}) > 1]
    if unsure:
        a, b = _first_pair(unsure[0], "labels")
        warnings.append(
            f"{len(unsure)} file(s) with more than one label, such as {a.sample_id!r} ({';'.join(a.labels)}) and "
            f"{b.sample_id!r} ({';'.join(b.labels)})"
        )
    return warnings


def _first_pair(samples: list[Sample], name: str) -> tuple[Sample, Sample]:
    """The first sample, and the first that differs from it in one attribute."""
    return samples[0], next(sample for sample in samples if getattr(sample, name) != getattr(samples[0], name))
