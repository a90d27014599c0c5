"""A few samples through detect, align and extract, into the project's store, and the time that it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.amounts import ALIGN, DETECT, Role
from pipeline.crops import templates_read
from pipeline.project import Project
from stages.align.run import run as align
from stages.detect.run import read
from stages.detect.run import run as detect
from stages.extract.forward import batch_rows
from stages.extract.plan import together
from stages.extract.run import run as extract
from stages.extract.settings import BatchSize
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.spread import Part
from stages.timing import Spent, Timings

W = TypeVar("W")
R = TypeVar("R")


@dataclass
class Timed:
    """Seconds that stages took, and the items that they went to, counted as `pipeline.amounts.Amount` does.

    Attributes:
        spent: stage -> seconds without loading networks, and items; only of stages that had something to compute.
        load_s: seconds of loading networks.
    """

    spent: dict[str, Spent] = field(default_factory=dict)
    load_s: float = 0.0

    def each(self, stage: str) -> float | None:
        """Seconds an item; None where there was none."""
        spent = self.spent.get(stage)
        return None if spent is None else spent.seconds / spent.items


Step = Callable[[Manifest], Timed]


def time_samples(
    project: Project, chosen: Sequence[Sequence[Sample]], roles: Sequence[Role], ledger: Ledger
) -> tuple[list[Timed], float]:
    """Compute what the store lacks of these samples, stage by stage.

    At each stage the first sample with work for it is not timed, unless there is no other: libraries are loaded for it,
    processes started, graphs compiled. Networks stay loaded for the samples after it.

    Args:
        chosen: samples in lists that are timed apart.
        ledger: takes those that cannot be read; they go to no later stage.

    Returns:
        What each list took, and the seconds of starting, which are not in it.
    """
    timed = [Timed() for _ in chosen]
    start_s = 0.0
    for step in _steps(project, roles, ledger):
        warming: list[Timed] = []
        for samples, whole in zip(chosen, timed, strict=True):
            rest = [sample for sample in samples if sample.sample_id not in ledger]
            while rest and not any(one.spent for one in warming):
                number = 2 ** len(warming)  # few steps, however many samples have no work here
                warming.append(step(Manifest(tuple(rest[:number]))))
                whole.spent |= warming[-1].spent
                rest = rest[number:]
            if rest:
                found = step(Manifest(tuple(rest)))
                whole.spent |= found.spent
                start_s += found.load_s
        start_s += sum(one.load_s + _waited(one, timed) for one in warming)
    return timed, start_s


def _waited(warming: Timed, timed: Sequence[Timed]) -> float:
    """Seconds that the first sample took longer than the same work takes later."""
    longer = 0.0
    for stage, spent in warming.spent.items():
        each = min(known for one in timed if (known := one.each(stage)) is not None)
        longer += max(spent.seconds - spent.items * each, 0.0)
    return longer


def _steps(project: Project, roles: Sequence[Role], ledger: Ledger) -> Iterator[Step]:
    """The stages in turn; roles that see the same pixels are extracted together, as `kuleshov extract` does it."""
    settings, photos, store, here = project.params, project.images_root, project.store, _Here()

    def detected(manifest: Manifest) -> Timed:
        timings, start = Timings(), time.perf_counter()
        detect(manifest, photos, store, settings.detect, ledger, here, timings)
        return _timed(DETECT, timings, "detect", time.perf_counter() - start)

    def aligned(manifest: Manifest) -> Timed:
        templates = templates_read(project, [role.plan for role in roles])
        detections = read(manifest, store, settings.detect)
        timings, start = Timings(), time.perf_counter()
        align(manifest, photos, store, detections, templates, settings.detect.faces, ledger, timings)
        return _timed(ALIGN, timings, "align", time.perf_counter() - start)

    def extracted(group: Sequence[Role]) -> Step:
        ledgers = {role.plan.role: ledger for role in group}
        plans, folder = [role.plan for role in group], project.weights_folder

        def step(manifest: Manifest) -> Timed:
            detections = read(manifest, store, settings.detect)
            timings, start = Timings(), time.perf_counter()
            extract(manifest, photos, store, detections, plans, settings.extract, folder, ledgers, here, timings)
            return shared(group, timings, time.perf_counter() - start, settings.extract.batch_size)

        return step

    yield detected
    yield aligned
    of_plan = {role.plan.role: role for role in roles}
    for plans in together([role.plan for role in roles]):
        yield extracted([of_plan[plan.role] for plan in plans])


class _Here:
    """A place for parts of a stage's work: this process. What computes a part keeps its networks for the next one."""

    def workers(self) -> int:
        return 1

    def run(self, function: Callable[[W], R], parts: Sequence[Part[W]]) -> Iterator[tuple[int, R]]:
        for number, part in enumerate(parts):
            yield number, function(part.work)


def _timed(stage: str, timings: Timings, kind: str, wall_s: float) -> Timed:
    load_s = timings.spent.get("load", Spent()).seconds
    items = timings.spent.get(kind, Spent()).items
    return Timed({stage: Spent(max(wall_s - load_s, 0.0), items)} if items else {}, load_s)


def shared(group: Sequence[Role], timings: Timings, wall_s: float, batch: BatchSize) -> Timed:
    """Give each role of a pass its forward passes, and of the rest as much as it has of the rows.

    The last batch was filled up with black rows. Of many rows they will be a small part, of a few samples they may be
    most: their time is left out.

    Args:
        wall_s: seconds of the pass.
        batch: `extract.batch_size`.
    """
    load_s = timings.spent.get("load", Spent()).seconds
    forward = [timings.spent.get(f"forward/{role.plan.role}", Spent()) for role in group]
    rows = sum(spent.items for spent in forward)
    rest_s = max(wall_s - load_s - sum(spent.seconds for spent in forward), 0.0)
    found = Timed(load_s=load_s)
    for role, spent in zip(group, forward, strict=True):
        if spent.items:
            size = batch_rows(batch, role.plan.spec, role.plan.engine)
            full = math.ceil(spent.items / size) * size
            seconds = spent.seconds * spent.items / full + rest_s * spent.items / rows
            found.spent[role.stage] = Spent(seconds, spent.items)
    return found
