"""A disk that is full, at every call that writes in turn, and a real one of 2 MB."""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import journal, lock
from cache.errors import StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.lock import commit_lock
from cache.store import Store

BEFORE, ITEMS = range(3), range(9)


def key(i: int) -> bytes:
    return item_key(f"{i:02x}")


def rows(i: int) -> np.ndarray:
    return np.random.default_rng(i).normal(size=(i % 3, 4)).astype(np.float16)


def write(root: Path, spec: BlockSpec, items: range) -> None:
    with Store(root).writer(spec, flush_rows=3) as writer:
        for i in items:
            writer.add(key(i), rows(i), status="ok" if i % 3 else "no_face")


def intact(root: Path, spec: BlockSpec) -> set[int]:
    """Which items are recorded; each has its own rows and none is recorded twice."""
    store = Store(root)
    block = store.open(spec)
    here = {i for i in ITEMS if block.has([key(i)])[0]}
    for i in here:
        found, status, _ = block.item(key(i))
        assert np.array_equal(found, rows(i))
        assert status == ("ok" if i % 3 else "no_face")
    assert sum(record.items for record in journal.read(store.place(spec) / "journal")) == len(here)
    return here


class FullDisk:
    """Lets `left` calls pass that need room on the disk under `root`, then refuses one with ENOSPC."""

    def __init__(self, root: Path, left: int, patch: pytest.MonkeyPatch) -> None:
        self.root, self.left, self.refused = str(root), left, ""
        for name in ("open", "write", "fsync", "replace", "rename", "link", "mkdir"):
            patch.setattr(os, name, self._guard(name, getattr(os, name)))
        opened = self._opened(builtins.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)  # pathlib's

    def step(self, call: str) -> None:
        self.left -= 1
        if self.left == -1:
            self.refused = call
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _guard(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(place: Any, *arguments: Any, **options: Any) -> Any:
            ours = isinstance(place, int) or str(place).startswith(self.root)  # all descriptors are ours meanwhile
            if ours and not (name == "mkdir" and Path(str(place)).exists()):
                self.step(name)
            return real(place, *arguments, **options)

        return call

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(place: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not str(place).startswith(self.root) or "w" not in mode:
                return real(place, mode, *arguments, **options)
            self.step("open a file")
            return _Handle(real(place, mode, *arguments, **options), self)

        return call


class _Handle:
    """A file whose n-th write puts half of its bytes and refuses the rest, as a full disk does."""

    def __init__(self, handle: Any, disk: FullDisk) -> None:
        self._handle, self._disk = handle, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def write(self, content: Any) -> int:
        try:
            self._disk.step("write to a file")
        except OSError:
            self._handle.write(content[: len(content) // 2])
            raise
        return self._handle.write(content)

    def flush(self) -> None:
        self._disk.step("flush a file")
        self._handle.flush()


def test_a_disk_that_is_full_at_any_call_is_said_loses_nothing_and_the_same_calls_finish_later(
    tmp_path: Path, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: set[str] = set()
    for number in range(200):
        root = tmp_path / str(number)
        write(root, spec, BEFORE)
        with monkeypatch.context() as patch:
            disk = FullDisk(root, number, patch)
            try:
                write(root, spec, ITEMS)
            except StorePlaceError as error:
                said = str(error)
            else:
                said = ""
        if not disk.refused:
            assert (said, intact(root, spec)) == ("", set(ITEMS))
            break
        refused.add(disk.refused)
        assert "No space left on device" in said, f"{disk.refused} (call {number}) was not said"
        assert "\n" not in said
        assert intact(root, spec) >= set(BEFORE)
        assert not list(root.rglob("*.tmp")), f"left by {disk.refused} (call {number})"
        assert not list(root.rglob("*.lock")), f"left by {disk.refused} (call {number})"
        write(root, spec, ITEMS)
        assert intact(root, spec) == set(ITEMS)
    else:
        pytest.fail("it never came through")
    everywhere = {"open", "write", "fsync", "replace", "open a file", "write to a file", "flush a file"}
    assert everywhere <= refused


def test_a_store_that_cannot_be_begun_is_said_at_any_call(
    tmp_path: Path, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new store and a new block: folders and descriptions."""
    refused: set[str] = set()
    for number in range(200):
        root = tmp_path / str(number)
        with monkeypatch.context() as patch:
            disk = FullDisk(root, number, patch)
            try:
                write(root, spec, ITEMS)
            except StorePlaceError:
                assert disk.refused
            else:
                assert not disk.refused
                break
        refused.add(disk.refused)
        write(root, spec, ITEMS)
        assert intact(root, spec) == set(ITEMS)
    assert {"mkdir", "write to a file", "replace"} <= refused


def test_a_lock_that_finds_no_room_for_its_token_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = tmp_path / "commit.lock"
    with monkeypatch.context() as patch:
        patch.setattr(lock.os, "write", full)
        with pytest.raises(OSError, match="No space left"), commit_lock(place):
            pass
    assert not place.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux")
def test_a_real_disk_of_2_mb(small_disk: Path) -> None:
    big = BlockSpec("net", "embedding", "face", (4096,), 1, numerics={"dtype": "float32"})
    values = {i: np.random.default_rng(i).normal(size=(1, 4096)).astype(np.float32) for i in range(100)}  # 1.6 MB
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_200_000))
    root = small_disk / "store"
    for attempt in range(3):  # a second failure is as the first
        with pytest.raises(StorePlaceError, match="No space left on device") as error:
            add(root, big, values)
        assert "\n" not in str(error.value)
        block = Store(root).open(big)
        found = [i for i in values if block.has([key(i)])[0]]
        assert 10 <= len(found) < 100, f"attempt {attempt}"
        for i in found:
            assert np.array_equal(block.item(key(i))[0], values[i])
        assert not list(root.rglob("*.tmp"))
    ballast.unlink()
    add(root, big, values)
    block = Store(root).open(big)
    assert all(np.array_equal(block.item(key(i))[0], values[i]) for i in values)
    assert sum(info.items for info in Store(root).blocks()) == 100


def add(root: Path, spec: BlockSpec, values: dict[int, np.ndarray]) -> None:
    with Store(root).writer(spec, flush_rows=10) as writer:
        for i, row in values.items():
            writer.add(key(i), row)
