"""Our reader of MATLAB files against scipy's writer and reader, and against damage."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from stages.errors import DataError
from stages.index.matlab import read_mat

NAMES, FIELDS = ("data", "other"), ("a", "b", "deep")


def cell(*values: object) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


VALUE = {
    "a": cell("Peace", "Doubt/Confusion é", cell(1.5, np.arange(6).reshape(2, 3))),
    "b": np.uint8(7),
    "c": "passed",
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(value: object, packed: bool = False, **more: object) -> Path:
        savemat(tmp_path / "x.mat", {"first": 1.0, "data": value, **more}, do_compression=packed)
        return tmp_path / "x.mat"

    return save


def load(path: Path) -> dict[str, Any]:
    return read_mat(path, "data", NAMES, FIELDS)


@pytest.mark.parametrize("packed", [False, True])
def test_values(saved: Callable[..., Path], packed: bool) -> None:
    found = load(saved(VALUE, packed, other=np.array([[True, False]])))
    columns_first = [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    assert found == {
        "data": [{"a": ["Peace", "Doubt/Confusion é", [[1.5], columns_first]], "b": [7.0]}],
        "other": [1.0, 0.0],
    }
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.uint64, np.float32, np.float64):
        assert load(saved(np.array([[1, 2, 3]], dtype))) == {"data": [1.0, 2.0, 3.0]}
    assert load(saved(np.arange(24.0).reshape(2, 3, 4)))["data"] == list(np.arange(24.0).reshape(2, 3, 4).ravel("F"))
    assert load(saved(np.empty((0, 0)))) == {"data": []}
    assert load(saved("")) == {"data": ""}


def test_a_file_of_another_byte_order(saved: Callable[..., Path]) -> None:
    """A file as scipy wrote it on this machine, turned by hand: what an old workstation would have written."""
    path = saved(np.array([[1.0, 2.5]]))
    name = b"data"
    body = (
        struct.pack(">8I", 6, 8, 6, 0, 5, 8, 1, 2)
        + struct.pack(">HH4s", 4, 1, name)
        + struct.pack(">II2d", 9, 16, 1, 2.5)
    )
    header = b"MATLAB 5.0".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    path.write_bytes(header + struct.pack(">II", 14, len(body)) + body)
    assert load(path) == {"data": [1.0, 2.5]}
    assert loadmat(path)["data"].tolist() == [[1.0, 2.5]]


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with pytest.raises(DataError, match=r"data: .*x\.mat cannot be read \(No such file"):
        load(path)
    seven = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM" + b"\x89HDF"
    for data in (b"", b"no", b"x" * 500, seven):
        path.write_bytes(data)
        with pytest.raises(DataError, match="is no MATLAB file of version 5: take the original, or save it"):
            load(path)


@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_one_error(saved: Callable[..., Path], packed: bool) -> None:
    """Cut off anywhere and with bytes changed: values or one line, never another exception nor a crash."""
    path = saved(VALUE, packed)
    good, chance = path.read_bytes(), random.Random(5)
    refused = 0
    for turn in range(200):
        data = bytearray(good)
        if turn % 4 == 0:
            del data[chance.randrange(128, len(data)) :]
        for _ in range(chance.choice((0, 1, 2, 20)) if turn % 4 == 0 else chance.choice((1, 2, 20))):
            data[chance.randrange(128 if len(data) > 128 else 0, len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            load(path)
        except DataError:
            refused += 1
    assert refused > (180 if packed else 50)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("count", r"2147483647 elements in \d+ bytes"),
        ("numbers", r"2147483647 numbers of type 9 in 8 bytes"),
        ("size", r"an element of 268435455 bytes at byte \d+ ends after what it is in"),
    ],
)
def test_sizes_that_would_ask_for_all_memory(saved: Callable[..., Path], at: str, said: str) -> None:
    path = saved(cell(1.5) if at != "numbers" else 1.5)
    data = bytearray(path.read_bytes())
    start = data.index(b"data") - 4 - 16  # the dimensions' tag stands before the name's
    if at == "size":
        place = data.index(struct.pack("<II", 14, 56), start)
        data[place + 4 : place + 8] = struct.pack("<I", 0x0FFFFFFF)
    else:
        data[start + 8 : start + 16] = struct.pack("<II", 0x7FFFFFFF, 1)
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        load(path)


def test_arrays_in_arrays_have_an_end(saved: Callable[..., Path]) -> None:
    value: object = 1.0
    for _ in range(60):
        value = cell(value)
    with pytest.raises(DataError, match="more than 24 arrays in arrays"):
        load(saved(value))
