from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import journal, retry
from cache.errors import DamagedError
from cache.keys import BlockSpec, item_key
from cache.retry import forget_failed
from cache.store import BlockInfo, Store

STATUSES = ("ok", "no_face", "truncated", "ok", "decode_error", "ok")
KEYS = [item_key(f"{i:02x}") for i in range(len(STATUSES))]
FAILED = {KEYS[2]: "truncated", KEYS[4]: "decode_error"}
Contents = dict[bytes, tuple[bytes, str, str]]


def fill(store: Store, spec: BlockSpec, order: list[int], flush: int = 100) -> BlockInfo:
    for start in range(0, len(order), flush):
        with store.writer(spec) as writer:
            for i in order[start : start + flush]:
                ok = STATUSES[i] == "ok"
                rows = np.full((i + 1, 4), i) if ok else None
                writer.add(KEYS[i], rows, status=STATUSES[i], detail="" if ok else f"because of {i}")
    return next(iter(store.blocks()))


def contents(store: Store, spec: BlockSpec) -> Contents:
    block = store.open(spec)
    found = {bytes(key).ljust(16, b"\0"): block.item(key) for key in block.keys}
    return {key: (rows.tobytes(), status, detail) for key, (rows, status, detail) in found.items()}


def good(before: Contents) -> Contents:
    return {key: value for key, value in before.items() if key not in FAILED}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(len(KEYS))), flush=st.integers(1, 6))
def test_failed_items_go_and_the_others_stay_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, spec: BlockSpec, order: list[int], flush: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    info = fill(store, spec, order, flush)
    before = contents(store, spec)
    assert len(before) == len(KEYS)
    assert forget_failed(info) == FAILED
    assert contents(store, spec) == good(before)
    shards = {path.name for path in (info.path / "shards").iterdir()}
    assert {record.shard for record in journal.read(info.path / "journal")} == shards
    assert sum(record.items for record in journal.read(info.path / "journal")) == 4
    assert forget_failed(info) == {}


def test_a_shard_without_failures_is_not_touched(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    info = fill(store, spec, [0, 1, 2, 3, 5], 2)  # (0, 1) and (5,) are good, (2, 3) is not
    before = {path: path.stat().st_mtime_ns for path in (info.path / "shards").iterdir()}
    forget_failed(info)
    after = {path: path.stat().st_mtime_ns for path in (info.path / "shards").iterdir()}
    assert len(before) == len(after) == 3
    assert len(before.items() & after.items()) == 2


def test_a_shard_of_failures_alone_leaves_none(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    info = fill(store, spec, [2, 4])
    assert forget_failed(info) == FAILED
    assert list((info.path / "shards").iterdir()) == []
    assert len(store.open(spec)) == 0


def test_the_next_writer_may_write_them(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    info = fill(store, spec, list(range(6)))
    forget_failed(info)
    with store.writer(spec) as writer:
        writer.add(KEYS[2], np.ones((1, 4)))
    rows, status, detail = store.open(spec).item(KEYS[2])
    assert (rows.tolist(), status, detail) == ([[1, 1, 1, 1]], "ok", "")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["write_shard", "append", "unrecord", "unlink"])
def test_cut_short_at_any_step_nothing_good_is_lost_and_a_second_call_ends_it(
    tmp_path: Path, spec: BlockSpec, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    info = fill(store, spec, list(range(6)))
    before = contents(store, spec)

    def after(done: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> None:
            done(*arguments)
            raise Killed

        return run

    def keep_shards(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".h5":
            raise Killed
        unlink(path, missing_ok=missing_ok)

    unlink = Path.unlink
    with monkeypatch.context() as patch:
        if step == "append":
            patch.setattr(journal, "append", after(journal.append))
        elif step == "unrecord":
            patch.setattr(retry, "_unrecord", after(retry._unrecord))
        elif step == "write_shard":
            patch.setattr(retry, "write_shard", after(retry.write_shard))
        else:
            patch.setattr(Path, "unlink", keep_shards)
        with pytest.raises(Killed):
            forget_failed(info)
    now = contents(store, spec)
    assert good(now) == good(before)
    # failed items are remembered until the old record goes
    assert now == (before if step in {"write_shard", "append"} else good(before))
    forget_failed(info)
    assert contents(store, spec) == good(before)


def test_a_damaged_shard_is_not_rewritten(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    info = fill(store, spec, list(range(6)))
    path = next((info.path / "shards").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="hash"):
        forget_failed(info)
    assert path.read_bytes() == content
    assert len(journal.read(info.path / "journal")) == 1


def test_keys_that_end_in_nul_survive(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    key = b"k" * 14 + b"\0\0"
    with store.writer(spec) as writer:
        writer.add(key, np.ones((1, 4)))
        writer.add(KEYS[2], None, status="truncated")
    forget_failed(next(iter(store.blocks())))
    assert store.open(spec).has([key]).all()
    assert len(store.open(spec)) == 1
