"""Progress bars: one place that decides when they are shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T], *, total: int | None = None, desc: str = "", unit: str = "it", shown: bool = True
) -> Iterable[T]:
    """Iterate with a bar on standard error; silent when that is not a terminal or the work takes under a second.

    `shown` is false in a worker, whose terminal is that of the process that shows the bar.
    """
    if not shown:
        return items
    return tqdm(items, total=total, desc=desc, unit=unit, delay=1.0, disable=not sys.stderr.isatty(), leave=False)


def counter(*, total: int, desc: str, unit: str, shown: bool = True) -> tqdm[NoReturn]:
    """A bar as that of `progress`, moved by `update(n)`; a context manager."""
    return tqdm(total=total, desc=desc, unit=unit, delay=1.0, disable=not (shown and sys.stderr.isatty()), leave=False)
