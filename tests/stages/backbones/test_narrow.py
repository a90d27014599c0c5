"""Narrow networks: the full ones layer by layer at a quarter of the channels, their taps, files and training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from stages.align.templates import find
from stages.backbones import families, narrow, registry, weights
from stages.backbones.shapes import without_memory
from stages.errors import WeightsError

NAMES = [f"narrow:{variant}" for variant in narrow.VARIANTS]
Shape = tuple[int, ...]
# Their inputs are other maps: (channels x places in, channels out) of the full network and of the narrow one.
READS_A_MAP = {
    "sphereface20": ("fc5.weight", (512, 512 * 7 * 6), (128, 128 * 4 * 3)),
    "sphereface64": ("fc5.weight", (512, 512 * 7 * 6), (128, 128 * 4 * 3)),
    "vgg19": ("classifier.0.weight", (4096, 512 * 7 * 7), (1024, 128 * 2 * 2)),
}
# Of torchvision's networks: the layers behind the taps.
LAST = ("fc.", "classifier.6.")
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def _weights_of(name: str) -> dict[str, Shape]:
    """Shapes of all tensors, without the layers that are no part of a backbone."""
    with without_memory():
        state = registry.build(name).state_dict()
    drop = ("classifier.",) if name.endswith("densenet161") else LAST
    found = {key.removeprefix("net."): tuple(value.shape) for key, value in state.items()}
    return {key: shape for key, shape in found.items() if not key.startswith(drop)}


def _quarter(shape: Shape, colours: bool) -> Shape:
    """Of outputs and inputs; kernels stay, and so do the three colours."""
    channels, kernel = shape[:2], shape[2:]
    ours = tuple(side if colours and place == 1 else side // 4 for place, side in enumerate(channels))
    return ours + kernel


@pytest.mark.parametrize("variant", narrow.VARIANTS)
def test_every_layer_is_a_quarter_of_the_full_ones(variant: str) -> None:
    full, ours = _weights_of(narrow.OF[variant]), _weights_of(f"narrow:{variant}")
    assert list(ours) == list(full), "the same layers, in the same order"
    if variant in READS_A_MAP:
        key, theirs, here = READS_A_MAP[variant]
        assert (full.pop(key), ours.pop(key)) == (theirs, here)
    first = next(key for key, shape in full.items() if len(shape) == 4)
    assert full[first][1] == 3
    assert ours == {key: _quarter(shape, key == first) for key, shape in full.items()}


@pytest.mark.parametrize("variant", narrow.VARIANTS)
def test_what_goes_in_and_comes_out(variant: str) -> None:
    spec, full = registry.get_spec(f"narrow:{variant}"), registry.get_spec(narrow.OF[variant])
    assert (spec.input, spec.colour, spec.mean, spec.std) == (full.input, full.colour, full.mean, full.std)
    assert (spec.resize, spec.interpolation, spec.crop_size) == (full.resize, full.interpolation, full.crop_size)
    assert [tap.name for tap in spec.taps] == [tap.name for tap in full.taps]
    assert [tap.level for tap in spec.taps] == [tap.level for tap in full.taps]
    assert [tap.shape[0] for tap in spec.taps] == [tap.shape[0] // 4 for tap in full.taps]
    if spec.input == "image":
        assert (spec.input_size, spec.resize_to) == ((64, 64), 73)
        assert abs(64 / 73 - 224 / 256) < 0.002
    elif variant == "vgg_face":
        assert (spec.template, spec.input_size) == ("box64", (64, 64))
        box, other = find("box64"), find(str(full.template))
        assert (box.margin, box.square) == (other.margin, other.square)
    else:
        assert (spec.template, spec.input_size) == (full.template, full.input_size)


def test_photos_of_torchvisions_networks_have_its_scale() -> None:
    for variant in ("resnet18", "vgg19"):
        spec = registry.get_spec(f"narrow:{variant}")
        assert (spec.colour, spec.mean, spec.std) == ("RGB", *IMAGENET)


@torch.inference_mode()
def test_spherefaces_crops_are_halved() -> None:
    torch.manual_seed(0)
    module = registry.build("narrow:sphereface20").eval()
    seen: list[torch.Tensor] = []
    module.get_submodule("conv1_1").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    crop = torch.randn(2, 3, 112, 96)
    module(crop)
    assert torch.equal(seen[0], F.interpolate(crop, size=(56, 48), mode="area"))


@torch.inference_mode()
@pytest.mark.parametrize("variant", ["densenet161", "resnet50", "vgg19", "vgg_face", "vgg19_44"])
def test_taps_are_what_the_next_layers_read(variant: str) -> None:
    torch.manual_seed(0)
    module = registry.build(f"narrow:{variant}").eval()
    spec = registry.get_spec(f"narrow:{variant}")
    out = module(torch.randn(2, 3, *spec.input_size))
    assert all(bool((value >= 0).all()) and bool(value.any()) for value in out.values()), "after ReLU"
    if variant == "vgg19":
        assert torch.equal(module.get_submodule("classifier")(out["map"].flatten(1)), out["pooled"])
    elif variant == "densenet161":
        torch.testing.assert_close(out["map"].mean((2, 3)), out["pooled"])
    elif variant == "resnet50":
        torch.testing.assert_close(out["layer4"].mean((2, 3)), out["pooled"])
        torch.testing.assert_close(module.get_submodule("layer4")(out["layer3"]), out["layer4"])
    elif variant == "vgg_face":
        assert torch.equal(F.max_pool2d(out["conv5_3"], 2), out["pool5"])
    else:
        assert len({tap.shape for tap in spec.taps}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_every_filter(name: str) -> None:
    torch.manual_seed(0)
    module, spec = registry.build(name).train(), registry.get_spec(name)
    filters = {key: value for key, value in module.named_parameters() if value.dim() > 1}
    before = {key: value.detach().clone() for key, value in filters.items()}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    out = module(torch.randn(8, 3, *spec.input_size))
    torch.stack([(value * torch.randn_like(value)).mean() for value in out.values()]).sum().backward()
    optimiser.step()
    assert not [key for key, value in filters.items() if torch.equal(value, before[key])]
    assert all(bool(value.isfinite().all()) for value in filters.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_goes_in_and_comes_out(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = registry.build(name).state_dict()
    save_file(state, tmp_path / "backbone.safetensors")
    weights.add(name, tmp_path / "backbone.safetensors", tmp_path / "weights", trust=True)
    loaded = registry.load(name, weights_dir=tmp_path / "weights").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_a_file_of_the_full_network_is_refused(tmp_path: Path) -> None:
    state = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, bias=False)}).state_dict()
    save_file(state, tmp_path / "full.safetensors")
    with pytest.raises(WeightsError, match=r"1 wrong shape: conv1\.weight \(64, 3, 7, 7\) for \(16, 3, 7, 7\)"):
        families.find("narrow:resnet18")[0].load_state(registry.build("narrow:resnet18"), tmp_path / "full.safetensors")


def test_missing_weights_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights of narrow:vgg19: .* the backbone\.safetensors of a fine-tune"):
        registry.load("narrow:vgg19", weights_dir=tmp_path)


def test_a_spec_waits_for_no_torch() -> None:
    program = (
        "import sys; from stages.backbones import narrow; [narrow.spec(variant) for variant in narrow.VARIANTS];"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
