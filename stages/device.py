"""Which device a stage computes on: a fixed rule over the setting and the machine, never a timing.

Asks the driver directly, so that a stage with nothing left to compute need not import torch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from stages.errors import SettingError

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
    """`auto` is `cuda` where the driver offers a device, else `cpu`.

    Does not check that the device can be used: what was computed on another machine can be read on this one.
    """
    if device == "auto":
        return "cuda" if cuda_devices() else "cpu"
    return device


def require(place: str, device: str) -> None:
    """Check that torch can compute on a device, before a network is loaded on it.

    Args:
        place: the settings' name, such as `detect`.
        device: `cpu` or `cuda`.

    Raises:
        SettingError: it is `cuda` and torch finds no CUDA device (no GPU, no driver, or a torch built for the CPU).
    """
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise SettingError(
                f"{place}.device is {device}, but torch {torch.__version__} finds no CUDA device here; set it to cpu"
            )


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions on a GPU in full float32 and the same each time; torch's default rounds to TF32's 10 bits."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
