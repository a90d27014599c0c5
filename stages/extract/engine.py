"""The engine: pixels of many items packed into full batches, forwarded, and handed back item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from stages.extract.forward import Forward, Taps
from stages.timing import Timings


class Run(NamedTuple):
    """Items that are done.

    Attributes:
        keys: of the items.
        counts: how many rows each has.
        taps: tap -> (sum of the counts, ...), the items' rows one after another.
    """

    keys: Sequence[bytes]
    counts: Sequence[int]
    taps: Taps


class Packer:
    """Rows of many items, forwarded in batches of exactly `batch` rows and handed back item by item, in their order.

    The last batch is filled up with black rows, so that every forward pass has one shape and a row's bits do not depend
    on how many rows came with it. Rows are gathered in one buffer.

    Args:
        forward: gets the buffer itself: it may read it until it returns.
        batch: rows of each forward pass, at least 1.
        timings: takes the forward passes' seconds and rows.
        kind: what they are called there.
    """

    def __init__(self, forward: Forward, batch: int, timings: Timings | None = None, kind: str = "forward") -> None:
        self._submit: Callable[[np.ndarray], Callable[[], Taps]] | None = getattr(forward, "submit", None)
        self._forward, self._batch = forward, batch
        self._timings, self._kind = Timings() if timings is None else timings, kind
        self._buffer: np.ndarray | None = None
        self._filled = 0
        self._parts: list[_Part] = []
        self._open: _Long | None = None
        self._ahead: tuple[Callable[[], Taps], list[_Part]] | None = None

    def push(self, key: bytes, rows: np.ndarray, total: int | None = None) -> list[Run]:
        """Take the next rows of an item, and forward what fills a batch.

        Args:
            key: of the item. Its rows may come in several calls, one after the other.
            rows: uint8 (n, H, W, 3), n >= 1, copied.
            total: rows of the item in all; None: these.

        Returns:
            The items that are done now, in order.
        """
        if self._buffer is None:
            self._buffer = np.zeros((self._batch, *rows.shape[1:]), np.uint8)
        count, stop = len(rows), self._filled + len(rows)
        if self._open is None and stop <= self._batch and total in (None, count):  # most items
            self._buffer[self._filled : stop] = rows
            self._parts.append(_Part(key, count))
            self._filled = stop
            return self._full(self._buffer) if stop == self._batch else []
        item = self._open or _Long(key, count if total is None else total)
        done: list[Run] = []
        start = 0
        while start < count:
            taken = min(count - start, self._batch - self._filled)
            self._buffer[self._filled : self._filled + taken] = rows[start : start + taken]
            self._parts.append(_Part(key, taken, item))
            self._filled += taken
            start += taken
            if self._filled == self._batch:
                done += self._full(self._buffer)
        item.missing -= count
        self._open = item if item.missing else None
        return done

    def finish(self) -> list[Run]:
        """Forward the rest. As `push`."""
        done: list[Run] = []
        if self._filled and self._buffer is not None:
            self._buffer[self._filled :] = 0
            done = self._full(self._buffer)
        return done + self._settle()

    def _full(self, pixels: np.ndarray) -> list[Run]:
        parts, rows = self._parts, self._filled
        self._parts, self._filled = [], 0
        if self._submit is None:
            with self._timings.measure(self._kind, rows):
                outputs = self._forward(pixels)
            return _runs(parts, outputs)
        with self._timings.measure(self._kind, rows):
            waiting = self._submit(pixels)
        done = self._settle()
        self._ahead = waiting, parts
        return done

    def _settle(self) -> list[Run]:
        """What the batch before gave, where the forward pass works ahead."""
        if self._ahead is None:
            return []
        (waiting, parts), self._ahead = self._ahead, None
        with self._timings.measure(self._kind):
            outputs = waiting()
        return _runs(parts, outputs)


class _Long:
    """An item that does not lie in one batch: `missing` rows are to come, `done` of its `count` were forwarded."""

    def __init__(self, key: bytes, count: int) -> None:
        self.key, self.count, self.missing, self.done = key, count, count, 0
        self.taps: Taps = {}

    def put(self, outputs: Taps, start: int, stop: int) -> None:
        """Keep its next rows, which are those from `start` to `stop` of a batch."""
        for tap, values in outputs.items():
            if not self.done:
                self.taps[tap] = np.empty((self.count, *values.shape[1:]), values.dtype)
            self.taps[tap][self.done : self.done + stop - start] = values[start:stop]
        self.done += stop - start


class _Part(NamedTuple):
    """Rows in a batch: a whole item, or some of a long one."""

    key: bytes
    rows: int
    long: _Long | None = None


def _runs(parts: Sequence[_Part], outputs: Taps) -> list[Run]:
    """The items that end in a batch; whole ones follow each other, and only the rows of long ones are copied."""
    done: list[Run] = []
    start = 0
    for long, some in groupby(parts, lambda part: part.long):
        keys, counts, _ = zip(*some, strict=True)
        stop = start + sum(counts)
        if long is None:
            done.append(Run(keys, counts, {tap: values[start:stop] for tap, values in outputs.items()}))
        else:
            long.put(outputs, start, stop)
            if long.done == long.count:
                done.append(Run([long.key], [long.count], long.taps))
        start = stop
    return done


def each(run: Run) -> Iterator[tuple[bytes, Taps]]:
    """The items of a run one by one: key and tap -> (n, ...)."""
    start = 0
    for key, count in zip(run.keys, run.counts, strict=True):
        yield key, {tap: values[start : start + count] for tap, values in run.taps.items()}
        start += count
