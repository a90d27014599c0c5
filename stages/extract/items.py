"""Items of a level: which keys a manifest's samples have in a block, and whose each key is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cache.keys import frame_key, item_keys, key_array, key_list, view_key
from stages.detect.corpus import PHOTO
from stages.detect.persons import find_persons
from stages.detect.run import Detections
from stages.extract import views
from stages.extract.settings import ViewSettings
from stages.index.manifest import Manifest, Sample


class Item(NamedTuple):
    """Whose an item is.

    Attributes:
        samples: those that have it, in the manifest's order, at least one.
        time_us: of a clip's whole frame, its presentation time in microseconds; else `PHOTO`.
    """

    samples: tuple[Sample, ...]
    time_us: int


def keys_of(samples: Sequence[Sample], detections: Detections, level: str) -> tuple[np.ndarray, np.ndarray]:
    """Plain item keys in a block of this level, one sample after another: its face items with faces at level `face`,
    its persons at level `person` (each an item of one row, in the order of `stages.detect.persons`), else one for a
    photo and one for each frame of a clip.

    Returns:
        keys (K,) `KEY_DTYPE`, and (K,) int64: which of the samples each is of.
    """
    if level == "face":
        picked = detections.pick(samples)
        return picked.keys, picked.owner
    if level == "person":
        persons = find_persons(samples, detections)
        return persons.keys, persons.owner
    return _frames(samples, detections)[:2]


def _frames(samples: Sequence[Sample], detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and owners of whole photos and frames, as `keys_of`, and their times, (K,) int64."""
    times, owner = detections.frames(samples)
    if len(times) == len(samples) and (times == PHOTO).all():  # photos alone, at once: there may be many
        return key_array(item_keys(sample.content for sample in samples)), owner, times
    each = zip(owner.tolist(), times.tolist(), strict=True)
    keys = [frame_key(samples[i].content, None if time_us == PHOTO else time_us) for i, time_us in each]
    return key_array(keys), owner, times


def viewed(keys: Iterable[bytes], settings: ViewSettings) -> dict[bytes, bytes]:
    """Key of each view of these plain items -> the plain key, the plain views first."""
    keys = list(keys)
    return {view_key(key, view): key for view in views.names(settings) for key in keys}


class Items(Mapping[bytes, Item]):
    """The plain items of a manifest at a level, in its order, over the samples that could be read; each once.

    Whose a key is is gathered when somebody asks: a run that finds everything in the store does not.

    Args:
        level: `face`, `person`, or another for whole photos and frames.
        settings: which views there are.

    Attributes:
        plain: key of each view of each item -> the item's own.
        view_keys: those of the views, (V,) `KEY_DTYPE`.
    """

    def __init__(self, manifest: Manifest, detections: Detections, level: str, settings: ViewSettings) -> None:
        self._readable = detections.readable(manifest.samples)
        if level in ("face", "person"):
            keys, self._owner = keys_of(self._readable, detections, level)
            self._times = np.full(len(keys), PHOTO)
        else:
            keys, self._owner, self._times = _frames(self._readable, detections)
        self._all = key_list(keys)
        self._distinct = dict.fromkeys(self._all)
        self.plain = viewed(self._distinct, settings)
        self.view_keys = key_array(list(self.plain))

    @cached_property
    def _items(self) -> dict[bytes, Item]:
        samples: dict[bytes, list[Sample]] = {}
        for key, number in zip(self._all, self._owner.tolist(), strict=True):
            samples.setdefault(key, []).append(self._readable[number])
        times = dict(zip(self._all, self._times.tolist(), strict=True))
        return {key: Item(tuple(some), times[key]) for key, some in samples.items()}

    def __getitem__(self, key: bytes) -> Item:
        return self._items[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._distinct)

    def __len__(self) -> int:
        return len(self._distinct)
