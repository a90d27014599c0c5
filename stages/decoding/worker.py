"""A decoding process: takes jobs from its standard input, one after the other, and sends results to its output.

Started by `stages/decoding/process.py`. It ends as soon as its input does, in the middle of a job as well: that is how
it learns that the process it works for has ended, whatever ended that one.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from stages.decoding.wire import Call, End, Item, Raised, Ready, load, read_parts, read_sizes, write


def main() -> None:
    """Serve until the input ends. The argument `verbose` lets what native decoders print through to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's business, which ends this one
    source, results = _own_pipes()
    calls: SimpleQueue[list[Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(source, calls), daemon=True).start()
    _send(results, Ready())
    if "verbose" in sys.argv[1:]:
        import faulthandler

        faulthandler.enable()
    else:
        _to_null(1, 2)
    while True:
        _serve(results, calls.get())


def _own_pipes() -> tuple[io.FileIO, io.FileIO]:
    """The two pipes, under other numbers: what a decoder prints must not get among the messages."""
    source, results = io.FileIO(os.dup(0), "r"), io.FileIO(os.dup(1), "w")
    _to_null(0)
    os.dup2(2, 1)
    return source, results


def _to_null(*numbers: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(null, number)
    os.close(null)


def _send(results: io.FileIO, message: object) -> None:
    try:
        write(results, message)
    except OSError:  # nobody reads any more
        os._exit(0)


def _listen(source: io.FileIO, calls: SimpleQueue[list[Any]]) -> None:
    """Take in jobs as they come, so that who writes them never waits for results to be read."""
    with suppress(BaseException):
        while (sizes := read_sizes(source)) is not None:
            calls.put(read_parts(source, sizes))
    os._exit(0)


def _serve(results: io.FileIO, parts: list[Any]) -> None:
    """One job: its results as they are made, then the end or what was raised."""
    start = time.perf_counter()
    try:
        call: Call = load(parts)
        if call.folder is not None:
            with suppress(OSError):
                os.chdir(call.folder)
        function = pickle.loads(call.function)  # noqa: S301 - as `load`
        for number, value in enumerate(function(call.job)):
            if number >= call.skip:
                _send(results, Item(value, time.perf_counter() - start))
            del value  # the next result is made while this one is gone
            start = time.perf_counter()
        _send(results, End(time.perf_counter() - start))
    except Exception as error:
        _send(results, _raised(error))


def _raised(error: Exception) -> Raised:
    """The exception as it is, where it survives the trip; else one that says what it was."""
    import traceback

    trace = "".join(traceback.format_exception(error)).rstrip()
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - dumped here
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Raised(error, trace)


if __name__ == "__main__":
    main()
