"""What heads of the same blocks share: features, classes, splits, and which samples may be trained on or judged by."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cache.keys import PLAIN, BlockSpec
from stages.errors import DataError
from stages.extract.settings import unfolded
from stages.extract.views import FLIP
from stages.extract.views import names as view_names
from stages.finetune.seen import Rows as Trained
from stages.heads.losses import targets_of
from stages.heads.registry import Shapes
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.train.features import Features, gather
from stages.train.held_out import SeenBlocks
from stages.train.rows import Rows, RowsOf, Scale, chunks
from stages.train.settings import HeadSettings
from stages.train.sources import Inputs


@dataclass(frozen=True)
class Prepared:
    """Of n samples.

    Attributes:
        features: standardized where the settings say so; all views, the plain one first.
        mirrored: number of the view whose answers are averaged with the plain one's; None: there is none.
        scales: what they were standardized with; mean 0 and deviation 1 where they were not.
        input_scales: of the inputs that were standardized: their vectors.
        labels: (n,) int64; -1 for a sample with no label or with several.
        splits: (n,) str.
        rows: positions of the training samples: those of split train whose labels the loss takes, but those that are
            left out.
        left_out: (n,) bool, the samples of split train that are of a subset that the head leaves out.
        apart: (n,) bool, those of them that share no group and no file with a training sample.
        seen: (n,) bool, which samples a fine-tune behind the features has seen.
    """

    features: Features
    mirrored: int | None
    scales: tuple[Scale, Scale]
    input_scales: dict[str, Scale]
    labels: np.ndarray
    splits: np.ndarray
    rows: np.ndarray
    left_out: np.ndarray
    apart: np.ndarray
    seen: np.ndarray

    @property
    def shapes(self) -> Shapes:
        """Of what a head is given."""
        inputs = {name: one.shape for name, one in self.features.inputs.items()}
        return Shapes(self.features.faces.shape[1], self.features.global_.shape[1], inputs)

    def labelled(self, several: bool) -> np.ndarray:
        """(n,) bool: of one label; with `several`, of any."""
        if not several:
            return self.labels >= 0
        return np.fromiter((bool(s.labels) for s in self.features.samples), np.bool_, len(self.features))


def shared(head: HeadSettings) -> tuple[object, ...]:
    """The settings on which a head's features depend."""
    inputs = tuple(sorted(head.inputs.items()))
    frames = (head.frames.train, head.frames.answer) if head.inputs else ()
    both = head.views == "drawn", head.answer == "mirrored"
    trained_on = head.leave_out, head.loss.several
    return head.faces, head.global_, inputs, frames, head.max_faces, head.standardize, both, trained_on


def prepare(
    inputs: Inputs,
    head: HeadSettings,
    blocks: Mapping[str, BlockSpec],
    seen: SeenBlocks,
    classes: Sequence[str],
    left_out: Collection[str],
    ledger: Ledger,
    held_bytes: int,
) -> Prepared:
    """Read a head's features; samples that lack one, or have one that is no number, go to the ledger.

    Args:
        left_out: sample ids of split train that are not trained on.
        held_bytes: see `gather`.

    Raises:
        DataError: fewer than two classes in the training split, or no face, frame or person where a head reads nothing
            else; or every sample has a feature that is no number.
        MissingInputError: see `gather`.
    """
    features = _gather(inputs, head, blocks, inputs.manifest.samples, ledger, held_bytes)
    bad = not_finite(features)
    if len(bad):
        for row in bad:
            detail = "a feature is NaN or infinite; extract or import it again"
            ledger.record(features.samples[row].sample_id, "no_number", detail)
        lost = {features.samples[row].sample_id for row in bad}
        rest = [s for s in features.samples if s.sample_id not in lost]
        if not rest:
            raise DataError(f"every sample has a feature that is NaN or infinite, first {min(lost)}; extract it again")
        features = _gather(inputs, head, blocks, rest, Ledger("train"), held_bytes)
    labels = np.array([_class(s.labels, classes) for s in features.samples], np.int64)
    splits = np.array([s.split for s in features.samples])
    known = targets_of([s.labels for s in features.samples], classes, head.loss)
    taken = known >= 0 if known.ndim == 1 else known.any(1)
    allowed = np.fromiter((s.sample_id not in left_out for s in features.samples), np.bool_, len(features))
    of_subset = np.fromiter((s.subset in head.leave_out for s in features.samples), np.bool_, len(features))
    of_subset &= splits == "train"
    rows = np.flatnonzero((splits == "train") & taken & allowed & ~of_subset)
    need_two_classes(
        {name for i in rows for name in features.samples[i].labels}, "features", several_of(features, head)
    )
    _need_something(head, features, rows)
    scales = features.scales(rows) if head.standardize else _no_scales(features)
    of_inputs = features.input_scales(rows) if head.standardize else {}
    views = _views(inputs, head)
    return Prepared(
        features.scaled(*scales, of_inputs),
        views.index(FLIP) if head.answer == "mirrored" else None,
        scales,
        of_inputs,
        labels,
        splits,
        rows,
        of_subset,
        _apart(features.samples, of_subset, rows),
        seen.rows(head, features.samples),
    )


def _apart(samples: Sequence[Sample], left_out: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """See `Prepared`."""
    if not left_out.any():
        return left_out
    trained = Trained.of(samples[i] for i in rows)
    return np.fromiter((out and not trained.has(s) for s, out in zip(samples, left_out, strict=True)), np.bool_)


def need_two_classes(found: Collection[str], of_what: str, several: int = 0) -> None:
    """Refuse to train on one class.

    Args:
        several: training samples that are left out because they have several labels.

    Raises:
        DataError: names it.
    """
    if len(found) < 2:
        names = ", ".join(sorted(found)) or "none"
        remedy = "label more samples"
        if several:
            remedy = (
                f"{several} samples have several labels, which the head's loss leaves out; use loss: {{kind: kl}} or "
                "{kind: multi_label}"
            )
        raise DataError(f"the training split has {of_what} of fewer than two classes ({names}): {remedy}")


def several_of(features: Features, head: HeadSettings) -> int:
    """Training samples of several labels that the loss leaves out."""
    many = sum(len(s.labels) > 1 and s.split == "train" for s in features.samples)
    return 0 if head.loss.several else many


def _need_something(head: HeadSettings, features: Features, rows: np.ndarray) -> None:
    """Refuse to train on samples of which a head reads nothing.

    Raises:
        DataError: says what they have none of.
    """
    counts = {"face": np.diff(features.offsets)} if head.faces else {}
    counts |= {level: one.counts for level, one in features.levels.items()}
    if head.global_ or not counts or any(of[rows].any() for of in counts.values()):
        return
    named = {"face": "face", "frame": "frame with a face", "person": "person"}
    what = " and no ".join(named[level] for level in counts)
    raise DataError(f"the training split has no {what}, and {head.kind} reads nothing else: use a head of photos")


def not_finite(features: Features) -> np.ndarray:
    """Positions of the samples with a feature that is NaN or infinite, in any view, ascending."""
    bad = np.zeros(len(features), np.bool_)
    tables: list[tuple[RowsOf | Rows, np.ndarray]] = [(features.global_, np.arange(len(features) + 1))]
    tables.append((features.faces, features.offsets))
    inputs = (one for one in features.inputs.values() if one.rows.dtype != np.uint8)  # pixels are always numbers
    tables += [(one.rows, features.levels[one.level].offsets) for one in inputs]
    for table, offsets in tables:
        of = np.tile(np.repeat(np.arange(len(features)), np.diff(offsets)), features.views)
        for part in chunks(len(of), math.prod(table.shape[1:])):
            finite = np.isfinite(table[part]).reshape(len(of[part]), -1).all(1)
            bad[of[part][~finite]] = True
    return np.flatnonzero(bad)


def plain(features: Features) -> Features:
    """The same with the plain view alone, for training that draws none."""
    return replace(features, views=1)


def _gather(
    inputs: Inputs,
    head: HeadSettings,
    blocks: Mapping[str, BlockSpec],
    samples: Sequence[Sample],
    ledger: Ledger,
    held_bytes: int,
) -> Features:
    return gather(
        samples,
        inputs.store,
        inputs.detections,
        [blocks[name] for name in head.faces],
        [blocks[name] for name in head.global_],
        max_faces=head.max_faces,
        ledger=ledger,
        views=_views(inputs, head),
        held_bytes=held_bytes,
        inputs={name: [blocks[block] for block in names] for name, names in head.inputs.items()},
        frames=head.frames,
        roles={blocks[name].key: unfolded(name.partition("/")[0]) for name in head.blocks},
    )


def _views(inputs: Inputs, head: HeadSettings) -> tuple[str, ...]:
    """Names of the views that a head needs, the plain one first."""
    if head.views == "drawn":
        return view_names(inputs.extract.views)
    return (PLAIN, FLIP) if head.answer == "mirrored" else (PLAIN,)


def _class(labels: tuple[str, ...], classes: Sequence[str]) -> int:
    return classes.index(labels[0]) if len(labels) == 1 else -1


def _no_scales(features: Features) -> tuple[Scale, Scale]:
    f, g = features.faces.shape[1], features.global_.shape[1]
    return (np.zeros(f, np.float32), np.ones(f, np.float32)), (np.zeros(g, np.float32), np.ones(g, np.float32))
