"""Extraction: the rows of backbones that the store does not have yet, of several roles in one pass.

Faces and persons come from the crops that align cached; whole photos and frames are decoded here, once for all roles.
Rows go to one block per tap.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cache.block import Block
from cache.keys import key_array, key_list
from cache.store import Store
from stages.backbones import registry, weights
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect.run import Detections
from stages.device import resolve
from stages.engines import Engine
from stages.errors import MissingInputError, WeightsError
from stages.extract.forward import Forward, load_forward
from stages.extract.items import Item, Items, viewed
from stages.extract.notes import carry_seen
from stages.extract.passes import Job, Lane, Pass, record
from stages.extract.plan import RolePlan, together
from stages.extract.settings import ExtractSettings
from stages.index.manifest import Manifest
from stages.ledger import Ledger
from stages.spread import Part, Spread, announce, cut, gather, require_same, require_store, require_written
from stages.timing import Timings

PART_ITEMS = 4096
"""Items of a part when the work is spread: 8 MB of 1024-d float16, seconds on a GPU, one shard. Where a part takes
longer, its writer ends a shard every 30 s, and a worker that dies costs at most that."""


@dataclass(frozen=True)
class RoleResult:
    """What became of a role.

    Attributes:
        rows: of the stage's block manifest.
        counts: what was done, counted in items.
    """

    rows: list[BlockRow]
    counts: Counts


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    detections: Detections,
    plans: Sequence[RolePlan],
    settings: ExtractSettings,
    weights_folder: Path,
    ledgers: Mapping[str, Ledger],
    spread: Spread | None = None,
    timings: Timings | None = None,
) -> dict[str, RoleResult]:
    """Compute what is missing of some roles' blocks; of a role with nothing missing no weights are loaded, and a photo
    of which no role lacks anything is not opened.

    Args:
        plans: of roles with names of their own.
        ledgers: role -> where its failures go.
        spread: where parts of the work are computed; None: in this process. The result is the same.
        timings: takes what `load`, `decode`, `forward/ROLE`, `write` and `wait` took.

    Returns:
        Role -> what became of it, in the order of `plans`.

    Raises:
        MissingInputError: align has cut none of the crops, or what a fine-tune has seen is not known; nothing was
            computed.
        DataError: what a fine-tune has seen is of other weights.
        SettingError: torch cannot use the device, or a batch does not fit its memory.
        WeightsError: the weights are missing or not the ones that were published.
        cache.errors.RangeError: a value does not fit the stored dtype.
        cache.errors.StorePlaceError: the store refuses, or the workers of `spread` see another one.
    """
    timings = Timings() if timings is None else timings
    settings = settings.model_copy(update={"device": resolve(settings.device)})
    levels: dict[str, Items] = {}
    results: dict[str, RoleResult] = {}
    for some in _apart(plans):
        tasks: list[_Task] = []
        for group in together(some):
            level = group[0].level
            if level not in levels:
                levels[level] = Items(manifest, detections, level, settings.views)
            job = Job(images_root, store, tuple(group), settings, weights_folder)
            tasks.append(_Task.of(job, levels[level]))
        for task in tasks:
            task.require_crops()
        for plan in some:
            carry_seen(store, plan)
        for task in tasks:
            results |= task.run(ledgers, spread, timings)
    return {plan.role: results[plan.role] for plan in plans}


def _apart(plans: Sequence[RolePlan]) -> list[list[RolePlan]]:
    """The plans in turns in which no two write the same block: in the next turn it is in the store."""
    turns: list[tuple[list[RolePlan], set[str]]] = []
    for plan in plans:
        keys = {spec.key for spec in plan.blocks.values()}
        free = next((turn for turn in turns if turn[1].isdisjoint(keys)), None)
        if free is None:
            free = ([], set())
            turns.append(free)
        free[0].append(plan)
        free[1].update(keys)
    return [some for some, _ in turns]


@dataclass(frozen=True)
class _Task:
    """One pass: its job, all items of its level, and which views of them its blocks lack: role -> tap -> keys."""

    job: Job
    items: Items
    lacking: dict[str, dict[str, set[bytes]]]

    @classmethod
    def of(cls, job: Job, items: Items) -> _Task:
        return cls(job, items, job.lacking(items.view_keys))

    def require_crops(self) -> None:
        """Refuse to begin where align never ran.

        Raises:
            MissingInputError: see `run`.
        """
        spec = self.job.crops
        if spec is None or not any(keys for taps in self.lacking.values() for keys in taps.values()):
            return
        if not self.job.store.open(spec).has(list(self.items)).any():
            raise MissingInputError(
                f"{self.job.roles}: no {spec.source} crops of these {spec.level}s; run kuleshov align"
            )

    def run(self, ledgers: Mapping[str, Ledger], spread: Spread | None, timings: Timings) -> dict[str, RoleResult]:
        """Compute what is lacking, and tell the ledgers what failed now or in an earlier run."""
        wanted = {role: set[bytes]().union(*taps.values()) for role, taps in self.lacking.items()}
        lacked = {self.items.plain[key] for keys in wanted.values() for key in keys}
        answers = {role: _Answer() for role in wanted}
        if lacked:
            todo = {key: self.items[key] for key in self.items if key in lacked}
            if spread is None:
                one = Pass(self.job, todo, self.lacking, partial(_load, self.job), timings)
                one.run()
                answers = {lane.plan.role: _Answer.of(lane) for lane in one.lanes}
            else:
                answers = _compute_spread(self.job, todo, wanted, spread, timings)
        return {
            plan.role: self._result(plan, wanted[plan.role], answers[plan.role], ledgers) for plan in self.job.plans
        }

    def _result(self, plan: RolePlan, wanted: set[bytes], answer: _Answer, ledgers: Mapping[str, Ledger]) -> RoleResult:
        blocks = {tap: self.job.store.open(spec) for tap, spec in plan.blocks.items()}
        failures = Ledger(ledgers[plan.role].stage, dict(answer.failures))
        bad = _record_unfit(self.items, blocks, failures)
        for sample_id, (reason, detail) in failures.entries.items():
            ledgers[plan.role].record(sample_id, reason, detail)
        done = wanted - answer.lost
        counts = Counts(len(self.items.plain), len(done - bad), len(bad | (wanted & answer.lost)))
        return RoleResult([row for block in blocks.values() for row in block_rows(block, self.items.view_keys)], counts)


class _Answer(NamedTuple):
    """Of a role, after a pass over some items.

    Attributes:
        failures: sample_id -> (reason, detail).
        lost: keys of the views that could not be computed.
    """

    failures: Mapping[str, tuple[str, str]] = {}
    lost: Set[bytes] = frozenset()

    @classmethod
    def of(cls, lane: Lane) -> _Answer:
        return cls(lane.failures.entries, lane.wanted - lane.done)


def _compute_spread(
    job: Job, todo: Mapping[bytes, Item], wanted: Mapping[str, set[bytes]], spread: Spread, timings: Timings
) -> dict[str, _Answer]:
    """A pass in parts on the workers, each of which carries all roles."""
    announce(job.store, job.specs)
    items = list(todo.items())
    runs = cut(len(items), PART_ITEMS, spread.workers())
    parts = [Part(dict(items[run]), run.stop - run.start, items[run.start][1].samples[0].sample_id) for run in runs]
    failures = {role: Ledger(f"extract/{role}") for role in wanted}
    lost: dict[str, set[bytes]] = {role: set() for role in wanted}
    desc = f"extract {job.roles}"
    for answers, spent in gather(spread, partial(_compute_part, job), parts, desc=desc, unit="item"):
        timings.merge(spent)
        for role, answer in answers.items():
            lost[role] |= answer.lost
            for sample_id, (reason, detail) in answer.failures.items():
                failures[role].record(sample_id, reason, detail)
    for plan in job.plans:
        done = key_array(list(wanted[plan.role] - lost[plan.role]))
        require_written(job.store, sum(int((~job.store.open(spec).has(done)).sum()) for spec in plan.blocks.values()))
    return {role: _Answer(failures[role].entries, lost[role]) for role in wanted}


def _compute_part(job: Job, items: Mapping[bytes, Item]) -> tuple[dict[str, _Answer], Timings]:
    """On a worker: compute what the store lacks of these items, which is less than all when the part is tried again.

    Raises:
        SettingError: this machine would compute other values, or cannot use the device, or its memory is too small.
        WeightsError: the weights are missing or not those of the process that handed out the part.
        cache.errors.RangeError, cache.errors.StorePlaceError: as `run`.
    """
    for plan in job.plans:
        require_same(registry.get_spec(plan.spec.name) == plan.spec, plan.spec.name)
    require_store(job.store, job.specs)
    plain = viewed(items, job.settings.views)
    lacking = job.lacking(key_array(list(plain)))
    lacked = {plain[key] for taps in lacking.values() for keys in taps.values() for key in keys}
    timings = Timings()
    todo = {key: item for key, item in items.items() if key in lacked}
    one = Pass(job, todo, lacking, partial(_kept, job), timings)
    one.run(shown=False)
    return {lane.plan.role: _Answer.of(lane) for lane in one.lanes}, timings


def _load(job: Job, plan: RolePlan) -> Forward:
    return load_forward(plan.spec.name, job.weights_folder, plan.engine, _taps(plan), plan.file)


def _taps(plan: RolePlan) -> tuple[str, ...]:
    """The outputs that a role writes: others are not handed out by its network."""
    return tuple(sorted(plan.blocks))


class _Network(NamedTuple):
    """What makes a network on a worker another one."""

    name: str
    weights: str
    folder: Path
    file: Path | None
    engine: Engine
    taps: tuple[str, ...]
    digest: str


_networks: dict[_Network, Forward] = {}
"""Those of the last part that a worker computed: the next one has the same roles."""


def _kept(job: Job, plan: RolePlan) -> Forward:
    """As `_load`; a worker keeps the networks from one part to the next."""
    of_roles = {one.role: _network(job, one) for one in job.plans}
    for other in _networks.keys() - set(of_roles.values()):
        _networks.pop(other, None)
    wanted = of_roles[plan.role]
    if wanted not in _networks:
        found = _digest(wanted)
        if found != wanted.digest:
            raise WeightsError(
                f"{wanted.name}: {wanted.file or wanted.folder} of worker {platform.node()} has weights of sha256 "
                f"{found[:12]}, wanted are {wanted.digest[:12]}; give all machines the same weights"
            )
        _networks[wanted] = _load(job, plan)
    return _networks[wanted]


def _digest(network: _Network) -> str:
    """SHA-256 of the weights that are on this machine."""
    if network.file is None:
        return weights.sha256(network.weights, network.folder)
    return weights.hash_file(network.file) if network.file.is_file() else "nothing"


def _network(job: Job, plan: RolePlan) -> _Network:
    [digest, *_] = [block.weights[plan.spec.weights] for block in plan.blocks.values()]
    return _Network(plan.spec.name, plan.spec.weights, job.weights_folder, plan.file, plan.engine, _taps(plan), digest)


def _record_unfit(items: Items, blocks: Mapping[str, Block], ledger: Ledger) -> set[bytes]:
    """Record the items whose values were not finite, now or in an earlier run; returns their keys."""
    bad: set[bytes] = set()
    for tap, block in blocks.items():
        bare = items.view_keys[block.count(items.view_keys) == 0]
        for key, status in zip(key_list(bare), block.statuses(bare), strict=True):  # who has a row has not failed
            if status != "ok":
                bad.add(key)
                detail = f"{block.spec.source} returned NaN or inf at {tap}"
                record(items[items.plain[key]].samples, ledger, status, detail)
    return bad
