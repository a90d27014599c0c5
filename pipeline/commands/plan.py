"""`kuleshov plan`: what detect, align and extract will cost, before they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.shared import size_text

if TYPE_CHECKING:
    from pipeline.forecast import Forecast, Plan

_UNITS = {"d": 86400, "h": 3600, "min": 60}
"""Seconds of a unit: from two of them on it is used."""


@click.command()
@click.option(
    "--items",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="How many samples are computed, to be timed. More are surer.",
)
@click.pass_obj
def plan(folder: Path, items: int) -> None:
    """Say how long detect, align and extract will take, and how much they will add to the store.

    N samples that the store lacks something of go through these stages, timed, into the store: the run that follows
    does not compute them again. What is left is counted by keys where detection has been, else expected (~) from the
    faces seen so far. The time is that of one process here, with all roles extracted in one pass.

    \b
    Example:
      kuleshov plan
      kuleshov plan --items 40
    """
    from pipeline.forecast import forecast
    from pipeline.project import Project

    for line in lines(forecast(Project(folder), items)):
        click.echo(line)


def lines(found: Plan) -> list[str]:
    """What is said of a plan."""
    said = [_tried(found)] if found.samples else []
    if found.is_done:
        said.append("plan: everything is in the store" + (" but for what is below" if found.unplanned else ""))
    else:
        rows = [("STAGE", "LEFT", "OF", "", "EACH", "TIME", "SIZE"), *map(_row, found.forecasts), _total(found)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        right = {1, 2, 4, 5, 6}
        for row in rows:
            cells = enumerate(zip(row, widths, strict=True))
            said.append("  ".join(cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in cells).rstrip())
        if found.samples:
            said.append(f"starting (libraries, processes, networks): up to {duration(found.start_s)} more a command")
        if any(one.amount.left and one.seconds is None for one in found.forecasts):
            said.append("?: none of the samples had something for this stage; try more --items")
        of_faces = [one for one in found.forecasts if one.unit.endswith("faces")]
        if of_faces and not any(one.is_exact or one.amount.total for one in of_faces):
            said.append("~0: no face was found so far, so that none can be expected; try more --items")
    return said + [f"not planned: extract {role}: {why}" for role, why in found.unplanned.items()]


def _tried(found: Plan) -> str:
    done = found.samples - len(found.failed)
    counted = "1 sample was" if done == 1 else f"{done} samples were"
    said = [f"{counted} computed and timed; the store keeps their rows"] if done else []
    if len(found.failed):
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.failed.reasons().items())
        said.append(f"{len(found.failed)} could not be read ({reasons})")
    return "plan: " + "; ".join(said)


def _row(one: Forecast) -> tuple[str, ...]:
    amount, about = one.amount, "" if one.is_exact else "~"
    left, total = (f"{about}{round(number):,}" for number in (amount.left, amount.total))
    if not amount.left:
        return one.stage, left, total, one.unit, "", "", ""
    each = "?" if one.seconds is None else f"{1000 * one.seconds / amount.left:.3g} ms"
    size = ("< " if one.is_compressed else "") + size_text(amount.size)
    return one.stage, left, total, one.unit, each, "?" if one.seconds is None else duration(one.seconds), size


def _total(found: Plan) -> tuple[str, ...]:
    known = [one.seconds for one in found.forecasts if one.seconds is not None]
    more = "" if len(known) == len(found.forecasts) else " + ?"
    size = sum(one.amount.size for one in found.forecasts)
    return "total", "", "", "", "", f"about {duration(sum(known))}{more}", f"about {size_text(size)}"


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3.4 min`, `2.4 h`, `3 d`."""
    for unit, length in _UNITS.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
