"""Geometry of the charts: everything in percent of the width, so that a chart fits a phone as it fits paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.report.words import NONE, interval, kind_of, percent, trained


@dataclass(frozen=True)
class Mark:
    """One row of a chart; positions in percent of the width, None where not known.

    Attributes:
        name: the member.
        kind: `fused`, `head`, `finetuned` or `baseline`.
        value: text of the value.
        spread: text of the interval, or of the standard deviation.
        at, low, high: positions.
        dots: further positions (one per seed).
        base: the position of a baseline of its own.
    """

    name: str
    kind: str
    value: str
    spread: str
    at: float | None
    low: float | None
    high: float | None
    dots: tuple[float, ...] = ()
    base: float | None = None


@dataclass(frozen=True)
class Chart:
    """Rows on one scale, with ticks [(position, text)] and the baseline's position."""

    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    baseline: float | None


class Scale:
    """Fractions -> percent of the width, over whole tenths that hold every value."""

    def __init__(self, values: Sequence[float | None]) -> None:
        known = [value for value in values if value is not None] or [0.0, 1.0]
        self.start = max(0, math.floor(min(known) * 10 + 1e-9))
        self.stop = min(10, math.ceil(max(known) * 10 - 1e-9))
        if self.stop - self.start < 2:  # all on one tick: show its surroundings
            self.start, self.stop = max(0, self.stop - 2), max(2, self.stop)

    def __call__(self, value: float | None) -> float | None:
        if value is None:
            return None
        return round((value * 10 - self.start) / (self.stop - self.start) * 100, 3)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Every 10 %, or every 20 % where that would be crowded."""
        step = 1 if self.stop - self.start <= 5 else 2
        tenths = range(self.start, self.stop + 1, step)
        return tuple((self(tenth / 10) or 0.0, percent(tenth / 10, 0)) for tenth in tenths)


def accuracy_chart(metrics: Mapping[str, Any]) -> Chart:
    """Dot and whisker of each member's accuracy: ensembles, heads and fine-tunes (mean over seeds), the baseline."""
    rows = [(name, "fused", one["accuracy"], one["accuracy"]["value"]) for name, one in metrics["fused"].items()]
    rows += [
        (name, kind_of(metrics, name), one["accuracy"], one["accuracy"]["mean"])
        for name, one in trained(metrics).items()
    ]
    base = metrics["baseline"]
    if base["class"] is not None:
        rows.append((f"always {base['class']}", "baseline", base["accuracy"], base["accuracy"]["value"]))
    scale = Scale([value for _, _, found, middle in rows for value in (middle, found["low"], found["high"])])
    marks = tuple(
        Mark(name, kind, percent(middle), interval(found), scale(middle), scale(found["low"]), scale(found["high"]))
        for name, kind, found, middle in rows
    )
    return Chart(marks, scale.ticks(), scale(base["accuracy"]["value"]))


def seeds_chart(metrics: Mapping[str, Any]) -> Chart | None:
    """The accuracy of each seed of each head and fine-tune; None when none has more than one seed."""
    several = {name: one for name, one in trained(metrics).items() if len(one["seeds"]) > 1}
    if not several:
        return None
    values = {name: [seed["accuracy"]["value"] for seed in one["seeds"].values()] for name, one in several.items()}
    scale = Scale([value for found in values.values() for value in found])
    marks = []
    for name, one in several.items():
        mean, sd = one["accuracy"]["mean"], one["accuracy"]["sd"]
        known = [value for value in values[name] if value is not None]
        dots = tuple(scale(value) or 0.0 for value in known)
        spread = NONE if sd is None else f"sd {100 * sd:.1f}"
        text = f"{percent(min(known))} to {percent(max(known))}" if known else NONE
        marks.append(Mark(name, kind_of(metrics, name), text, spread, scale(mean), None, None, dots))
    return Chart(tuple(marks), scale.ticks(), None)
