"""Dtypes of stored rows. numpy has no bfloat16, so its bits are kept as uint16 and its rows are given as float32.

| `numerics.dtype` | bytes | largest | relative error of a rounded value |
|---|---|---|---|
| `float32` | 4 | 3.4e38 | none |
| `float16` | 2 | 65,504 | 2^-11 (0.05 %) from 6.1e-5 on; below, at most 3e-8 absolute |
| `bfloat16` | 2 | 3.4e38 | 2^-8 (0.4 %) |
"""

from __future__ import annotations

import h5py
import numpy as np

from cache.keys import BlockSpec

BFLOAT16 = "bfloat16"


def name(spec: BlockSpec) -> str:
    """`numerics.dtype` of a block; float32 where its spec says none."""
    return str(spec.numerics.get("dtype", "float32"))


def stored(spec: BlockSpec) -> np.dtype:
    """The numpy dtype of a block's bytes: uint16 for bfloat16."""
    return np.dtype(np.uint16 if name(spec) == BFLOAT16 else name(spec))


def given(spec: BlockSpec) -> np.dtype:
    """The dtype of the rows that readers get: float32 for bfloat16."""
    return np.dtype(np.float32 if name(spec) == BFLOAT16 else name(spec))


def file_type(spec: BlockSpec) -> h5py.h5t.TypeID:
    """The HDF5 type of the dataset `rows`. For bfloat16 a float of 1, 8 and 7 bits, which h5py reads as float32."""
    if name(spec) != BFLOAT16:
        return h5py.h5t.py_create(stored(spec))
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)  # sign, exponent and its bits, mantissa and its bits
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float -> the bits of bfloat16 (uint16), rounded to the nearest, ties to even. NaN stays NaN."""
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 (uint16) -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
