"""How many forward passes a run of recipes took, and how many were spared because the store had the rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cache.store import Store


@dataclass(frozen=True)
class Passes:
    """Items (photos, frames, a photo's faces, persons) that backbones answered for.

    Attributes:
        needed: of all roles of all projects, each project's counted.
        run: computed now. What was not was in the store.
    """

    needed: int
    run: int

    @property
    def saved(self) -> int:
        """Items that were in the store."""
        return max(self.needed - self.run, 0)

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.needed + other.needed, self.run + other.run)


def counted(store: Store) -> dict[str, int]:
    """Block (`NAME@KEY`) -> its items now."""
    return {f"{info.spec.name}@{info.spec.key[:32]}": info.items for info in store.blocks(shared=True)}


def passes_of(project: Path, before: Mapping[str, int], after: Mapping[str, int]) -> Passes:
    """What a project's roles needed, from `artifacts/blocks/extract/`, and what of it is new.

    A role with several taps passes once for all of them, and two roles of one block share its passes.

    Args:
        before, after: `counted` around the project's run.
    """
    fresh = {block: count - before.get(block, 0) for block, count in after.items()}
    needed = run = 0
    for path in sorted((project / "artifacts" / "blocks" / "extract").glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as handle:
            items = Counter(row["block"] for row in csv.DictReader(handle))
        if items:
            needed += max(items.values())
            run += max(min(count, fresh.get(block, 0)) for block, count in items.items())
            fresh |= dict.fromkeys(items, 0)
    return Passes(needed, run)
