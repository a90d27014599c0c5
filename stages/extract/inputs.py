"""What networks see: cached crops of faces or persons, or whole photos and frames at their sizes, in every view wanted.

Each crop is read, and each photo or frame decoded, once for all roles that lack something of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from cache.block import Block
from cache.keys import view_key
from cache.maps import hand_back
from stages.decoding.pool import decoded
from stages.detect.corpus import PHOTO
from stages.extract import views
from stages.extract.items import Item
from stages.extract.pictures import Look, Media, Wish
from stages.extract.settings import ViewSettings
from stages.timing import Timings

RESIDENT_BYTES = 32 << 20
"""How much of the crops' maps may count as memory: each crop is read once."""

CHUNK_ROWS = 64
"""Crops of an item that another view is made of at once: bounds memory where a photo has thousands of faces."""

Fail = Callable[[bytes, str, str], None]
"""Takes a plain key, the reason and the detail of what is wrong with that item."""


class Seen(NamedTuple):
    """Rows that networks of one size are to see.

    Attributes:
        key: of the view of an item.
        size: which size, a number of `Asked.wanted`.
        rows: uint8 (n, H, W, 3); the item's next ones.
        total: rows of the item in all.
    """

    key: bytes
    size: int
    rows: np.ndarray
    total: int


@dataclass(frozen=True)
class Asked:
    """Items to compute.

    Attributes:
        items: by their plain keys.
        wanted: for each size, the keys (of views) that its networks lack.
        settings: of the views.
        views: their names.
    """

    items: Mapping[bytes, Item]
    wanted: Sequence[Container[bytes]]
    settings: ViewSettings
    views: tuple[str, ...]

    @classmethod
    def of(cls, items: Mapping[bytes, Item], wanted: Sequence[Container[bytes]], settings: ViewSettings) -> Asked:
        """With the names of the views."""
        return cls(items, wanted, settings, views.names(settings))

    def wishes(self, key: bytes) -> tuple[Wish, ...]:
        """The views of an item that are lacking, and in which sizes."""
        found: list[Wish] = []
        for view in self.views:
            of_view = view_key(key, view)
            sizes = tuple(size for size, some in enumerate(self.wanted) if of_view in some)
            if sizes:
                found.append(Wish(of_view, view, sizes))
        return tuple(found)


def from_crops(asked: Asked, block: Block, fail: Fail) -> Generator[Seen, None, None]:
    """Cached crops, all of one size. Single ones may be missing: they are failures."""
    keys = list(asked.items)
    places, counts = block.find(keys).tolist(), block.count(keys).tolist()
    for key, place, count in zip(keys, places, counts, strict=True):
        if count <= 0:
            fail(key, "missing_crops", f"no {block.spec.source} crops; run kuleshov align")
            continue
        rows = block.item_at(place)
        for of_view, view, _ in asked.wishes(key):
            for start in range(0, count, CHUNK_ROWS):
                some = views.of_crops(rows[start : start + CHUNK_ROWS], view, asked.settings, key, start)
                yield Seen(of_view, 0, some, count)
        hand_back(RESIDENT_BYTES)


def from_media(asked: Asked, look: Look, fail: Fail, timings: Timings) -> Generator[Seen, None, None]:
    """Whole photos and frames, from the decoding processes; those that cannot be read are failures."""
    number = 0  # of the job's picture that comes next
    for media, value, seconds, last in timings.each("wait", decoded(look, _media(asked))):
        if isinstance(value, list):
            timings.add("decode", seconds, 1)
            pixels = iter(value)
            for key, _, sizes in media.pictures[number][1]:
                for size in sizes:
                    yield Seen(key, size, next(pixels)[None], 1)
            number += 1
        else:
            timings.add("decode", seconds)
            for key, _ in media.pictures[number:]:
                fail(key, value.reason, value.detail)
        if last:
            number = 0


def _media(asked: Asked) -> Iterator[Media]:
    """A job for each photo, and for each clip with its frames, which follow each other."""
    for _, some in groupby(asked.items.items(), lambda entry: entry[1].samples[0].content):
        entries = list(some)
        (_, item), *_ = entries
        times = None if item.time_us == PHOTO else tuple(one.time_us for _, one in entries)
        yield Media(item.samples, times, tuple((key, asked.wishes(key)) for key, _ in entries))
