"""One decoding process, seen from the process that it works for."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import stages
from stages.decoding.wire import Call, Ready, load, read_parts, read_sizes, write

MOST_RESULTS = 8
"""How many results of a process wait here at most; it works ahead by these, and one more in its pipe."""
MOST_WAITING = 64 << 20
"""And how many bytes of them, but one result may always wait."""
_PIPE = 1 << 20  # bytes: fewer turns between the two than with the usual 64 KB
_ENDED = 5.0  # seconds for a process to end after its pipe did
_ROOT = Path(next(iter(stages.__path__))).resolve().parent
# glibc would give each picture's memory back and ask for it again: half the time of decoding a small photo.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Died(NamedTuple):
    """In place of a message: there will be no more.

    Attributes:
        how: in words, such as `signal 11 (SIGSEGV)`.
        started: whether it had come to run.
        said: the last line of what it printed before it ran.
    """

    how: str
    started: bool
    said: str


class Process:
    """A running process; `send` and `take` are for one thread at a time.

    Its results are read by a thread of their own into a buffer with bounds. When the buffer is full, the process works
    on until its pipe is full as well, and waits.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        verbose = logging.getLogger().isEnabledFor(logging.DEBUG)
        self._printed: IO[bytes] | None = None if verbose else tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._child = subprocess.Popen(
                # -P: a folder named stages where this runs is not ours
                [sys.executable, "-P", "-m", "stages.decoding.worker", *(["verbose"] if verbose else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                bufsize=0,
                env=_environment(),
            )
        except OSError:
            self._forget_printed()
            raise
        self._jobs = cast(io.FileIO, self._child.stdin)
        self._results = cast(io.FileIO, self._child.stdout)
        with suppress(OSError, AttributeError):  # not more than a user may have, and on Linux only
            fcntl.fcntl(self._results.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
        self._changed = threading.Condition()  # reentrant: the garbage collector may end a process at any moment
        self._waiting: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self._started = self._over = False
        self._reader = threading.Thread(target=self._read, name=f"decoding {self._child.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    def alive(self) -> bool:
        """Whether it can be given jobs."""
        return not self._over and self._child.poll() is None

    def send(self, call: Call) -> None:
        """Hand over a job. Where the process has died, `take` says so.

        Raises:
            Exception: what pickle raises for the job.
        """
        with suppress(BrokenPipeError):
            write(self._jobs, call)

    def take(self) -> Any:
        """The next message, when it is there; `Died` for ever after the last one."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            message, size = self._waiting[0]
            if not isinstance(message, Died):
                self._waiting.popleft()
                self._bytes -= size
                self._changed.notify_all()
            return message

    def end(self) -> None:
        """Kill it, whatever it does, and forget its results. May be called again."""
        with self._changed:
            self._over = True
            self._waiting.clear()
            self._changed.notify_all()
        with suppress(PermissionError):  # this process has given up rights; the child ends with its pipe all the same
            self._child.kill()
        self._jobs.close()

    def join(self, seconds: float = _ENDED) -> None:
        """Wait for the end of a process that was ended."""
        self._reader.join(seconds)

    def forget(self) -> None:
        """In a process that was forked from the one that owns this: let go of the pipes."""
        self._jobs.close()
        self._results.close()
        self._child.returncode = 0  # not this process's child

    def _read(self) -> None:
        """The thread: messages into the buffer, then how the process ended. It alone closes what it reads from."""
        problem = ""
        try:
            while (sizes := read_sizes(self._results)) is not None and self._room(sum(sizes)):
                message = load(read_parts(self._results, sizes))
                if isinstance(message, Ready):
                    self._started = True
                    self._forget_printed()
                else:
                    self._put(message, sum(sizes))
                del message
        except EOFError:
            pass
        except Exception as error:  # of pickle, or memory: nothing that comes after it can be trusted
            problem = f"a result that cannot be read ({type(error).__name__}: {error})"
        if problem:
            self._child.kill()
        self._results.close()
        try:
            status = self._child.wait(_ENDED)
        except subprocess.TimeoutExpired:
            self._child.kill()
            status = self._child.wait()
        self._put(Died(problem or _words(status), self._started, self._last_line()), 0)
        self._forget_printed()

    def _room(self, size: int) -> bool:
        """Wait until `size` more bytes may wait here; False when nobody wants them any more."""
        with self._changed:
            while not self._over and self._waiting:
                if len(self._waiting) < MOST_RESULTS and self._bytes + size <= MOST_WAITING:
                    break
                self._changed.wait()
            return not self._over

    def _put(self, message: object, size: int) -> None:
        with self._changed:
            if self._over and not isinstance(message, Died):
                return
            self._waiting.append((message, size))
            self._bytes += size
            self._changed.notify_all()

    def _last_line(self) -> str:
        if self._printed is None:
            return ""
        self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, self._printed.tell() - 4096))
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def _forget_printed(self) -> None:
        if self._printed is not None:
            self._printed.close()
            self._printed = None


def _environment() -> dict[str, str]:
    """As here; the child finds this package wherever it runs, keeps some memory, and computes on one thread."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_ROOT), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(_THREADS, "1"), **_MEMORY}


def _words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"
