"""Parts: how work is cut, how answers come back, and what a worker refuses."""

from __future__ import annotations

import operator
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cache.errors
import stages.errors
from cache.errors import StorePlaceError
from cache.keys import BlockSpec
from cache.store import Store
from stages.errors import SettingError
from stages.spread import Part, announce, cut, gather, require_same, require_store, require_written

SPEC = BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})


@given(total=st.integers(1, 5000), size=st.integers(1, 600), workers=st.integers(1, 40))
def test_runs_cover_all_items_in_order_and_every_worker_has_one(total: int, size: int, workers: int) -> None:
    runs = cut(total, size, workers)
    assert [i for run in runs for i in range(total)[run]] == list(range(total))
    lengths = [run.stop - run.start for run in runs]
    assert min(lengths) >= 1
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(runs) % workers == 0 or len(runs) == total


def test_answers_come_back_in_the_order_of_the_parts(in_turn: Callable[..., Any]) -> None:
    parts = [Part(i, 1, f"s{i}") for i in range(5)]
    assert gather(in_turn(), operator.neg, parts, desc="count", unit="number") == [0, -1, -2, -3, -4]


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for module in (stages.errors, cache.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not stages.errors.MediaError
    ],
)
def test_an_error_of_a_worker_arrives_as_it_was_raised(kind: type[Exception]) -> None:
    """All but MediaError, which never leaves a stage."""
    arrived = pickle.loads(pickle.dumps(kind("name: value; remedy")))  # noqa: S301
    assert type(arrived) is kind
    assert str(arrived) == "name: value; remedy"


def test_a_worker_of_another_version_is_refused() -> None:
    require_same(True, "resnet29")
    with pytest.raises(SettingError, match=r"resnet29: worker .* has another version of kuleshov.*; install the same"):
        require_same(False, "resnet29")


def test_a_worker_that_sees_another_store_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "store"), Store(tmp_path / "other")
    announce(store, [SPEC])
    require_store(pickle.loads(pickle.dumps(store)), [SPEC])  # noqa: S301
    with pytest.raises(StorePlaceError, match=r"other: not the store of .* set KULESHOV_STORE to a folder that all"):
        require_store(other, [SPEC])
    assert list((tmp_path / "other" / "blocks").iterdir()) == []


def test_a_worker_that_sees_no_shared_store_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "group")
    store = Store(tmp_path / "store", [tmp_path / "group"])
    announce(store, [SPEC])
    require_store(store, [SPEC])
    shutil.rmtree(tmp_path / "group")
    with pytest.raises(StorePlaceError, match=r"group: worker .* sees no shared store there; .*KULESHOV_STORE_SHARED"):
        require_store(store, [SPEC])


def test_rows_that_did_not_arrive_are_an_error(tmp_path: Path) -> None:
    require_written(Store(tmp_path), 0)
    with pytest.raises(StorePlaceError, match="3 items that workers computed are not here; run the stage again"):
        require_written(Store(tmp_path), 3)
