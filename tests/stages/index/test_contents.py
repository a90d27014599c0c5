from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from stages.errors import MediaError, SettingError
from stages.index.contents import Content, ContentIndex


def write(path: Path, data: bytes, age: float = 60.0) -> Path:
    path.write_bytes(data)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def remembered(index: ContentIndex) -> dict[str, str]:
    with closing(sqlite3.connect(index.path)) as connection:
        return {os.fsdecode(path): value for path, value in connection.execute("SELECT path, sha256 FROM contents")}


def forge(index: ContentIndex) -> None:
    """Put another hash in place of every one remembered: only memory can give it back."""
    with closing(sqlite3.connect(index.path)) as connection, connection:
        connection.execute("UPDATE contents SET sha256 = ?", ("f" * 64,))


def test_hashes_and_remembers(contents: ContentIndex, tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"abc")
    assert contents.sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert remembered(contents) == {str(path): sha(b"abc")}
    forge(contents)
    assert ContentIndex(contents.path).sha256_of(path) == "f" * 64


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_change_is_noticed(contents: ContentIndex, tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a", b"abc")
    before = path.stat()
    contents.sha256_of(path)
    forge(contents)
    if change == "size":
        path.write_bytes(b"abcd")
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    elif change == "mtime":
        path.write_bytes(b"xyz")
        os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
    else:
        write(tmp_path / "b", b"xyz")
        os.utime(tmp_path / "b", ns=(before.st_mtime_ns, before.st_mtime_ns))
        (tmp_path / "b").replace(path)
    assert contents.sha256_of(path) == sha(path.read_bytes())


@pytest.mark.parametrize(("age", "kept"), [(0.0, False), (-3600.0, False), (1.0, False), (3.0, True)])
def test_fresh_files_are_not_remembered(contents: ContentIndex, tmp_path: Path, age: float, kept: bool) -> None:
    path = write(tmp_path / "a", b"abc", age)
    assert contents.sha256_of(path) == sha(b"abc")
    assert bool(remembered(contents)) is kept


def test_order_repeats_and_errors(contents: ContentIndex, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i:04}", str(i).encode()) for i in range(1200)]
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    asked = [
        *files,
        tmp_path / "none",
        folder,
        files[0],
        tmp_path / "pipe",
        str(files[1]),
        files[0] / "below",
        "a\0b",
        "\ud800",
    ]
    for _ in range(2):
        found = list(contents.many(asked))
        assert found[:1200] == [Content(sha(str(i).encode()), len(str(i))) for i in range(1200)]
        said = [f.reason if isinstance(f, MediaError) else f.sha256 for f in found[1200:]]
        assert said == [
            "missing",
            "not_a_file",
            sha(b"0"),
            "not_a_file",
            sha(b"1"),
            "missing",
            "unreadable",
            "unreadable",
        ]
    assert len(remembered(contents)) == 1200
    with pytest.raises(MediaError, match="missing: there is no file"):
        contents.sha256_of(tmp_path / "none")


def test_permission(
    contents: ContentIndex, tmp_path: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    path = write(tmp_path / "a", b"abc")
    contents.sha256_of(path)
    path.chmod(0)
    with without_rights():
        (found,) = ContentIndex.many(contents, [path])
    assert isinstance(found, MediaError)
    assert found.reason == "permission"


def test_relative_paths_are_one_with_absolute_ones(
    contents: ContentIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a", b"abc")
    monkeypatch.chdir(tmp_path)
    contents.sha256_of("a")
    assert list(remembered(contents)) == [str(path)]


@pytest.mark.parametrize("damage", ["foreign", "torn", "middle"])
def test_a_damaged_memory_is_set_aside(contents: ContentIndex, tmp_path: Path, damage: str) -> None:
    files = [write(tmp_path / f"{i:04}", str(i).encode()) for i in range(600)]
    list(contents.many(files))
    data = contents.path.read_bytes()
    assert len(data) > 3 * 4096
    broken = {
        "foreign": b"not a database at all, not even nearly one" * 200,
        "torn": data[: len(data) // 2],
        "middle": data[:4096] + b"\xa5" * (len(data) - 4096),
    }[damage]
    contents.path.write_bytes(broken)
    index = ContentIndex(contents.path)
    for _ in range(2):
        assert [f.sha256 for f in index.many(files) if isinstance(f, Content)] == [
            sha(str(i).encode()) for i in range(600)
        ]
    assert Path(f"{contents.path}.damaged").read_bytes() == broken
    assert len(remembered(index)) == 600


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(SettingError, match="choose another place"):
        ContentIndex(tmp_path / "file" / "contents.sqlite")
    with pytest.raises(SettingError, match="is a folder"):
        ContentIndex(tmp_path)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE precious (x)")
    with pytest.raises(SettingError, match="something else"):
        ContentIndex(tmp_path / "other.sqlite")
    assert not (tmp_path / "other.sqlite.damaged").exists()


def test_a_locked_memory_costs_only_time(
    contents: ContentIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.index.contents._TIMEOUT", 0.05)
    path = write(tmp_path / "a", b"abc")
    with closing(sqlite3.connect(contents.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert contents.sha256_of(path) == sha(b"abc")
    assert remembered(contents) == {}


def test_threads(contents: ContentIndex, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}", str(i).encode()) for i in range(80)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(contents.sha256_of, files)) == [sha(str(i).encode()) for i in range(80)]
    assert len(remembered(contents)) == 80


def test_processes_share_it_from_the_first_moment_on(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}", str(i).encode()) for i in range(700)]
    place = tmp_path / "shared.sqlite"
    place.write_bytes(b"damaged" * 1000)
    code = (
        "import sys; from pathlib import Path; from stages.index.contents import ContentIndex;"
        "found = list(ContentIndex(Path(sys.argv[1])).many(sys.argv[2:]));"
        "print(*[f.sha256 for f in found], sep='\\n')"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(place), *map(str, files)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert err == ""
        assert out.split() == [sha(str(i).encode()) for i in range(700)]
    assert len(remembered(ContentIndex(place))) == 700


def test_a_file_that_grows_while_it_is_read(contents: ContentIndex, tmp_path: Path) -> None:
    path = write(tmp_path / "a", os.urandom(2_000_000))
    stop = threading.Event()

    def grow() -> None:
        with open(path, "ab", buffering=0) as writer:
            while not stop.is_set():
                writer.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        results = [found for _ in range(10) for found in contents.many([path])]
    finally:
        stop.set()
        thread.join()
    assert all(isinstance(found, Content) or found.reason == "unreadable" for found in results)
    assert remembered(contents) == {}
    assert contents.sha256_of(path) == sha(path.read_bytes())
