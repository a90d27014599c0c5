"""A file is the earlier one or the new one, whatever happens while it is written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stages.whole import replaced, whole


@pytest.mark.parametrize("durable", [False, True])
def test_it_appears_when_the_block_ends(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "a.csv"
    with whole(path, durable=durable) as temporary:
        assert temporary.parent == path.parent
        assert temporary.read_bytes() == b""
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert [one.name for one in path.parent.iterdir()] == ["a.csv"]


def test_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("one")
    (tmp_path / ".a.csv.part").write_text("left by a process that was killed")

    def fail() -> None:
        with whole(path) as temporary:
            assert temporary.read_bytes() == b""
            temporary.write_text("tw")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert path.read_text() == "one"
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


def test_its_rights_are_those_of_the_users_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole(tmp_path / "a") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_folders_are_replaced_together(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "old").write_text("1")
    (tmp_path / "a" / "beside").write_text("2")

    def interrupted() -> None:
        with replaced(tmp_path, ("a/b", "c")) as place:
            (place / "a" / "b" / "new").write_text("3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "beside", "old"]
    with replaced(tmp_path, ("a/b", "c")) as place:
        (place / "a" / "b" / "new").write_text("3")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "a",
        "a/b",
        "a/b/new",
        "a/beside",
        "c",
    ]
