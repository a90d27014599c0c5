"""Which runtime computes: a rule over settings, device and what is installed, and a clear no where it cannot."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from stages import device, engines
from stages.engines import Engine, require, resolve
from stages.errors import SettingError


@pytest.fixture(params=[True, False], ids=["installed", "absent"])
def has_openvino(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found = ModuleSpec("openvino", None) if request.param else None
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: {"openvino": found}[name])
    return request.param


def test_auto_is_the_runtime_where_it_is_installed(has_openvino: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = "openvino" if has_openvino else "torch"
    assert resolve("extract", "auto", "cpu") == Engine(runtime, "cpu")
    assert resolve("extract", "auto", "cpu").name == f"{runtime}-cpu"
    assert resolve("extract", "auto", "cuda") == Engine("torch", "cuda")
    assert resolve("extract", "auto", "cpu", offered=("torch",)) == Engine("torch", "cpu")
    assert resolve("extract", "auto", "cpu", compile=True) == Engine("torch", "cpu", compile=True)
    assert resolve("extract", "auto", "cpu", "bfloat16") == Engine(runtime, "cpu", "bfloat16")
    for devices, name in ((0, f"{runtime}-cpu"), (2, "torch-cuda")):
        monkeypatch.setattr(device, "cuda_devices", lambda count=devices: count)
        assert resolve("detect", "auto", "auto").name == name


def test_what_is_named_is_taken_and_needed_only_to_compute(has_openvino: bool) -> None:
    assert resolve("extract", "torch", "cpu") == Engine("torch", "cpu")
    named = resolve("detect", "openvino", "cpu")
    assert named == Engine("openvino", "cpu")
    if has_openvino:
        require("detect", named)
    else:
        with pytest.raises(SettingError, match=r"^detect\.engine is openvino, .* run pip install 'kuleshov\[fast\]'"):
            require("detect", named)
    require("detect", Engine("torch", "cpu"))


def test_settings_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingError, match=r"^detect\.engine is openvino, which is for CPUs, .* or detect\.device to cpu$"
    ):
        resolve("detect", "openvino", "cuda")
    monkeypatch.setattr(device, "cuda_devices", lambda: 1)
    with pytest.raises(SettingError, match=r"is cuda; set extract\.engine to torch, or extract\.device to cpu"):
        resolve("extract", "openvino", "auto")
    with pytest.raises(SettingError, match=r"^extract\.compile is true, which is torch's; set extract\.engine"):
        resolve("extract", "openvino", "cpu", compile=True)
    with pytest.raises(SettingError, match=r"^detect\.engine is openvino, which this network has not: use torch"):
        resolve("detect", "openvino", "cpu", offered=("torch",))
    with pytest.raises(SettingError, match=r"^extract\.compute is float16, which a CPU does not compute in; set it to"):
        resolve("extract", "auto", "cpu", "float16")
    assert resolve("extract", "auto", "cuda", "float16") == Engine("torch", "cuda", "float16")


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_processor_without_bfloat16_is_not_asked_for_it(
    runtime: engines.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "installed", lambda: True)
    monkeypatch.setattr(engines, "_CPUINFO", tmp_path / "cpuinfo")
    wanted = Engine(runtime, "cpu", "bfloat16")
    for text, found in (
        (None, False),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("model name : bf16\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", True),
    ):
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text)
        engines.processor.cache_clear()
        if found:
            require("extract", wanted)
        else:
            with pytest.raises(SettingError, match=r"^extract\.compute is bfloat16, and the processor .* to float32$"):
                require("extract", wanted)
    engines.processor.cache_clear()


def test_torch_compiles_only_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingError, match=r"^extract\.compile is true, and .* compiler 'no-such-compiler' on .*CXX"):
        require("extract", Engine("torch", "cpu", compile=True))
    require("extract", Engine("torch", "cpu"))
    monkeypatch.setenv("CXX", "python3")  # any program that is there
    require("extract", Engine("torch", "cpu", compile=True))


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingError, match=r"^extract\.device is cuda, .* set it to cpu$"):
        require("extract", Engine("torch", "cuda"))


def test_a_shard_says_what_computed_it() -> None:
    assert Engine("openvino", "cpu").packages == ("torch", "openvino")
    assert Engine("torch", "cuda").packages == ("torch",)


def test_torch_holds_images_as_the_device_wants_them() -> None:
    assert Engine("torch", "cpu").layout == "channels_last"
    assert Engine("torch", "cuda").layout == "contiguous_format"
    assert Engine("torch", "cuda", "bfloat16").layout == "channels_last"
    assert Engine("openvino", "cpu").layout is None
