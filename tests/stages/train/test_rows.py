"""Rows in memory and rows in the store: the same numbers, and scales that keep their digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.keys import BlockSpec, item_key, key_array
from cache.store import Store
from stages.train import rows as module
from stages.train.rows import MeanRows, StoredRows, scale_of, scaled

COUNTS = [2, 1, 3, 4, 1]
KEYS = key_array([item_key(f"{i:02x}") for i in range(len(COUNTS))])
ITEM = np.repeat(np.arange(5), COUNTS)
WITHIN = np.concatenate([np.arange(count) for count in COUNTS])


def block(name: str, width: int, dtype: str) -> BlockSpec:
    return BlockSpec(name, "embedding", "face", (width,), 1, numerics={"dtype": dtype})


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredRows, np.ndarray]:
    """Two blocks side by side, float16 and float32, whose items lie in other orders; and the same rows as an array."""
    store, rng, parts, opened = Store(tmp_path_factory.mktemp("store")), np.random.default_rng(0), [], []
    for spec, order in ((block("a", 3, "float16"), [4, 0, 2, 1, 3]), (block("b", 2, "float32"), [1, 0, 3, 2, 4])):
        rows = rng.normal(size=(len(ITEM), *spec.shape)).astype(spec.numerics["dtype"])
        with store.writer(spec, flush_rows=4) as writer:
            for i in order:
                writer.add(bytes(KEYS[i]).ljust(16, b"\0"), rows[i == ITEM])
        parts.append(rows.astype(np.float32))
        opened.append(store.open(spec))
    return StoredRows(opened, [one.positions(KEYS) for one in opened], ITEM, WITHIN), np.concatenate(parts, axis=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.lists(st.integers(0, sum(COUNTS) - 1), max_size=12))
def test_any_index_gives_the_rows_of_the_store(both: tuple[StoredRows, np.ndarray], index: list[int]) -> None:
    stored, plain = both
    found = stored[np.array(index, np.int64)]
    assert found.dtype == np.float32
    assert np.array_equal(found, plain[np.array(index, np.int64)])


def test_slices_all_rows_and_sizes(both: tuple[StoredRows, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    stored, plain = both
    assert (stored.shape, len(stored), stored.nbytes) == (plain.shape, len(plain), plain.nbytes)
    assert np.array_equal(stored[3:8], plain[3:8])
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 4 * 5)  # three rows
    assert np.array_equal(stored.held(), plain)


def test_scales_and_standardized_rows_agree_to_the_bit(
    both: tuple[StoredRows, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, plain = both
    index = np.array([0, 1, 4, 5, 6, 7, 9])
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 4 * 5)
    scale = scale_of(plain, index)
    for ours, theirs in zip(scale_of(stored, index), scale, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    np.testing.assert_allclose(scale[0], plain[index].mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scale[1], plain[index].std(0), rtol=1e-5)
    assert np.asarray(scaled(stored, scale)[:]).tobytes() == np.asarray(scaled(plain, scale)).tobytes()
    assert np.array_equal(stored[:], plain)  # as they were


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_large_means_cost_no_digits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of squares minus the square of the mean would lose all of them: 1e14 and float64's 16 digits."""
    values = (1e7 + 8 * np.random.default_rng(0).normal(size=(rows, 3))).astype(np.float32)
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 4 * 3)
    mean, deviation = scale_of(values, np.arange(rows))
    wanted = values.astype(np.float64).std(0)
    np.testing.assert_allclose(mean, values.astype(np.float64).mean(0), rtol=1e-7)
    np.testing.assert_allclose(deviation, np.where(wanted < 1e-6, 1, wanted), rtol=1e-6)


def test_maps_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, store = block("a", 1024, "float32"), Store(tmp_path)
    with store.writer(spec) as writer:
        writer.add(bytes(KEYS[0]).ljust(16, b"\0"), np.ones((1024, 1024), np.float32))
    opened = store.open(spec)
    stored = StoredRows([opened], [opened.positions(KEYS[:1])], np.zeros(1024, np.int64), np.arange(1024))
    calls: list[int] = []
    monkeypatch.setattr(module, "hand_back", calls.append)
    assert stored[:].all()
    assert calls == [module.RESIDENT_BYTES]


OFFSETS = np.array([0, 2, 3, 6, 11])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.lists(st.integers(0, 3), max_size=9))
def test_means_of_neighbouring_rows(both: tuple[StoredRows, np.ndarray], index: list[int]) -> None:
    stored, plain = both
    found = MeanRows(stored, OFFSETS)[np.array(index, np.int64)]
    assert found.dtype == np.float32
    expected = [plain[OFFSETS[i] : OFFSETS[i + 1]].astype(np.float64).mean(0) for i in index]
    assert np.array_equal(found, np.array(expected).reshape(-1, 5).astype(np.float32))


def test_means_held_sliced_and_standardized(
    both: tuple[StoredRows, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = MeanRows(both[0], OFFSETS)
    every = means[np.arange(4)]
    assert (means.shape, len(means), means.nbytes) == ((4, 5), 4, 80)
    assert np.array_equal(means[1:3], every[1:3])
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 5 * 3)  # one row of three frames
    assert np.array_equal(means.held(), every)
    scale = scale_of(means, np.arange(4))
    assert np.array_equal(scaled(means, scale)[np.arange(4)], scaled(means.held(), scale)[np.arange(4)])
