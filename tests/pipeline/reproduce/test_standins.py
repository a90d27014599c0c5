from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.reproduce.standins import STAND_INS, stand_in_for
from stages.errors import SettingError
from stages.index.standins import fer2013

SIZES = {"training": 7, "public_test": 7, "private_test": 7}


def test_a_stand_in_is_drawn_once_and_equal_sizes_are_one(tmp_path: Path) -> None:
    said: list[str] = []
    root = stand_in_for("fer2013", SIZES, tmp_path, said.append)
    assert root.parent == tmp_path / STAND_INS
    assert root.is_absolute()
    assert {path.name for path in root.iterdir()} == {"DRAWN.txt", "fer2013.csv"}
    (root / "mine").touch()
    assert stand_in_for("fer2013", {**SIZES, "seed": 0}, tmp_path, said.append) == root
    assert said == ["drawing a stand-in of FER2013"]
    assert (root / "mine").exists()


def test_another_size_or_seed_is_another(tmp_path: Path) -> None:
    roots = {
        stand_in_for("fer2013", SIZES | more, tmp_path, lambda _: None) for more in ({}, {"seed": 1}, {"training": 8})
    }
    tables = {(root / "fer2013.csv").read_bytes() for root in roots}
    assert (len(roots), len(tables)) == (3, 3)


def test_one_that_was_killed_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stand_in_for("fer2013", SIZES, tmp_path / "whole", lambda _: None)

    def killed(folder: Path, sizes: fer2013.Sizes, seed: int) -> None:
        (folder / "fer2013.csv").write_text("emotion,pix")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fer2013, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            stand_in_for("fer2013", SIZES, tmp_path, lambda _: None)
    root = stand_in_for("fer2013", SIZES, tmp_path, lambda _: None)
    assert root.name == whole.name
    assert (root / "fer2013.csv").read_bytes() == (whole / "fer2013.csv").read_bytes()
    assert [path.name for path in (tmp_path / STAND_INS).iterdir()] == [root.name]


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"train": 7}, "stand-in of fer2013: train: Extra inputs are not permitted"),
        ({"training": 0}, "stand-in of fer2013: training: Input should be greater than"),
        ({"seed": "x"}, "stand-in of fer2013: seed is 'x': give a whole number"),
        ({"seed": -1}, "stand-in of fer2013: seed is -1: give a whole number"),
    ],
)
def test_sizes_that_it_does_not_have(tmp_path: Path, sizes: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        stand_in_for("fer2013", sizes, tmp_path, lambda _: None)
    assert not (tmp_path / STAND_INS).exists()
