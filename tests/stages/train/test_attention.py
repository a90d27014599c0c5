from __future__ import annotations

from pathlib import Path

import pytest

from stages.train import attention


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows: list[attention.Row] = [("b", 0, 0, 0.25), ("b", 0, 2, 0.75), ('a, "x"', 0, 1, 1.0)]
    attention.write(tmp_path / "a" / "x.csv", rows)
    assert attention.read(tmp_path / "a" / "x.csv") == rows
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "x.csv"]


def test_a_face_that_a_member_left_out_weighs_nothing_there() -> None:
    first: list[attention.Row] = [("s", 0, 0, 0.5), ("s", 0, 1, 0.5)]
    second: list[attention.Row] = [("s", 0, 1, 1.0)]
    mean = attention.mean_of([first, second], [0.75, 0.25])
    assert mean == [("s", 0, 0, pytest.approx(0.375)), ("s", 0, 1, pytest.approx(0.625))]
