from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import pack
from cache.keys import LEVELS, BlockSpec, item_key
from cache.pack import Pack, Style
from cache.retry import forget_failed
from cache.store import Store

STYLE = Style("none", (("licence", "CC0-1.0"), ("packages", "torch 2.14.1")))


def shards(store: Store, spec: BlockSpec) -> list[Path]:
    return sorted((store.place(spec) / "shards").iterdir())


def write(store: Store, spec: BlockSpec, rows: np.ndarray, style: Style = STYLE) -> bytes:
    key = item_key("a")
    with store.writer(spec, style=style) as writer:
        writer.add(key, rows)
        writer.add(item_key("b"), None, status="truncated", detail="cut at byte 9")
    return key


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_equal_rows_are_equal_bytes_whenever_they_are_written(
    tmp_path: Path, spec: BlockSpec, compression: str
) -> None:
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    write(first, spec, np.ones((2, 4), np.float16), Style(compression))
    time.sleep(1.1)  # HDF5 counts seconds
    write(second, spec, np.ones((2, 4), np.float16), Style(compression))
    assert shards(first, spec)[0].read_bytes() == shards(second, spec)[0].read_bytes()


def test_attributes_say_what_made_the_rows(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    write(store, spec, np.ones((2, 4), np.float16))
    with h5py.File(shards(store, spec)[0]) as file:
        attributes: dict[str, Any] = dict(file.attrs)
    assert attributes["a row is"] == "one face of a photo or frame: found, given, or the whole image"
    assert (attributes["source"], attributes["tap"], attributes["level"]) == ("net", "embedding", "face")
    assert attributes["extractor_version"] == 1
    assert json.loads(attributes["weights"]) == {"net.pt": "ab" * 32}
    assert json.loads(attributes["preprocessing"]) == {"size": [112, 96]}
    assert json.loads(attributes["numerics"]) == {"engine": "torch-cpu", "dtype": "float16"}
    assert (attributes["licence"], attributes["packages"]) == ("CC0-1.0", "torch 2.14.1")
    assert set(json.loads(attributes["writer"])) == {"kuleshov schema", "h5py", "numpy", "python"}


def test_how_it_is_written_changes_no_key_and_no_value(tmp_path: Path, spec: BlockSpec) -> None:
    rows = np.arange(4_000).reshape(1000, 4).astype(np.float16)
    found, sizes = [], []
    for number, style in enumerate((STYLE, Style("gzip"), Style("lzf"))):
        store = Store(tmp_path / str(number))
        key = write(store, spec, rows, style)
        found.append(store.open(spec).rows([key])[0].tobytes())
        sizes.append(shards(store, spec)[0].stat().st_size)
    assert found == [rows.tobytes()] * 3
    assert max(sizes[1:]) < sizes[0]


@pytest.mark.parametrize("level", LEVELS)
def test_plain_tools_read_every_level(tmp_path: Path, level: str) -> None:
    if shutil.which("h5dump") is None or shutil.which("h5ls") is None:
        pytest.skip("h5dump and h5ls are not installed (hdf5-tools)")
    spec = BlockSpec("net", "pooled", level, (3,), 1, numerics={"dtype": "float16"})
    store = Store(tmp_path)
    write(store, spec, np.array([[1, 2, 3], [4, 5, 6.5]], np.float16))
    path = str(shards(store, spec)[0])
    listed = subprocess.run(["h5ls", path], check=True, capture_output=True, text=True).stdout.split("\n")
    assert [line.split()[0] for line in listed if line] == [
        "item_detail",
        "item_keys",
        "item_status",
        "offsets",
        "rows",
    ]
    dumped = subprocess.run(["h5dump", "-d", "rows", path], check=True, capture_output=True, text=True).stdout
    assert "(1,0): 4, 5, 6.5" in dumped


def test_rows_begin_on_a_page(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    write(store, spec, np.ones((5000, 4), np.float16))
    [shard] = store.open(spec).shards
    assert shard.offset is not None
    assert shard.offset % 4096 == 0


def test_a_compressed_shard_stays_compressed_when_failed_items_are_forgotten(tmp_path: Path, spec: BlockSpec) -> None:
    store, rows = Store(tmp_path), np.ones((100, 4), np.float16)
    key = write(store, spec, rows, Style("gzip", STYLE.made_by))
    assert list(forget_failed(next(iter(store.blocks()))).values()) == ["truncated"]
    with h5py.File(shards(store, spec)[0]) as file:
        assert pack.read_style(file) == Style("gzip", STYLE.made_by)
    block = Store(tmp_path).open(spec)
    assert block.has([key, item_key("b")]).tolist() == [True, False]
    assert block.rows([key])[0].tobytes() == rows.tobytes()


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of none, gzip, lzf"):
        Style("zip")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12), st.sets(st.integers(0, 5)))
def test_a_pack_without_some_items(items: list[tuple[int, int]], gone: set[int]) -> None:
    counts = [count for _, count in items]
    whole = Pack(
        keys=[bytes([name]) for name, _ in items],
        counts=counts,
        statuses=[f"s{i}" for i in range(len(items))],
        details={i: f"d{i}" for i in range(0, len(items), 2)},
        rows=np.repeat(np.arange(len(items)), counts)[:, None],
    )
    left = whole.without({bytes([name]) for name in gone})
    names = [name for name, _ in items]
    first = [i for i, name in enumerate(names) if name not in gone and names.index(name) == i]
    assert left.keys == [whole.keys[i] for i in first]
    assert left.statuses == [f"s{i}" for i in first]
    assert left.details == {new: f"d{old}" for new, old in enumerate(first) if old % 2 == 0}
    assert left.rows[:, 0].tolist() == [i for i in first for _ in range(counts[i])]
    assert (left is whole) == (len(first) == len(items))
