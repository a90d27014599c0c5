"""Alignment: the crops of every face, per template, into the store (`TEMPLATE/pixels`, uint8 RGB).

A photo is decoded once for all templates; crops that are in the store cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from cache.keys import BlockSpec
from cache.store import BlockWriter, Store
from stages.align.templates import Template, find
from stages.align.warp import crop_matrix, warp
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect.faces import FaceItem
from stages.detect.run import Detections
from stages.detect.settings import FaceSource
from stages.errors import MediaError
from stages.index.manifest import Manifest
from stages.index.samples import open_sample
from stages.ledger import Ledger
from stages.progress import progress

VERSION = 1
"""Raise it when the crops of the same photo, boxes and template change."""


def crops_spec(template: Template, detections_key: str, source: FaceSource) -> BlockSpec:
    """The block of a template's crops."""
    height, width = template.size
    return BlockSpec(
        source=template.name,
        tap="pixels",
        level="face",
        shape=(height, width, 3),
        extractor_version=VERSION,
        preprocessing={
            **template.describe(),
            "colour": "RGB",
            "interpolation": "box reduce, bilinear",
            "faces": source,
        },
        inputs={"detections": detections_key},
        numerics={"dtype": "uint8"},
    )


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    detections: Detections,
    templates: Sequence[str],
    source: FaceSource,
    ledger: Ledger,
) -> tuple[list[BlockRow], Counts]:
    """Cut the crops that are not in the store yet; record photos that cannot be read in the ledger."""
    chosen = [find(name) for name in sorted(set(templates))]
    specs = [crops_spec(template, detections.key, source) for template in chosen]
    blocks = [store.open(spec) for spec in specs]
    done: set[bytes] = set()
    computed = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(store.writer(spec)) for spec in specs]
        for sample in progress(manifest.samples, desc="align", unit="photo"):
            items = [item for item in detections.items.get(sample.sample_id, []) if item.key not in done]
            done.update(item.key for item in items)
            todo = [
                (template, writer, [item for item in items if len(item.faces) and not block.has([item.key])[0]])
                for template, writer, block in zip(chosen, writers, blocks, strict=True)
            ]
            if not any(missing for _, _, missing in todo):
                continue
            try:
                image = open_sample(sample, images_root)
            except MediaError as error:
                ledger.record(sample.sample_id, error.reason, error.detail)
                continue
            computed += 1
            for template, writer, missing in todo:
                _cut(image, missing, template, writer, exact_box=source == "whole")
    blocks = [store.open(spec) for spec in specs]
    keys = [item.key for items in detections.items.values() for item in items if len(item.faces)]
    rows = [row for block in blocks for row in block_rows(block, [k for k in keys if block.has([k])[0]])]
    return rows, Counts(total=len(detections.items), computed=computed, failed=len(ledger))


def _cut(
    image: Image.Image, items: Sequence[FaceItem], template: Template, writer: BlockWriter, *, exact_box: bool
) -> None:
    for item in items:
        crops = [
            warp(image, crop_matrix(box, landmarks, template, exact_box=exact_box), template.size)
            for box, landmarks in zip(item.faces.boxes, item.faces.landmarks, strict=True)
        ]
        writer.add(item.key, np.stack(crops))
