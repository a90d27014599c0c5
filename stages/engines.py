"""Which runtime computes a network: a fixed rule over the settings, the device and what is installed, never a timing.

Nothing heavy is imported here, so that a stage with nothing left to compute need not wait for it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages import device as devices
from stages.device import DeviceName
from stages.errors import SettingError

Runtime = Literal["torch", "openvino"]
EngineName = Literal["auto", "torch", "openvino"]
ComputeName = Literal["float32", "bfloat16", "float16"]

RUNTIMES: tuple[Runtime, ...] = ("torch", "openvino")
INSTALL = "pip install 'kuleshov[fast]'"

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""How Linux calls the instructions on x86 and on ARM."""


@dataclass(frozen=True)
class Engine:
    """What computes a network.

    Attributes:
        runtime: `torch` or `openvino`.
        device: `cpu` or `cuda`.
        compute: what its layers compute in.
        compile: whether torch compiles the network first.
    """

    runtime: Runtime
    device: Literal["cpu", "cuda"]
    compute: ComputeName = "float32"
    compile: bool = False

    @property
    def name(self) -> str:
        """As in a key, such as `torch-cpu`."""
        return f"{self.runtime}-{self.device}"

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that compute: torch prepares what OpenVINO gets."""
        return ("torch",) if self.runtime == "torch" else ("torch", self.runtime)

    @property
    def layout(self) -> str | None:
        """How torch holds images while it computes; None: the runtime decides.

        On a CPU channels_last is 1.2 to 2.2 times as fast, at relative differences of 1e-6, by backbone. A GPU's units
        for bfloat16 and float16 want it as well; in float32 they are not used, and torch's own order is kept.
        """
        if self.runtime != "torch":
            return None
        return "channels_last" if self.device == "cpu" or self.compute != "float32" else "contiguous_format"


TORCH_CPU = Engine("torch", "cpu")


def installed() -> bool:
    """Whether OpenVINO can be imported here; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


def resolve(
    place: str,
    engine: EngineName,
    device: DeviceName,
    compute: ComputeName = "float32",
    compile: bool = False,
    offered: Collection[str] = RUNTIMES,
) -> Engine:
    """The engine of some settings on this machine.

    `auto` is OpenVINO on a CPU where it is installed, else torch. Does not check that the engine can be used: what was
    computed on another machine can be read on this one.

    Args:
        place: the settings' name, `detect` or `extract`.
        compile: wants torch.compile, which only torch has.
        offered: runtimes that the network can be run with.

    Raises:
        SettingError: the settings contradict each other.
    """
    found = devices.resolve(device)
    if compute == "float16" and found == "cpu":
        raise SettingError(
            f"{place}.compute is float16, which a CPU does not compute in; set it to float32 or bfloat16, "
            f"or {place}.device to cuda"
        )
    if engine == "auto":
        fast = found == "cpu" and not compile and "openvino" in offered and installed()
        return Engine("openvino" if fast else "torch", found, compute, compile)
    if engine not in offered:
        raise SettingError(f"{place}.engine is {engine}, which this network has not: use {', '.join(offered)}")
    if engine == "openvino" and found != "cpu":
        raise SettingError(
            f"{place}.engine is openvino, which is for CPUs, and the device is {found}; set {place}.engine to torch, "
            f"or {place}.device to cpu"
        )
    if engine == "openvino" and compile:
        raise SettingError(f"{place}.compile is true, which is torch's; set {place}.engine to torch")
    return Engine(engine, found, compute, compile)


def require(place: str, engine: Engine) -> None:
    """Check that this machine can compute with an engine, before a network is loaded.

    Raises:
        SettingError: OpenVINO is not installed, torch finds no CUDA device or no compiler, or the processor has no
            bfloat16.
    """
    devices.require(place, engine.device)
    if engine.runtime == "openvino" and not installed():
        raise SettingError(
            f"{place}.engine is openvino, which is not installed on {platform.node()}; run {INSTALL}, "
            f"or set {place}.engine to torch"
        )
    if engine.device == "cpu" and engine.compile and not shutil.which(_compiler()):
        raise SettingError(
            f"{place}.compile is true, and torch.compile finds no C++ compiler {_compiler()!r} on {platform.node()}; "
            f"install one, name it in CXX, or set {place}.compile to false"
        )
    if engine.device == "cpu" and engine.compute == "bfloat16" and not _BFLOAT16 & processor():
        raise SettingError(
            f"{place}.compute is bfloat16, and the processor of {platform.node()} has no instructions for it: it would "
            f"be several times slower; set {place}.compute to float32"
        )


def _compiler() -> str:
    """The C++ compiler that torch.compile calls."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


@functools.cache
def processor() -> frozenset[str]:
    """What the processor can do, in Linux's words; nothing on another system."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()[2:]
    )
