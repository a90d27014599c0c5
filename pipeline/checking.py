"""`kuleshov index --check`: the index as always, then a look into every file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline import check_table
from pipeline.project import Project
from pipeline.steps import indexed
from stages.index.check import Check, check
from stages.ledger import Allowance, Ledger
from stages.tables import write_csv

DUPLICATES = ("file", "sample_id", "path", "split", "labels", "content")
GROUPS = ("group", "split", "samples")
BOXES = ("sample_id", "kind", "place", "x1", "y1", "x2", "y2", "width", "height")


def check_data(project: Project, allowance: str | None = None, *, as_json: bool = False) -> Iterator[str]:
    """Index, open every file, write the lists, and say what there is, line by line.

    `artifacts/check/` gets `unreadable.csv` (a ledger: what the index could not use, and what cannot be opened),
    `duplicates.csv` (samples whose file another sample has too, where that may be wrong; equal numbers in `file` are
    one content), `groups.csv` (groups in several splits) and `boxes.csv` (boxes over the border of their photo or
    outside of it, with its size). What `index` writes is as without the check.

    Args:
        allowance: as `--max-failures`; of unreadable files and what the index could not use together.
        as_json: the one line is a JSON object, see `check_table.facts`.

    Raises:
        TooManyFailures: after the last line, when there are more than the allowance.
    """
    limit = Allowance.parse(allowance if allowance is not None else project.params.max_failures)
    manifest, summary, ledger, total = indexed(project)
    ledger.write(project.failures("index"))
    unreadable = Ledger("check", dict(ledger.entries))
    found = check(manifest, project.images_root, unreadable)
    folder = project.artifacts / "check"
    unreadable.write(folder / "unreadable.csv")
    _write(folder, found)
    say = check_table.as_json if as_json else check_table.lines
    yield from say(check_table.Checked(summary, found, unreadable, total, folder))
    unreadable.enforce(limit, total, folder / "unreadable.csv")


def _write(folder: Path, found: Check) -> None:
    write_csv(
        folder / "duplicates.csv",
        DUPLICATES,
        (
            (number, one.sample_id, one.path, one.split, ";".join(one.labels), one.content)
            for number, samples in enumerate(found.shared.samples, 1)
            for one in samples
        ),
    )
    torn = ((group, *count) for group, splits in found.torn_groups.items() for count in splits.items())
    write_csv(folder / "groups.csv", GROUPS, torn)
    write_csv(
        folder / "boxes.csv",
        BOXES,
        (
            (
                one.sample_id,
                one.box.kind,
                one.place,
                one.box.x1,
                one.box.y1,
                one.box.x2,
                one.box.y2,
                one.width,
                one.height,
            )
            for one in found.bad_boxes
        ),
    )
