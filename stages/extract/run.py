"""Extraction: the rows of one backbone that the store does not have yet.

Faces come from the crops that align cached; whole photos are decoded here. Rows go to one block per tap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import item_key
from cache.store import Store
from cache.writer import BlockWriter
from stages.backbones.spec import BackboneSpec
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect.run import Detections
from stages.device import resolve
from stages.errors import MediaError, MissingInputError
from stages.extract.engine import load_forward, packed
from stages.extract.plan import RolePlan
from stages.extract.settings import ExtractSettings
from stages.index.manifest import Manifest, Sample
from stages.index.samples import open_shared
from stages.ledger import Ledger
from stages.progress import progress

DECODE_AHEAD = 8
"""Photos decoded before the network asks for them: bounds memory."""

Owners = Mapping[bytes, Sequence[Sample]]
"""Item key -> the samples that have it."""

Inputs = Generator[tuple[bytes, np.ndarray], None, None]
"""(item key, uint8 (n, H, W, 3)) of the items that can be computed."""


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    detections: Detections,
    plan: RolePlan,
    settings: ExtractSettings,
    weights_folder: Path,
    ledger: Ledger,
) -> tuple[list[BlockRow], Counts]:
    """Compute what is missing of a role's blocks; with nothing missing no weights are loaded and no photo is opened.

    Returns the rows of the stage's block manifest, and what was done, counted in items.

    Raises:
        MissingInputError: align has cut none of the crops.
        SettingError: torch cannot use the device, or the batch does not fit its memory.
        WeightsError: the weights are missing or not the ones that were published.
        cache.errors.RangeError: a value does not fit the stored dtype.
    """
    owners = _owners(manifest, detections, plan)
    blocks = {tap: store.open(spec) for tap, spec in plan.blocks.items()}
    keys = list(owners)
    lacking = {tap: _lacking(block, keys) for tap, block in blocks.items()}
    wanted = set().union(*lacking.values())
    todo = [key for key in keys if key in wanted]
    failures = Ledger(ledger.stage)
    done: set[bytes] = set()
    if todo:
        if plan.crops:
            inputs = _crops(todo, owners, store.open(plan.crops), plan, failures)
        else:
            inputs = _photos(todo, owners, images_root, plan.spec, failures)
        done = _compute(inputs, len(todo), store, plan, settings, weights_folder, lacking)
        blocks = {tap: store.open(spec) for tap, spec in plan.blocks.items()}
    bad = _record_unfit(keys, owners, blocks, failures)
    for sample_id, (reason, detail) in failures.entries.items():
        ledger.record(sample_id, reason, detail)
    rows = [row for block in blocks.values() for row in block_rows(block, keys)]
    return rows, Counts(len(keys), len(done - bad), len(bad | (wanted - done)))


def _compute(
    inputs: Inputs,
    total: int,
    store: Store,
    plan: RolePlan,
    settings: ExtractSettings,
    weights_folder: Path,
    lacking: Mapping[str, set[bytes]],
) -> set[bytes]:
    """Forward the inputs and add each item to the blocks that lack it; returns the keys computed."""
    done: set[bytes] = set()
    with ExitStack() as stack:
        stack.callback(inputs.close)
        writers = {tap: stack.enter_context(store.writer(spec)) for tap, spec in plan.blocks.items()}
        first = next(inputs, None)
        if first is not None:  # the network is loaded for the first good item, not before
            forward = load_forward(plan.spec.name, weights_folder, resolve(settings.device))
            rows = packed(chain([first], inputs), forward, settings.batch_size)
            for key, taps in progress(rows, total=total, desc=f"extract {plan.role}", unit="item"):
                _store(key, taps, writers, lacking)
                done.add(key)
    return done


def keys_of(sample: Sample, detections: Detections, level: str) -> list[bytes]:
    """Item keys of a sample in a block of this level: one for the photo, or those of its face items with faces."""
    if level == "face":
        return [item.key for item in detections.items[sample.sample_id] if len(item.faces)]
    return [item_key(sample.content)]


def _owners(manifest: Manifest, detections: Detections, plan: RolePlan) -> Owners:
    """In the manifest's order, over the samples that could be read."""
    owners: dict[bytes, list[Sample]] = {}
    for sample in manifest.samples:
        if sample.sample_id in detections.items:
            for key in keys_of(sample, detections, "face" if plan.crops else "global"):
                owners.setdefault(key, []).append(sample)
    return owners


def _lacking(block: Block, keys: Sequence[bytes]) -> set[bytes]:
    return {key for key, here in zip(keys, block.has(keys), strict=True) if not here}


def _record(samples: Sequence[Sample], ledger: Ledger, reason: str, detail: str) -> None:
    for sample in samples:
        ledger.record(sample.sample_id, reason, detail)


def _crops(todo: Sequence[bytes], owners: Owners, block: Block, plan: RolePlan, ledger: Ledger) -> Inputs:
    """Cached crops. Single ones may be missing; without any, align was not run."""
    if not block.has(list(owners)).any():
        raise MissingInputError(f"{plan.role}: no {block.spec.source} crops of these faces; run kuleshov align")
    for key, present in zip(todo, block.has(todo), strict=True):
        if present:
            yield key, block.item(key)[0]
        else:
            _record(owners[key], ledger, "missing_crops", f"no {block.spec.source} crops; run kuleshov align")


def _photos(todo: Sequence[bytes], owners: Owners, images_root: Path, spec: BackboneSpec, ledger: Ledger) -> Inputs:
    """Whole photos at the network's size, decoded by two threads."""

    def decode(key: bytes) -> tuple[bytes, np.ndarray | MediaError]:
        try:
            return key, _fitted(owners[key], images_root, spec)
        except MediaError as error:
            return key, error

    with ThreadPoolExecutor(2) as pool:
        queue = iter(todo)
        running = deque(pool.submit(decode, key) for key in islice(queue, DECODE_AHEAD))
        while running:
            key, result = running.popleft().result()
            running.extend(pool.submit(decode, key) for key in islice(queue, 1))
            if isinstance(result, MediaError):
                _record(owners[key], ledger, result.reason, result.detail)
            else:
                yield key, result[None]


def _fitted(samples: Sequence[Sample], images_root: Path, spec: BackboneSpec) -> np.ndarray:
    from stages.backbones.preprocess import fit

    return fit(open_shared(samples, images_root), spec)


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


def _record_unfit(keys: Sequence[bytes], owners: Owners, blocks: dict[str, Block], ledger: Ledger) -> set[bytes]:
    """Record the items whose values were not finite, now or in an earlier run; returns their keys."""
    bad: set[bytes] = set()
    for tap, block in blocks.items():
        for key, status in zip(keys, block.statuses(keys), strict=True):
            if status not in {"ok", ""}:
                bad.add(key)
                _record(owners[key], ledger, status, f"{block.spec.source} returned NaN or inf at {tap}")
    return bad
