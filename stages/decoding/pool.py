"""Decoding in processes of their own: beside the process that computes, and without harm to it when a decoder crashes.

Processes are started when the first jobs come and kept for the next ones; they end with the process that uses them,
however that one ends. Native decoders can end a process with a signal: then it is replaced, its job is tried once more,
and after a second time the job's result is a `Crash`.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from stages.decoding.process import Died, Process
from stages.decoding.wire import Call, End, Item, Raised
from stages.errors import KuleshovError, SettingError

J = TypeVar("J")
R = TypeVar("R")

ENVIRONMENT = "KULESHOV_DECODERS"
"""Names the number of decoding processes, where it is set."""
_MOST = 8
_MOST_SET = 64
_AHEAD = 10  # jobs that are with a process: as many as there may be results waiting, and some to work on
_STARTS = 3
_TRIES = 2


class DecodingError(KuleshovError):
    """No decoding process can be started."""


class Crash(NamedTuple):
    """A job's result where it ended two decoding processes. It reads as a MediaError does."""

    detail: str

    @property
    def reason(self) -> str:
        """For ledgers."""
        return "decoder_crash"


class Decoded(NamedTuple, Generic[J, R]):
    """One result of a job.

    Attributes:
        job: as it was given.
        value: what the function yielded; a `Crash`; None of a job that yields nothing.
        seconds: how long the decoding process worked for it.
        last: whether it is the job's last result.
    """

    job: J
    value: R | Crash
    seconds: float
    last: bool


def decoded(function: Callable[[J], Iterable[R]], jobs: Iterable[J]) -> Generator[Decoded[J, R], None, None]:
    """Call a function on each job in decoding processes; its results in the order of the jobs and of the yields.

    Memory is bounded: of each process at most 8 results or 64 MB wait here, and jobs are taken from `jobs` only a few
    ahead of the results. A caller that stops half-way ends the processes; the next call starts others. A call inside
    another, or in another thread, has processes of its own for as long as it lasts.

    Args:
        function: a picklable function at the top level of a module, called in the current folder of this process.
        jobs: picklable.

    Raises:
        SettingError: `KULESHOV_DECODERS` is no number of processes.
        DecodingError: no process can be started.
        Exception: what the function raised; the note of it has the traceback of the decoding process.
    """
    pool = _take()
    try:
        yield from pool.results(function, jobs)
    finally:
        _give_back(pool)


def usable_processes() -> int:
    """How many processes decode at once: `KULESHOV_DECODERS`, or one for two usable cores, 1 to 8.

    Raises:
        SettingError: `KULESHOV_DECODERS` is no number of processes.
    """
    given = os.environ.get(ENVIRONMENT, "").strip()
    if given:
        if not (given.isascii() and given.isdigit() and 1 <= int(given) <= _MOST_SET):
            raise SettingError(f"{ENVIRONMENT}={given!r}: give a whole number from 1 to {_MOST_SET}, or unset it")
        return int(given)
    return processes_for(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def processes_for(cores: int) -> int:
    """How many processes decode for a program that has this many cores."""
    return max(1, min(_MOST, cores // 2))


@dataclass
class _Task(Generic[J]):
    """A job that was handed over: of which process, how many results came, how often a process died of it."""

    job: J
    place: int
    came: int = 0
    died: int = 0


class _Pool:
    """Processes, each started with its first job, and whether a call has them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.busy = True
        self.processes: list[Process | None] = [None] * number
        self._failed_starts = 0
        _pools.add(self)

    def results(self, function: Callable[[J], Iterable[R]], jobs: Iterable[J]) -> Iterator[Decoded[J, R]]:
        """See `decoded`. Job i belongs to process i modulo their number, so nobody waits in a circle: a process needs
        only that its own results are taken, and they are taken in the order of the jobs."""
        self._drop_dead()
        hand_over = partial(Call, pickle.dumps(function), _folder())
        waiting: deque[_Task[J]] = deque()
        coming = enumerate(jobs)
        try:
            while True:
                while len(waiting) < self.number * _AHEAD and (entry := next(coming, None)) is not None:
                    waiting.append(_Task(entry[1], entry[0] % self.number))
                    self._process(waiting[-1].place).send(hand_over(0, entry[1]))
                if not waiting:
                    return
                yield from self._first(waiting, hand_over)
                waiting.popleft()
        finally:
            if waiting:
                self.end()

    def end(self) -> None:
        """End all processes, whatever they do."""
        for place, process in enumerate(self.processes):
            self.processes[place] = None
            if process is not None:
                process.end()

    def _process(self, place: int) -> Process:
        process = self.processes[place]
        if process is None:
            try:
                process = self.processes[place] = Process()
            except OSError as error:
                raise DecodingError(
                    f"a decoding process cannot be started ({error}); end other programs, or set {ENVIRONMENT}=1"
                ) from error
        return process

    def _drop_dead(self) -> None:
        for place, process in enumerate(self.processes):
            if process is not None and not process.alive():
                process.end()
                self.processes[place] = None

    def _first(self, waiting: deque[_Task[J]], hand_over: Callable[[int, J], Call]) -> Iterator[Decoded[J, Any]]:
        """The results of the first of the tasks. One is held back until it is known whether another one comes."""
        task, held = waiting[0], None
        while True:
            message = self._process(task.place).take()
            if isinstance(message, Died):
                crashed = self._replace(message, waiting, hand_over)
                if not crashed:
                    continue
                if held is not None:
                    yield Decoded(task.job, held.value, held.seconds, False)
                yield Decoded(task.job, Crash(f"the decoding process ended with {message.how}"), 0.0, True)
                return
            self._failed_starts = 0
            if isinstance(message, Raised):
                message.error.add_note(f"In a decoding process:\n{message.trace}")
                raise message.error
            if isinstance(message, End):
                value, seconds = (held.value, held.seconds) if held is not None else (None, 0.0)
                yield Decoded(task.job, value, seconds + message.seconds, True)
                return
            task.came += 1
            done, held = held, cast(Item, message)
            del message
            if done is not None:
                yield Decoded(task.job, done.value, done.seconds, False)
            del done  # the caller may be through with it while the next one is waited for

    def _replace(self, died: Died, waiting: deque[_Task[J]], hand_over: Callable[[int, J], Call]) -> bool:
        """Another process for the one that worked on the first task; its jobs go there, the first one too unless it
        has ended processes before. Returns whether it has.

        Raises:
            DecodingError: processes end while they start.
        """
        task = waiting[0]
        process = self._process(task.place)
        self.processes[task.place] = None
        process.end()
        if died.started:
            self._failed_starts = 0
            task.died += 1
        else:
            self._failed_starts += 1
            if self._failed_starts == _STARTS:
                said = f": {died.said}" if died.said else ""
                raise DecodingError(
                    f"{_STARTS} decoding processes ended while they started ({died.how}{said}); see what "
                    f"{sys.executable} -m stages.decoding.worker says, and install kuleshov again if need be"
                )
        for other in waiting:
            if other.place == task.place and other.died < _TRIES:
                self._process(task.place).send(hand_over(other.came, other.job))
        return task.died == _TRIES


_lock = threading.RLock()  # reentrant: the garbage collector may end a call at any moment
_kept: _Pool | None = None
_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _take() -> _Pool:
    """The kept pool, or one of its own for a call while that one is busy."""
    global _kept
    number = usable_processes()
    with _lock:
        if _kept is not None and not _kept.busy and _kept.number != number:
            _kept.end()
            _kept = None
        if _kept is None:
            _kept = _Pool(number)
            return _kept
        if not _kept.busy:
            _kept.busy = True
            return _kept
    return _Pool(number)


def _give_back(pool: _Pool) -> None:
    with _lock:
        if pool is _kept:
            pool.busy = False
            return
    pool.end()


def close() -> None:
    """End the processes that are kept, unless a call has them; the next call starts others."""
    global _kept
    with _lock:
        if _kept is not None and not _kept.busy:
            _kept.end()
            _kept = None


def _close_all() -> None:
    """When this process ends: end what runs."""
    processes = [process for pool in list(_pools) for process in pool.processes if process is not None]
    for process in processes:
        process.end()
    for process in processes:
        process.join()


def _forked() -> None:
    """In a process forked from this one: the decoding processes belong to the other."""
    global _lock, _kept
    for pool in list(_pools):
        for process in pool.processes:
            if process is not None:
                process.forget()
        pool.processes = [None] * pool.number
    _lock, _kept = threading.RLock(), None


def _folder() -> str | None:
    """The current folder; None where it is no more."""
    try:
        return os.getcwd()  # noqa: PTH109 - as text
    except FileNotFoundError:
        return None


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forked)
