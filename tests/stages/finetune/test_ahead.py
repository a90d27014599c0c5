from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from stages.finetune.ahead import ahead


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pixels"]


class Source:
    """Counts to ten, and notes what is made and where."""

    def __init__(self, until: int = 10, error: Exception | None = None) -> None:
        self.until, self.error = until, error
        self.made: list[int] = []
        self.threads: set[int] = set()
        self.closed = threading.Event()

    def values(self) -> Generator[int, None, None]:
        try:
            for number in range(self.until):
                self.made.append(number)
                self.threads.add(threading.get_ident())
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


def test_values_come_in_order_from_another_thread() -> None:
    source = Source()
    assert list(ahead(source.values())) == list(range(10))
    assert threading.get_ident() not in source.threads
    assert source.closed.is_set()
    assert not running()
    assert list(ahead(Source(0).values())) == []


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_no_more_than_so_many_wait(depth: int) -> None:
    source = Source(100)
    values = ahead(source.values(), depth)
    assert not source.made  # nothing before it is wanted
    for number in range(3):
        assert next(values) == number
        until = time.monotonic() + 5
        while len(source.made) < number + 1 + depth and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(source.made) == number + 1 + depth
    values.close()
    assert source.closed.is_set()
    assert not running()
    assert len(source.made) <= 4 + depth


def test_what_is_raised_comes_in_its_place() -> None:
    values = ahead(Source(2, ValueError("no more")).values())
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ValueError, match="no more"):
        next(values)
    assert not running()
