"""Progress bars: one place that decides when they are shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int | None = None, desc: str = "", unit: str = "it") -> Iterable[T]:
    """Iterate with a bar on standard error; silent when that is not a terminal or the work takes under a second."""
    return tqdm(items, total=total, desc=desc, unit=unit, delay=1.0, disable=not sys.stderr.isatty(), leave=False)
