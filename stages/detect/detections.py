"""Detections of many photos: columns, from which a sample's faces are made when they are asked for.

A corpus may have a million faces. As columns they take a hundred bytes each and are read at once; as an object a face
they would take five times that, and most of a second run's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cache.keys import key_array, key_list
from stages.detect.corpus import PHOTO, spans
from stages.detect.faces import FaceItem, Faces
from stages.detect.settings import PersonSettings
from stages.detect.tracks import track
from stages.index.manifest import Sample


@dataclass(frozen=True)
class Detections:
    """The faces of every photo that could be read.

    Attributes:
        items: sample_id -> its face items, in the manifest's order. A photo without a face has one item without rows
            where faces are found, and no item where they are given.
        sizes: sample_id -> (width, height) px.
        failed: sample_id -> (reason, detail).
        key: of the boxes block: an input of every face-level block.
        times: sample_id of each clip among them -> (T,) int64, presentation times in microseconds of its T chosen
            frames, ascending. Its items are those of the first frame, then those of the next, as many of each.
        around: how far a person reaches around a face.
    """

    items: Mapping[str, Sequence[FaceItem]]
    sizes: Mapping[str, tuple[int, int]]
    failed: Mapping[str, tuple[str, str]]
    key: str
    times: Mapping[str, np.ndarray] = field(default_factory=dict)
    around: PersonSettings = field(default_factory=PersonSettings)

    def faces(self, sample_id: str) -> Faces:
        """All faces of a sample in one table, in stored order."""
        parts = [item.faces for item in self.items[sample_id]]
        if not parts:
            return Faces.none(self.sizes[sample_id])
        return Faces(
            boxes=np.concatenate([p.boxes for p in parts]),
            scores=np.concatenate([p.scores for p in parts]),
            landmarks=np.concatenate([p.landmarks for p in parts]),
            size=self.sizes[sample_id],
        )

    def frames(self, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
        """Every frame of samples that could be read, one sample after another; a photo is one frame.

        Returns:
            times_us (K,) int64, presentation times in microseconds, `PHOTO` for a photo; and (K,) int64: which of the
            samples each frame is of.
        """
        if not self.times:
            return np.full(len(samples), PHOTO), np.arange(len(samples))
        photo = np.array([PHOTO])
        times = [self.times.get(sample.sample_id, photo) for sample in samples]
        owner = np.repeat(np.arange(len(samples)), [len(some) for some in times])
        return np.concatenate([np.empty(0, np.int64), *times]), owner

    def by_frame(self, sample_id: str) -> list[list[FaceItem]]:
        """The face items of each frame of a sample; a photo has one frame."""
        items, count = list(self.items[sample_id]), len(self.times.get(sample_id, (PHOTO,)))
        each = len(items) // count
        return [items[i * each : (i + 1) * each] for i in range(count)]

    def places(self, sample_id: str) -> np.ndarray:
        """(n, 2) int64: for each of the n faces of a sample its frame, and which of the frame's faces it is."""
        counts = self._counts(sample_id)
        frame = np.repeat(np.arange(len(counts)), counts)
        return np.stack([frame, spans(np.zeros(len(counts), np.int64), counts)], axis=1)

    def tracks(self, sample_id: str) -> np.ndarray:
        """(n,) int64: who each of the n faces of a clip is, from 0 on: faces of one number are one person's through
        time, see `stages.detect.tracks`. In a photo every face is another's."""
        times = self.times.get(sample_id)
        if times is None:
            return np.arange(sum(len(item.faces) for item in self.items[sample_id]))
        faces = self.faces(sample_id)
        return track(times, self._counts(sample_id), faces.boxes, faces.landmarks)

    def _counts(self, sample_id: str) -> np.ndarray:
        """(T,) int64: faces of each frame of a sample."""
        return np.array([sum(len(item.faces) for item in items) for items in self.by_frame(sample_id)], np.int64)

    def readable(self, samples: Iterable[Sample]) -> list[Sample]:
        """Those of the samples that could be read."""
        items = self.items.numbers if isinstance(self.items, ItemColumns) else self.items
        return [sample for sample in samples if sample.sample_id in items]

    def pick(self, samples: Sequence[Sample]) -> Picked:
        """The face items of samples as columns, without those that have no face.

        Raises:
            KeyError: one of the samples could not be read.
        """
        columns = self.items if isinstance(self.items, ItemColumns) else ItemColumns.of(self.items)
        return columns.pick([sample.sample_id for sample in samples])

    def sizes_of(self, samples: Sequence[Sample]) -> np.ndarray:
        """Width and height in px of samples, (n, 2) int32.

        Raises:
            KeyError: one of the samples could not be read.
        """
        if isinstance(self.sizes, SizeColumn):
            return self.sizes.table[[self.sizes.numbers[sample.sample_id] for sample in samples]].reshape(-1, 2)
        return np.array([self.sizes[sample.sample_id] for sample in samples], np.int32).reshape(-1, 2)


@dataclass(frozen=True)
class Picked:
    """Face items with at least one face of n samples, one sample after another.

    Attributes:
        keys: (K,) item keys.
        owner: (K,) int64, which of the n samples has the item.
        counts: (K,) int64, its faces.
        first: (K,) int64, its first face in `table`.
        table: the faces of all photos.
    """

    keys: np.ndarray
    owner: np.ndarray
    counts: np.ndarray
    first: np.ndarray
    table: Faces

    @cached_property
    def boxes(self) -> np.ndarray:
        """(F, 4) float32 px of all their faces, one item after another."""
        return self.table.boxes[spans(self.first, self.counts)]


class ItemColumns(Mapping[str, Sequence[FaceItem]]):
    """Face items of n samples, in columns.

    Args:
        numbers: sample_id -> i, in order.
        first: (n,) int64; items of sample i are those from `first[i]` up to `last[i]`. Samples may share items.
        last: (n,) int64.
        item_keys: (m,) `KEY_DTYPE`.
        offsets: (m + 1,) int64; faces of item j are rows `offsets[j]:offsets[j + 1]` of `table`.
        table: the faces of all items; its size means nothing.
        sizes: (n, 2) int32, px of each sample's photo.
    """

    def __init__(
        self,
        numbers: dict[str, int],
        first: np.ndarray,
        last: np.ndarray,
        item_keys: np.ndarray,
        offsets: np.ndarray,
        table: Faces,
        sizes: np.ndarray,
    ) -> None:
        self.numbers, self.first, self.last, self.item_keys = numbers, first, last, item_keys
        self.offsets, self.table, self.sizes = offsets, table, sizes

    @classmethod
    def of(cls, items: Mapping[str, Sequence[FaceItem]]) -> ItemColumns:
        """The columns of items that are given as objects."""
        builder = ColumnBuilder()
        for sample_id, some in items.items():
            builder.add(sample_id, some, some[0].faces.size if some else (0, 0))
        return builder.columns()

    def __getitem__(self, sample_id: str) -> list[FaceItem]:
        number = self.numbers[sample_id]
        first, last = int(self.first[number]), int(self.last[number])
        width, height = self.sizes[number].tolist()
        ends = self.offsets[first : last + 1].tolist()
        keys = key_list(self.item_keys[first:last])
        return [
            FaceItem(key, self.table.part(start, stop, (width, height)))
            for key, start, stop in zip(keys, ends[:-1], ends[1:], strict=True)
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self.numbers

    def pick(self, sample_ids: Sequence[str]) -> Picked:
        """See `Detections.pick`."""
        numbers = np.array([self.numbers[sample_id] for sample_id in sample_ids], np.int64)
        many = self.last[numbers] - self.first[numbers]
        owner = np.repeat(np.arange(len(numbers)), many)
        item = spans(self.first[numbers], many)
        counts = self.offsets[item + 1] - self.offsets[item]
        full = counts > 0
        item = item[full]
        return Picked(self.item_keys[item], owner[full], counts[full], self.offsets[item], self.table)


class SizeColumn(Mapping[str, tuple[int, int]]):
    """sample_id -> (width, height) px, over the columns of `ItemColumns`."""

    def __init__(self, columns: ItemColumns) -> None:
        self.numbers, self.table = columns.numbers, columns.sizes

    def __getitem__(self, sample_id: str) -> tuple[int, int]:
        width, height = self.table[self.numbers[sample_id]].tolist()
        return width, height

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class _Row(NamedTuple):
    items: int
    size: tuple[int, int]


class ColumnBuilder:
    """Columns from the items of one sample after another."""

    def __init__(self) -> None:
        self._samples: dict[str, _Row] = {}
        self._keys: list[bytes] = []
        self._rows: list[np.ndarray] = []

    def add(self, sample_id: str, items: Sequence[FaceItem], size: tuple[int, int]) -> None:
        """The items of a sample, and its photo's size."""
        self._samples[sample_id] = _Row(len(items), size)
        for item in items:
            self._keys.append(item.key)
            self._rows.append(item.faces.to_rows())

    def columns(self) -> ItemColumns:
        """What was added."""
        rows = np.concatenate([Faces.none((0, 0)).to_rows(), *self._rows])
        ends = np.cumsum([0, *(row.items for row in self._samples.values())])
        return ItemColumns(
            numbers={sample_id: number for number, sample_id in enumerate(self._samples)},
            first=ends[:-1],
            last=ends[1:],
            item_keys=key_array(self._keys),
            offsets=np.cumsum([0, *map(len, self._rows)]),
            table=Faces.from_rows(rows, (0, 0)),
            sizes=np.array([row.size for row in self._samples.values()], np.int32).reshape(-1, 2),
        )
