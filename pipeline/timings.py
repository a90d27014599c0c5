"""Where a stage's time went: a file for programs, `artifacts/timings/STAGE.json`, and a line for people."""

from __future__ import annotations

import json

from pipeline.project import Project
from stages.timing import Spent, Timings

_ORDER = ("load", "decode", "detect", "align", "forward", "write", "wait")


def save_timings(project: Project, stage: str, timings: Timings, wall_s: float) -> None:
    """Write `artifacts/timings/STAGE.json`: the stage, its time, and each kind of work as `Timings.as_dict` says it.

    It is of the last run that computed something, and no out of DVC: a time is another one each time.

    Args:
        wall_s: seconds that the stage took; work in other processes runs beside it, so the parts may sum to more.
    """
    path = project.artifacts / "timings" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"stage": stage, "wall_s": round(wall_s, 4), "parts": timings.as_dict()}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def of_role(timings: Timings, role: str) -> Timings:
    """What several roles spent together, with the forward passes of one of them."""
    others = {kind for kind in timings.spent if kind.startswith("forward/")} - {f"forward/{role}"}
    return Timings({kind: spent for kind, spent in timings.spent.items() if kind not in others})


def time_line(timings: Timings, wall_s: float) -> str:
    """One line: `  time: 15.9 s (decode 3.1 s (16.5/s), forward 12.0 s (41.2/s), write 0.2 s, wait 0.4 s)`.

    What is of several roles (`forward/ROLE`) is said as one.
    """
    whole = Timings()
    for kind, spent in timings.spent.items():
        whole.add(kind.partition("/")[0], *spent)
    known = [kind for kind in _ORDER if kind in whole.spent]
    kinds = known + sorted(whole.spent.keys() - set(known))
    parts = ", ".join(f"{kind} {_said(whole.spent[kind])}" for kind in kinds)
    return f"  time: {wall_s:.1f} s" + (f" ({parts})" if parts else "")


def _said(spent: Spent) -> str:
    return f"{spent.seconds:.1f} s" + ("" if spent.rate is None else f" ({spent.rate:.1f}/s)")
