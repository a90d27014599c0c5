"""Targets that are shares: of each class as much as the annotators' votes for it (`Sample.shares`).

The label says which samples are trained on and scored, the shares what is wanted of them. A share of what is no class
(nobody's label) is left out, and the others are divided by their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stages.errors import DataError
from stages.index.manifest import Sample


def share_targets(samples: Sequence[Sample], classes: Sequence[str]) -> np.ndarray:
    """What is wanted of n samples, (n, K) float32.

    A row sums to 1: the sample's shares of the classes; where it has none of any class, 1 at its label. It is 0 of a
    sample without a label or with several, which is not to be trained on.

    Raises:
        DataError: a label that is no class.
    """
    index = {name: place for place, name in enumerate(classes)}
    targets = np.zeros((len(samples), len(classes)))
    for row, sample in zip(targets, samples, strict=True):
        if len(sample.labels) != 1:
            continue
        if sample.labels[0] not in index:
            raise DataError(
                f"{sample.sample_id} has the label {sample.labels[0]!r}, none of the classes {', '.join(classes)}; run "
                "kuleshov index again"
            )
        for name, share in sample.shares:
            if name in index:
                row[index[name]] = share
        if not row.any():
            row[index[sample.labels[0]]] = 1
        row /= row.sum()
    return targets.astype(np.float32)


def require_shares(samples: Sequence[Sample], classes: Sequence[str], where: str) -> None:
    """Refuse to train on shares where no sample has any.

    Args:
        samples: that are trained on.
        where: the setting that asks for shares.

    Raises:
        DataError: names the setting.
    """
    if not any(name in classes for sample in samples for name, _ in sample.shares):
        raise DataError(
            f"{where}, and no training sample has shares of the classes: use labels, or a data set whose annotators' "
            "votes are known"
        )


def no_class(samples: Iterable[Sample], classes: Sequence[str]) -> tuple[str, ...]:
    """What samples of one label have shares of that is no class, sorted."""
    return tuple(sorted({name for s in samples if len(s.labels) == 1 for name, _ in s.shares} - set(classes)))
