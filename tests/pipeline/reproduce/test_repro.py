"""Real DVC over stages that are one shell command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.reproduce.repro import LOG, repro
from pipeline.scaffold.write import initialised
from stages.errors import DataError


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """project(a="true", b="false"): stages of these commands, one after the other."""

    def make(**commands: str) -> Path:
        names = list(commands)
        stages = {
            name: {"cmd": f"({command}) && touch {name}", "outs": [name], "deps": names[at - 1 : at] if at else []}
            for at, (name, command) in enumerate(commands.items())
        }
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        initialised(folder)
        return folder

    return make


def test_stages_that_run_are_said_and_what_they_say_is_in_the_log(project: Callable[..., Path]) -> None:
    folder, said = project(a="echo one", b="echo two >&2"), []
    repro(folder, said.append)
    assert said == ["  stage 'a'", "  stage 'b'"]
    log = (folder / LOG).read_text().splitlines()
    assert log.index("one") < log.index("two")
    repro(folder, said.append)
    assert len(said) == 2
    assert "one" not in (folder / LOG).read_text().splitlines()


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        (
            {"a": "true", "b": "echo 'kuleshov: error: the file x is broken; mend it' >&2; echo more; exit 1"},
            "mine, stage b: the file x is broken; mend it",
        ),
        (
            {"a": "echo 'kuleshov: error: of another stage'", "b": "echo Traceback; exit 3"},
            "mine, dvc repro: failed to reproduce 'b': failed to run: ",
        ),
        ({"a": "kill -9 $$"}, "mine, dvc repro: failed to reproduce 'a': failed to run: "),
    ],
    ids=["its own words", "none", "killed"],
)
def test_a_failure_is_one_line(project: Callable[..., Path], commands: dict[str, str], problem: str) -> None:
    folder = project(**commands)
    with pytest.raises(DataError) as error:
        repro(folder, lambda _: None)
    said = str(error.value)
    assert said.startswith(problem)
    assert said.endswith(f"; {folder / LOG} has all that was said")
    assert said.count(str(folder)) == 1
    assert "\n" not in said


def test_a_file_that_dvc_cannot_read_is_no_stage_s_fault(project: Callable[..., Path]) -> None:
    folder = project(a="true")
    (folder / "dvc.yaml").write_text("stages: [")
    with pytest.raises(DataError, match=r"^mine, dvc repro: .*dvc\.yaml"):
        repro(folder, lambda _: None)


def test_whoever_listens_and_fails_ends_it(project: Callable[..., Path]) -> None:
    folder = project(a="true", b="sleep 60")

    def listen(line: str) -> None:
        if "'b'" in line:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        repro(folder, listen)
    assert not (folder / "b").exists()
    with pytest.raises(BrokenPipeError):  # its lock is free: DVC has ended
        repro(folder, listen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_this_process_alone_ends_dvc_and_its_stage(
    project: Callable[..., Path], number: signal.Signals
) -> None:
    folder = project(a="echo $$ > pid; sleep 60")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from pipeline.reproduce.repro import repro; repro(Path(sys.argv[1]), print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not ((folder / "pid").exists() and (folder / "pid").read_text().strip()):
        time.sleep(0.02)
    stage = psutil.Process(int((folder / "pid").read_text()))
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (128 + number if number != signal.SIGINT else -signal.SIGINT)
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert not psutil.wait_procs([stage], timeout=5)[1]


def test_handlers_of_signals_are_as_before(project: Callable[..., Path]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    repro(project(a="true"), lambda _: None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before
