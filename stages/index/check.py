"""Looking at a data set: is every file readable, what is there twice, what do the boxes and numbers look like?

Everything is counted from the manifest, but for what only an open file tells: whether it can be read, and its size.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stages.decoding.pool import Crash, decoded
from stages.errors import MediaError
from stages.index.manifest import BOX_KINDS, SPLITS, Box, Manifest, Sample
from stages.index.opening import Look, Opened, opened
from stages.index.samples import by_content
from stages.index.summary import classes_of
from stages.ledger import Ledger
from stages.progress import progress

LEAST = 1.0
"""Px in width and height of a box that must lie in the photo: with less, align records a person as `box_outside`."""
_ROUNDED = 1e-3  # px over the border that come from shares of a width written with few digits

Sizes = Mapping[str, Opened]
"""Content -> what it was when it was opened, for what can be read."""


@dataclass(frozen=True)
class Tally:
    """Counts of some samples.

    Attributes:
        splits: split -> samples, for all three splits, as in the others.
        classes: label -> split -> samples, labels sorted; a sample with two labels counts for both.
        unlabelled: split -> samples without a label.
        files: split -> different contents; one that is in two splits counts in both.
        groups: split -> groups, likewise.
    """

    splits: dict[str, int]
    classes: dict[str, dict[str, int]]
    unlabelled: dict[str, int]
    files: dict[str, int]
    groups: dict[str, int]


@dataclass(frozen=True)
class Range:
    """Some numbers: how many, their mean, the least and the largest."""

    count: int
    mean: float
    least: float
    most: float


@dataclass(frozen=True)
class Middle:
    """Some sizes: how many, the least, the median (the lower of two) and the largest."""

    count: int
    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Shared:
    """Contents of more than one sample. A copy is the same bytes under another path.

    Attributes:
        copied: contents that are there under several paths.
        within: those of them with two paths in one split.
        across: those of them in more than one split.
        torn: contents under one path whose samples are in more than one split.
        unsure: contents, of either kind, whose samples without boxes have different labels.
        samples: those of all these contents, a tuple a content, both in the manifest's order.
    """

    copied: int
    within: int
    across: int
    torn: int
    unsure: int
    samples: tuple[tuple[Sample, ...], ...]


@dataclass(frozen=True)
class BadBox:
    """A box that does not lie in its photo.

    Attributes:
        sample_id: whose it is.
        box: px.
        place: `over` the border, or `outside`: less than `LEAST` px lies in the photo.
        width, height: px of the photo or of the clip's frames.
    """

    sample_id: str
    box: Box
    place: str
    width: int
    height: int


@dataclass(frozen=True)
class BoxCount:
    """Boxes of one kind: how many, how many reach over the border or lie outside, and of how many the photo cannot be
    read, so that nobody knows."""

    count: int
    over: int
    outside: int
    unknown: int


@dataclass(frozen=True)
class Check:
    """What there is in a manifest.

    Attributes:
        files: distinct contents.
        groups: how many there are.
        whole: counts over all samples.
        subsets: subset -> counts over it, sorted, where samples have one; `""` for those that have none.
        values: name -> split -> what the data set rates, over the samples that have it, for the splits with some.
        shares: label -> split -> its share of the votes, over the samples that have shares (0 where it has none).
        shared: contents of several samples, where that may be wrong.
        torn_groups: group -> split -> its samples there, for groups in more than one split, sorted.
        boxes: kind -> counts, for the kinds that are there.
        bad_boxes: those that reach over the border or lie outside, in the manifest's order.
        photos, clips: what is measured (`width`, `height` in px, of clips `frames` and `seconds`) -> sizes, over the
            distinct contents that can be read; empty without any.
        warnings: one line each, beyond those of the index.
    """

    files: int
    groups: int
    whole: Tally
    subsets: dict[str, Tally]
    values: dict[str, dict[str, Range]]
    shares: dict[str, dict[str, Range]]
    shared: Shared
    torn_groups: dict[str, dict[str, int]]
    boxes: dict[str, BoxCount]
    bad_boxes: tuple[BadBox, ...]
    photos: dict[str, Middle]
    clips: dict[str, Middle]
    warnings: tuple[str, ...]


def check(manifest: Manifest, images_root: Path, ledger: Ledger) -> Check:
    """Open every photo and clip in decoding processes, each content once, and count.

    Photos are decoded; clips as far as `clips.probe` does, so damage in the middle of a long one may stay unseen. What
    cannot be read is recorded in the ledger, for each of its samples, with the reasons of `samples.open_shared` and
    `samples.probe_shared`, or `decoder_crash`. Nothing is remembered: the next check opens all files again.

    Args:
        manifest: at least one sample.
        images_root: where its paths begin.
        ledger: takes what cannot be read; what it has already stays.

    Raises:
        SettingError: `KULESHOV_DECODERS` is no number of processes.
        DecodingError: no decoding process can be started.
    """
    contents = by_content(manifest)
    sizes = _open(contents, images_root, ledger)
    boxes, bad = _boxes(manifest, sizes)
    return Check(
        files=len(contents),
        groups=len({sample.group for sample in manifest if sample.group}),
        whole=tally(manifest.samples),
        subsets=_subsets(manifest),
        values=_values(manifest),
        shares=_shares(manifest),
        shared=_shared(contents),
        torn_groups=_torn_groups(manifest),
        boxes=boxes,
        bad_boxes=bad,
        photos=_middles([one for one in sizes.values() if not one.frames], ("width", "height")),
        clips=_middles([one for one in sizes.values() if one.frames], ("width", "height", "frames", "seconds")),
        warnings=tuple(_outside_warnings(bad)),
    )


def tally(samples: Sequence[Sample]) -> Tally:
    """Count samples by split."""
    splits = Counter(sample.split for sample in samples)
    unlabelled = Counter(sample.split for sample in samples if not sample.labels)
    files = Counter(split for split, _ in {(sample.split, sample.content) for sample in samples})
    groups = Counter(split for split, _ in {(sample.split, sample.group) for sample in samples if sample.group})
    counts = ({split: found[split] for split in SPLITS} for found in (splits, unlabelled, files, groups))
    every, without, contents, sides = counts
    return Tally(every, classes_of(samples), without, contents, sides)


def _open(contents: Mapping[str, list[Sample]], images_root: Path, ledger: Ledger) -> dict[str, Opened]:
    looks = (Look(tuple(samples), images_root) for samples in contents.values())
    sizes: dict[str, Opened] = {}
    with closing(decoded(opened, looks)) as answers:
        for answer in progress(answers, total=len(contents), desc="check", unit="file"):
            value = answer.value
            if isinstance(value, MediaError | Crash):
                for sample in answer.job.samples:
                    ledger.record(sample.sample_id, value.reason, value.detail)
            else:
                sizes[answer.job.samples[0].content] = value
    return sizes


def _subsets(manifest: Manifest) -> dict[str, Tally]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in manifest:
        found[sample.subset].append(sample)
    return {} if set(found) == {""} else {name: tally(samples) for name, samples in sorted(found.items())}


def _values(manifest: Manifest) -> dict[str, dict[str, Range]]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in manifest:
        for name, number in sample.values:
            found[name][sample.split].append(number)
    return {
        name: {split: _range(of[split], len(of[split])) for split in SPLITS if split in of}
        for name, of in sorted(found.items())
    }


def _shares(manifest: Manifest) -> dict[str, dict[str, Range]]:
    """A manifest leaves out shares of 0; they are added here."""
    having = Counter(sample.split for sample in manifest if sample.shares)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in manifest:
        for label, share in sample.shares:
            found[label][sample.split].append(share)
    return {
        label: {split: _range(of[split], having[split]) for split in SPLITS if having[split]}
        for label, of in sorted(found.items())
    }


def _range(numbers: Sequence[float], count: int) -> Range:
    """Of numbers, and as many zeros as make them `count`."""
    ends = [*numbers, 0.0] if len(numbers) < count else numbers
    return Range(count, math.fsum(numbers) / count, min(ends), max(ends))


def _middles(seen: Sequence[Opened], names: Sequence[str]) -> dict[str, Middle]:
    if not seen:
        return {}
    columns = {name: [getattr(one, name) for one in seen] for name in names}
    return {
        name: Middle(len(some), min(some), statistics.median_low(some), max(some)) for name, some in columns.items()
    }


def _shared(contents: Mapping[str, list[Sample]]) -> Shared:
    listed = []
    counts: Counter[str] = Counter()
    for samples in contents.values():
        if len(samples) == 1:
            continue
        places = {(sample.split, sample.path) for sample in samples}
        splits, paths = ({place[i] for place in places} for i in (0, 1))
        of_split = Counter(split for split, _ in places)
        # With boxes, two people in one photo may well feel differently.
        labels = {sample.labels for sample in samples if sample.labels and not sample.boxes}
        is_copied, is_torn = len(paths) > 1, len(splits) > 1
        facts = {
            "copied": is_copied,
            "within": is_copied and max(of_split.values()) > 1,
            "across": is_copied and is_torn,
            "torn": is_torn and not is_copied,
            "unsure": len(labels) > 1,
        }
        counts.update(name for name, holds in facts.items() if holds)
        if any(facts.values()):
            listed.append(tuple(samples))
    names = ("copied", "within", "across", "torn", "unsure")
    return Shared(*(counts[name] for name in names), samples=tuple(listed))


def _torn_groups(manifest: Manifest) -> dict[str, dict[str, int]]:
    sides: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in manifest:
        if sample.group:
            sides[sample.group][sample.split] += 1
    return {
        group: {split: counts[split] for split in SPLITS if split in counts}
        for group, counts in sorted(sides.items())
        if len(counts) > 1
    }


def _boxes(manifest: Manifest, sizes: Sizes) -> tuple[dict[str, BoxCount], tuple[BadBox, ...]]:
    places: dict[str, Counter[str]] = {kind: Counter() for kind in BOX_KINDS}
    bad = []
    for sample in manifest:
        size = sizes.get(sample.content)
        for box in sample.boxes:
            place = "unknown" if size is None else _place(box, size)
            places[box.kind].update(("count", place))
            if size is not None and place != "inside":
                bad.append(BadBox(sample.sample_id, box, place, size.width, size.height))
    counts = {
        kind: BoxCount(found["count"], found["over"], found["outside"], found["unknown"])
        for kind, found in places.items()
        if found
    }
    return counts, tuple(bad)


def _place(box: Box, size: Opened) -> str:
    width = min(box.x2, size.width) - max(box.x1, 0)
    height = min(box.y2, size.height) - max(box.y1, 0)
    if min(width, height) < LEAST:
        return "outside"
    beyond = max(-box.x1, -box.y1, box.x2 - size.width, box.y2 - size.height)
    return "over" if beyond > _ROUNDED else "inside"


def _outside_warnings(bad: Sequence[BadBox]) -> Iterator[str]:
    outside = [one for one in bad if one.place == "outside"]
    if outside:
        first = outside[0]
        corners = ",".join(f"{value:g}" for value in (first.box.x1, first.box.y1, first.box.x2, first.box.y2))
        yield (
            f"{len(outside)} box(es) of which less than a px lies in the photo, such as {corners} of "
            f"{first.sample_id!r} in {first.width}x{first.height} px: are they of another size of it, or shares of it?"
        )
