"""Random numbers of a member of a population: a function of its seed and of what they are for, and of nothing else.

They come from Philox, a generator with a counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
as numpy has it: the key is (seed, purpose), the counter starts at (0, layer, step, 0). So the numbers do not depend on
who is trained beside a member, on what was drawn before, or on the machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_ORDER, _VIEWS, _DROPOUT, _FRAMES = 1, 2, 3, 4  # purposes


class Draws:
    """A source of every member's numbers; one object serves all members, as it keeps nothing between two calls."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._state: dict[str, Any] = dict(self._philox.state)

    def order(self, seed: int, epoch: int, rows: np.ndarray, chances: np.ndarray | None = None) -> np.ndarray:
        """`rows` shuffled for an epoch (from 0); or as many drawn of them with these chances, some of them twice."""
        self._go_to(seed, _ORDER, epoch, 0)
        generator = np.random.Generator(self._philox)
        return generator.permutation(rows) if chances is None else generator.choice(rows, len(rows), p=chances)

    def views(self, seed: int, epoch: int, size: int, number: int) -> np.ndarray:
        """(size,) int64: which of `number` views each sample of an epoch is seen in, in the order of that epoch."""
        self._go_to(seed, _VIEWS, epoch, 0)
        return np.random.Generator(self._philox).integers(number, size=size)

    def frames(self, seed: int, epoch: int, counts: np.ndarray, number: int) -> np.ndarray:
        """(n, number) int64: which of its frames each sample of an epoch is seen by, in the order of that epoch.

        Of a sample with more frames than `number`, any so many of them with the same probability (Floyd's method:
        Bentley & Floyd 1987, "A Sample of Brilliance"), ascending; of another all, and -1 after the last.

        Args:
            counts: (n,) int64, frames of each.
        """
        self._go_to(seed, _FRAMES, epoch, 0)
        numbers = np.random.Generator(self._philox).random((len(counts), number))
        column = np.arange(number)
        found = np.where(column < counts[:, None], column, -1)
        many = counts > number
        numbers, picked = numbers[many], np.empty((int(many.sum()), number), np.int64)
        for place in range(number):
            last = counts[many] - number + place  # of the frames that may be picked now
            drawn = (numbers[:, place] * (last + 1)).astype(np.int64)
            again = (picked[:, :place] == drawn[:, None]).any(1)
            picked[:, place] = np.where(again, last, drawn)
        found[many] = np.sort(picked, axis=1)
        return found

    def kept(self, seed: int, step: int, layer: int, size: int, rate: float) -> np.ndarray:
        """(size,) uint8: 0 where dropout drops, 1 where it keeps. The first numbers are the same for every size.

        Args:
            step: of the optimiser, counted from 0 through all epochs.
            layer: which call of dropout within a forward pass, from 0.
            rate: probability of a 0, in [0, 1); see `rate_used`.
        """
        self._go_to(seed, _DROPOUT, step, layer)
        bits, threshold = _cut(rate)
        words = self._philox.random_raw(-(-size * bits // 64))
        if bits == 1:
            return np.unpackbits(words.view(np.uint8), count=size)
        numbers = words.view(np.uint8 if bits == 8 else np.uint16)[:size]
        return (numbers >= threshold).view(np.uint8)

    def _go_to(self, seed: int, purpose: int, step: int, layer: int) -> None:
        self._state["state"] = {
            "counter": np.array([0, layer, step, 0], np.uint64),
            "key": np.array([seed, purpose], np.uint64),
        }
        self._philox.state = self._state  # pyright: ignore[reportAttributeAccessIssue] - a private type


def rate_used(rate: float) -> float:
    """The probability with which dropout of this rate drops: the nearest 65,536th."""
    bits, threshold = _cut(rate)
    return threshold / 2**bits


def _cut(rate: float) -> tuple[int, int]:
    """How many bits decide on a number, and from which value of theirs on it is kept: as few bits as are exact."""
    if rate == 0.5:
        return 1, 1
    bits = 8 if rate * 256 == int(rate * 256) else 16
    return bits, min(round(rate * 2**bits), 2**bits - 1)
