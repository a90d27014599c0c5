"""Rows for `dvc plots`: accuracy.csv (one row a member), confusion.csv (one row a sample of one member), and
precision.csv (one row a member that answers with several labels, which is in neither of the others)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.errors import SettingError
from stages.evaluate import several
from stages.evaluate.run import TRAINED
from stages.evaluate.scoring import answers, frame
from stages.index.manifest import Manifest
from stages.predictions import Kind, Predictions

ACCURACY_COLUMNS = ("name", "accuracy", "low", "high")
CONFUSION_COLUMNS = ("actual", "predicted")
PRECISION_COLUMNS = ("name", "mean_average_precision", "low", "high")
_SPEAKERS: tuple[Kind, ...] = ("fused", "head", "finetuned")


def accuracy_rows(metrics: Mapping[str, Any]) -> list[tuple[str, float | None, float | None, float | None]]:
    """`(name, accuracy, low, high)`, fractions: ensembles by name, heads and then fine-tuned networks by name (means
    over seeds), the baseline."""
    rows = [(name, one["accuracy"], "value") for name, one in metrics["fused"].items()]
    rows += [(name, one["accuracy"], "mean") for kind in TRAINED for name, one in metrics[kind].items()]
    if rows or "several" not in metrics:
        rows += [("baseline", metrics["baseline"]["accuracy"], "value")]
    return [(name, found[key], found["low"], found["high"]) for name, found, key in rows]


def precision_rows(metrics: Mapping[str, Any]) -> list[tuple[str, float | None, float | None, float | None]]:
    """`(name, mean_average_precision, low, high)` of members that answer with several labels, in the order of
    `accuracy_rows`; none where there are no such members."""
    if "several" not in metrics:
        return []
    rows = [(name, one, key) for name, _, one, key in several.members(metrics["several"])]
    rows += [("baseline", metrics["several"]["baseline"], "value")]
    means = [(name, one["mean_average_precision"], key) for name, one, key in rows]
    return [(name, found[key], found["low"], found["high"]) for name, found, key in means]


def confusion_rows(
    predictions: Sequence[Predictions], manifest: Manifest, *, split: str, member: str | None = None
) -> list[tuple[str, str]]:
    """`(actual, predicted)` of each scored sample, by sample_id; none where all members answer with several labels.

    Args:
        predictions: as for `evaluate`.
        manifest: as for `evaluate`.
        split: as for `evaluate`.
        member: the name of a file of predictions; the first ensemble by name when None, or else the first head, or
            else the first fine-tuned network.

    Raises:
        SettingError: no such member among those that answer with one label; the message names those there are.
        DataError: as `evaluate`.
    """
    table = frame(predictions, manifest, split)
    members = [p for p in predictions if not p.several]
    if not members and member is None:
        return []
    ordered = sorted(members, key=lambda p: (_SPEAKERS.index(p.kind), p.head, p.seed or 0))
    chosen = next((p for p in ordered if member in (None, p.name)), None)
    if chosen is None:
        raise SettingError(f"member {member!r} has no predictions; choose one of {', '.join(p.name for p in ordered)}")
    found = answers(chosen, table)
    return [
        (table.classes[table.actual[row]], table.classes[predicted])
        for row, predicted in zip(found.rows, found.predicted, strict=True)
    ]
