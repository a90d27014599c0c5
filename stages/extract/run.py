"""Extraction: the rows of one backbone that the store does not have yet.

Faces come from the crops that align cached; whole photos are decoded here. Rows go to one block per tap.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np

from cache.keys import item_key
from cache.store import BlockWriter, Store
from stages.backbones.spec import BackboneSpec
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect.run import Detections
from stages.device import resolve
from stages.errors import MediaError, MissingInputError
from stages.extract.engine import load_forward, packed
from stages.extract.plan import RolePlan
from stages.extract.settings import ExtractSettings
from stages.index.manifest import Manifest, Sample
from stages.index.samples import open_sample
from stages.ledger import Ledger
from stages.progress import progress

DECODE_AHEAD = 8
"""Photos decoded before the network asks for them: bounds memory."""


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

    Returns the rows of the stage's block manifest, and what was done.
    """
    owners = _owners(manifest, detections, plan)
    blocks = [store.open(spec) for spec in plan.blocks.values()]
    keys = list(owners)
    here = np.logical_and.reduce([block.has(keys) for block in blocks])
    todo = [key for key, present in zip(keys, here, strict=True) if not present]
    if todo:
        if plan.crops:
            inputs = _crops(todo, owners, store, plan, ledger)
        else:
            inputs = _photos(todo, owners, images_root, plan, ledger)
        with ExitStack() as stack:
            writers = {tap: stack.enter_context(store.writer(spec)) for tap, spec in plan.blocks.items()}
            first = next(inputs, None)
            if first is not None:  # the network is loaded for the first good item, not before
                forward = load_forward(plan.spec.name, weights_folder, resolve(settings.device))
                rows = packed(_chain(first, inputs), forward, settings.batch_size)
                for key, taps in progress(rows, total=len(todo), desc=f"extract {plan.role}", unit="item"):
                    _store(key, taps, writers)
        blocks = [store.open(spec) for spec in plan.blocks.values()]
    _record_failures(keys, owners, blocks[0].statuses(keys), ledger)
    rows = [row for block in blocks for row in block_rows(block, [k for k in keys if block.has([k])[0]])]
    return rows, Counts(total=len(keys), computed=len(todo), failed=len(ledger))


def keys_of(sample: Sample, detections: Detections, level: str) -> list[bytes]:
    """Item keys of a sample in a block of this level: one for the photo, or those of its face items with faces."""
    if level == "face":
        return [item.key for item in detections.items[sample.sample_id] if len(item.faces)]
    return [item_key(sample.content)]


def _owners(manifest: Manifest, detections: Detections, plan: RolePlan) -> dict[bytes, Sample]:
    """Item key -> the first sample that has it, over the samples that could be read."""
    owners: dict[bytes, Sample] = {}
    for sample in manifest.samples:
        if sample.sample_id in detections.items:
            for key in keys_of(sample, detections, "face" if plan.crops else "global"):
                owners.setdefault(key, sample)
    return owners


def _crops(
    todo: list[bytes], owners: dict[bytes, Sample], store: Store, plan: RolePlan, ledger: Ledger
) -> Iterator[tuple[bytes, np.ndarray]]:
    assert plan.crops is not None  # noqa: S101
    block = store.open(plan.crops)
    if not block.has(todo).any():
        raise MissingInputError(f"{plan.role}: no {plan.crops.source} crops of these faces; run kuleshov align")
    for key, present in zip(todo, block.has(todo), strict=True):
        if present:
            yield key, block.item(key)[0]
        else:
            ledger.record(owners[key].sample_id, "missing_crops", f"no {plan.crops.source} crops; run kuleshov align")


def _photos(
    todo: list[bytes], owners: dict[bytes, Sample], images_root: Path, plan: RolePlan, ledger: Ledger
) -> Iterator[tuple[bytes, np.ndarray]]:
    def decode(key: bytes) -> tuple[bytes, np.ndarray | MediaError]:
        try:
            return key, _fitted(owners[key], images_root, plan.spec)
        except MediaError as error:
            return key, error

    with ThreadPoolExecutor(2) as pool:
        queue = iter(todo)
        running = [pool.submit(decode, key) for key in islice(queue, DECODE_AHEAD)]
        while running:
            key, result = running.pop(0).result()
            running.extend(pool.submit(decode, key) for key in islice(queue, 1))
            if isinstance(result, MediaError):
                ledger.record(owners[key].sample_id, result.reason, result.detail)
            else:
                yield key, result[None]


def _fitted(sample: Sample, images_root: Path, spec: BackboneSpec) -> np.ndarray:
    from stages.backbones.preprocess import fit

    return fit(open_sample(sample, images_root), spec)


def _chain(
    first: tuple[bytes, np.ndarray], rest: Iterator[tuple[bytes, np.ndarray]]
) -> Iterator[tuple[bytes, np.ndarray]]:
    yield first
    yield from rest


def _store(key: bytes, taps: dict[str, np.ndarray], writers: dict[str, BlockWriter]) -> None:
    finite = all(np.isfinite(taps[tap]).all() for tap in writers)
    for tap, writer in writers.items():
        if finite:
            writer.add(key, taps[tap])
        else:
            writer.add(key, None, status="non_finite")


def _record_failures(keys: list[bytes], owners: dict[bytes, Sample], statuses: list[str], ledger: Ledger) -> None:
    for key, status in zip(keys, statuses, strict=True):
        if status not in {"ok", ""}:
            ledger.record(owners[key].sample_id, status, "the network returned NaN or inf")
