"""`kuleshov cache verify --sample`: compute some samples again, and compare what the store has of them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cache import dtypes
from cache.block import Block
from cache.store import Store
from pipeline.cache_tools import PersonKeys, Times, Wanted, clip_times, person_keys, sample_keys, wanted_blocks
from pipeline.crops import templates_read
from pipeline.plans import role_plans
from pipeline.project import Project
from stages.errors import DataError, SettingError
from stages.extract.settings import IMPORTED
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger

TOLERANCE = 0.005
"""Of floats, see `Measure`. float16 rounds to 0.0005; another processor or other neighbours in a batch change about as
much."""

BFLOAT16_TOLERANCE = 0.01
"""Of bfloat16, where a change of any size may move a value by a whole step, 0.0078 of it."""

PIXEL_TOLERANCE = 1.0
"""Mean absolute difference of a crop's values, of 0 to 255: another decoder or another processor rounds differently."""


@dataclass(frozen=True)
class Amount:
    """How many samples are drawn: a count, or a percentage."""

    value: float
    is_percent: bool

    @classmethod
    def parse(cls, text: str) -> Amount:
        """Read `1%` or `20`.

        Raises:
            SettingError: anything else, nothing, or more than 100 %.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", text.strip(), re.ASCII)
        amount = match and cls(float(match[1] or match[2]), match[1] is not None)
        if not amount or not amount.value or (amount.is_percent and amount.value > 100):
            raise SettingError(f"--sample is {text!r}: give a count from 1 on (20), or a percentage up to 100% (1%)")
        return amount

    def draw(self, manifest: Manifest, seed: int) -> Manifest:
        """That many samples of a manifest, at least one and at most all; the same for the same seed."""
        total = len(manifest)
        count = math.ceil(self.value * total / 100 - 1e-9) if self.is_percent else int(self.value)
        chosen = random.Random(seed).sample(manifest.samples, min(max(count, 1), total))  # noqa: S311 - no secret
        return Manifest(tuple(chosen))


@dataclass(frozen=True)
class Measure:
    """How far two rows of a block may be apart.

    - `uint8` (crops): the mean absolute difference of a row's values is at most 1.
    - other whole numbers (sizes): equal.
    - a detector's rows: each coordinate within the tolerance times the longer side of the box, the score within the
      tolerance.
    - other floats: the largest absolute difference is at most the tolerance times the row's largest absolute value.

    Attributes:
        kind: of the rows' dtype, as numpy's `dtype.kind`, or `boxes`.
        tolerance: of floats.
    """

    kind: str
    tolerance: float

    @classmethod
    def of(cls, one: Wanted, block: Block, tolerance: float | None) -> Measure:
        """The measure of a block's rows; None is `TOLERANCE`, or for bfloat16 `BFLOAT16_TOLERANCE`."""
        if tolerance is None:
            tolerance = BFLOAT16_TOLERANCE if dtypes.name(block.spec) == dtypes.BFLOAT16 else TOLERANCE
        return cls("boxes" if one.kind == "boxes" else block.rows([])[0].dtype.kind, tolerance)

    @property
    def allowed(self) -> float:
        """The largest distance that passes."""
        return {"u": PIXEL_TOLERANCE, "i": 0.0}.get(self.kind, self.tolerance)

    @property
    def unit(self) -> str:
        """What a distance is, in words."""
        units = {"u": "in the mean of a row", "i": "in a value", "boxes": "of a box's longer side"}
        return units.get(self.kind, "of a row's largest value")

    def distances(self, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Of n rows of equal shape, (n,) float64; inf where one of them is not a number."""
        width = math.prod(fresh.shape[1:])
        a, b = (rows.astype(np.float64).reshape(len(rows), width) for rows in (stored, fresh))
        apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
        apart[np.isnan(apart)] = np.inf
        if self.kind == "u":
            return apart.mean(axis=1)
        if self.kind == "i":
            return apart.max(axis=1, initial=0)
        if self.kind == "boxes":
            scale = np.repeat(np.fmax(b[:, 2:4] - b[:, :2], 1.0).max(axis=1)[:, None], width, axis=1)
            scale[:, 4] = 1.0  # the score
        else:
            scale = np.nan_to_num(np.abs(b)).max(axis=1, initial=0)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(apart == 0, 0.0, apart / scale).max(axis=1, initial=0)


@dataclass
class Checked:
    """What was found in one block.

    Attributes:
        name: its folder.
        items, rows: how many were compared.
        largest: distance of two rows.
        same: whether all bytes are equal.
        off: sample_id of each item that is off, and what is wrong with it, in words.
        moved: items of persons that the store has and that are not there now: their boxes are others, or their photos
            cannot be read.
    """

    name: str
    measure: Measure
    items: int = 0
    rows: int = 0
    largest: float = 0.0
    same: bool = True
    off: list[tuple[str, str]] = field(default_factory=list)
    moved: int = 0

    def compare(self, sample_id: str, key: bytes, stored: Block, fresh: Block) -> None:
        """Compare one item that both blocks have."""
        (a, status, _), (b, status_now, _) = stored.item(key), fresh.item(key)
        self.items += 1
        self.rows += len(a)
        if status != status_now or len(a) != len(b):
            self.same = False
            then, now = (f"{word}, {_count(len(rows), 'row')}" for word, rows in ((status, a), (status_now, b)))
            self.off.append((sample_id, f"{then} in the store; now {now}"))
            return
        self.same &= a.tobytes() == b.tobytes()
        distances = self.measure.distances(a, b)
        self.largest = max(self.largest, distances.max(initial=0.0))
        over = np.flatnonzero(distances > self.measure.allowed)
        if len(over):
            worst = int(distances.argmax())
            far = self._far(distances[worst])
            self.off.append((sample_id, f"{len(over)} of {_count(len(a), 'row')}; row {worst} by {far}"))

    def _far(self, distance: float) -> str:
        return f"{distance:.3g} {self.measure.unit}, {self.measure.allowed:g} allowed"

    def line(self) -> str:
        """For people."""
        if not self.items:
            return f"{self.name}: the store has nothing of these samples"
        far = "bit for bit equal" if self.same else f"largest difference {self._far(self.largest)}"
        return f"{self.name}: {_count(self.items, 'item')}, {_count(self.rows, 'row')}, {far}"


@dataclass(frozen=True)
class Verified:
    """The findings of a sample: lines for people, and a line for each item that is off."""

    lines: list[str]
    off: list[str]


def verify_sample(project: Project, amount: Amount, seed: int, tolerance: float | None, scratch: Path) -> Verified:
    """Detect, align and extract some samples again, and compare what the store has of them.

    Args:
        scratch: an empty folder for what is computed; the caller removes it.
        tolerance: see `Measure.of`.

    Raises:
        DataError: nothing could be compared.
        KuleshovError: what the stages raise.
    """
    if not len(project.manifest):
        raise DataError(f"{project.artifacts / 'manifest.csv'} has no samples; run kuleshov index")
    chosen = amount.draw(project.manifest, seed)
    wanted, unknown = wanted_blocks(project)
    times, persons = clip_times(project), person_keys(project, chosen, wanted)
    fresh, ledger = Store(scratch), Ledger("verify")
    _compute(project, chosen, fresh, ledger)
    lines = [f"computed again: {len(chosen)} of {_count(len(project.manifest), 'sample')}, seed {seed}"]
    blocks: list[Checked] = []
    moved: set[str] = set()
    for one in wanted:
        if one.spec.source == IMPORTED:
            unknown.append(f"{one.spec.name}: imported, so there is nothing to compute it from")
            continue
        samples = _still(chosen, moved) if one.kind == "faces" else chosen.samples
        checked = _check(project, one, samples, times, persons, fresh, tolerance)
        if one.kind == "boxes":
            moved = {sample_id for sample_id, _ in checked.off}
        blocks.append(checked)
    lines += [one.line() for one in blocks]
    lines += [f"not compared: {line}" for line in unknown]
    lines += [
        f"not compared: {_count(one.moved, 'item')} of {one.name}, not to be had now" for one in blocks if one.moved
    ]
    if moved:
        lines.append(f"detection differs in {_count(len(moved), 'sample')}: what stands on it was not compared there")
    unread = _unread(project, chosen, times, fresh, ledger, wanted)
    lines += [f"{sample_id} could not be computed again ({why}): not counted" for sample_id, why in unread.items()]
    total = sum(one.items for one in blocks)
    if not total:
        why = f" ({next(iter(unread))}: {next(iter(unread.values()))})" if unread else "; run kuleshov extract"
        raise DataError(f"of {_count(len(chosen), 'sample')} nothing could be compared{why}")
    off = [f"{sample_id} in {one.name}: {what}" for one in blocks for sample_id, what in one.off]
    lines.append(f"{_count(total, 'item')} compared, {len(off)} off")
    return Verified(lines, off)


def _compute(project: Project, chosen: Manifest, fresh: Store, ledger: Ledger) -> None:
    """All stages up to extraction, of these samples, into a store of their own."""
    from stages.align.run import run as align
    from stages.detect.run import run as detect
    from stages.extract.run import run as extract

    settings, photos, folder = project.params, project.images_root, project.weights_folder
    source = settings.detect.faces
    detections, *_ = detect(chosen, photos, fresh, settings.detect, ledger)
    plans = list(role_plans(project, detections.key)[0].values())  # `wanted_blocks` says which are left out
    templates = templates_read(project, plans)
    align(chosen, photos, fresh, detections, templates, source, ledger)
    ledgers = {plan.role: ledger for plan in plans}
    extract(chosen, photos, fresh, detections, plans, settings.extract, folder, ledgers)


def _still(chosen: Manifest, moved: set[str]) -> list[Sample]:
    """The samples whose photo was not detected otherwise: another sample may have the same photo."""
    contents = {sample.content for sample in chosen if sample.sample_id in moved}
    return [sample for sample in chosen if sample.content not in contents]


def _check(
    project: Project,
    one: Wanted,
    samples: Sequence[Sample],
    times: Times,
    persons: PersonKeys,
    fresh: Store,
    tolerance: float | None,
) -> Checked:
    stored, again = project.store.open(one.spec), fresh.open(one.spec)
    checked = Checked(project.store.place(one.spec).name, Measure.of(one, stored, tolerance))
    done: set[bytes] = set()
    for sample in samples:
        keys = [key for key in one.keys(sample, project.params.detect.faces, times, persons) if key not in done]
        done.update(keys)
        for key in keys:
            if stored.has([key])[0] and again.has([key])[0]:
                checked.compare(sample.sample_id, key, stored, again)
            elif one.kind == "persons" and stored.has([key])[0]:
                checked.moved += 1
    return checked


def _unread(
    project: Project, chosen: Manifest, times: Times, fresh: Store, ledger: Ledger, wanted: Sequence[Wanted]
) -> dict[str, str]:
    """Samples that failed now in a way that is not remembered (a missing photo), with the reason."""
    boxes = fresh.open(next(one.spec for one in wanted if one.kind == "boxes"))
    source = project.params.detect.faces
    return {
        sample.sample_id: ": ".join(filter(None, ledger.entries[sample.sample_id]))
        for sample in chosen
        if sample.sample_id in ledger and not boxes.has(sample_keys(sample, "boxes", source, times)).all()
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
