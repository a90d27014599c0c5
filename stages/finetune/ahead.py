"""The next values of an iterator, made by a thread while this one is busy with the last."""

from __future__ import annotations

import threading
from collections.abc import Generator
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_ENDING = 5.0  # seconds to wait for a value that nobody wants any more


class _Value(NamedTuple, Generic[T]):
    value: T


class _End(NamedTuple):
    error: BaseException | None


def ahead(source: Generator[T, None, None], depth: int = 2) -> Generator[T, None, None]:
    """The values of `source`, of which at most `depth` wait here.

    The thread starts with the first value that is asked for, and ends with this generator: a caller that stops half-way
    closes it. `source` runs in the thread, and is closed there.

    Raises:
        Exception: what `source` raised, in its place.
    """
    ready: SimpleQueue[_Value[T] | _End] = SimpleQueue()
    room = threading.Semaphore(depth)
    stop = threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            room.acquire()  # before a value is made: what is made has its place
            for value in source:
                ready.put(_Value(value))
                del value
                room.acquire()
                if stop.is_set():
                    break
        except BaseException as raised:  # whatever it is, the other thread hears of it
            error = raised
        finally:
            source.close()
            ready.put(_End(error))

    thread = threading.Thread(target=work, name="pixels", daemon=True)
    thread.start()
    try:
        while isinstance(found := ready.get(), _Value):
            room.release()
            yield found.value
            del found
        if found.error is not None:
            raise found.error
    finally:
        stop.set()
        room.release()
        thread.join(_ENDING)
