"""What several commands say and ask in the same way."""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A float in a range. FloatRange itself takes nan, which is in no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number


block_option = click.option(
    "--block",
    "names",
    metavar="NAME|KEY",
    multiple=True,
    help="A block's folder, SOURCE/TAP, or the first digits of its key, see kuleshov cache ls. May be repeated.",
)


def size_text(size: float) -> str:
    """A size in bytes for people: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
