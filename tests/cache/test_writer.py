"""Writers that are killed, that meet each other, and whose disk fails. Real processes, real files, no torch."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.collect import Piece, remove
from cache.errors import RangeError, StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.lock import commit_lock
from cache.pack import write_shard
from cache.store import Store

ROOT = Path(__file__).parent.parent.parent
ITEMS = 400

PROGRAM = """
import sys, resource
from pathlib import Path
import numpy as np
from cache.keys import BlockSpec, item_key
from cache.store import Store

root, first, last, step, limit = sys.argv[1], *map(int, sys.argv[2:6])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
spec = BlockSpec("net", "embedding", "face", (16,), 1, numerics={"dtype": "float16"})
store = Store(Path(root))
block = store.open(spec)
keys = [item_key(f"{i:04x}") for i in range(first, last, step)]
here = block.has(keys)
with store.writer(spec, flush_rows=20) as writer:
    print("ready", flush=True)
    for i, key, present in zip(range(first, last, step), keys, here):
        if not present:
            n = i % 4
            writer.add(key, np.random.default_rng(i).normal(size=(n, 16)), status="ok" if n else "no_face")
print("done", flush=True)
"""


def start(root: Path, first: int = 0, last: int = ITEMS, step: int = 1, limit: int = 0) -> subprocess.Popen[str]:
    arguments = [str(root), *(str(v) for v in (first, last, step, limit))]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def complete(root: Path, first: int = 0, last: int = ITEMS, limit: int = 0) -> tuple[int, str]:
    """Run a writer to its end: exit status and standard error."""
    process = start(root, first, last, limit=limit)
    _, err = process.communicate()
    return process.returncode, err


@pytest.fixture
def spec() -> BlockSpec:
    return BlockSpec("net", "embedding", "face", (16,), 1, numerics={"dtype": "float16"})


def check_complete(root: Path, spec: BlockSpec) -> None:
    """Every row is there once, and bit by bit what an uninterrupted run writes."""
    store = Store(root)
    [info] = store.blocks()
    assert info.items == ITEMS, "no item twice"
    check_intact(root, spec, missing=False)


def check_intact(root: Path, spec: BlockSpec, *, missing: bool = True) -> int:
    """What is recorded is right; how many items are."""
    block = Store(root).open(spec)
    found = 0
    for i in range(ITEMS):
        key = item_key(f"{i:04x}")
        if not block.has([key])[0]:
            assert missing, f"item {i} is not recorded"
            continue
        rows, status, _ = block.item(key)
        assert status == ("ok" if i % 4 else "no_face")
        assert np.array_equal(rows, np.random.default_rng(i).normal(size=(i % 4, 16)).astype(np.float16))
        found += 1
    return found


def kill_and_resume(root: Path, spec: BlockSpec, kills: int, seed: int) -> int:
    """Kill a writer at random moments until it has been killed `kills` times; how many were killed in mid-write."""
    chance = random.Random(seed)
    midway = 0
    for _ in range(kills):
        process = start(root)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = check_intact(root, spec)
        midway += found < ITEMS
    assert complete(root) == (0, "")
    check_complete(root, spec)
    return midway


def test_killed_at_random_moments_and_resumed(tmp_path: Path, spec: BlockSpec) -> None:
    assert kill_and_resume(tmp_path, spec, kills=5, seed=1) > 0


@pytest.mark.soak
def test_killed_at_a_hundred_random_moments(tmp_path: Path, spec: BlockSpec) -> None:
    midway = sum(kill_and_resume(tmp_path / str(i), spec, kills=5, seed=i) for i in range(20))
    print(f"100 kills, {midway} of them in mid-write")
    assert midway > 20


def test_writers_of_one_block_record_no_item_twice_and_a_reader_sees_no_torn_row(
    tmp_path: Path, spec: BlockSpec
) -> None:
    writers = [start(tmp_path), start(tmp_path), start(tmp_path, ITEMS - 1, -1, -1)]
    while any(writer.poll() is None for writer in writers):
        check_intact(tmp_path, spec)
    for writer in writers:
        out, err = writer.communicate()
        assert writer.returncode == 0, err
        assert out.endswith("done\n")
    check_complete(tmp_path, spec)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("limit", [0, 1, 100, 700, 2_500, 2_900, 3_200, 3_400])
def test_a_full_disk_is_said_loses_nothing_and_goes_on_after(tmp_path: Path, spec: BlockSpec, limit: int) -> None:
    """A file-size limit makes the kernel refuse the write that crosses it, whichever that is."""
    Store(tmp_path)
    assert complete(tmp_path, 0, 100) == (0, "")
    before = check_intact(tmp_path, spec)
    assert before == 100
    status, err = complete(tmp_path, limit=limit)
    if limit:
        assert status == 1
        last = err.strip().splitlines()[-1]
        assert last.startswith("cache.errors.StorePlaceError"), err
        assert check_intact(tmp_path, spec) == before
        assert not list(tmp_path.rglob("*.tmp"))
        assert complete(tmp_path) == (0, "")
    check_complete(tmp_path, spec)


def test_a_stale_lock_does_not_block(tmp_path: Path) -> None:
    place = tmp_path / "commit.lock"
    place.write_bytes(b"somebody who died")
    started = time.monotonic()
    with commit_lock(place, stale_seconds=0.2):
        assert place.exists()
    assert not place.exists()
    assert 0.2 <= time.monotonic() - started < 5


def test_a_living_holder_is_waited_for(tmp_path: Path) -> None:
    import threading

    place = tmp_path / "commit.lock"
    order: list[str] = []

    def second() -> None:
        with commit_lock(place, stale_seconds=30):
            order.append("second")

    with commit_lock(place):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_many_processes_never_hold_the_lock_together(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom cache.lock import commit_lock\n"
        "place, count = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "for _ in range(40):\n"
        "    with commit_lock(place):\n"
        "        count.write_text(str(int(count.read_text()) + 1))\n"
    )
    count = tmp_path / "count"
    count.write_text("0")
    programs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock"), str(count)], cwd=ROOT) for _ in range(3)
    ]
    assert [program.wait() for program in programs] == [0, 0, 0]
    assert count.read_text() == "120"


def test_a_store_without_rights_is_one_error(tmp_path: Path, spec: BlockSpec) -> None:
    Store(tmp_path).writer(spec).flush()
    place = Store(tmp_path).place(spec)
    (place / "shards").write_text("a file where a folder should be")
    writer = Store(tmp_path).writer(spec)
    writer.add(item_key("aa"), np.zeros((1, 16)))
    with pytest.raises(StorePlaceError, match="cannot write a shard"):
        writer.flush()


def test_the_caller_may_reuse_its_buffer(tmp_path: Path, spec: BlockSpec) -> None:
    buffer = np.zeros((1, 16), np.float16)
    with Store(tmp_path).writer(spec) as writer:
        for i in range(3):
            buffer[:] = i
            writer.add(item_key(f"{i:02x}"), buffer)
    got, _ = Store(tmp_path).open(spec).rows([item_key(f"{i:02x}") for i in range(3)])
    assert got[:, 0].tolist() == [0, 1, 2]


def test_a_forked_child_has_a_writer_thread_of_its_own(tmp_path: Path, spec: BlockSpec) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from cache.keys import BlockSpec, item_key\nfrom cache.store import Store\n"
        'spec = BlockSpec("net", "embedding", "face", (16,), 1, numerics={"dtype": "float16"})\n'
        "store = Store(Path(sys.argv[1]))\n"
        "with store.writer(spec) as w: w.add(item_key('aa'), np.zeros((1, 16)))\n"
        "if os.fork() == 0:\n"
        "    with store.writer(spec) as w: w.add(item_key('bb'), np.ones((1, 16)))\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0
    assert Store(tmp_path).open(spec).has([item_key("aa"), item_key("bb")]).all()


def test_a_shard_that_gc_took_before_its_record_is_written_again(
    tmp_path: Path, spec: BlockSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept for hours between the two looks like a writer that died."""
    taken: list[Path] = []

    def lost_once(*arguments: Any) -> tuple[Path, str]:
        path, digest = write_shard(*arguments)
        if not taken:
            path.unlink()
            taken.append(path)
        return path, digest

    monkeypatch.setattr("cache.writer.write_shard", lost_once)
    rows = np.ones((3, 16), np.float16)
    with Store(tmp_path).writer(spec) as writer:
        writer.add(item_key("a"), rows)
    assert len(taken) == 1
    assert Store(tmp_path).open(spec).rows([item_key("a")])[0].tobytes() == rows.tobytes()


def test_gc_keeps_what_was_recorded_after_it_looked(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    with store.writer(spec) as writer:
        writer.add(item_key("a"), np.ones((3, 16), np.float16))
    [path] = (store.place(spec) / "shards").iterdir()
    remove(Piece(path, path.stat().st_size, "unrecorded shard"))  # as it was when gc looked
    assert Store(tmp_path).open(spec).has([item_key("a")]).all()


def test_many_items_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    spec = BlockSpec("net", "embedding", "face", (3,), 1, numerics={"dtype": "float16"})
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    keys, counts = [item_key(f"{i:04x}") for i in range(4)], [2, 1, 0, 4]
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    with one.writer(spec, flush_rows=3) as writer:
        for key, part in zip(keys, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            writer.add(key, part)
    with many.writer(spec, flush_rows=3) as writer:
        writer.add_many(keys[:3], counts[:3], rows[:3])
        writer.add_many(keys[3:], counts[3:], rows[3:])
        writer.add_many([], [], rows[:0])
    found = [store.open(spec) for store in (one, many)]
    assert [block.rows(keys)[1].tolist() for block in found] == [[0, 2, 3, 3, 7]] * 2
    assert found[0].rows(keys)[0].tobytes() == found[1].rows(keys)[0].tobytes()
    assert found[1].statuses(keys) == ["ok"] * 4
    assert len(found[1].shards) == 2


def test_many_items_of_which_one_is_refused_are_none(tmp_path: Path) -> None:
    spec = BlockSpec("net", "embedding", "face", (2,), 1, numerics={"dtype": "float16"})
    keys, store = [item_key("a"), item_key("b"), item_key("c")], Store(tmp_path)
    with store.writer(spec) as writer:
        writer.add(keys[2], np.ones((1, 2), np.float32))
        with pytest.raises(RangeError, match="70000 does not fit float16"):
            writer.add_many(keys[:2], [1, 1], np.array([[1, 1], [70000, 1]], np.float32))
        with pytest.raises(ValueError, match="2 items, 2 counts, 3 rows"):
            writer.add_many(keys[:2], [1, 1], np.ones((3, 2), np.float32))
        with pytest.raises(ValueError, match=r"rows of shape \(5,\), the spec says \(2,\)"):
            writer.add_many(keys[:2], [1, 1], np.ones((2, 5), np.float32))
    assert store.open(spec).has(keys).tolist() == [False, False, True]
    assert np.array_equal(store.open(spec).item(keys[2])[0], np.ones((1, 2), np.float16))
