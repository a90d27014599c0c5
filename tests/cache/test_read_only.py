"""A store that this user may only read, and a shard that it may not even read: one line each, and on it goes after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.keys import BlockSpec, item_key
from cache.store import Store

ROOT = Path(__file__).parent.parent.parent
NOBODY = 65534
KEYS = [item_key(f"{i:02x}") for i in range(4)]

# Modules are loaded as the user who runs the tests; then root becomes nobody, whom permissions concern.
PROGRAM = """
import contextlib, io, json, os, sys
from pathlib import Path
import numpy as np
from cache.keys import BlockSpec, item_key
from cache.store import Store
from pipeline.cli import main

spec = BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})
keys = [item_key(f"{i:02x}") for i in range(4)]

def cli(*arguments):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["kuleshov", *arguments]
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    return status, out.getvalue(), err.getvalue()

def library(write):
    try:
        store = Store(Path(os.environ["KULESHOV_STORE"]))
        if write:
            with store.writer(spec) as writer:
                writer.add(item_key("ff"), np.ones((1, 4)))
        return store.open(spec).rows(keys)[0].tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def everything(place, other):
    os.environ["KULESHOV_STORE"] = place
    return {
        "ls": cli("cache", "ls"),
        "verify": cli("cache", "verify"),
        "gc": cli("cache", "gc"),
        "pull": cli("cache", "pull", other),
        "read": library(False),
        "write": library(True),
    }

place, other, warm, nobody = sys.argv[1:]
everything(warm, other)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(nobody))
    os.setuid(int(nobody))
print(json.dumps(everything(place, other)))
"""


@pytest.fixture
def spec() -> BlockSpec:
    return BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})


@pytest.fixture
def store(spec: BlockSpec) -> Iterator[Store]:
    """A store of four rows where every user may look (pytest's folders are closed), with a bigger one beside it."""
    place = Path(tempfile.mkdtemp(prefix="kuleshov-read-only-"))
    place.chmod(0o755)
    for name, items in (("store", 4), ("warm", 4), ("bigger", 6)):
        with Store(place / name).writer(spec) as writer:
            for i in range(items):
                writer.add(item_key(f"{i:02x}"), np.full((1, 4), i))
    try:
        yield Store(place / "store")
    finally:
        permit(place, write=True)
        shutil.rmtree(place)


def permit(root: Path, *, write: bool) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod((0o777 if write else 0o555) if path.is_dir() else (0o666 if write else 0o444))


def as_nobody(store: Store) -> dict[str, tuple[int, str, str]]:
    beside = store.root.parent
    arguments = [str(store.root), str(beside / "bigger"), str(beside / "warm"), str(NOBODY)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_store_that_may_only_be_read_is_read_and_says_in_one_line_that_it_cannot_be_written(
    store: Store, spec: BlockSpec
) -> None:
    permit(store.root, write=False)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    found = as_nobody(store)
    assert found["read"] == [[i] * 4 for i in range(4)]
    status, out, err = found["ls"]
    assert (status, err) == (0, "")
    assert "net/embedding" in out
    assert found["verify"][:2] == [0, "1 shards are as written; 0 blocks have damage\n"]
    assert str(found["write"]).startswith("StorePlaceError: ")
    assert "Permission denied" in str(found["write"])
    assert "\n" not in str(found["write"])
    status, out, err = found["pull"]
    assert status == 1
    assert err.startswith("kuleshov: error: ")
    assert "Permission denied" in err
    assert len(err.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    permit(store.root, write=True)
    found = as_nobody(store)
    assert found["write"] == [[i] * 4 for i in range(4)]
    assert found["pull"][0] == 0
    assert store.open(spec).has([item_key("ff"), item_key("05")]).all()


@pytest.mark.parametrize("part", ["shards", "journal", "."])
def test_a_file_that_may_not_be_read_is_named_and_read_again_once_it_may(
    store: Store, spec: BlockSpec, part: str
) -> None:
    permit(store.root, write=True)
    with store.writer(spec) as writer:
        writer.add(item_key("07"), np.ones((1, 4)))
    permit(store.root, write=True)
    path = min(path for path in (store.place(spec) / part).iterdir() if path.is_file())
    path.chmod(0)
    found = as_nobody(store)
    if part != ".":  # who knows the block needs no description of it
        assert str(found["read"]).startswith(f"StorePlaceError: {path}: cannot be read (Permission denied)")
        assert "\n" not in str(found["read"])
    status, _, err = found["verify"]
    assert status == 1
    assert str(path) in err
    assert len(err.splitlines()) == 1
    path.chmod(0o644)
    found = as_nobody(store)
    assert found["read"] == [[i] * 4 for i in range(4)]
    assert found["verify"][0] == 0


def test_a_journal_that_may_not_be_listed_is_no_empty_block(store: Store, spec: BlockSpec) -> None:
    permit(store.root, write=True)
    folder = store.place(spec) / "journal"
    for shard in (store.place(spec) / "shards").iterdir():
        os.utime(shard, (1, 1))  # old enough for gc
    before = sorted(store.root.rglob("*.h5"))
    folder.chmod(0)
    found = as_nobody(store)
    assert str(found["read"]).startswith(f"StorePlaceError: {folder}: cannot be read (Permission denied)")
    for command in ("ls", "verify", "gc"):
        status, _, err = found[command]
        assert (status, len(err.splitlines())) == (1, 1)
        assert str(folder) in err
    folder.chmod(0o777)
    assert sorted(store.root.rglob("*.h5")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_root_did_become_another_user(store: Store) -> None:
    """Without it the tests above would prove nothing: root may do everything."""
    store.root.chmod(0)
    assert "Permission denied" in as_nobody(store)["ls"][2]
