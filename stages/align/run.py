"""Alignment: the crops of every face, per template, into the store (`TEMPLATE/pixels`, uint8 RGB).

A photo is decoded once for all templates; crops that are in the store cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from cache.block import Block
from cache.keys import BlockSpec
from cache.store import Store
from cache.writer import BlockWriter
from stages.align.templates import Template, find
from stages.align.warp import crop_matrix, warp
from stages.blocks import BlockRow, Counts, block_rows
from stages.detect.detections import key_list
from stages.detect.faces import FaceItem
from stages.detect.run import Detections
from stages.detect.settings import FaceSource
from stages.errors import MediaError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import by_content, open_shared
from stages.ledger import Ledger
from stages.making import style
from stages.progress import progress

VERSION = 2
"""Raise it when the crops of the same photo, boxes and template change. 2: antialiased between the whole factors."""


def crops_spec(template: Template, detections_key: str, source: FaceSource) -> BlockSpec:
    """The block of a template's crops.

    Args:
        detections_key: of the detections block that the faces come from.
        source: which faces, see `DetectSettings.faces`.
    """
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
    """Cut the crops that are not in the store yet; record photos that cannot be read in the ledger.

    A sample without a face has no item here. Returns the rows of the stage's block manifest, and what was done.

    Raises:
        SettingError: there is no such template.
    """
    chosen = [find(name) for name in sorted(set(templates))]
    specs = [crops_spec(template, detections.key, source) for template in chosen]
    blocks = [store.open(spec) for spec in specs]
    keys = list(dict.fromkeys(key_list(detections.pick(detections.readable(manifest.samples)).keys)))
    missing = [_missing(block, keys) for block in blocks]
    computed = failed = 0
    if any(missing):
        todo = list(_todo(manifest, detections, set().union(*missing)))
        with ExitStack() as stack:
            how = style("pillow", "numpy")
            writers = [stack.enter_context(store.writer(spec, how)) for spec in specs]
            for samples, items in progress(todo, desc="align", unit="photo"):
                try:
                    image = open_shared(samples, images_root)
                except MediaError as error:
                    failed += len(samples)
                    for sample in samples:
                        ledger.record(sample.sample_id, error.reason, error.detail)
                    continue
                computed += 1
                for template, writer, lacking in zip(chosen, writers, missing, strict=True):
                    here = [item for item in items if item.key in lacking]
                    _cut(image, here, template, writer, exact_box=source == "whole")
        blocks = [store.open(spec) for spec in specs]
    rows = [row for block in blocks for row in block_rows(block, keys)]
    return rows, Counts(len(detections.items), computed, failed)


def _missing(block: Block, keys: Sequence[bytes]) -> set[bytes]:
    return {key for key, here in zip(keys, block.has(keys), strict=True) if not here}


def _todo(
    manifest: Manifest, detections: Detections, lacking: set[bytes]
) -> Iterator[tuple[list[Sample], list[FaceItem]]]:
    """Per distinct photo that lacks crops: the samples that want them, and the items, each once."""
    for shared in by_content(manifest).values():
        items: dict[bytes, FaceItem] = {}
        samples: list[Sample] = []
        for sample in shared:
            wanted = {item.key: item for item in detections.items.get(sample.sample_id, ()) if item.key in lacking}
            if wanted:
                samples.append(sample)
                items.update(wanted)
        if items:
            yield samples, list(items.values())


def _cut(
    image: Image.Image, items: Sequence[FaceItem], template: Template, writer: BlockWriter, *, exact_box: bool
) -> None:
    for item in items:
        crops = [
            warp(image, crop_matrix(box, landmarks, template, exact_box=exact_box), template.size)
            for box, landmarks in zip(item.faces.boxes, item.faces.landmarks, strict=True)
        ]
        writer.add(item.key, np.stack(crops))
