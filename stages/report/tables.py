"""The tables of the report as plain values that the template lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.ledger import Ledger
from stages.report.words import NONE, best_of, interval, kind_of, percent, plural, points, signed_interval, trained

SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix: its count, its share of the row in [0, 1], and whether it is on the diagonal."""

    count: int
    share: float
    is_hit: bool

    @property
    def is_full(self) -> bool:
        """Whether the shade is so strong that the text must turn: contrast stays above 4.4 to 1 on both sides."""
        return self.share > 0.7


@dataclass(frozen=True)
class Confusion:
    """One member's matrix: rows are (label, n, recall, cells); `title` says whose and over how many answers."""

    name: str
    title: str
    classes: tuple[str, ...]
    rows: tuple[tuple[str, int, str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Result:
    """One row of the results table, all as text."""

    name: str
    kind: str
    accuracy: str
    accuracy_interval: str
    macro_f1: str
    balanced: str
    over: str
    over_interval: str
    n: int
    missing: int


def results(metrics: Mapping[str, Any]) -> list[Result]:
    """Ensembles, heads and fine-tuned networks (means over seeds), and the baseline."""
    rows = []
    for name, one in metrics["fused"].items():
        rows.append(_result(name, "ensemble", one, "value"))
    for name, one in trained(metrics).items():
        kind = "head" if kind_of(metrics, name) == "head" else "fine-tune"
        of = best_of(metrics, name) if kind == "head" else ""
        rows.append(_result(name, f"{kind}, {plural(one['accuracy']['n_seeds'], 'seed')}{of}", one, "mean"))
    base = metrics["baseline"]
    if base["class"] is not None:
        rows.append(_result(f"always {base['class']}", "baseline", base, "value"))
    return rows


def choices(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for each head that was chosen among candidates."""
    return [
        f"{name}: the best of {one['candidates']} candidates by {one['by']} (n = {one['n']}): "
        + ", ".join(f"{key} {value}" for key, value in one["values"].items())
        for name, one in metrics.get("chosen", {}).items()
    ]


def _result(name: str, kind: str, one: Mapping[str, Any], key: str) -> Result:
    accuracy, over = one["accuracy"], one.get("over_baseline")
    return Result(
        name=name,
        kind=kind,
        accuracy=percent(accuracy[key]),
        accuracy_interval=interval(accuracy),
        macro_f1=percent(one["macro_f1"][key]),
        balanced=percent(one["balanced_accuracy"][key]),
        over=points(over["value"]) if over else NONE,
        over_interval=signed_interval(over) if over else "",
        n=accuracy["n"],
        missing=one.get("n_missing", 0),
    )


def subsets(metrics: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Columns `subset (n = ...)` and per member a row of (accuracy, interval); empty where there are no subsets."""
    found = metrics["subsets"]
    columns = [f"{name or 'no subset'} (n = {one['n']})" for name, one in found.items()]
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    for kind in ("fused", "heads", "finetuned"):
        for name in metrics.get(kind, ()) if found else ():
            rows.append((name, [_estimate(one[kind][name]) for one in found.values()]))
    if found and metrics["baseline"]["class"] is not None:
        rows.append((f"always {metrics['baseline']['class']}", [_estimate(one["baseline"]) for one in found.values()]))
    return columns, rows


def _estimate(found: Mapping[str, Any]) -> tuple[str, str]:
    return percent(found["value"]), interval(found)


def recalls(metrics: Mapping[str, Any], member: str | None) -> list[tuple[str, int, str, str, str]]:
    """(class, n, recall, interval, precision) of an ensemble, or of the first seed of a head or fine-tune."""
    if member is None:
        return []
    one = metrics["fused"].get(member) or next(iter(trained(metrics)[member]["seeds"].values()))
    return [
        (name, found["n"], percent(found["value"]), interval(found), percent(one["precision"][name]["value"]))
        for name, found in one["recall"].items()
    ]


def confusions(metrics: Mapping[str, Any], member: str | None) -> list[Confusion]:
    """The matrices of all members, the one the headline speaks of first."""
    every: list[Confusion] = []
    for name, one in metrics["fused"].items():
        every.append(_confusion(name, f"n = {one['n']}", metrics["classes"], one["confusion"]))
    for name, one in trained(metrics).items():
        seeds = one["accuracy"]["n_seeds"]
        title = f"n = {one['n']}" if seeds == 1 else f"n = {one['n']} for each of {seeds} seeds, summed"
        every.append(_confusion(name, title, metrics["classes"], one["confusion"]))
    return sorted(every, key=lambda one: one.name != member)


def _confusion(name: str, title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Confusion:
    rows = []
    for i, row in enumerate(counts):
        n = sum(row)
        cells = tuple(Cell(count, count / n if n else 0.0, i == j) for j, count in enumerate(row))
        rows.append((classes[i], n, percent(row[i] / n, 0) if n else NONE, cells))
    return Confusion(name, title, tuple(classes), tuple(rows))


@dataclass(frozen=True)
class Failed:
    """The failures of one stage: its reasons with their counts, the first items, and how many more there are."""

    stage: str
    count: int
    reasons: tuple[tuple[str, int], ...]
    items: tuple[tuple[str, str, str], ...]
    more: int


def failed(failures: Mapping[str, Ledger]) -> list[Failed]:
    """One entry per stage, in the order given; a stage without failures is one with a count of 0."""
    found = []
    for stage, ledger in failures.items():
        items = [(sample_id, reason, detail) for sample_id, (reason, detail) in sorted(ledger.entries.items())]
        shown = tuple(items[:SHOWN_FAILURES])
        reasons = tuple(ledger.reasons().items())
        found.append(Failed(stage, len(ledger), reasons, shown, len(items) - len(shown)))
    return found


def provenance(values: Mapping[str, object]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(what, [(key, text)]): a mapping becomes one line per key, anything else one line with an empty key."""
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    for what, value in values.items():
        if isinstance(value, Mapping):
            rows.append((what, [(str(key), _text(one)) for key, one in value.items()]))
        else:
            rows.append((what, [("", _text(value))]))
    return rows


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_text(one) for one in value]
        return ", ".join(parts if isinstance(value, (list, tuple)) else sorted(parts))
    return NONE if value is None else str(value)
