"""A clock that goes backwards, and files from the future or from long ago: rows are right and nothing recorded goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache import collect
from cache.keys import BlockSpec, item_key
from cache.lock import commit_lock
from cache.store import Store

Run = Callable[..., tuple[int, str, str]]
FUTURE, LONG_AGO, BEFORE_TIME = 4_102_444_800.0, 86_400.0, -86_400.0  # 2100, 1970, 1969


def rows(i: int) -> np.ndarray:
    return np.full((2, 4), i, np.float16)


def write(store: Store, spec: BlockSpec, items: range) -> None:
    with store.writer(spec, flush_rows=4) as writer:
        for i in items:
            writer.add(item_key(f"{i:02x}"), rows(i))


def check(store: Store, spec: BlockSpec, items: range) -> None:
    block = store.open(spec)
    assert len(block) == len(items)
    for i in items:
        assert np.array_equal(block.item(item_key(f"{i:02x}"))[0], rows(i))
    assert sum(info.items for info in store.blocks()) == len(items)


def date(root: Path, then: float) -> None:
    for path in (*root.rglob("*"), root):
        os.utime(path, (then, then))


class Clock:
    """`time.time` of a machine whose clock is set back by an hour at every look."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        self.now -= 3600
        return self.now


@pytest.fixture(params=["hour by hour", "to 1970", "to 2100"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set for the whole test: backwards with every look, once to the past, once to the future."""
    start = {"hour by hour": time.time(), "to 1970": LONG_AGO, "to 2100": FUTURE}[request.param]
    monkeypatch.setattr(time, "time", Clock(start) if request.param == "hour by hour" else lambda: start)


@pytest.mark.parametrize("then", [FUTURE, LONG_AGO, BEFORE_TIME])
@pytest.mark.usefixtures("clock")
def test_writing_goes_on_and_gc_takes_nothing_that_is_recorded(tmp_path: Path, spec: BlockSpec, then: float) -> None:
    store = Store(tmp_path)
    write(store, spec, range(4))
    date(tmp_path, then)
    write(store, spec, range(2, 8))
    check(store, spec, range(8))
    for piece in collect.debris(store):
        collect.remove(piece)
    check(store, spec, range(8))
    date(tmp_path, then)
    for piece in collect.debris(store):
        collect.remove(piece)
    check(Store(tmp_path), spec, range(8))


@pytest.mark.usefixtures("clock")
def test_seconds_between_shards_are_not_those_of_the_clock(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    writer = store.writer(spec, flush_seconds=0.05)
    writer.add(item_key("00"), rows(0))
    time.sleep(0.1)
    writer.add(item_key("01"), rows(1))
    deadline = time.monotonic() + 20
    while len(store.open(spec)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    check(store, spec, range(2))


@pytest.mark.parametrize("then", [FUTURE, BEFORE_TIME])
@pytest.mark.usefixtures("clock")
def test_a_left_lock_is_taken_over_whatever_its_date(tmp_path: Path, then: float) -> None:
    place = tmp_path / "commit.lock"
    place.write_bytes(b"somebody who died")
    os.utime(place, (then, then))
    started = time.monotonic()
    with commit_lock(place, stale_seconds=0.1):
        assert place.read_bytes() != b"somebody who died"
    assert 0.1 <= time.monotonic() - started < 5


@pytest.mark.parametrize("then", [FUTURE, LONG_AGO, BEFORE_TIME])
@pytest.mark.usefixtures("clock")
def test_ls_and_gc_say_something_sensible(
    tmp_path: Path, spec: BlockSpec, then: float, kuleshov: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path))
    store = Store(tmp_path)
    write(store, spec, range(4))
    date(tmp_path, then)
    status, out, err = kuleshov("cache", "ls")
    assert (status, err) == (0, "")
    age = out.splitlines()[2].split()[-3:-1]
    assert age[1] in {"s", "min", "h", "d"}
    assert int(age[0]) >= 0
    status, out, err = kuleshov("cache", "gc")
    assert (status, err) == (0, "")
    assert out.startswith("0 B (0 bytes) were freed")
    check(store, spec, range(4))


def test_the_grace_of_gc_is_for_what_is_young_or_not_yet_born(tmp_path: Path, spec: BlockSpec) -> None:
    """An unrecorded shard may be a writer's that is about to record it: a clock set back makes it no older."""
    store = Store(tmp_path)
    write(store, spec, range(4))
    shard = store.place(spec) / "shards" / f"{'a' * 24}-0123abcd.h5"
    shard.write_bytes(b"about to be recorded")
    made = shard.stat().st_mtime
    for now in (made, made - 1e6, made + collect.GRACE_SECONDS - 1):
        assert list(collect.debris(store, now=now)) == []
    [piece] = collect.debris(store, now=made + collect.GRACE_SECONDS + 1)
    assert piece.path == shard
