"""The networks whose weights no package has: their layers against the papers' tables and against other code, reading
files, and that they can be trained.

Parameters, counted from the tables (a 3x3 convolution of C to D channels has 9CD + D, a PReLU of D channels D, batch
normalisation 2D):
sphereface:20  3x3 without biases 1,728 + 2 x 36,864; 73,728 + 4 x 147,456; 294,912 + 8 x 589,824; 1,179,648 +
               2 x 2,359,296: 11,650,752. Biases and PReLUs 2 x (3 x 64 + 5 x 128 + 9 x 256 + 3 x 512) = 9,344. FC1
               7 x 6 x 512 x 512 + 512 = 11,010,560. Together 22,670,656.
sphereface:64  with 6, 16, 32, 6 of the repeated ones: 37,160,640; 2 x (7 x 64 + 17 x 128 + 33 x 256 + 7 x 512) =
               29,312; FC1 11,010,560; its normalisation 1,024. Together 48,201,536.
resnet_small   torchvision's 11,689,512, 21,797,672 and 44,549,160 less 1000 x (512 + 1) or 1000 x (2048 + 1).
bn_inception   the ImageNet port's 11,295,240 less 1000 x (1024 + 1).
vgg_face       9 x (3 x 64 + 64^2 + 64 x 128 + 128^2 + 128 x 256 + 2 x 256^2 + 256 x 512 + 5 x 512^2) = 14,710,464,
               and 4,224 biases. Together 14,714,688.
vgg19_44       a 256 and two 512 more: 14,714,688 + 590,080 + 2 x 2,359,808 = 20,024,384; normalisation 2 x 5,504.
               Together 20,035,392.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import cfgs, make_layers

from stages.backbones import families, registry
from stages.errors import WeightsError

Shape = tuple[int, ...]
# One variant of each architecture, with layers that its files may carry beyond it.
EXTRA = {
    "sphereface:20": {"fc6.weight": (512, 10)},
    "resnet_small:18": {"fc.weight": (10, 512), "fc.bias": (10,)},
    "bn_inception": {"last_linear.weight": (10, 1024), "last_linear.bias": (10,)},
    "vgg_face": {f"fc{number}.{part}": (1,) for number in (6, 7, 8) for part in ("weight", "bias")},
    "vgg19_44:emotion": {"classifier.weight": (7, 512), "classifier.bias": (7,)},
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """One of each architecture with random weights, to be read only."""
    torch.manual_seed(0)
    return {name: registry.build(name).eval() for name in EXTRA}


def _shapes(name: str, size: Shape) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """What goes into each layer for one item of `size`, and what comes out, without the batch."""
    into: dict[str, Shape] = {}
    out: dict[str, Shape] = {}

    def look(layer: str, inputs: tuple[Any, ...], output: Any) -> None:
        into[layer], out[layer] = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])

    with torch.device("meta"):
        module = registry.build(name).eval()
        for layer, part in module.named_modules():
            if isinstance(part, (nn.Conv2d, nn.Linear, nn.Sequential)):
                part.register_forward_hook(lambda _, inputs, output, layer=layer: look(layer, inputs, output))
        module(torch.empty(1, *size))
    return into, out


@pytest.mark.parametrize(("variant", "units"), [("20", (1, 2, 4, 1)), ("64", (3, 8, 16, 3))])
def test_sphereface_has_the_layers_of_the_table(variant: str, units: tuple[int, ...]) -> None:
    _, out = _shapes(f"sphereface:{variant}", (3, 112, 96))
    table = [(64, 56, 48), (128, 28, 24), (256, 14, 12), (512, 7, 6)]
    rows = zip(itertools.count(1), units, table, strict=False)
    expected = {f"conv{i}_{j}": shape for i, count, shape in rows for j in range(1, 2 * count + 2)}
    assert len(expected) == int(variant)
    assert out == expected | {"fc5": (512,)}


def test_bn_inception_has_the_layers_of_the_table() -> None:
    into, out = _shapes("bn_inception", (3, 224, 224))
    assert out["conv1_7x7_s2"] == (64, 112, 112)
    assert out["conv2_3x3"] == (192, 56, 56)
    # What goes into each block. The paper's table says 576, 576 and 1024 after 4c, 4d and 4e, which its filters do not
    # sum up to.
    blocks = ["3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    channels = [192, 256, 320, 576, 576, 576, 608, 608, 1056, 1024]
    sides = [28, 28, 28, 14, 14, 14, 14, 14, 7, 7]
    for block, count, side in zip(blocks, channels, sides, strict=True):
        assert into[f"inception_{block}_3x3_reduce"] == (count, side, side)
    rows = {
        "3a": (64, 64, 64, 64, 96, 96, 32),
        "3b": (64, 64, 96, 64, 96, 96, 64),
        "3c": (0, 128, 160, 64, 96, 96, 0),
        "4a": (224, 64, 96, 96, 128, 128, 128),
        "4b": (192, 96, 128, 96, 128, 128, 128),
        "4c": (160, 128, 160, 128, 160, 160, 128),
        "4d": (96, 128, 192, 160, 192, 192, 128),
        "4e": (0, 128, 192, 192, 256, 256, 0),
        "5a": (352, 192, 320, 160, 224, 224, 128),
        "5b": (352, 192, 320, 192, 224, 224, 128),
    }
    parts = ("1x1", "3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2", "pool_proj")
    assert len(out) == 3 + sum(1 for row in rows.values() for count in row if count)
    for block, row in rows.items():
        found = tuple(out.get(f"inception_{block}_{part}", (0,))[0] for part in parts)
        assert found == row


def test_resnets_on_small_faces_have_maps_of_two_px() -> None:
    for depth, widths in (("18", (64, 128, 256, 512)), ("34", (64, 128, 256, 512)), ("101", (256, 512, 1024, 2048))):
        _, out = _shapes(f"resnet_small:{depth}", (3, 48, 48))
        assert out["conv1"] == (64, 24, 24)
        stages = [out[f"layer{stage}"] for stage in (1, 2, 3, 4)]
        assert stages == [(width, side, side) for width, side in zip(widths, (12, 6, 3, 2), strict=True)]
        # all convolutions but those of the shortcuts; the classifier is the last layer of the name
        assert sum("conv" in layer for layer in out) == int(depth) - 1


def test_the_vggs_have_the_layers_of_the_paper() -> None:
    _, out = _shapes("vgg_face", (3, 256, 256))
    assert list(out.values()) == [
        (width, 256 >> stage, 256 >> stage)
        for stage, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)))
        for _ in range(count)
    ]
    for task in ("emotion", "face"):
        _, out = _shapes(f"vgg19_44:{task}", (3, 44, 44))
        assert [shape for layer, shape in out.items() if layer != "features"] == [
            (width, side, side)
            for count, width, side in ((2, 64, 44), (2, 128, 22), (4, 256, 11), (4, 512, 5), (4, 512, 2))
            for _ in range(count)
        ]


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_sphereface_by_hand(networks: dict[str, nn.Module]) -> None:
    state = networks["sphereface:20"].state_dict()
    x = images = _drawn(2, 3, 112, 96)

    def layer(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        x = F.conv2d(x, state[f"conv{name}.weight"], state[f"conv{name}.bias"], stride, 1)
        return torch.where(x > 0, x, x * state[f"relu{name}.weight"].view(-1, 1, 1))

    for stage, last in ((1, 3), (2, 5), (3, 9), (4, 3)):
        x = layer(f"{stage}_1", x, 2)
        for first in range(2, last, 2):
            x = x + layer(f"{stage}_{first + 1}", layer(f"{stage}_{first}", x))
    x = x.reshape(2, 512 * 7 * 6) @ state["fc5.weight"].T + state["fc5.bias"]
    _close(networks["sphereface:20"](images)["embedding"], x)


@torch.inference_mode()
def test_bn_inception_by_hand() -> None:
    """Every branch, its pooling and the order of the branches, with statistics that are not the initial ones."""
    torch.manual_seed(3)
    module = registry.build("bn_inception").eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean, part.running_var = torch.randn(part.num_features), torch.rand(part.num_features) + 0.5
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    state = module.state_dict()
    x = images = _drawn(2, 3, 96, 96)

    def layer(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight, of = state[f"{name}.weight"], f"{name}_bn"
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride, weight.shape[2] // 2)
        mean, var, gain, shift = (
            state[f"{of}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gain + shift).relu()

    def halved(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1.0), 3, 2)  # what is pooled is not negative, its side even

    x = halved(layer("conv1_7x7_s2", x, 2))
    x = halved(layer("conv2_3x3", layer("conv2_3x3_reduce", x)))
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        name = f"inception_{block}"
        stride = 2 if block in ("3c", "4e") else 1
        three = layer(f"{name}_3x3", layer(f"{name}_3x3_reduce", x), stride)
        double = layer(f"{name}_double_3x3_1", layer(f"{name}_double_3x3_reduce", x))
        double = layer(f"{name}_double_3x3_2", double, stride)
        if stride == 2:
            x = torch.cat([three, double, halved(x)], 1)
            continue
        pool = F.max_pool2d(x, 3, 1, 1) if block == "5b" else F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)
        x = torch.cat([layer(f"{name}_1x1", x), three, double, layer(f"{name}_pool_proj", pool)], 1)
    _close(module(images)["pooled"], x.mean((2, 3)))


@torch.inference_mode()
def test_small_resnets_are_torchvisions_and_take_its_files(tmp_path: Path) -> None:
    theirs = tv.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    module = registry.build("resnet_small:18").eval()
    families.find("resnet_small:18")[0].load_state(module, tmp_path / "resnet18.pth")
    theirs.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    images = _drawn(2, 3, 48, 48)
    _close(module(images)["pooled"], theirs(images))


@pytest.mark.parametrize("depth", ["18", "34", "101"])
def test_a_seed_draws_torchvisions_weights(depth: str) -> None:
    torch.manual_seed(2)
    blocks: dict[str, Any] = {"18": [2, 2, 2, 2], "34": [3, 4, 6, 3], "101": [3, 4, 23, 3]}
    theirs = tv.ResNet(Bottleneck if depth == "101" else BasicBlock, blocks[depth], num_classes=1).state_dict()
    torch.manual_seed(2)
    ours = registry.build(f"resnet_small:{depth}").state_dict()
    assert list(ours) == [key for key in theirs if not key.startswith("fc.")]
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@torch.inference_mode()
def test_vgg_face_is_vgg16(networks: dict[str, nn.Module]) -> None:
    theirs = make_layers(cfgs["D"]).eval()
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), networks["vgg_face"].state_dict().values(), strict=True))  # in the data's order
    )
    images = _drawn(2, 3, 64, 64)
    out = networks["vgg_face"](images)
    _close(out["conv5_3"], theirs[:30](images))
    _close(out["pool5"], theirs(images))


@torch.inference_mode()
def test_vgg19_is_torchvisions_and_takes_its_files(tmp_path: Path) -> None:
    theirs = make_layers(cfgs["E"], batch_norm=True).eval()
    state = {f"features.{key}": value for key, value in theirs.state_dict().items()}
    last = {f"classifier.{layer}.{part}": torch.zeros(1) for layer in (0, 3, 6) for part in ("weight", "bias")}
    save_file(state | last, tmp_path / "vgg19_bn.safetensors")
    module = registry.build("vgg19_44:face").eval()
    families.find("vgg19_44:face")[0].load_state(module, tmp_path / "vgg19_bn.safetensors")
    images = _drawn(2, 3, 44, 44)
    out = module(images)
    # in front of the poolings of stages 2, 3 and 4
    pools = [place for place, layer in enumerate(theirs) if isinstance(layer, nn.MaxPool2d)]
    for tap, pool in zip(("early", "mid", "late"), pools[1:4], strict=True):
        _close(out[tap], theirs[:pool](images))
    _close(out["pooled"], theirs(images).flatten(1))


def _with_extra(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(state) | {key: torch.zeros(shape) for key, shape in EXTRA[name].items()}


@pytest.mark.parametrize("name", EXTRA)
def test_a_file_is_read_with_and_without_its_last_layers(
    networks: dict[str, nn.Module], tmp_path: Path, name: str
) -> None:
    state = networks[name].state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(_with_extra(name, state), tmp_path / "whole.pth")
    for file in ("plain.safetensors", "whole.pth"):
        module = registry.build(name)
        before = {key: value.clone() for key, value in module.state_dict().items()}
        families.find(name)[0].load_state(module, tmp_path / file)
        after = module.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in after.items())
        assert any(not torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("name", EXTRA)
def test_a_file_of_another_network_is_refused(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        module = registry.build(name)
    keys = sorted(module.state_dict())
    keys = [key for key in keys if not key.endswith(".num_batches_tracked")]
    held = next(key for key in keys if key.endswith("weight"))
    state = {held: torch.zeros(5, 7), "other.weight": torch.zeros(1)}
    torch.save(_with_extra(name, state), tmp_path / "other.pth")
    with pytest.raises(WeightsError) as caught:
        families.find(name)[0].load_state(module, tmp_path / "other.pth")
    shape = tuple(module.state_dict()[held].shape)
    assert f"{len(keys) - 1} missing: " in str(caught.value)
    assert "; 1 unexpected: other.weight; " in str(caught.value)
    assert str(caught.value).endswith(f"1 wrong shape: {held} (5, 7) for {shape}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_sphereface_64_wants_its_batch_normalisation(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = registry.build("sphereface:64")
    state = {key: torch.empty(1).expand(value.shape) for key, value in module.state_dict().items() if "bn" not in key}
    torch.save(state, tmp_path / "published.pth")  # one number a tensor: the file is small
    with pytest.raises(WeightsError, match=r"does not fit SphereFace: 4 missing: fc5_bn\.bias, fc5_bn\.running_mean, "):
        families.find("sphereface:64")[0].load_state(module, tmp_path / "published.pth")


SIZES = {"sphereface:20": (112, 96), "resnet_small:18": (48, 48), "vgg19_44:emotion": (44, 44)}


@pytest.mark.parametrize("name", EXTRA)
def test_every_parameter_is_trained(name: str) -> None:
    torch.manual_seed(0)
    module = registry.build(name).train()
    images = _drawn(3, 3, *SIZES.get(name, (96, 96)))
    out = module(images)
    sum((value * _drawn(*value.shape)).mean() for value in out.values()).backward()  # type: ignore[union-attr]
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        if key.endswith("weight"):  # a bias in front of batch normalisation has no effect, so no gradient
            assert bool(parameter.grad.any()), key
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(int(part.num_batches_tracked or 0) == 1 for part in norms)


@torch.no_grad()
def test_initial_weights(networks: dict[str, nn.Module]) -> None:
    sphere = networks["sphereface:20"]
    assert float(sphere.get_parameter("conv3_4.weight").std()) == pytest.approx(0.01, rel=0.01)
    assert float(sphere.get_parameter("conv3_1.weight").std()) == pytest.approx((1 / (9 * 128)) ** 0.5, rel=0.01)
    assert float(sphere.get_parameter("fc5.weight").std()) == pytest.approx((1 / 21504) ** 0.5, rel=0.01)
    assert set(sphere.get_parameter("relu2_3.weight").tolist()) == {0.25}
    for name, layer, outputs in (
        ("resnet_small:18", "layer3.1.conv2", 9 * 256),
        ("bn_inception", "inception_4e_double_3x3_2", 9 * 256),
        ("vgg_face", "conv4_2", 9 * 512),
        ("vgg19_44:emotion", "features.30", 9 * 512),
    ):
        weight = networks[name].get_parameter(f"{layer}.weight")
        assert float(weight.std()) == pytest.approx((2 / outputs) ** 0.5, rel=0.01), name
    for module in networks.values():
        biases = [part.bias for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
        assert not any(bool(bias.any()) for bias in biases if bias is not None)
