"""Numbers and sentences as a reader meets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NONE = "–"
_THIN = "\u202f"  # narrow no-break space: the number and its sign stay on one line


def percent(value: float | None, digits: int = 1) -> str:
    """0.7144 -> `71.4 %`; None -> a dash."""
    return NONE if value is None else f"{100 * value:.{digits}f}{_THIN}%"


def interval(found: Mapping[str, Any]) -> str:
    """`{"low": 0.658, "high": 0.771}` -> `65.8 to 77.1`; a dash where there is none."""
    low, high = found.get("low"), found.get("high")
    return NONE if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points with its sign: `+12.3`."""
    return NONE if value is None else f"{100 * value:+.1f}".replace("-", "−")


def signed_interval(found: Mapping[str, Any]) -> str:
    """`{"low": -0.01, "high": 0.2}` -> `−1.0 to +20.0`; empty where there is none."""
    low, high = found["low"], found["high"]
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 sample`, `2 samples`, `12 345 samples`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}".replace(",", "\u2009")


def trained(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> scores of each member that has seeds: heads, then fine-tuned networks."""
    return {**metrics["heads"], **metrics.get("finetuned", {})}  # metrics of an older version have no fine-tunes


def kind_of(metrics: Mapping[str, Any], name: str) -> str:
    """`head` or `finetuned`, of a member that has seeds."""
    return "head" if name in metrics["heads"] else "finetuned"


def how(metrics: Mapping[str, Any]) -> str:
    """One clause that says what the intervals are, for captions."""
    found = metrics["interval"]
    return (
        f"95{_THIN}% intervals: percentile bootstrap, {plural(found['resamples'], 'draw')} of "
        f"{plural(found['n_units'], found['unit'])}; exact binomial where a share is 0 or 1"
    )


def headline(metrics: Mapping[str, Any], member: str | None) -> list[tuple[str, bool]]:
    """The first sentences as (text, emphasised) pieces.

    It speaks of the one member that was named beforehand, never of the best of many on the split that judges them.
    """
    if member is None or not metrics["n"]:
        return [(f"Nothing is scored on {metrics['split']}: no sample there has exactly one label.", False)]
    fused = metrics["fused"].get(member)
    found = fused or trained(metrics)[member]
    accuracy = found["accuracy"]
    value = accuracy["value"] if fused else accuracy["mean"]
    who = "The ensemble " if fused else "The head " if kind_of(metrics, member) == "head" else "The fine-tuned network "
    many = plural(accuracy["n"], f"{metrics['split']} photo")
    over = "" if fused else f" (mean of {plural(accuracy['n_seeds'], 'seed')})"
    base = metrics["baseline"]
    pieces = [
        (who, False),
        (member, True),
        (f"{over} gives the label in the data to ", False),
        (percent(value), True),
        (f" of {many} ({_in_words(accuracy)}).", False),
    ]
    if base["class"] is None:
        return pieces
    return [
        *pieces,
        (" Always answering ", False),
        (base["class"], True),
        (", the largest class of train, gives ", False),
        (percent(base["accuracy"]["value"]), True),
        (f" ({_in_words(base['accuracy'])}).", False),
    ]


def verdict(metrics: Mapping[str, Any], member: str | None) -> str:
    """Whether the difference to the baseline is clear; empty where it is not known."""
    every = {**metrics["fused"], **trained(metrics)}
    if "several" in metrics:
        every |= {
            name: one for kind in ("fused", "heads", "finetuned") for name, one in metrics["several"][kind].items()
        }
    one = every.get(member or "")
    found = one["over_baseline"] if one else None
    if found is None or found["low"] is None:
        return ""
    text = f"Difference to that baseline: {points(found['value'])} percentage points, 95{_THIN}% interval "
    text += f"{signed_interval(found)}. "
    if found["low"] > 0:
        return text + "It is clear of zero."
    return text + ("It is below zero." if found["high"] < 0 else "It is not clear of zero.")


def _in_words(found: Mapping[str, Any]) -> str:
    """`95 % interval 65.8 to 77.1`."""
    text = interval(found)
    return "no interval" if text == NONE else f"95{_THIN}% interval {text}"


def best_of(metrics: Mapping[str, Any], head: str) -> str:
    """`, best of 12` for a head that was chosen among candidates, else nothing."""
    found = metrics.get("chosen", {}).get(head)
    return f", best of {found['candidates']}" if found else ""
