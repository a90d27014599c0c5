"""Extraction: the rows of one backbone that the store does not have yet.

Faces come from the crops that align cached; whole photos are decoded here. Rows go to one block per tap.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import item_keys, key_array, key_list, view_key
from cache.store import Store
from cache.writer import BlockWriter
from stages.backbones import registry, weights
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect.run import Detections
from stages.device import resolve
from stages.errors import MissingInputError, WeightsError
from stages.extract import views
from stages.extract.engine import Forward, load_forward, packed
from stages.extract.inputs import Asked, Inputs, Owners, from_crops, from_photos, record
from stages.extract.plan import RolePlan
from stages.extract.settings import ExtractSettings
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.making import style
from stages.progress import progress
from stages.spread import Part, Spread, announce, cut, gather, require_same, require_store, require_written

PART_ITEMS = 4096
"""Items of a part when the work is spread: 8 MB of 1024-d float16, seconds on a GPU, one shard. Where a part takes
longer, its writer ends a shard every 30 s, and a worker that dies costs at most that."""

Entries = dict[str, tuple[str, str]]
"""Sample_id -> (reason, detail) of a failure."""


@dataclass(frozen=True)
class _Job:
    """What an extraction needs beside its items. `plan` says the device: where it is computed does not matter to it."""

    images_root: Path
    store: Store
    plan: RolePlan
    settings: ExtractSettings
    weights_folder: Path

    def viewed(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Key of each view of these plain items -> the plain key, the plain views first."""
        return {view_key(key, view): key for view in views.names(self.settings.views) for key in keys}

    def inputs(self, todo: Owners, wanted: Container[bytes], crops: Block | None, failures: Ledger) -> Inputs:
        """What the network sees of the wanted views of these items; items that cannot be had are recorded."""
        asked = Asked(todo, wanted, self.settings.views)
        if crops is not None:
            return from_crops(asked, crops, failures)
        return from_photos(asked, self.images_root, self.plan.spec, failures)


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    detections: Detections,
    plan: RolePlan,
    settings: ExtractSettings,
    weights_folder: Path,
    ledger: Ledger,
    spread: Spread | None = None,
) -> tuple[list[BlockRow], Counts]:
    """Compute what is missing of a role's blocks; with nothing missing no weights are loaded and no photo is opened.

    Args:
        spread: where parts of the work are computed; None: in this process. The result is the same.

    Returns the rows of the stage's block manifest, and what was done, counted in items.

    Raises:
        MissingInputError: align has cut none of the crops.
        SettingError: torch cannot use the device, or the batch does not fit its memory.
        WeightsError: the weights are missing or not the ones that were published.
        cache.errors.RangeError: a value does not fit the stored dtype.
        cache.errors.StorePlaceError: the store refuses, or the workers of `spread` see another one.
    """
    settings = settings.model_copy(update={"device": resolve(settings.device)})
    job = _Job(images_root, store, plan, settings, weights_folder)
    owners = _Owners(manifest, detections, plan)
    blocks = {tap: store.open(spec) for tap, spec in plan.blocks.items()}
    viewed = job.viewed(list(owners))
    keys = list(viewed)
    lacking = {tap: _lacking(block, keys) for tap, block in blocks.items()}
    wanted = set().union(*lacking.values())
    lacked = {viewed[key] for key in wanted}
    todo = {key: owners[key] for key in owners if key in lacked}
    failures = Ledger(ledger.stage)
    done: set[bytes] = set()
    if todo:
        crops = store.open(plan.crops) if plan.crops else None
        if crops is not None and not crops.has(list(owners)).any():
            raise MissingInputError(f"{plan.role}: no {crops.spec.source} crops of these faces; run kuleshov align")
        if spread is None:
            done = _compute(job, job.inputs(todo, wanted, crops, failures), lacking, _load)
        else:
            done = wanted - _compute_spread(job, todo, spread, failures)
        blocks = {tap: store.open(spec) for tap, spec in plan.blocks.items()}
    bad = _record_unfit(viewed, owners, blocks, failures)
    for sample_id, (reason, detail) in failures.entries.items():
        ledger.record(sample_id, reason, detail)
    rows = [row for block in blocks.values() for row in block_rows(block, keys)]
    return rows, Counts(len(keys), len(done - bad), len(bad | (wanted - done)))


def _compute_spread(job: _Job, todo: Owners, spread: Spread, failures: Ledger) -> set[bytes]:
    """As `_compute`, in parts on the workers; returns the keys that could not be computed, of every view."""
    specs = list(job.plan.blocks.values())
    announce(job.store, specs)
    items = list(todo.items())
    runs = cut(len(items), PART_ITEMS, spread.workers())
    parts = [Part(dict(items[run]), run.stop - run.start, items[run.start][1][0].sample_id) for run in runs]
    lost: set[bytes] = set()
    for entries, unfit in gather(
        spread, partial(_compute_part, job), parts, desc=f"extract {job.plan.role}", unit="item"
    ):
        lost.update(unfit)
        for sample_id, (reason, detail) in entries.items():
            failures.record(sample_id, reason, detail)
    done = list(job.viewed([key for key in todo if key not in lost]))
    absent = set().union(*(_lacking(job.store.open(spec), done) for spec in specs))
    require_written(job.store, len(absent))
    return set(job.viewed(list(lost)))


def _compute_part(job: _Job, owners: Owners) -> tuple[Entries, list[bytes]]:
    """On a worker: compute what the store lacks of these items, which is less than all when the part is tried again.

    Returns sample_id -> failure, and the plain keys of the items that could not be computed.

    Raises:
        SettingError: this machine would compute other values, or cannot use the device, or its memory is too small.
        WeightsError: the weights are missing or not those of the process that handed out the part.
        cache.errors.RangeError, cache.errors.StorePlaceError: as `run`.
    """
    plan = job.plan
    require_same(registry.get_spec(plan.spec.name) == plan.spec, plan.spec.name)
    require_store(job.store, list(plan.blocks.values()))
    viewed = job.viewed(list(owners))
    lacking = {tap: _lacking(job.store.open(spec), list(viewed)) for tap, spec in plan.blocks.items()}
    wanted = set().union(*lacking.values())
    todo = {key: owners[key] for key in dict.fromkeys(viewed[key] for key in viewed if key in wanted)}
    failures = Ledger(f"extract/{plan.role}")
    crops = job.store.open(plan.crops) if plan.crops else None
    done = _compute(job, job.inputs(todo, wanted, crops, failures), lacking, _kept, shown=False)
    return failures.entries, list({viewed[key] for key in wanted - done})


def _load(job: _Job) -> Forward:
    return load_forward(job.plan.spec.name, job.weights_folder, job.settings.device)


def _kept(job: _Job) -> Forward:
    """As `_load`; a worker keeps the network from one part to the next."""
    spec = job.plan.spec
    [digest, *_] = [block.weights[spec.weights] for block in job.plan.blocks.values()]
    return _loaded(spec.name, spec.weights, job.weights_folder, job.settings.device, digest)


@lru_cache(maxsize=1)
def _loaded(name: str, file: str, folder: Path, device: str, digest: str) -> Forward:
    found = weights.sha256(file, folder)
    if found != digest:
        raise WeightsError(
            f"{name}: {folder} of worker {platform.node()} has weights of sha256 {found[:12]}, wanted are "
            f"{digest[:12]}; give all machines the same weights folder"
        )
    return load_forward(name, folder, device)


def _compute(
    job: _Job,
    inputs: Inputs,
    lacking: Mapping[str, set[bytes]],
    load: Callable[[_Job], Forward],
    shown: bool = True,
) -> set[bytes]:
    """Forward the inputs and add each item to the blocks that lack it; returns the keys computed."""
    done: set[bytes] = set()
    plan, total = job.plan, len(set().union(*lacking.values()))
    with ExitStack() as stack:
        stack.callback(inputs.close)
        how = style("torch", "torchvision", "pillow", licence=plan.spec.licence, compression=plan.compression)
        writers = {tap: stack.enter_context(job.store.writer(spec, how)) for tap, spec in plan.blocks.items()}
        first = next(inputs, None)
        if first is not None:  # the network is loaded for the first good item, not before
            rows = packed(chain([first], inputs), load(job), job.settings.batch_size)
            for key, taps in progress(rows, total=total, desc=f"extract {plan.role}", unit="item", shown=shown):
                _store(key, taps, writers, lacking)
                done.add(key)
    return done


def keys_of(samples: Sequence[Sample], detections: Detections, level: str) -> tuple[np.ndarray, np.ndarray]:
    """Item keys in a block of this level, one sample after another: one for the photo, or its face items with faces.

    Returns:
        keys (K,) `KEY_DTYPE`, and (K,) int64: which of the samples each is of.
    """
    if level == "face":
        picked = detections.pick(samples)
        return picked.keys, picked.owner
    return key_array(item_keys(sample.content for sample in samples)), np.arange(len(samples))


class _Owners(Mapping[bytes, Sequence[Sample]]):
    """In the manifest's order, over the samples that could be read. Which samples have a key is gathered when somebody
    asks: a run that finds everything in the store does not."""

    def __init__(self, manifest: Manifest, detections: Detections, plan: RolePlan) -> None:
        self._readable = detections.readable(manifest.samples)
        keys, self._numbers = keys_of(self._readable, detections, "face" if plan.crops else "global")
        self._all = key_list(keys)
        self._distinct = dict.fromkeys(self._all)

    @cached_property
    def _samples(self) -> dict[bytes, list[Sample]]:
        found: dict[bytes, list[Sample]] = {}
        for key, number in zip(self._all, self._numbers.tolist(), strict=True):
            found.setdefault(key, []).append(self._readable[number])
        return found

    def __getitem__(self, key: bytes) -> Sequence[Sample]:
        return self._samples[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._distinct)

    def __len__(self) -> int:
        return len(self._distinct)


def _lacking(block: Block, keys: Sequence[bytes]) -> set[bytes]:
    return {key for key, here in zip(keys, block.has(keys), strict=True) if not here}


def _store(
    key: bytes, taps: dict[str, np.ndarray], writers: Mapping[str, BlockWriter], lacking: Mapping[str, set[bytes]]
) -> None:
    """Add an item to the blocks that lack it. Each tap is judged alone, so that a block does not depend on others."""
    for tap, writer in writers.items():
        if key not in lacking[tap]:
            continue
        if np.isfinite(taps[tap]).all():
            writer.add(key, taps[tap])
        else:
            writer.add(key, None, status="non_finite")


def _record_unfit(
    viewed: Mapping[bytes, bytes], owners: Owners, blocks: dict[str, Block], ledger: Ledger
) -> set[bytes]:
    """Record the items whose values were not finite, now or in an earlier run; returns their keys."""
    keys = list(viewed)
    bad: set[bytes] = set()
    for tap, block in blocks.items():
        bare = [key for key, count in zip(keys, block.count(keys).tolist(), strict=True) if count == 0]
        for key, status in zip(bare, block.statuses(bare), strict=True):  # who has a row has not failed
            if status != "ok":
                bad.add(key)
                record(owners[viewed[key]], ledger, status, f"{block.spec.source} returned NaN or inf at {tap}")
    return bad
