"""What the network sees: cached crops of faces, or whole photos at its size, in every view that is wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from cache.block import Block
from cache.keys import view_key
from stages.backbones.spec import BackboneSpec
from stages.errors import MediaError
from stages.extract import views
from stages.extract.settings import ViewSettings
from stages.index.manifest import Sample
from stages.index.samples import open_shared
from stages.ledger import Ledger

DECODE_AHEAD = 8
"""Photos decoded before the network asks for them: bounds memory."""

Owners = Mapping[bytes, Sequence[Sample]]
"""Key of a plain item -> the samples that have it."""

Inputs = Generator[tuple[bytes, np.ndarray], None, None]
"""(item key, uint8 (n, H, W, 3)) of the items that can be computed."""


@dataclass(frozen=True)
class Asked:
    """Items to compute.

    Attributes:
        owners: their plain keys, and whose they are.
        wanted: keys of the views that are missing, of these items.
        settings: which views there are.
    """

    owners: Owners
    wanted: Container[bytes]
    settings: ViewSettings

    def views(self, key: bytes) -> Iterator[tuple[bytes, str]]:
        """Key and name of each missing view of an item."""
        named = ((view_key(key, view), view) for view in views.names(self.settings))
        return (one for one in named if one[0] in self.wanted)


def record(samples: Sequence[Sample], ledger: Ledger, reason: str, detail: str) -> None:
    """Record a failure for all of these samples."""
    for sample in samples:
        ledger.record(sample.sample_id, reason, detail)


def from_crops(asked: Asked, block: Block, ledger: Ledger) -> Inputs:
    """Cached crops. Single ones may be missing: they are recorded."""
    for key, present in zip(asked.owners, block.has(list(asked.owners)), strict=True):
        if present:
            rows = block.item(key)[0]
            for of_view, view in asked.views(key):
                yield of_view, views.of_crops(rows, view, asked.settings, key)
        else:
            record(asked.owners[key], ledger, "missing_crops", f"no {block.spec.source} crops; run kuleshov align")


def from_photos(asked: Asked, images_root: Path, spec: BackboneSpec, ledger: Ledger) -> Inputs:
    """Whole photos at the network's size, decoded by two threads, each once for all its views."""
    from stages.backbones.preprocess import fit

    def decode(key: bytes) -> tuple[bytes, list[tuple[bytes, np.ndarray]] | MediaError]:
        try:
            image = open_shared(asked.owners[key], images_root)
        except MediaError as error:
            return key, error
        some = [
            (of_view, fit(views.of_photo(image, view, asked.settings, key), spec)) for of_view, view in asked.views(key)
        ]
        return key, some

    with ThreadPoolExecutor(2) as pool:
        queue = iter(asked.owners)
        running = deque(pool.submit(decode, key) for key in islice(queue, DECODE_AHEAD))
        while running:
            key, result = running.popleft().result()
            running.extend(pool.submit(decode, key) for key in islice(queue, 1))
            if isinstance(result, MediaError):
                record(asked.owners[key], ledger, result.reason, result.detail)
            else:
                yield from ((of_view, pixels[None]) for of_view, pixels in result)
