"""The device: a rule over the setting and the driver, and a clear no where torch cannot follow."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from stages import device
from stages.errors import SettingError


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    device.cuda_devices.cache_clear()
    yield
    device.cuda_devices.cache_clear()


class _Driver:
    """As much of libcuda as is asked."""

    def __init__(self, status: int, count: int) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:
        count._obj.value = self.count  # pyright: ignore[reportAttributeAccessIssue]
        return 0


@pytest.mark.parametrize(("status", "count", "name"), [(0, 2, "cuda"), (0, 0, "cpu"), (100, 2, "cpu")])
def test_auto_asks_the_driver(monkeypatch: pytest.MonkeyPatch, status: int, count: int, name: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda library: _Driver(status, count))
    assert device.resolve("auto") == name
    assert device.cuda_devices() == (count if name == "cuda" else 0)
    assert (device.resolve("cpu"), device.resolve("cuda")) == ("cpu", "cuda")


def test_no_driver_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(library: str) -> None:
        raise OSError(library)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert device.cuda_devices() == 0
    assert device.resolve("auto") == "cpu"


def test_a_device_that_torch_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    device.require("detect", "cpu")
    with pytest.raises(
        SettingError, match=r"^detect\.device is cuda, but torch .* finds no CUDA device here; set it to"
    ):
        device.require("detect", "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    device.require("detect", "cuda")


def test_full_float32_is_only_within() -> None:
    flags = torch.backends.cudnn
    before = (flags.allow_tf32, flags.deterministic, flags.benchmark)
    with device.full_float32():
        assert (flags.allow_tf32, flags.deterministic, flags.benchmark) == (False, True, False)
    assert (flags.allow_tf32, flags.deterministic, flags.benchmark) == before


def test_resolving_imports_no_torch() -> None:
    code = "import sys; from stages.device import resolve; resolve('auto'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
