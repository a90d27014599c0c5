from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli import COMMANDS, main_group

Run = Callable[..., tuple[int, str, str]]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands(main_group))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_has_help_with_an_example(path: tuple[str, ...], command: click.Command, kuleshov: Run) -> None:
    status, out, _ = kuleshov(*path, "--help")
    assert status == 0
    assert "Example" in out
    assert "kuleshov " + " ".join(path) in out.split("Example")[1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path}: {parameter.name} has no help"


def test_the_commands_are_those_that_were_promised() -> None:
    stages = "index detect align extract finetune train fuse evaluate report"
    assert set(COMMANDS) == {
        *stages.split(),
        *["init", "demo", "plan", "predict", "reproduce", "weights", "cache", "doctor"],
    }


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main_group; main_group(['--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'sklearn', 'matplotlib', 'scipy', 'dvc', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mistyped_command_is_suggested(kuleshov: Run) -> None:
    status, _, err = kuleshov("detekt")
    assert status == 2
    assert "Did you mean 'detect'" in err


@pytest.mark.parametrize(
    "command", ["index", "plan", "detect", "align", "extract", "train", "fuse", "evaluate", "report"]
)
def test_without_a_project_a_stage_is_one_line(command: str, kuleshov: Run, tmp_path: Path) -> None:
    status, out, err = kuleshov("-C", tmp_path, command)
    assert status == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("kuleshov: error: ")
    assert "params.yaml is not there" in err


def test_a_folder_that_is_not_there(kuleshov: Run, tmp_path: Path) -> None:
    status, _, err = kuleshov("-C", tmp_path / "nowhere", "detect")
    assert status == 1
    assert "nowhere" in err


def test_doctor_says_what_is_here(kuleshov: Run) -> None:
    status, out, _ = kuleshov("doctor")
    assert status == 0
    for word in ("torch:", "auto is", "openvino", "JPEG yes", "mtcnn_pnet", "store"):
        assert word in out


def test_the_store_can_be_elsewhere_and_empty(kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "mein Speicher ü"))
    status, out, _ = kuleshov("cache", "ls")
    assert status == 0
    assert "mein Speicher ü" in out
    assert kuleshov("cache", "verify")[:2] == (0, "0 shards are as written; 0 blocks have damage\n")


def test_a_store_that_cannot_be_is_one_line(kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "file"))
    status, _, err = kuleshov("cache", "ls")
    assert status == 1
    assert "KULESHOV_STORE" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("stage", ["index", "detect", "align", "extract", "train"])
def test_a_bad_allowance_stops_before_the_stage_does_anything(stage: str, tmp_path: Path, kuleshov: Run) -> None:
    """The folder has no params.yaml: a stage that began would say that instead."""
    status, _, err = kuleshov("-C", str(tmp_path), stage, "--max-failures", "many")
    assert status == 1
    assert "--max-failures: max_failures is 'many': give a count" in err


def test_init_refuses_a_column_that_is_not_ours_and_quotes_what_to_type(tmp_path: Path, kuleshov: Run) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n")
    made = tmp_path / "my project"
    start = ("init", str(made), "--adapter", "csv", "--root", str(table))
    status, _, err = kuleshov(*start, "--column", "lable=emotion")
    assert status == 1
    assert "--column 'lable=emotion': there is no 'lable' to map; ours are path, label" in err
    assert not made.exists()
    status, out, _ = kuleshov(*start)
    assert status == 0
    assert f"cd '{made}' && dvc repro" in out
    assert "git commit" in out
