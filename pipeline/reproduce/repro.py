"""`dvc repro` in a project: what it says, what went wrong, and its end when a person presses Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

from pipeline.scaffold.write import dvc
from stages.errors import DataError

LOG = "reproduce.log"
"""In a project's folder: what its last `dvc repro` said."""

Say = Callable[[str], None]

_STAGE = re.compile(r"Running stage '(?P<name>.+)'")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OURS = "kuleshov: error: "
_DVCS = "ERROR: "
_LAST = 4


def repro(folder: Path, say: Say) -> None:
    """`dvc repro` in a project. What it says goes to `reproduce.log`; `say` hears of each stage that runs.

    Ctrl-C reaches DVC and its stage, both of which have ended when `KeyboardInterrupt` leaves here. SIGTERM and SIGHUP
    do the same and leave as `SystemExit`.

    Raises:
        DataError: a stage failed; names it, has its own error line, and says where the rest is.
    """
    with open(folder / LOG, "w", encoding="utf-8", buffering=1) as log:
        heard = _Heard(log, say)
        status = _run([*dvc(), "repro"], folder, heard)
    if status:
        raise DataError(f"{folder.name}, {heard.problem}; {folder / LOG} has all that was said")


@dataclass
class _Heard:
    """What matters of the output so far.

    Attributes:
        stage: the last one that was started; "" before the first.
        error: its own error line; "" where it has none.
        dvcs: what DVC said went wrong.
        last: the last lines of all.
    """

    log: TextIO
    say: Say
    stage: str = ""
    error: str = ""
    dvcs: str = ""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST))

    def line(self, line: str) -> None:
        self.log.write(line)
        text = _COLOUR.sub("", line).strip()
        if found := _STAGE.match(text):
            self.stage, self.error = found["name"], ""
            self.say(f"  stage '{self.stage}'")
        elif text.startswith(_OURS):
            self.error = text.removeprefix(_OURS)
        elif text.startswith(_DVCS):
            self.dvcs = text.removeprefix(_DVCS)
        if text:
            self.last.append(text)

    @property
    def problem(self) -> str:
        """The one line, which begins with where it went wrong."""
        if self.error:
            return f"stage {self.stage}: {self.error}"
        return f"dvc repro: {self.dvcs or ' '.join(self.last) or 'it ended without a word'}"


def _run(command: list[str], folder: Path, heard: _Heard) -> int:
    """The exit status. The command gets a process group of its own: an interrupt reaches it once, from here."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )
    with _told_to_end():
        try:
            return _listen(process, heard)
        except BaseException:
            _end(process, heard)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP, which the command's own group does not get, become `SystemExit` here."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main one hears of signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup
                signal.signal(number, leave)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(process: subprocess.Popen[str], heard: _Heard) -> int:
    for line in process.stdout or ():
        heard.line(line)
    return process.wait()


def _end(process: subprocess.Popen[str], heard: _Heard) -> None:
    """Interrupt the group and wait for it: a stage keeps what it has recorded. A second Ctrl-C kills it."""
    heard.say = lambda _: None
    try:
        _signal(process, signal.SIGINT)
        _listen(process, heard)
    except BaseException:
        _signal(process, signal.SIGKILL)
        process.wait()
        raise


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, number)


def _environment() -> dict[str, str]:
    """DVC runs `kuleshov`: that of this environment."""
    beside = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": beside + os.pathsep + os.environ.get("PATH", ""),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
    }
