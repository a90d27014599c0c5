"""Fusion: weighted means of the members' class probabilities. The weights are given, so nothing is fitted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.errors import DataError, MissingInputError, SettingError
from stages.fuse.settings import EnsembleSettings, FuseSettings
from stages.train import predictions as prediction_files
from stages.train.models import save_ensemble
from stages.train.predictions import Predictions


def run(settings: FuseSettings, artifacts: Path) -> list[Predictions]:
    """Fuse the predictions in `artifacts/predictions/heads`; write `predictions/fused/` and `models/fused/`.

    Raises:
        MissingInputError: there are no predictions.
        SettingError: an ensemble names a member that does not exist.
        DataError: members differ in their samples or classes.
    """
    paths = sorted((artifacts / "predictions" / "heads").glob("*.csv"))
    if not paths:
        raise MissingInputError(f"{artifacts / 'predictions' / 'heads'}: no predictions; run kuleshov train")
    heads = [prediction_files.read(path) for path in paths]
    for folder in ("predictions/fused", "models/fused"):
        shutil.rmtree(artifacts / folder, ignore_errors=True)
        (artifacts / folder).mkdir(parents=True)
    fused = []
    for name, ensemble in settings.ensembles.items():
        members, weights = members_of(name, ensemble, heads)
        result = mean_of(name, members, weights)
        prediction_files.write(artifacts / "predictions" / "fused" / f"{name}.csv", result)
        folders = {m.name: artifacts / "models" / "heads" / m.name for m in members}
        if all((folder / "model.json").is_file() for folder in folders.values()):
            save_ensemble(artifacts / "models" / "fused" / name, name, folders, weights)
        fused.append(result)
    return fused


def members_of(
    name: str, ensemble: EnsembleSettings, heads: Sequence[Predictions]
) -> tuple[list[Predictions], list[float]]:
    """The members an ensemble names, each once, and their weights, which sum to 1."""
    weights: dict[str, float] = {}
    for i, member in enumerate(ensemble.members):
        found = [p.name for p in heads if member in (p.name, p.head)]
        if not found:
            known = ", ".join(sorted({p.head for p in heads}))
            raise SettingError(f"fuse.ensembles.{name}.members: no head {member!r}; there are {known}")
        share = (ensemble.weights[i] if ensemble.weights else 1.0 * len(found)) / len(found)
        for one in found:
            weights[one] = weights.get(one, 0.0) + share
    total = sum(weights.values())
    chosen = [p for p in heads if p.name in weights]
    return chosen, [weights[p.name] / total for p in chosen]


def mean_of(name: str, members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Weighted mean of the members' probabilities.

    Raises:
        DataError: members differ in their samples or in the order of their classes.
    """
    first = members[0]
    for other in members[1:]:
        if other.classes != first.classes:
            raise DataError(
                f"ensemble {name!r}: {other.name} has classes {other.classes}, {first.name} {first.classes}"
            )
        if other.sample_ids != first.sample_ids:
            only = sorted(set(other.sample_ids) ^ set(first.sample_ids))
            raise DataError(
                f"ensemble {name!r}: {other.name} and {first.name} predict different samples ({len(only)}, such as "
                f"{only[0]!r}); give their heads the same blocks, or mend failures/train.csv"
            )
    stacked = np.stack([p.probabilities for p in members])
    mean = np.tensordot(np.asarray(weights), stacked, axes=1)
    return Predictions(
        name=name,
        kind="fused",
        head=name,
        seed=None,
        sample_ids=first.sample_ids,
        splits=first.splits,
        labels=first.labels,
        classes=first.classes,
        probabilities=mean / mean.sum(1, keepdims=True),
    )
