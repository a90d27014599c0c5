"""K folds of the training samples: stratified, with every group and every content on one side.

The rule is that of `splits`. The folds depend on the samples and their number alone, so that everything that is made in
folds (fine-tunes, heads, fusions) holds out the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.errors import SettingError
from stages.index.manifest import Sample
from stages.index.splits import place_evenly

NO_FOLD = -1
"""Of a sample that is never held out: without it a class would have no training sample."""


@dataclass(frozen=True)
class _Unit:
    """A sample with all that must stay beside it named by one group."""

    sample_id: str
    labels: tuple[str, ...]
    group: str


def folds_of(samples: Sequence[Sample], count: int) -> list[int]:
    """The fold of each sample, 0 <= fold < count, or `NO_FOLD`.

    Samples of one group, or of one content, are in one fold. Whichever fold is held out, every label is left: see
    `splits.place_evenly`.

    Args:
        samples: of the training split.
        count: K, at least 2.

    Raises:
        SettingError: fewer units than folds.
    """
    names = _joined(samples)
    if count < 2 or len(set(names)) < count:
        raise SettingError(
            f"folds is {count}: give at least 2, and no more than the {len(set(names))} groups of the training split"
        )
    # a sample of several labels is trained on for none of them
    labels = [s.labels if len(s.labels) == 1 else () for s in samples]
    units = [_Unit(s.sample_id, of, name) for s, of, name in zip(samples, labels, names, strict=True)]
    folds = place_evenly(units, count)
    empty = [fold for fold in range(count) if fold not in folds]
    if empty:
        raise SettingError(
            f"folds is {count}, but fold {empty[0]} would be empty: groups that alone hold a class are never held out; "
            "use fewer folds"
        )
    return folds


def _joined(samples: Sequence[Sample]) -> list[str]:
    """A name for each sample, equal where a chain of shared groups and contents joins two."""
    parent = list(range(len(samples)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    first: dict[tuple[str, str], int] = {}
    for at, sample in enumerate(samples):
        for key in (("content", sample.content), ("group", sample.group)):
            if key[1]:
                parent[root(at)] = root(first.setdefault(key, at))
    least: dict[int, str] = {}
    for at, sample in enumerate(samples):
        top = root(at)
        least[top] = min(least.get(top, sample.sample_id), sample.sample_id)
    return [least[root(at)] for at in range(len(samples))]
