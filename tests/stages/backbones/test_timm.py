"""timm's models, where timm is installed. Its weights are not on this machine, so the files are made here: state
dicts as timm's own networks write them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.backbones import registry, weights
from stages.backbones import timm as family
from stages.backbones.fetching import fetch
from stages.errors import SettingError, WeightsError

timm = pytest.importorskip("timm")
RELEASED = "timm:resnet18.a1_in1k"  # a file of timm's releases, with a hash in its name
HUB = "timm:mobilenetv4_conv_small.e2400_r224_in1k"  # a file of the hub, with none
SQUASHED = "timm:coatnet_rmlp_2_rw_384"


def test_the_spec_is_that_of_the_weights() -> None:
    spec = registry.get_spec(RELEASED)
    config = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert spec.input_size == config.input_size[1:] == (224, 224)
    assert spec.mean == (123.675, 116.28, 103.53)
    assert spec.std == (58.395, 57.12, 57.375)
    assert (spec.interpolation, spec.resize) == ("bicubic", "shortest_side_center_crop")
    assert spec.resize_to == math.floor(224 / config.crop_pct) == 235
    assert [(tap.name, tap.level, tap.shape) for tap in spec.taps] == [("pooled", "global", (512,))]
    assert (spec.licence, spec.paper, spec.weights) == ("apache-2.0", "arXiv:2110.00476", RELEASED)
    plain = registry.get_spec("timm:resnet18")
    assert plain == dataclasses.replace(spec, name="timm:resnet18")  # its weights are named with their tag


@pytest.mark.parametrize(
    ("model", "features", "size"),
    [
        ("vit_tiny_patch16_224", 192, 224),
        ("convnext_atto", 320, 224),
        ("mobilenetv3_small_100", 1024, 224),  # after the convolution that follows the pooling
        ("vgg11", 4096, 224),
        ("caformer_s18", 512, 224),  # not what its head of two layers makes of it
        ("densenet121", 1024, 224),
        ("tf_efficientnet_b0.ns_jft_in1k", 1280, 224),
    ],
)
def test_pooled_is_what_the_classifier_reads(model: str, features: int, size: int) -> None:
    spec = registry.get_spec(f"timm:{model}")
    assert spec.tap("pooled").shape == (features,)
    assert spec.input_size == (size, size)


@torch.inference_mode()
def test_pooled_by_hand() -> None:
    torch.manual_seed(0)
    backbone = registry.build(RELEASED).eval()
    own = timm.create_model("resnet18", pretrained=False).eval()
    own.load_state_dict(backbone.get_submodule("net").state_dict(), strict=False)
    images = torch.randn(2, 3, 96, 96)
    expected = own.forward_features(images).mean((2, 3))
    torch.testing.assert_close(backbone(images)["pooled"], expected, rtol=1e-5, atol=1e-5)


def test_pixels_are_prepared_as_timm_does() -> None:
    import numpy as np
    from PIL import Image

    from stages.backbones.preprocess import fit, preprocess

    pixels = np.random.default_rng(0).integers(0, 256, (300, 410, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((640, 480))
    for name in (RELEASED, "timm:vit_tiny_patch16_224", SQUASHED):
        spec = registry.get_spec(name)
        settings = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name[5:]).to_dict())
        expected = timm.data.create_transform(**settings)(image)
        found = preprocess(torch.from_numpy(fit(image, spec))[None], spec)[0]
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) <= 1.01 / 255 / min(settings["std"])  # a rounding of the resizing


def test_where_the_files_are() -> None:
    released = weights.entry(RELEASED)
    assert released.filename == "resnet18_a1_0-d63eafa0.pth"
    assert released.sha256 == "d63eafa0"
    assert isinstance(released.source, weights.Url)
    assert released.source.url.startswith("https://github.com/")
    hub = weights.entry(HUB)
    assert hub.filename.endswith(".safetensors")
    assert hub.source == weights.Own(f"https://huggingface.co/timm/{HUB[5:]}/resolve/main/model.safetensors")
    assert weights.entry("timm:resnet18") == released
    assert weights.entry("timm:convnextv2_atto").warnings[0].endswith("allows no commercial use (cc-by-nc-4.0)")


def test_weights_of_the_hub_are_ones_own(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model(HUB[5:], pretrained=False).state_dict()  # with its classifier, as the hub's file
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    with pytest.raises(
        WeightsError, match=r"get https://huggingface\.co/timm/mobilenetv4.*weights add timm:.* --trust"
    ):
        fetch(HUB, folder)
    with pytest.raises(WeightsError, match=r"none is published.*--trust"):
        weights.add(HUB, file, folder)
    path = weights.add(HUB, file, folder, trust=True)
    assert path.suffix == ".safetensors"
    assert weights.sha256(HUB, folder) == hashlib.sha256(file.read_bytes()).hexdigest()
    loaded = registry.load(HUB, weights_dir=folder).get_submodule("net").state_dict()
    assert loaded.keys() < state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    plain = HUB.partition(".")[0]
    assert registry.get_spec(plain).weights == HUB
    assert weights.status(plain, folder).trusted


def test_heads_of_several_layers_are_left_out(folder: Path, tmp_path: Path) -> None:
    name = "timm:levit_128s"  # a batch normalisation before the classifier
    save_file(timm.create_model("levit_128s", pretrained=False).state_dict(), tmp_path / "levit.safetensors")
    weights.add(name, tmp_path / "levit.safetensors", folder, trust=True)
    assert family._classifiers(("head.fc.fc2",), ["head.norm.weight"]) == ["head.fc."]
    assert family._classifiers("fc", ["fc1.weight"]) == ["fc."]
    assert family._classifiers("fc", ["fc.weight"]) == []
    assert family._classifiers(None, ["fc.weight"]) == []


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    state = timm.create_model("resnet34", pretrained=False).state_dict()
    torch.save(state, tmp_path / "resnet34.pth")
    with pytest.raises(WeightsError, match=r"resnet34\.pth does not fit ResNet: \d+ unexpected: layer1\.2\."):
        weights.add(RELEASED, tmp_path / "resnet34.pth", folder, trust=True)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm", "write timm:MODEL"),
        ("timm:resnet18x", "resnet18"),
        ("timm:resnet18.nothing", "such as resnet18.a1_in1k"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "is unknown"),
        ("timm:local-dir:models", "is unknown"),
        ("timm:dm_nfnet_f0", "crop mode 'squash' of 0.9 for 192x192"),
    ],
)
def test_a_wrong_name_says_what_there_is(name: str, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        registry.get_spec(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    for ask in (registry.get_spec, weights.entry):
        with pytest.raises(
            SettingError, match=r"^backbones timm:MODEL need timm, .*; run pip install 'kuleshov\[timm\]'$"
        ):
            ask("timm:resnet34.gluon_in1k")


def test_other_backbones_do_without() -> None:
    program = (
        "import sys; sys.modules['timm'] = None; from stages.backbones import registry, weights;"
        "[registry.get_spec(name) for name in registry.names()]; weights.catalogue()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
