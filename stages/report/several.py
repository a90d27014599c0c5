"""What the report shows of members that answer with several labels: average precisions, overall and class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.evaluate import several
from stages.report.charts import Chart, Mark, Scale
from stages.report.words import best_of, interval, percent, plural, points, signed_interval

Found = Mapping[str, Any]
"""The section `several` of metrics."""

_MEAN, _EACH = "mean_average_precision", "average_precision"
_NO_RANKING = "no ranking"
"""What the baseline is called: one score for all."""


@dataclass(frozen=True)
class Result:
    """One row of the results table, all as text."""

    name: str
    kind: str
    mean: str
    between: str
    over: str
    over_between: str
    n: int
    missing: int


@dataclass(frozen=True)
class ByClass:
    """Average precisions of each class: `columns` are members, and a row is a class, how many samples have it, what
    share of all that is, and `(value, interval)` of each member; the last row is the mean."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Section:
    """Everything that is shown.

    Attributes:
        how: what the intervals are.
        n, n_unscored, n_failed: samples with a label; of the split without one; with one and without an answer.
        undefined: classes that no sample has.
        member: whom `classes` is of.
        chart: mean average precision of each member.
        results: the same in numbers.
        classes: average precisions of `member`, class by class; the dashed line is the class's share.
        by_class: those of all members.
        subset_columns, subset_rows: see `tables.subsets`.
    """

    how: str
    n: int
    n_unscored: int
    n_failed: int
    undefined: tuple[str, ...]
    member: str
    chart: Chart
    results: tuple[Result, ...]
    classes: Chart
    by_class: ByClass
    subset_columns: tuple[str, ...]
    subset_rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def names(metrics: Mapping[str, Any]) -> list[str]:
    """The members that answer with several labels: ensembles, heads, fine-tunes."""
    return [name for name, *_ in several.members(metrics["several"])] if "several" in metrics else []


def section(metrics: Mapping[str, Any], member: str | None) -> Section | None:
    """What is shown; None where no member answers with several labels.

    Args:
        member: whom the first sentence is about; the first such member where it is another's.
    """
    if "several" not in metrics:
        return None
    found: Found = metrics["several"]
    spoken = member if member in names(metrics) else names(metrics)[0]
    subsets = found["subsets"]
    return Section(
        how=_how(found),
        n=found["n"],
        n_unscored=found["n_unscored"],
        n_failed=found["n_failed"],
        undefined=tuple(found["undefined"]),
        member=spoken,
        chart=_chart(found),
        results=tuple(_results(found, metrics)),
        classes=_classes(found, spoken),
        by_class=_by_class(found),
        subset_columns=tuple(f"{name or 'no subset'} (n = {one['n']})" for name, one in subsets.items()),
        subset_rows=tuple(_subsets(found)) if subsets else (),
    )


def _how(found: Found) -> str:
    drawn = found["interval"]
    return (
        f"95\u202f% intervals: {drawn['method']}; {plural(drawn['resamples'], 'draw')} of "
        f"{plural(drawn['n_units'], drawn['unit'])}"
    )


def _middle(one: Mapping[str, Any]) -> float | None:
    """The value of an estimate, or the mean over seeds."""
    return one["mean"] if "mean" in one else one["value"]


def _texts(one: Mapping[str, Any]) -> tuple[str, str]:
    return percent(_middle(one)), interval(one)


def _mark(name: str, kind: str, one: Mapping[str, Any], scale: Scale, base: float | None = None) -> Mark:
    value, spread = _texts(one)
    places = scale(_middle(one)), scale(one["low"]), scale(one["high"])
    return Mark(name, kind, value, spread, *places, base=scale(base))


def _chart(found: Found) -> Chart:
    """Dot and whisker of each member's mean average precision, and the baseline."""
    rows = [(name, kind, one[_MEAN]) for name, kind, one, _ in several.members(found)]
    rows.append((_NO_RANKING, "baseline", found["baseline"][_MEAN]))
    scale = Scale([value for _, _, one in rows for value in (_middle(one), one["low"], one["high"])])
    marks = tuple(_mark(name, kind, one, scale) for name, kind, one in rows)
    return Chart(marks, scale.ticks(), scale(found["baseline"][_MEAN]["value"]))


def _classes(found: Found, member: str) -> Chart:
    """The same of each class of one member, the best first; those that are not defined last."""
    _, kind, scores, _ = next(row for row in several.members(found) if row[0] == member)
    shares = {name: one["value"] for name, one in found["baseline"][_EACH].items()}
    rows = sorted(scores[_EACH].items(), key=lambda item: -(_middle(item[1]) or 0))
    scale = Scale([value for c, one in rows for value in (_middle(one), one["low"], one["high"], shares[c])])
    return Chart(tuple(_mark(c, kind, one, scale, shares[c]) for c, one in rows), scale.ticks(), None)


def _results(found: Found, metrics: Mapping[str, Any]) -> list[Result]:
    words = {"fused": "ensemble", "head": "head", "finetuned": "fine-tune"}
    rows = []
    for name, kind, one, _ in several.members(found):
        seeds = f", {plural(len(one['seeds']), 'seed')}" if "seeds" in one else ""
        over = one["over_baseline"]
        texts = *_texts(one[_MEAN]), points(over["value"]), signed_interval(over)
        of = best_of(metrics, name) if kind == "head" else ""
        rows.append(Result(name, words[kind] + seeds + of, *texts, one["n"], one["n_missing"]))
    base = found["baseline"]
    return [*rows, Result(_NO_RANKING, "baseline", *_texts(base[_MEAN]), "", "", base["n"], 0)]


def _by_class(found: Found) -> ByClass:
    members = several.members(found)
    base = found["baseline"]
    rows = [
        (name, one["n"], percent(one["value"]), tuple(_texts(scores[_EACH][name]) for _, _, scores, _ in members))
        for name, one in base[_EACH].items()
    ]
    mean = tuple(_texts(scores[_MEAN]) for _, _, scores, _ in members)
    return ByClass(
        columns=tuple(name for name, *_ in members),
        rows=(*rows, ("mean", found["n"], percent(base[_MEAN]["value"]), mean)),
    )


def _subsets(found: Found) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    subsets = found["subsets"].values()
    sections = {"fused": "fused", **several.SECTIONS}
    rows = [
        (name, tuple(_texts(one[sections[kind]][name]) for one in subsets))
        for name, kind, _, _ in several.members(found)
    ]
    return [*rows, (_NO_RANKING, tuple(_texts(one["baseline"]) for one in subsets))]


def headline(metrics: Mapping[str, Any], member: str | None) -> list[tuple[str, bool]]:
    """The first sentences about a member of several labels, as `words.headline`."""
    found: Found = metrics["several"]
    if member is None or not found["n"]:
        return [(f"Nothing is scored on {metrics['split']}: no sample there has a label.", False)]
    kind, one = next((kind, one) for name, kind, one, _ in several.members(found) if name == member)
    who = {"fused": "The ensemble ", "head": "The head ", "finetuned": "The fine-tuned network "}[kind]
    over = f" (mean of {plural(len(one['seeds']), 'seed')})" if "seeds" in one else ""
    classes = len(found["classes"]) - len(found["undefined"])
    value, between = _texts(one[_MEAN])
    base, around = _texts(found["baseline"][_MEAN])
    return [
        (who, False),
        (member, True),
        (f"{over} finds {plural(classes, 'label')} among ", False),
        (f"{plural(one['n'], metrics['split'] + ' photo')} with a mean average precision of ", False),
        (value, True),
        (f" (95\u202f% interval {between}). The same score for every photo gives ", False),
        (base, True),
        (f" (95\u202f% interval {around}).", False),
    ]
