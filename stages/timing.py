"""Where a stage's time goes: seconds and items by kind of work, gathered while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

T = TypeVar("T")


class Spent(NamedTuple):
    """Seconds, and how many items (photos, frames, faces: what the kind of work counts) they went to."""

    seconds: float = 0.0
    items: int = 0

    @property
    def rate(self) -> float | None:
        """Items a second; None where nothing was counted."""
        return self.items / self.seconds if self.items and self.seconds > 0 else None


@dataclass
class Timings:
    """Seconds by kind of work. A plain value: a worker sends it back, and the process that asked adds it up.

    Kinds: `load` (networks and their weights), `decode` (in the decoding processes: open, check, turn upright),
    `detect`, `align`, `forward/ROLE`, `write` (casting rows, and waiting for shards to be written), `wait` (for decoded
    pictures, with nothing else to do). Work of other processes runs beside the rest: the sum may exceed the stage's
    time.

    Attributes:
        spent: kind -> seconds and items.
    """

    spent: dict[str, Spent] = field(default_factory=dict)

    def add(self, kind: str, seconds: float, items: int = 0) -> None:
        """Add to a kind of work."""
        so_far = self.spent.get(kind, Spent())
        self.spent[kind] = Spent(so_far.seconds + seconds, so_far.items + items)

    @contextmanager
    def measure(self, kind: str, items: int = 0) -> Iterator[None]:
        """Add the time that the block takes, also where it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - start, items)

    def each(self, kind: str, items: Iterator[T]) -> Iterator[T]:
        """The items, adding the time that each takes to come."""
        end = object()
        while True:
            with self.measure(kind):
                item = next(items, end)
            if item is end:
                return
            yield cast(T, item)

    def merge(self, other: Timings) -> None:
        """Add what another process or part spent."""
        for kind, spent in other.spent.items():
            self.add(kind, *spent)

    def as_dict(self) -> Mapping[str, Mapping[str, float | int | None]]:
        """Kind -> `seconds`, `items`, `items_per_s` (None where nothing was counted), JSON-able, sorted by kind."""
        return {
            kind: {"seconds": round(spent.seconds, 4), "items": spent.items, "items_per_s": spent.rate}
            for kind, spent in sorted(self.spent.items())
        }
