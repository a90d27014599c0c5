"""Minibatches of P members at once: each member's own samples, their faces one after another without padding between.

A member's B samples have as many faces as they have, so members differ; a minibatch is as wide as the widest of them, R
faces. In the padded batch of one head every sample is as wide as the widest one instead, which is more the more samples
differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from stages.heads.batch import HeadBatch
from stages.train.features import Features
from stages.train.inputs import InputRows, Level, LevelName, padded, read_once, sample_bytes

JUDGED_BYTES = 64 << 20
"""Of the inputs of frames or persons in a batch by which members are judged."""

STEP_BYTES = 256 << 20
"""Of the inputs of frames or persons in a step of all members that are trained at once."""


class Cut(NamedTuple):
    """Tables that some samples are to be taken from.

    Attributes:
        faces: (F, D) float32.
        first: int64, the row of `faces` where each of the samples begins.
        global_: (S, G) float32.
        row: int64, the row of `global_` of each of the samples.
    """

    faces: Tensor
    first: np.ndarray
    global_: Tensor
    row: np.ndarray


class Source(Protocol):
    """Features of n samples.

    Attributes:
        counts: int64 (n,), faces of each sample.
        views: how many views each has.
        inputs, levels: what else heads read, see `Features`.
    """

    counts: np.ndarray
    views: int
    inputs: Mapping[str, InputRows]
    levels: Mapping[LevelName, Level]

    def cut(self, samples: np.ndarray, views: np.ndarray | None) -> Cut:
        """Tables for samples at these positions (k,), in the views with these numbers (k,); None: plain."""
        ...

    def padded(self, samples: np.ndarray, views: np.ndarray | None, frames: np.ndarray | None = None) -> HeadBatch:
        """The batch of samples (P, B) in views (P, B), each of its tensors with P and B in front.

        Args:
            frames: (P, B, T) which of a sample's frames are in it; None: those that answers are made of.
        """
        ...


class Held:
    """Features in memory; nothing is copied on a CPU.

    Args:
        faces: (V * F, D) float32, as in `Features`.
        offsets: (n + 1,) int64.
        boxes: (F, 4) float32.
        global_: (V * n, G) float32.
        views: V.
        device: of torch.
        inputs, levels: as in `Features`, rows in memory.
    """

    def __init__(
        self,
        faces: np.ndarray,
        offsets: np.ndarray,
        boxes: np.ndarray,
        global_: np.ndarray,
        views: int = 1,
        device: str = "cpu",
        inputs: Mapping[str, InputRows] | None = None,
        levels: Mapping[LevelName, Level] | None = None,
    ) -> None:
        self.arrays, self.views = (faces, offsets, boxes, global_), views
        self.inputs, self.levels = inputs or {}, levels or {}
        self._tables = {name: _tensor(np.asarray(one.rows)).to(device) for name, one in self.inputs.items()}
        self.counts, self._offsets = np.diff(offsets), offsets
        self._faces, self._boxes, self._global = (_tensor(a).to(device) for a in (faces, boxes, global_))
        if not len(self._faces):  # rows to point at where a minibatch has no face
            self._faces, self._boxes = self._faces.new_zeros(1, faces.shape[1]), self._boxes.new_zeros(1, 4)

    def cut(self, samples: np.ndarray, views: np.ndarray | None) -> Cut:
        """See `Source`."""
        first, row = self._offsets[samples], samples
        if views is not None:
            first, row = first + views * int(self._offsets[-1]), row + views * len(self.counts)
        return Cut(self._faces, first, self._global, row)

    def padded(self, samples: np.ndarray, views: np.ndarray | None, frames: np.ndarray | None = None) -> HeadBatch:
        """See `Source`."""
        cut = self.cut(samples, views)
        counts = self.counts[samples]
        column = np.arange(max(int(counts.max(initial=0)), 1))
        mask = column < counts[..., None]  # (P, B, N)
        index, plain = (np.where(mask, f[..., None] + column, 0) for f in (cut.first, self._offsets[samples]))
        real = torch.from_numpy(mask).to(self._faces.device)
        inputs, masks = padded(self.levels, self.inputs, self._rows, samples, views, frames)
        return HeadBatch(
            faces=_take(self._faces, index) * real[..., None],
            face_mask=real,
            boxes=_take(self._boxes, plain) * real[..., None],
            global_=_take(self._global, cut.row),
            inputs=inputs,
            masks=masks,
        )

    def _rows(self, name: str, index: np.ndarray) -> Tensor:
        return _take(self._tables[name], index)


class Streamed:
    """Features that are read for each minibatch, such as those that do not fit in memory.

    Each sample is read once for all the members that see it in a step, and each row of its inputs.

    Args:
        batch: gives samples at positions (k,) in views (k,) or the plain one as a padded batch: `Features.batch`, of
            features without inputs.
        counts: int64 (n,), faces of each sample.
        views: how many views each has.
        device: of torch.
        inputs, levels: as in `Features`.
    """

    def __init__(
        self,
        batch: Callable[[np.ndarray, np.ndarray | None], HeadBatch],
        counts: np.ndarray,
        views: int = 1,
        device: str = "cpu",
        inputs: Mapping[str, InputRows] | None = None,
        levels: Mapping[LevelName, Level] | None = None,
    ) -> None:
        self.batch, self.counts, self.views, self._device = batch, counts, views, device
        self.inputs, self.levels = inputs or {}, levels or {}

    def cut(self, samples: np.ndarray, views: np.ndarray | None) -> Cut:
        """See `Source`."""
        batch, which, counts = self._read(samples, views)
        faces = batch.faces[batch.face_mask]
        if not len(faces):
            faces = faces.new_zeros(1, faces.shape[1])
        return Cut(faces.to(self._device), (np.cumsum(counts) - counts)[which], batch.global_.to(self._device), which)

    def padded(self, samples: np.ndarray, views: np.ndarray | None, frames: np.ndarray | None = None) -> HeadBatch:
        """See `Source`."""
        batch, which, _ = self._read(samples.reshape(-1), None if views is None else views.reshape(-1))
        which = which.reshape(samples.shape)
        whole = HeadBatch.of_parts({name: _take(t.to(self._device), which) for name, t in batch.parts().items()})
        read = read_once(self.inputs, self._device)
        inputs, masks = padded(self.levels, self.inputs, read, samples, views, frames)
        return replace(whole, inputs=inputs, masks=masks)

    def _read(self, samples: np.ndarray, views: np.ndarray | None) -> tuple[HeadBatch, np.ndarray, np.ndarray]:
        """Every sample and view once, which of them each is, and their counts."""
        pairs = samples if views is None else samples * self.views + views
        single, which = np.unique(pairs, return_inverse=True)
        rows = single if views is None else single // self.views
        return self.batch(rows, None if views is None else single % self.views), which.reshape(-1), self.counts[rows]


def source_of(features: Features | Source, device: str = "cpu") -> Source:
    """How minibatches are taken from features: from memory where they are held there, else from the store."""
    if not isinstance(features, Features):
        return features
    others = features.inputs, features.levels
    held = all(isinstance(one.rows, np.ndarray) for one in features.inputs.values())
    if held and isinstance(features.faces, np.ndarray) and isinstance(features.global_, np.ndarray):
        tables = (features.faces, features.offsets, features.boxes, features.global_)
        return Held(*tables, features.views, device, *others)
    batch = replace(features, inputs={}, levels={}).batch
    return Streamed(batch, np.diff(features.offsets), features.views, device, *others)


def judged_at_once(source: Source, members: int, most: int) -> int:
    """How many samples of each of so many members to judge at once, at most `most`: such that the inputs of frames and
    persons take no more than `JUDGED_BYTES`, if one sample does not."""
    each = sample_bytes(source.levels, source.inputs, training=False) * members
    return max(min(most, JUDGED_BYTES // each), 1) if each else most


def trained_at_once(source: Source, batch_size: int, most: int) -> int:
    """How many members to train at once, at most `most`: such that the inputs of their minibatches take no more than
    `STEP_BYTES`, if one member's do not."""
    each = sample_bytes(source.levels, source.inputs, training=True) * batch_size
    return max(min(most, STEP_BYTES // each), 1) if each else most


@dataclass(frozen=True)
class Minibatch:
    """B samples of each of P members. What a head does not ask for is not gathered.

    Attributes:
        cut: the tables, and where each sample begins in them.
        counts: int64 (P, B), faces of each sample.
        width: R, the most faces that a member's samples have together, at least 1.
    """

    cut: Cut
    counts: np.ndarray
    width: int

    @cached_property
    def faces(self) -> Tensor:
        """(P, R, D) float32, member p's `real[p]` faces, one sample after another; after them rows that mean nothing,
        with finite numbers."""
        index = np.zeros(len(self.counts) * self.width, np.int64)
        real = np.arange(self._flat.sum()) + np.repeat(self.cut.first - _before(self._flat), self._flat)
        index[_slots(self.counts, self.width)] = real
        return _take(self.cut.faces, index.reshape(-1, self.width))

    @cached_property
    def global_(self) -> Tensor:
        """(P, B, G) float32."""
        return _take(self.cut.global_, self.cut.row.reshape(self.counts.shape))

    @cached_property
    def real(self) -> np.ndarray:
        """(P,) int64, faces of each member's samples."""
        return self.counts.sum(1)

    @cached_property
    def slots(self) -> Tensor:
        """(T,) int64, places of all real faces among the P * R."""
        return self._place(_slots(self.counts, self.width))

    @cached_property
    def seats(self) -> Tensor:
        """(T,) int64, places of all real faces among P * B * N, where every sample has N, the most of any."""
        shift = np.arange(len(self._flat)) * self.widest - _before(self._flat)
        return self._place(np.arange(self._flat.sum()) + np.repeat(shift, self._flat))

    @property
    def widest(self) -> int:
        """N, the faces of the sample with the most, at least 1."""
        return max(int(self.counts.max(initial=0)), 1)

    @cached_property
    def owner(self) -> Tensor:
        """(P, R, B) float32, 1 where a face is of a sample; rows of 0 after a member's last face."""
        members, size = self.counts.shape
        owner = np.zeros((members * self.width, size), np.float32)
        owner[_slots(self.counts, self.width), np.repeat(np.tile(np.arange(size), members), self._flat)] = 1
        return self._place(owner).view(members, -1, size)

    @cached_property
    def share(self) -> Tensor:
        """(P, R, 1) float32, 1 / n for each of a sample's n faces."""
        share = np.zeros((len(self.counts), self.width, 1), np.float32)
        share.reshape(-1)[_slots(self.counts, self.width)] = np.repeat(1 / np.maximum(self._flat, 1), self._flat)
        return self._place(share)

    @property
    def _flat(self) -> np.ndarray:
        return self.counts.reshape(-1)

    def _place(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.cut.faces.device)


def take(source: Source, samples: np.ndarray, views: np.ndarray | None = None) -> Minibatch:
    """The minibatch of samples (P, B) in views (P, B); None: plain."""
    counts = source.counts[samples]
    cut = source.cut(samples.reshape(-1), None if views is None else views.reshape(-1))
    return Minibatch(cut, counts, max(int(counts.sum(1).max(initial=0)), 1))


def _slots(counts: np.ndarray, width: int) -> np.ndarray:
    """See `Minibatch.slots`."""
    each = counts.sum(1)
    return np.arange(each.sum()) + np.repeat(np.arange(len(each)) * width - _before(each), each)


def _before(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts


def _take(table: Tensor, index: np.ndarray) -> Tensor:
    """Rows of (F, ...) at (...) positions."""
    flat = torch.from_numpy(np.ascontiguousarray(index).reshape(-1)).to(table.device)
    return table.index_select(0, flat).view(*index.shape, *table.shape[1:])


def _tensor(array: np.ndarray) -> Tensor:
    """The array's own memory as a tensor; a copy of an array that may not be written to, which torch does not take."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
