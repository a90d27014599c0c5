"""Weights that are not what they should be: cut short, foreign, of another shape, or with code in them."""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.backbones import effnet_lite0, expression, mini_xception, registry, resnet29, torchvision, weights
from stages.backbones.dlib_file import read_layers
from stages.backbones.networks.expression import MANIFEST, read_tensors
from stages.backbones.states import load_strictly, read_state
from stages.errors import WeightsError


@pytest.fixture(scope="module")
def dat(weights_folder: Path) -> bytes:
    return weights.locate("resnet29", weights_folder).read_bytes()


@pytest.mark.parametrize("kept", [0, 3, 100, 340, 20_000, 19_713, 22_334_902, -5_000, -72, -2, -1])
def test_a_dat_cut_short_is_refused(dat: bytes, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.dat"
    cut.write_bytes(dat[:kept])
    with pytest.raises(WeightsError, match=r"cut\.dat") as caught:
        resnet29.load_state(registry.build("resnet29"), cut)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "foreign",
    [b"", b"PK\x03\x04" + bytes(500), b"\x01\x0dloss_metric_2" + bytes(5000), b"\x80\x02}q\x00." + bytes(100)],
    ids=["empty", "zip", "header", "pickle"],
)
def test_a_foreign_dat_is_refused(tmp_path: Path, foreign: bytes) -> None:
    (tmp_path / "foreign.dat").write_bytes(foreign)
    with pytest.raises(WeightsError, match="no whole dlib face network"):
        resnet29.load_state(registry.build("resnet29"), tmp_path / "foreign.dat")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x01\x05con_4\x01\x02\x02\x80\x12", b"\x01\x05con_4\x01\x03\x02\x80\x12"),  # a tensor of another version
        (b"\x01\x05con_4\x01\x02\x02\x80\x12", b"\x01\x05con_4\x01\x02\x82\x80\x12"),  # of negative size
        (b"\x01\x09add_prev_111", b"\x01\x05relu_111\x00\x00\x00"),  # a malformed number after another layer
        (b"\x01\x05relu_110", b"\x01\x05rule_110"),  # a class name that is none
    ],
)
def test_a_dat_with_another_layer_is_refused(dat: bytes, tmp_path: Path, old: bytes, new: bytes) -> None:
    assert old in dat
    (tmp_path / "other.dat").write_bytes(dat.replace(old, new, 1))
    with pytest.raises(WeightsError, match=r"other\.dat"):
        resnet29.load_state(registry.build("resnet29"), tmp_path / "other.dat")


def test_a_dat_with_other_strides_is_refused(dat: bytes, tmp_path: Path) -> None:
    # The first convolution's settings follow its 4736 values: 32 filters, 7x7, stride 2.
    settings = bytes([1, 32, 1, 7, 1, 7, 1, 2, 1, 2, 1, 0, 1, 0])
    assert dat.count(settings) == 1
    (tmp_path / "other.dat").write_bytes(dat.replace(settings, bytes([1, 32, 1, 7, 1, 7, 1, 1, 1, 1, 1, 0, 1, 0])))
    with pytest.raises(WeightsError, match=r"\(32, 7, 7, 1, 1, 0, 0\) where ResNet-29 has \(32, 7, 7, 2, 2, 0, 0\)"):
        resnet29.load_state(registry.build("resnet29"), tmp_path / "other.dat")


def test_the_dat_has_the_layers_of_the_paper(weights_folder: Path) -> None:
    layers = read_layers(weights.locate("resnet29", weights_folder))
    kinds = [layer.kind for layer in layers]
    assert [kinds.count(kind) for kind in ("con_4", "affine_", "fc_2")] == [29, 29, 1]
    assert layers[0].settings == (32, 7, 7, 2, 2, 0, 0)
    assert sum(layer.values.size for layer in layers) == 5_614_592


@pytest.fixture
def tfjs(weights_folder: Path, tmp_path: Path) -> Path:
    """A copy of the expression network's two files."""
    path = weights.locate("expression", weights_folder)
    shutil.copy(path.with_name(MANIFEST), tmp_path / MANIFEST)
    return Path(shutil.copy(path, tmp_path / path.name))


@pytest.mark.parametrize("change", [-1, -100_000, 1])
def test_a_bin_of_another_length_is_refused(tfjs: Path, change: int) -> None:
    data = tfjs.read_bytes()
    tfjs.write_bytes(data[:change] if change < 0 else data + b"\0")
    with pytest.raises(WeightsError, match=f"has {329_468 + change} bytes, its manifest asks for 329468"):
        expression.load_state(registry.build("expression"), tfjs)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '[{"weights": [{"name": "a"}]}]'])
def test_a_damaged_manifest_is_refused(tfjs: Path, text: str) -> None:
    (tfjs.parent / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match="manifest"):
        expression.load_state(registry.build("expression"), tfjs)


def test_tensors_of_another_network_are_refused(tfjs: Path) -> None:
    manifest = tfjs.parent / MANIFEST
    manifest.write_text(manifest.read_text("utf-8").replace("dense3/conv3", "dense3/conv4"), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"3 missing: dense3\.conv3.*3 unexpected: dense3\.conv4"):
        expression.load_state(registry.build("expression"), tfjs)


def test_tensorflow_js_values_by_hand(tmp_path: Path) -> None:
    packed = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    listed = [
        {"name": "a", "shape": [2, 2], "dtype": "float32", "quantization": packed},
        {"name": "b", "shape": [1], "dtype": "float32"},
    ]
    (tmp_path / "m.json").write_text(json.dumps([{"weights": listed}]), encoding="utf-8")
    (tmp_path / "w.bin").write_bytes(bytes([0, 1, 2, 255]) + np.array([1.5], "<f4").tobytes())
    tensors = read_tensors(tmp_path / "w.bin", tmp_path / "m.json")
    assert tensors["a"].tolist() == [[-1.0, -0.5], [0.0, 126.5]]
    assert tensors["b"].tolist() == [1.5]
    listed[1]["dtype"] = "int32"
    (tmp_path / "m.json").write_text(json.dumps([{"weights": listed}]), encoding="utf-8")
    with pytest.raises(WeightsError, match="tensor b is int32"):
        read_tensors(tmp_path / "w.bin", tmp_path / "m.json")


@pytest.mark.parametrize("kept", [0, 100, 5_000, 400_000])
def test_an_hdf5_cut_short_is_refused(weights_folder: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(weights.locate("mini_xception", weights_folder).read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"cut\.hdf5 is no whole mini_XCEPTION"):
        mini_xception.load_state(registry.build("mini_xception"), cut)


class _Code:
    """Runs a command when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.touched}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path: Path, legacy: bool) -> None:
    touched, file = tmp_path / "touched", tmp_path / "evil.pth"
    torch.save({"_fc.weight": _Code(touched)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="no plain state dict"):
        effnet_lite0.load_state(registry.build("effnet_lite0"), file)
    assert not touched.exists()
    torch.load(file, weights_only=False)  # the file does what it is meant to
    assert touched.exists()


@pytest.mark.parametrize("kept", [0, 10, 3_000])
def test_a_torch_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "cut.pth"
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        read_state(file)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"model": {"a": torch.zeros(1)}}, torch.zeros(1)])
def test_a_torch_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not a dict of tensors"):
        read_state(tmp_path / "other.pth")


def test_a_state_that_does_not_fit_lists_its_faults(tmp_path: Path) -> None:
    module = registry.build("effnet_lite0")
    state = OrderedDict(module.state_dict())
    del state["_fc.bias"]
    for i in range(9):
        state[f"extra{i}"] = torch.zeros(1)
    state["_conv_stem.weight"] = torch.zeros(32, 1, 3, 3)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError) as caught:
        effnet_lite0.load_state(module, tmp_path / "odd.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'odd.pth'} does not fit EfficientNetLite0: 1 missing: _fc.bias; "
        "9 unexpected: extra0, extra1, extra2, extra3, ...; "
        "1 wrong shape: _conv_stem.weight (32, 1, 3, 3) for (32, 3, 3, 3)"
    )


def test_old_files_without_batch_counters_fit(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    state = {key: value + 1 for key, value in module.state_dict().items() if "num_batches" not in key}
    load_strictly(module, state, tmp_path)
    assert module.state_dict()["1.running_mean"].tolist() == [1.0, 1.0]


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert read_state(tmp_path / "a.safetensors")["a"].tolist() == [0.0, 1.0, 2.0]
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:40])
    with pytest.raises(WeightsError, match="cannot be read as a state dict"):
        read_state(tmp_path / "b.safetensors")


def test_old_densenet_names_are_translated(tmp_path: Path) -> None:
    module = registry.build("torchvision:densenet121")
    state = {key.removeprefix("net."): value for key, value in module.state_dict().items()}
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key: value
        for key, value in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    other = registry.build("torchvision:densenet121")
    torchvision.load_state(other, tmp_path / "old.pth")
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in other.state_dict().items())
