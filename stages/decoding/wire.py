"""What a decoding process and the process that asked it say to each other, and how it travels through their pipes.

A message is a pickle and, beside it, the bytes of its arrays: they are written from where they lie and read to where
they stay. The pipes are private to the two processes, so what is unpickled here was pickled by this package.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

MOST_BYTES = 4 << 30
"""Of one message: a photo of 100 million pixels has 300 MB."""
_MOST_PARTS = 1 << 16
_SMALL = 4096  # bytes of an array, under which a copy is cheaper than a part of its own
_MARK = b"KDM1"
_HEAD = struct.Struct("<4sI")


class WireError(Exception):
    """What came through the pipe is no message, or a value is too large for one."""


class Call(NamedTuple):
    """To the decoding process: call `function` (pickled) with `job` in `folder`, leave out the first `skip` results."""

    function: bytes
    folder: str | None
    skip: int
    job: Any


class Ready(NamedTuple):
    """From the decoding process: it runs."""


class Item(NamedTuple):
    """One result of a job, and the seconds it took."""

    value: Any
    seconds: float


class End(NamedTuple):
    """A job has no more results; the seconds it took to find that out."""

    seconds: float


class Raised(NamedTuple):
    """The function raised; the traceback in words, which an exception does not carry through a pipe."""

    error: Exception
    trace: str


def write(pipe: io.RawIOBase, message: object) -> None:
    """Write a message, all of it.

    Raises:
        WireError: it is larger than `MOST_BYTES`. Nothing was written.
        OSError: the other side is gone.
        Exception: whatever pickle raises for a value that it cannot take. Nothing was written.
    """
    outside: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:  # then it becomes part of the pickle
        view = buffer.raw()
        if view.nbytes >= _SMALL:
            outside.append(view)
        return view.nbytes < _SMALL

    inside = pickle.dumps(message, protocol=5, buffer_callback=is_small)
    parts = [memoryview(inside), *outside]
    sizes = [part.nbytes for part in parts]
    if len(parts) > _MOST_PARTS or sum(sizes) > MOST_BYTES:
        raise WireError(f"a result of {len(parts)} parts and {sum(sizes)} bytes is too large to be sent")
    head = _HEAD.pack(_MARK, len(parts)) + struct.pack(f"<{len(parts)}Q", *sizes)
    for part in (memoryview(head + inside), *parts[1:]):
        rest = part
        while rest.nbytes:
            rest = rest[pipe.write(rest) :]


def read_sizes(pipe: io.RawIOBase) -> tuple[int, ...] | None:
    """The sizes (bytes) of the parts of the next message; None where the pipe has come to its end.

    Raises:
        EOFError: the pipe ends inside.
        WireError: that is no message.
    """
    head = bytearray(_HEAD.size)
    first = pipe.readinto(head)
    if not first:
        return None
    _fill(pipe, memoryview(head)[first:])
    mark, count = _HEAD.unpack(head)
    if mark != _MARK or not 1 <= count <= _MOST_PARTS:
        raise WireError("what a decoding process sent is no message")
    words = bytearray(8 * count)
    _fill(pipe, memoryview(words))
    sizes = struct.unpack(f"<{count}Q", words)
    if sum(sizes) > MOST_BYTES:
        raise WireError(f"a message of {sum(sizes)} bytes is announced, more than {MOST_BYTES}")
    return sizes


def read_parts(pipe: io.RawIOBase, sizes: Sequence[int]) -> list[Any]:
    """The parts of a message, as `load` takes them. Raises EOFError where the pipe ends inside."""
    parts: list[Any] = [bytearray(sizes[0])]
    if len(sizes) > 1:
        import numpy as np  # there are arrays, so it is needed anyway; unlike a bytearray it is not filled with zeros

        parts += [np.empty(size, np.uint8) for size in sizes[1:]]
    for part in parts:
        _fill(pipe, memoryview(part))
    return parts


def load(parts: Sequence[Any]) -> Any:
    """The message of `read_parts`; its arrays lie in the parts and may be written to."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - of our own process, through a private pipe


def _fill(pipe: io.RawIOBase, place: memoryview) -> None:
    while place.nbytes:
        count = pipe.readinto(place)
        if not count:
            raise EOFError("the pipe ended inside a message")
        place = place[count:]
