"""One look at items for all roles that see the same pixels: the crops of one template, or whole photos and frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import BlockSpec, key_list, view_key
from cache.store import Store
from cache.writer import BlockWriter
from stages.extract import views
from stages.extract.engine import Forward, Packer, Run, each
from stages.extract.forward import batch_rows
from stages.extract.inputs import Asked, Seen, from_crops, from_media
from stages.extract.items import Item
from stages.extract.pictures import Look, size_of
from stages.extract.plan import RolePlan
from stages.extract.settings import ExtractSettings
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.making import style
from stages.progress import counter
from stages.timing import Timings

Load = Callable[[RolePlan], Forward]


@dataclass(frozen=True)
class Job:
    """What a pass needs beside its items; picklable.

    Attributes:
        plans: of roles that see the same pixels and write different blocks.
        settings: their device says what the blocks' keys say: where it is computed does not matter to it.
    """

    images_root: Path
    store: Store
    plans: tuple[RolePlan, ...]
    settings: ExtractSettings
    weights_folder: Path

    @property
    def crops(self) -> BlockSpec | None:
        """The block that the pixels come from; None for whole photos and frames."""
        return self.plans[0].crops

    @property
    def specs(self) -> list[BlockSpec]:
        """Of all blocks that are written."""
        return [spec for plan in self.plans for spec in plan.blocks.values()]

    @property
    def roles(self) -> str:
        """Their names, for people."""
        return ", ".join(plan.role for plan in self.plans)

    def lacking(self, keys: np.ndarray) -> dict[str, dict[str, set[bytes]]]:
        """Which of these views, (V,) `KEY_DTYPE`, the blocks do not have: role -> tap -> keys."""
        return {
            plan.role: {tap: _lacking(self.store.open(spec), keys) for tap, spec in plan.blocks.items()}
            for plan in self.plans
        }


def _lacking(block: Block, keys: np.ndarray) -> set[bytes]:
    return set(key_list(keys[~block.has(keys)]))


class Lane:
    """A role in a pass.

    Attributes:
        plan: of the role.
        wanted: keys of the views that one of its blocks lacks.
        done: those that were computed.
        failures: of the samples whose items could not be had.
    """

    def __init__(self, plan: RolePlan, lacking: Mapping[str, set[bytes]]) -> None:
        self.plan = plan
        self.wanted: set[bytes] = set().union(*lacking.values())
        self.done: set[bytes] = set()
        self.failures = Ledger(f"extract/{plan.role}")
        self.writers: dict[str, BlockWriter] = {}
        self.packer: Packer | None = None
        self._lacking = lacking

    def write(self, run: Run) -> None:
        """Add items to the blocks that lack them. Each tap is judged alone: a block does not depend on others."""
        for tap, writer in self.writers.items():
            lacking = self._lacking[tap]
            if lacking.issuperset(run.keys) and np.isfinite(run.taps[tap]).all():
                writer.add_many(run.keys, run.counts, run.taps[tap])
                continue
            for key, taps in each(run):
                if key in lacking:
                    good = bool(np.isfinite(taps[tap]).all())
                    writer.add(key, taps[tap] if good else None, status="ok" if good else "non_finite")
        self.done.update(run.keys)


class Pass:
    """One look at items for the roles of a job that lack something of them.

    Args:
        items: by their plain keys.
        lacking: role -> tap -> keys of their views, see `Job.lacking`.
        load: makes a role's network; called when the first pixels for it are there, not before.
        timings: takes what was spent.

    Attributes:
        lanes: the roles.
    """

    def __init__(
        self,
        job: Job,
        items: Mapping[bytes, Item],
        lacking: Mapping[str, Mapping[str, set[bytes]]],
        load: Load,
        timings: Timings,
    ) -> None:
        self.lanes = [Lane(plan, lacking[plan.role]) for plan in job.plans]
        self._job, self._items, self._load, self._timings = job, items, load, timings
        self._sizes: dict[tuple[object, ...], list[Lane]] = {}
        for lane in self.lanes:  # crops have one size
            self._sizes.setdefault(size_of(lane.plan.spec) if job.crops is None else (), []).append(lane)

    def run(self, shown: bool = True) -> None:
        """Compute and write. What was written stays, whatever happens.

        Raises:
            SettingError: torch cannot use the device, or a batch does not fit its memory.
            WeightsError: see `stages.backbones.registry.load`.
            cache.errors.RangeError: a value does not fit the stored dtype.
            cache.errors.StorePlaceError: the store refuses.
        """
        of_size = list(self._sizes.values())
        with ExitStack() as stack:
            for lane in self.lanes:
                how = style(
                    *(*lane.plan.engine.packages, "torchvision", "pillow"),
                    licence=lane.plan.spec.licence,
                    compression=lane.plan.compression,
                )
                for tap, spec in lane.plan.blocks.items():
                    lane.writers[tap] = stack.enter_context(self._job.store.writer(spec, how))
            wanted = sum(len(lane.wanted) for lane in self.lanes)
            bar = counter(total=wanted, desc=f"extract {self._job.roles}", unit="item", shown=shown)
            stack.enter_context(bar)
            for key, size, rows, total in stack.enter_context(closing(self._seen())):
                for lane in of_size[size]:
                    if key in lane.wanted:
                        for run in self._packer(lane).push(key, rows, total):
                            self._write(lane, run)
                            bar.update(len(run.keys))
            for lane in self.lanes:
                for run in lane.packer.finish() if lane.packer is not None else ():
                    self._write(lane, run)
            with self._timings.measure("write"):
                for lane in self.lanes:
                    for writer in lane.writers.values():
                        writer.flush()

    def _seen(self) -> Generator[Seen, None, None]:
        wanted = [set().union(*(lane.wanted for lane in lanes)) for lanes in self._sizes.values()]
        asked = Asked.of(self._items, wanted, self._job.settings.views)
        if self._job.crops is not None:
            return from_crops(asked, self._job.store.open(self._job.crops), self._fail)
        specs = tuple(lanes[0].plan.spec for lanes in self._sizes.values())
        look = Look(self._job.images_root, specs, self._job.settings.views)
        return from_media(asked, look, self._fail, self._timings)

    def _packer(self, lane: Lane) -> Packer:
        if lane.packer is None:
            with self._timings.measure("load"):
                forward = self._load(lane.plan)
            role = lane.plan.role
            rows = batch_rows(self._job.settings.batch_size, lane.plan.spec, lane.plan.engine)
            lane.packer = Packer(forward, rows, self._timings, f"forward/{role}")
        return lane.packer

    def _write(self, lane: Lane, run: Run) -> None:
        with self._timings.measure("write"):
            lane.write(run)

    def _fail(self, key: bytes, reason: str, detail: str) -> None:
        """Record that an item cannot be had, for the roles that lack something of it."""
        of_views = [view_key(key, view) for view in views.names(self._job.settings.views)]
        for lane in self.lanes:
            if not lane.wanted.isdisjoint(of_views):
                record(self._items[key].samples, lane.failures, reason, detail)


def record(samples: Sequence[Sample], ledger: Ledger, reason: str, detail: str) -> None:
    """Record a failure for all of these samples."""
    for sample in samples:
        ledger.record(sample.sample_id, reason, detail)
