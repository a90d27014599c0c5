"""A place for the parts of a stage that is easy to foresee."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from stages.spread import Part

W = TypeVar("W")
R = TypeVar("R")


@dataclass
class InTurn:
    """Parts in this process, after a trip through pickle, the last one first; `times` > 1 does each again.

    `before` and `after` are called before the first and after the last.
    """

    count: int = 2
    times: int = 1
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    seen: list[Part] = field(default_factory=list)

    def workers(self) -> int:
        return self.count

    def run(self, function: Callable[[W], R], parts: Sequence[Part[W]]) -> Iterator[tuple[int, R]]:
        self.before()
        for number in reversed(range(len(parts))):
            self.seen.append(parts[number])
            answers = []
            for _ in range(self.times):
                copied, work = pickle.loads(pickle.dumps((function, parts[number].work)))  # noqa: S301
                answers.append(copied(work))
            yield number, answers[0]
        self.after()


@pytest.fixture
def in_turn() -> type[InTurn]:
    return InTurn
