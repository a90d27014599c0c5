"""What `kuleshov index --check` says: a table for people, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.saying import Lines
from stages.index.check import BoxCount, Check, Middle, Range, Shared, Tally
from stages.index.manifest import SPLITS
from stages.index.summary import IndexSummary, SetSummary
from stages.ledger import Ledger

Rows = list[tuple[str, ...]]

_NAMED = 3
"""Samples, groups and reasons that are named; the lists have all."""
_MOST_SUBSETS = 20


@dataclass(frozen=True)
class Checked:
    """What there is to say.

    Attributes:
        summary: of the index.
        found: of the look into the files.
        unreadable: what the index could not use and what cannot be read.
        total: items in all, those in `unreadable` included.
        folder: where the lists are.
    """

    summary: IndexSummary
    found: Check
    unreadable: Ledger
    total: int
    folder: Path

    @property
    def warnings(self) -> list[str]:
        """One line each."""
        return [*self.summary.warnings, *self.found.warnings]


def as_json(one: Checked) -> Lines:
    """All counts as one JSON object; see `facts`."""
    return [json.dumps(facts(one), indent=2, ensure_ascii=False)]


def facts(one: Checked) -> dict[str, Any]:
    """All counts, JSON-able, by the names of `Check`, `Tally`, `SetSummary` and the like.

    Groups on several sides and unreadable samples are there in full, duplicates and boxes as counts: the lists have
    them.
    """
    found = one.found
    shared = {name: count for name, count in vars(found.shared).items() if name != "samples"}
    reasons: dict[str, list[str]] = {}
    for sample_id, (reason, _) in sorted(one.unreadable.entries.items()):
        reasons.setdefault(reason, []).append(sample_id)
    return {
        "samples": one.summary.samples,
        "items": one.total,
        "files": found.files,
        "groups": found.groups,
        "whole": asdict(found.whole),
        "sets": {place: asdict(counts) for place, counts in one.summary.sets.items()},
        "subsets": {name: asdict(counts) for name, counts in found.subsets.items()},
        "values": _plain(found.values),
        "shares": _plain(found.shares),
        "unreadable": {reason: reasons[reason] for reason in one.unreadable.reasons()},
        "duplicates": shared,
        "torn_groups": found.torn_groups,
        "boxes": {kind: asdict(count) for kind, count in found.boxes.items()},
        "photos": {name: asdict(middle) for name, middle in found.photos.items()},
        "clips": {name: asdict(middle) for name, middle in found.clips.items()},
        "warnings": one.warnings,
        "lists": str(one.folder),
    }


def _plain(ranges: Mapping[str, Mapping[str, Range]]) -> dict[str, dict[str, Any]]:
    return {name: {split: asdict(of) for split, of in splits.items()} for name, splits in ranges.items()}


def lines(one: Checked) -> Lines:
    """The table: sections with an empty line between them, then the warnings."""
    found, summary = one.found, one.summary
    several = len(summary.sets) > 1 or any(of.left_out for of in summary.sets.values())
    sections = (
        _classes(found),
        _sets(summary.sets) if several else [],
        _subsets(found.subsets),
        _ranges("VALUE", found.values),
        _ranges("SHARE OF VOTES", found.shares),
        _unreadable(one.unreadable),
        _twice(found.shared),
        _torn(found.torn_groups, found.groups),
        _boxes(found.boxes),
        _sizes(found.photos, found.clips),
    )
    said = [f"index: {summary.samples} samples, {len(found.whole.classes)} classes; all files were opened"]
    for section in sections:
        said += ["", *section] if section else []
    said += ["", *(f"warning: {warning}" for warning in one.warnings)] if one.warnings else []
    return [*said, "", f"lists: {one.folder} (unreadable.csv, duplicates.csv, groups.csv, boxes.csv)"]


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> Lines:
    """Rows of text as aligned columns: the first `left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _by_split(
    name: str, counts: Mapping[str, int], of: Mapping[str, int] | None = None, *, in_all: int | None = None
) -> tuple[str, ...]:
    """A row: for each split and for all of them the count, and its share where it is told of what. `in_all` is the
    count over all splits where it is not their sum."""
    cells = [name]
    pairs = [(counts[split], of[split] if of else 0) for split in SPLITS]
    every = sum(counts.values()) if in_all is None else in_all
    for count, whole in (*pairs, (every, sum(of.values()) if of else 0)):
        cells += [f"{count:,}", f"{100 * count / whole:.1f} %" if whole else ""]
    return tuple(cells)


def _head(name: str) -> tuple[str, ...]:
    return name, *(cell for split in (*SPLITS, "all") for cell in (split.upper(), ""))


def _classes(found: Check) -> Lines:
    whole = found.whole
    rows = [_head("CLASS")]
    rows += [_by_split(label, counts, whole.splits) for label, counts in whole.classes.items()]
    if any(whole.unlabelled.values()):
        rows.append(_by_split("(no label)", whole.unlabelled, whole.splits))
    rows += [_by_split("samples", whole.splits), _by_split("files", whole.files, in_all=found.files)]
    rows += [_by_split("groups", whole.groups, in_all=found.groups)] if found.groups else []
    return columns(rows)


def _sets(sets: Mapping[str, SetSummary]) -> Lines:
    rows = [_head("DATA SET")]
    for place, one in sets.items():
        splits = {split: one.splits.get(split, 0) for split in SPLITS}
        rows.append(_by_split(place, splits))
        rows += [_by_split(f"  {label}", counts, splits) for label, counts in one.classes.items()]
        for label, count in one.left_out.items():
            rows.append((f"  {label} (left out)", *[""] * 2 * len(SPLITS), f"{count:,}", ""))
    return columns(rows)


def _subsets(subsets: Mapping[str, Tally]) -> Lines:
    if not subsets:
        return []
    shown = list(subsets.items())[:_MOST_SUBSETS]
    said = columns([_head("SUBSET"), *(_by_split(name or "(none)", of.splits) for name, of in shown)])
    more = len(subsets) - len(shown)
    return said + ([f"and {more} more; --json has all"] if more else [])


def _ranges(head: str, ranges: Mapping[str, Mapping[str, Range]]) -> Lines:
    rows: Rows = [(head, "SPLIT", "SAMPLES", "MEAN", "MIN", "MAX")]
    for name, splits in ranges.items():
        for split, of in splits.items():
            rows.append((name, split, f"{of.count:,}", *(f"{x:.4g}" for x in (of.mean, of.least, of.most))))
    return columns(rows, left=2) if ranges else []


def _unreadable(ledger: Ledger) -> Lines:
    if not len(ledger):
        return ["every file can be read"]
    rows: Rows = [("UNREADABLE", "SAMPLES", "SUCH AS")]
    for reason, count in ledger.reasons().items():
        names = sorted(sample_id for sample_id, (why, _) in ledger.entries.items() if why == reason)
        rows.append((reason, f"{count:,}", _named(names)))
    heads = columns([row[:2] for row in rows])
    return [f"{head}  {row[2]}" for head, row in zip(heads, rows, strict=True)]


def _twice(shared: Shared) -> Lines:
    if not shared.samples:
        return ["no file is there twice"]
    rows: Rows = [("SAME BYTES", "FILES"), ("under several paths", f"{shared.copied:,}")]
    rows += [("  in one split", f"{shared.within:,}"), ("  in several splits", f"{shared.across:,}")]
    rows += [("one path in several splits", f"{shared.torn:,}"), ("with different labels", f"{shared.unsure:,}")]
    return columns(rows)


def _torn(torn: Mapping[str, Mapping[str, int]], groups: int) -> Lines:
    if not groups:
        return []
    if not torn:
        return [f"each of the {groups:,} groups is on one side"]
    sides = (", ".join(f"{split} {count:,}" for split, count in counts.items()) for counts in torn.values())
    named = _named(f"{group} ({side})" for group, side in zip(torn, sides, strict=True))
    return [f"on several sides: {len(torn):,} of {groups:,} groups: {named}"]


def _boxes(boxes: Mapping[str, BoxCount]) -> Lines:
    rows: Rows = [("BOXES", "ALL", "OVER THE BORDER", "OUTSIDE", "FILE UNREADABLE")]
    for kind, of in boxes.items():
        rows.append((kind, *(f"{count:,}" for count in (of.count, of.over, of.outside, of.unknown))))
    return columns(rows) if boxes else []


def _sizes(photos: Mapping[str, Middle], clips: Mapping[str, Middle]) -> Lines:
    units = {"width": "width, px", "height": "height, px", "frames": "frames", "seconds": "seconds"}
    rows: Rows = [("FILES", "", "COUNT", "MIN", "MEDIAN", "MAX")]
    for medium, middles in (("photo", photos), ("clip", clips)):
        for name, of in middles.items():
            count = f"{of.count:,}"
            rows.append((medium, units[name], count, *(f"{round(x, 2):,}" for x in (of.least, of.median, of.most))))
    return columns(rows, left=2) if len(rows) > 1 else []


def _named(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    some = list(names)
    more = f" and {len(some) - _NAMED:,} more" if len(some) > _NAMED else ""
    return ", ".join(some[:_NAMED]) + more
