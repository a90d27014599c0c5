from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import DamagedError, StorePlaceError
from cache.export import chunks, is_feature, named, pooled, write_h5, write_npz
from cache.keys import BlockSpec, item_key
from cache.store import Store

COUNTS = [2, 0, 1, 3, 0, 5]
KEYS = [item_key(f"{i:02x}") for i in range(len(COUNTS))]
ORDER = sorted(range(len(KEYS)), key=KEYS.__getitem__)


def rows(i: int) -> np.ndarray:
    return np.random.default_rng(i).normal(size=(COUNTS[i], 4)).astype(np.float16)


def fill(store: Store, spec: BlockSpec, order: list[int], flush: int = 100) -> Store:
    with store.writer(spec, flush_rows=flush) as writer:
        for i in order:
            writer.add(KEYS[i], rows(i), status="ok" if COUNTS[i] else ("no_face", "truncated")[i // 4])
    return store


def datasets(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, one: found.update({name: one[()] if isinstance(one, h5py.Dataset) else None}))
    return {name: value for name, value in found.items() if value is not None}


def test_one_file_with_the_items_in_the_order_of_their_keys(tmp_path: Path, spec: BlockSpec) -> None:
    store = fill(Store(tmp_path / "store"), spec, [3, 1, 0, 5, 2, 4], flush=3)
    assert write_h5(tmp_path / "out.h5", store, [spec]) == sum(COUNTS)
    found = datasets(tmp_path / "out.h5")
    assert set(found) == {f"face/net/embedding/{n}" for n in ("rows", "offsets", "item_keys", "item_status")}
    got = {name.rpartition("/")[2]: value for name, value in found.items()}
    assert [bytes(key) for key in got["item_keys"]] == sorted(KEYS)
    assert got["offsets"].tolist() == [0, *np.cumsum([COUNTS[i] for i in ORDER])]
    assert got["rows"].dtype == np.float16
    assert np.array_equal(got["rows"], np.concatenate([rows(i) for i in ORDER]))
    expected = {0: b"ok", 1: b"no_face", 2: b"ok", 3: b"ok", 4: b"truncated", 5: b"ok"}
    assert got["item_status"].tolist() == [expected[i] for i in ORDER]
    with h5py.File(tmp_path / "out.h5") as file:
        attributes = file["face/net/embedding"].attrs
        assert attributes["key"] == spec.key
        assert BlockSpec.from_dict(json.loads(str(attributes["spec"]))) == replace(
            spec, preprocessing={"size": [112, 96]}
        )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(len(COUNTS))), flush=st.integers(1, 6))
def test_equal_contents_are_equal_files_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory, spec: BlockSpec, order: list[int], flush: int
) -> None:
    place = tmp_path_factory.mktemp("both")
    a = fill(Store(place / "a"), spec, list(range(len(COUNTS))))
    b = fill(Store(place / "b"), spec, order, flush)
    for write, form in ((write_h5, "h5"), (write_npz, "npz")):
        for name, store in (("a", a), ("b", b)):
            write(place / f"{name}.{form}", store, [spec])
        assert (place / f"a.{form}").read_bytes() == (place / f"b.{form}").read_bytes()


def test_blocks_of_one_name_are_told_apart_by_their_keys(spec: BlockSpec) -> None:
    twin, other = replace(spec, extractor_version=2), replace(spec, source="a/b", tap=".", level="global")
    assert list(named([spec, twin, other])) == sorted(
        [f"face/net/embedding@{spec.key[:16]}", f"face/net/embedding@{twin.key[:16]}", "global/a_b/_"]
    )
    assert list(named([spec])) == ["face/net/embedding"]


@given(limit=st.integers(1, 200))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_chunks_keep_to_their_limit_and_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, spec: BlockSpec, limit: int
) -> None:
    block = fill(Store(tmp_path_factory.mktemp("store")), spec, list(range(len(COUNTS)))).open(spec)
    parts = list(chunks(block, block.keys, limit))
    for part, offsets in parts:
        assert part.nbytes <= limit or len(offsets) == 2, "more than the limit is one item alone"
    whole, offsets = block.rows(block.keys)
    assert np.array_equal(np.concatenate([part for part, _ in parts]), whole)
    assert sum(len(ends) - 1 for _, ends in parts) == len(KEYS)
    features = np.concatenate([part.features for part in pooled(block, limit)])
    spans = [whole[a:b] for a, b in pairwise(offsets) if b > a]
    expected = np.stack([span.astype(np.float64).mean(0).astype(np.float32) for span in spans])
    assert np.allclose(features, expected, rtol=1e-6, atol=1e-7)


def test_an_empty_block_is_a_group_without_rows(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path / "store")
    store.writer(spec)
    assert write_h5(tmp_path / "out.h5", store, [spec]) == 0
    found = datasets(tmp_path / "out.h5")
    assert found["face/net/embedding/rows"].shape == (0, 4)
    assert found["face/net/embedding/offsets"].tolist() == [0]
    assert write_npz(tmp_path / "out.npz", store, [spec]) == 0
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["face/net/embedding/features"].shape == (0, 4)


def test_crops_and_items_without_rows(tmp_path: Path, spec: BlockSpec) -> None:
    crops = replace(spec, tap="pixels", shape=(3, 2, 3), numerics={"dtype": "uint8"})
    store = Store(tmp_path / "store")
    with store.writer(crops) as writer:
        writer.add(KEYS[0], np.arange(36, dtype=np.uint8).reshape(2, 3, 2, 3))
        writer.add(KEYS[1], None, status="decode_error")
    assert write_h5(tmp_path / "out.h5", store, [crops]) == 2
    found = datasets(tmp_path / "out.h5")["face/net/pixels/rows"]
    assert np.array_equal(found, np.arange(36, dtype=np.uint8).reshape(2, 3, 2, 3))
    assert not is_feature(crops)
    assert is_feature(spec)
    assert not is_feature(replace(spec, tap="boxes"))


def test_pooled_features_are_means_and_leave_out_items_without_rows(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path / "store")
    with store.writer(spec) as writer:
        writer.add(KEYS[0], np.array([[1, 2, 3, 4], [3, 4, 5, 8]]))
        writer.add(KEYS[1], None, status="no_face")
        writer.add(KEYS[2], np.array([[60_000, 0, 0, 0], [60_000, 1, 0, 0]]))  # the sum is over float16's range
    assert write_npz(tmp_path / "out.npz", store, [spec]) == 2
    means = {KEYS[0]: [2, 3, 4, 6], KEYS[2]: [float(np.float16(60_000)), 0.5, 0, 0]}
    with np.load(tmp_path / "out.npz") as archive:
        assert set(archive) == {f"face/net/embedding/{n}" for n in ("features", "item_keys", "counts")}
        keys = [bytes(key) for key in archive["face/net/embedding/item_keys"]]
        assert keys == sorted([KEYS[0], KEYS[2]])
        assert archive["face/net/embedding/features"].dtype == np.float32
        assert archive["face/net/embedding/features"].tolist() == [means[key] for key in keys]
        assert archive["face/net/embedding/counts"].tolist() == [2, 2]


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path, spec: BlockSpec) -> None:
    store = fill(Store(tmp_path / "store"), spec, [0])
    out = tmp_path / "out.h5"
    out.write_text("mine")
    with pytest.raises(StorePlaceError, match="--force"):
        write_h5(out, store, [spec])
    assert out.read_text() == "mine"
    assert write_h5(out, store, [spec], overwrite=True) == 2
    with pytest.raises(StorePlaceError, match="name a file"):
        write_h5(tmp_path, store, [spec], overwrite=True)


def test_a_place_that_is_not_there_is_one_line(tmp_path: Path, spec: BlockSpec) -> None:
    store = fill(Store(tmp_path / "store"), spec, [0])
    for write, name in ((write_h5, "out.h5"), (write_npz, "out.npz")):
        with pytest.raises(StorePlaceError, match="cannot be written") as caught:
            write(tmp_path / "nowhere" / name, store, [spec])
        assert len(str(caught.value).splitlines()) == 1


def test_samples_are_sorted_and_may_have_no_item(tmp_path: Path, spec: BlockSpec) -> None:
    store = fill(Store(tmp_path / "store"), spec, [0])
    items = {"ü": {"faces": [KEYS[1], KEYS[0]], "boxes": []}, "a": {"faces": [], "boxes": []}}
    write_h5(tmp_path / "out.h5", store, [spec], samples=items)
    found = datasets(tmp_path / "out.h5")
    assert [name.decode() for name in found["samples/sample_id"]] == ["a", "ü"]
    assert found["samples/faces_offsets"].tolist() == [0, 0, 2]
    assert [bytes(key) for key in found["samples/faces_keys"]] == [KEYS[1], KEYS[0]]
    assert found["samples/boxes_keys"].shape == (0, 16)
    write_h5(tmp_path / "none.h5", store, [spec], samples={})
    assert datasets(tmp_path / "none.h5")["samples/sample_id"].shape == (0,)


def test_damage_leaves_the_old_file_and_no_other(tmp_path: Path, spec: BlockSpec) -> None:
    store = fill(Store(tmp_path / "store"), spec, [0, 1, 2])
    out = tmp_path / "out.h5"
    write_h5(out, store, [spec])
    before = out.read_bytes()
    path = next((store.place(spec) / "shards").iterdir())
    path.unlink()
    with pytest.raises(DamagedError, match=r"gone|cannot be read"):
        write_h5(out, Store(tmp_path / "store"), [spec], overwrite=True)
    assert out.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"store", "out.h5"}
