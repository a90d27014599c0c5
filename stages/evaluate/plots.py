"""Rows for `dvc plots`: accuracy.csv (one row a member) and confusion.csv (one row a sample of one member)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.errors import SettingError
from stages.evaluate.run import TRAINED
from stages.evaluate.scoring import answers, frame
from stages.index.manifest import Manifest
from stages.predictions import Kind, Predictions

ACCURACY_COLUMNS = ("name", "accuracy", "low", "high")
CONFUSION_COLUMNS = ("actual", "predicted")
_SPEAKERS: tuple[Kind, ...] = ("fused", "head", "finetuned")


def accuracy_rows(metrics: Mapping[str, Any]) -> list[tuple[str, float | None, float | None, float | None]]:
    """`(name, accuracy, low, high)`, fractions: ensembles by name, heads and then fine-tuned networks by name (means
    over seeds), the baseline."""
    rows = [(name, one["accuracy"], "value") for name, one in metrics["fused"].items()]
    rows += [(name, one["accuracy"], "mean") for kind in TRAINED for name, one in metrics[kind].items()]
    rows += [("baseline", metrics["baseline"]["accuracy"], "value")]
    return [(name, found[key], found["low"], found["high"]) for name, found, key in rows]


def confusion_rows(
    predictions: Sequence[Predictions], manifest: Manifest, *, split: str, member: str | None = None
) -> list[tuple[str, str]]:
    """`(actual, predicted)` of each scored sample, by sample_id.

    Args:
        predictions: as for `evaluate`.
        manifest: as for `evaluate`.
        split: as for `evaluate`.
        member: the name of a file of predictions; the first ensemble by name when None, or else the first head, or
            else the first fine-tuned network.

    Raises:
        SettingError: no such member; the message names those there are.
        DataError: as `evaluate`.
    """
    table = frame(predictions, manifest, split)
    ordered = sorted(predictions, key=lambda p: (_SPEAKERS.index(p.kind), p.head, p.seed or 0))
    chosen = next((p for p in ordered if member in (None, p.name)), None)
    if chosen is None:
        raise SettingError(f"member {member!r} has no predictions; choose one of {', '.join(p.name for p in ordered)}")
    found = answers(chosen, table)
    return [
        (table.classes[table.actual[row]], table.classes[predicted])
        for row, predicted in zip(found.rows, found.predicted, strict=True)
    ]
