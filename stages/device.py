"""Which device a stage computes on: a fixed rule over the setting and the machine, never a timing.

Asks the driver directly, so that a stage with nothing left to compute need not import torch.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda"]


@functools.cache
def cuda_devices() -> int:
    """How many CUDA devices the driver offers; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def resolve(device: DeviceName) -> Literal["cpu", "cuda"]:
    """`auto` is `cuda` where the driver offers a device, else `cpu`."""
    if device == "auto":
        return "cuda" if cuda_devices() else "cpu"
    return device
