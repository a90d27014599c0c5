"""What decoding processes are asked to do in test_pool.py. They find this file by PYTHONPATH."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Refusal(Exception):
    """Does not survive pickle: it wants two arguments and keeps one."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(f"{name} in {place}")


class Unreadable:
    """Can be pickled, and never be read back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def count(job: int) -> Iterator[int]:
    """As many results as the job says."""
    for i in range(job):
        yield 100 * job + i


def slow_when_even(job: int) -> Iterator[int]:
    if job % 2 == 0:
        time.sleep(0.02)
    yield job


def arrays(job: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64], list[int]]]:
    for i in range(job):
        yield np.full((i, 40, 3), i, np.uint8), np.asfortranarray(np.arange(6.0).reshape(2, 3) + i), [i]


def large(job: int) -> Iterator[NDArray[np.uint8]]:
    """10 MB."""
    yield np.full(10_000_000, job % 256, np.uint8)


def long_clip(job: int) -> Iterator[NDArray[np.uint8]]:
    """100 times 10 MB, and a mark for each that was made."""
    for i in range(100):
        yield np.full(10_000_000, i, np.uint8)


def identity(job: object) -> Iterator[object]:
    yield job


def own_pid(job: object) -> Iterator[int]:
    yield os.getpid()


def folder(job: object) -> Iterator[str]:
    yield str(Path.cwd())


def environment(job: str) -> Iterator[str | None]:
    yield os.environ.get(job)


def modules(job: str) -> Iterator[bool]:
    import sys

    yield job in sys.modules


def noise(job: int) -> Iterator[int]:
    """What native decoders do: they print, to both."""
    os.write(1, b"to stdout " * 20_000)
    os.write(2, b"to stderr " * 20_000)
    yield job


def standard_places(job: object) -> Iterator[list[str]]:
    """Where the three standard streams lead."""
    yield [str(Path(f"/proc/self/fd/{number}").readlink()) for number in range(3)]


def refuse(job: int) -> Iterator[int]:
    yield job
    if job == 2:
        raise ValueError(f"job {job} is refused")


def refuse_oddly(job: str) -> Iterator[int]:
    raise Refusal(job, "its place")
    yield 0


def unpicklable(job: int) -> Iterator[object]:
    yield lambda: job


def unreadable(job: int) -> Iterator[object]:
    yield Unreadable() if job == 1 else job


def die_once(job: tuple[int, str]) -> Iterator[int]:
    """Job 2 kills its process before its third result, unless it has done so already (a file says)."""
    number, mark = job
    for i in range(4):
        if number == 2 and i == 2 and not Path(mark).exists():
            Path(mark).touch()
            time.sleep(0.2)  # what was sent is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        yield 10 * number + i


def segfault(job: int) -> Iterator[int]:
    yield job
    if job in (1, 4):
        time.sleep(0.1)
        ctypes.string_at(0)
    yield -job


def leave(job: int) -> Iterator[int]:
    if job:
        os._exit(job)
    yield job


def forever(job: str) -> Iterator[int]:
    """Says who it is, and works on."""
    Path(job).write_text(str(os.getpid()), encoding="utf-8")
    while True:
        time.sleep(0.01)
    yield 0


def slowly(job: int) -> Iterator[int]:
    for i in range(3):
        time.sleep(0.05)
        yield i
