"""Cached features as scikit-learn takes samples: a table that can be counted, picked from and handed on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stages.errors import DataError, SettingError
from stages.heads import registry
from stages.heads.registry import Shapes
from stages.index.manifest import Sample
from stages.train.features import Features
from stages.train.prepared import plain
from stages.train.rows import chunks

_NOBODY = Sample("", "", "image", (), "train", "", "", (), "")
"""Stands for samples of arrays, of which nothing else is known."""


class NotFiniteError(DataError, ValueError):
    """A feature is no number; a ValueError too, as scikit-learn has it."""


class FeatureTable:
    """Samples as scikit-learn takes them: it has a length and `shape` (n,), and is indexed by whole numbers, bool masks
    and slices, which gives another table. Features are not copied, but the rows that a table is of.

    Args:
        features: of the samples; of several views the plain one counts. Not standardized: that is part of `fit`.
        rows: positions in them, (n,) int64; None: all.
    """

    def __init__(self, features: Features, rows: np.ndarray | None = None) -> None:
        self.features = plain(features)
        self.rows = np.arange(len(features)) if rows is None else rows

    @classmethod
    def of_arrays(
        cls,
        global_: Any = None,
        faces: Any = None,
        offsets: Any = None,
        boxes: Any = None,
    ) -> FeatureTable:
        """A table of arrays of one's own; at least one of `global_` and `offsets`.

        Args:
            global_: (n, G) features of whole photos; None: there are none.
            faces: (F, D) features of faces, those of all samples one after another; None: there are none.
            offsets: (n + 1,): faces of sample i are `faces[offsets[i]:offsets[i + 1]]`.
            boxes: (F, 4) x1 y1 x2 y2, relative to the photo's width and height; None: 0.

        Raises:
            DataError: the shapes do not fit each other.
        """
        if offsets is not None:
            number = len(offsets) - 1
        elif global_ is not None:
            number = len(global_)
        else:
            raise DataError("a feature table of neither global_ nor offsets has no samples: give one of them")
        photos = np.zeros((number, 0), np.float32) if global_ is None else np.asarray(global_, np.float32)
        ends = np.zeros(number + 1, np.int64) if offsets is None else np.asarray(offsets, np.int64)
        vectors = np.zeros((int(ends[-1]), 0), np.float32) if faces is None else np.asarray(faces, np.float32)
        places = np.zeros((len(vectors), 4), np.float32) if boxes is None else np.asarray(boxes, np.float32)
        _fit_together(photos, vectors, ends, places)
        which = np.arange(len(vectors)) - np.repeat(ends[:-1], np.diff(ends))
        return cls(
            Features(
                samples=(_NOBODY,) * number,
                faces=vectors,
                offsets=ends,
                face_index=which,
                places=np.stack([np.zeros_like(which), which], axis=1),
                boxes=places,
                global_=photos,
            )
        )

    @property
    def shape(self) -> tuple[int]:
        """(n,)."""
        return (len(self.rows),)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> FeatureTable:
        """The table of these samples; a single number gives a table of one sample.

        Raises:
            IndexError: there is no such sample.
        """
        if isinstance(index, tuple):  # scikit-learn asks for [rows, ...]
            [index] = [part for part in index if part is not Ellipsis]
        return FeatureTable(self.features, np.atleast_1d(self.rows[index]))

    def shapes(self, kind: str) -> Shapes:
        """Of what a head of this kind reads of the features.

        Raises:
            SettingError: there is no such head, or the features have not what it reads.
        """
        module, variant = registry.find(kind)
        widths = {"face": self.features.faces.shape[1], "global": self.features.global_.shape[1]}
        reads = {level: widths[level] * (level in module.NEEDS[variant]) for level in widths}
        needed = [level for level in module.NEEDS[variant] if not widths[level]]
        inputs = registry.inputs_of(kind)
        needed += [name for name in inputs if name not in self.features.inputs]
        if needed:
            raise SettingError(
                f"{kind} reads {', '.join(needed)}, and X has none: give it features of these, or take another kind"
            )
        return Shapes(reads["face"], reads["global"], {name: self.features.inputs[name].shape for name in inputs})

    def require_finite(self) -> None:
        """Refuse features that are no numbers, in the table's own rows.

        Raises:
            NotFiniteError: there are some.
        """
        for rows, index in self._own_rows():
            for part in chunks(len(index), int(np.prod(rows.shape[1:]))):
                if not np.isfinite(rows[index[part]]).all():
                    raise NotFiniteError("X has a feature that is NaN or infinite: extract or import it again")

    def _own_rows(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Every table of rows, and the positions in it of those of these samples."""
        keep = np.zeros(len(self.features), np.bool_)
        keep[self.rows] = True
        yield self.features.global_, np.flatnonzero(keep)
        yield self.features.faces, np.flatnonzero(np.repeat(keep, np.diff(self.features.offsets)))
        for one in self.features.inputs.values():
            level = self.features.levels[one.level]
            index, mask = level.take(self.rows, level.every(self.rows))
            yield one.rows, np.unique(index[mask])


def _fit_together(photos: np.ndarray, faces: np.ndarray, offsets: np.ndarray, boxes: np.ndarray) -> None:
    """Refuse arrays of a table that are of other shapes."""
    shapes = f"global_ {photos.shape}, faces {faces.shape}, offsets {offsets.shape}, boxes {boxes.shape}"
    if photos.ndim != 2 or faces.ndim != 2 or offsets.ndim != 1 or boxes.shape != (len(faces), 4):
        raise DataError(f"a feature table of {shapes}: use (n, G), (F, D), (n + 1,) and (F, 4)")
    if len(offsets) != len(photos) + 1 or offsets[0] or offsets[-1] != len(faces) or (np.diff(offsets) < 0).any():
        raise DataError(
            f"a feature table of {shapes}: offsets must have one number more than there are samples, begin with 0, "
            "never fall, and end with the number of faces"
        )
