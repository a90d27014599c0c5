"""Maps of torchvision's classifiers: their shapes, that they are what the network itself computes, and that `pooled`
and its key know nothing of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional as F

from cache.keys import BlockSpec
from stages.backbones import registry, torchvision, weights
from stages.backbones.spec import BackboneSpec
from stages.engines import TORCH_CPU
from stages.extract.plan import numerics

# Of the papers: DAG-Net taps ResNet-50 and ResNet-18 at layer3, Gupta's global network is DenseNet-161 (2208).
SHAPES = {
    "resnet18": {"pooled": (512,), "layer3": (256, 14, 14), "layer4": (512, 7, 7)},
    "resnet50": {"pooled": (2048,), "layer3": (1024, 14, 14), "layer4": (2048, 7, 7)},
    "resnext50_32x4d": {"pooled": (2048,), "layer3": (1024, 14, 14), "layer4": (2048, 7, 7)},
    "vgg16": {"pooled": (4096,), "map": (512, 7, 7)},
    "vgg19_bn": {"pooled": (4096,), "map": (512, 7, 7)},
    "alexnet": {"pooled": (4096,), "map": (256, 6, 6)},
    "densenet121": {"pooled": (1024,), "map": (1024, 7, 7)},
    "densenet161": {"pooled": (2208,), "map": (2208, 7, 7)},
    "mobilenet_v2": {"pooled": (1280,), "map": (1280, 7, 7)},
    "mobilenet_v3_small": {"pooled": (1024,), "map": (576, 7, 7)},
    "efficientnet_b2": {"pooled": (1408,), "map": (1408, 9, 9)},
    "convnext_tiny": {"pooled": (768,), "map": (768, 7, 7)},
    "swin_t": {"pooled": (768,), "map": (768, 7, 7)},
    "vit_b_16": {"pooled": (768,)},
    "regnet_y_400mf": {"pooled": (440,)},
    "googlenet": {"pooled": (1024,)},
}
# Computed before there were maps, with weights of sha256 0000...
KEYS = {
    "resnet18": "41ad4ec3d35254a604a77e876bc71964a3986f0872466cd604f0fca0dd771ac4",
    "densenet121": "90022abd8442a96e6b8c4c5b1f3fff6b0f8d8509dc512c5b503d86f23448f506",
    "mobilenet_v3_small": "305fe6270174ac244dfeaf0b2f076f6c38a81cfb04039a2773d02d76b9a67720",
}


@pytest.mark.parametrize("model", SHAPES)
def test_shapes(model: str) -> None:
    spec = registry.get_spec(f"torchvision:{model}")
    assert {tap.name: tap.shape for tap in spec.taps} == SHAPES[model]
    assert {tap.level for tap in spec.taps} == {"global"}


def test_a_shape_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    make = torchvision._make

    def watched(*arguments: object) -> nn.Module:
        made.append(make(*arguments))  # pyright: ignore[reportArgumentType]
        return made[-1]

    monkeypatch.setattr(torchvision, "_make", watched)
    torchvision.spec.__wrapped__("vgg19")
    assert all(parameter.is_meta for parameter in made[0].parameters())
    assert sum(parameter.numel() for parameter in made[0].parameters()) == 143_667_240


@pytest.mark.parametrize("model", KEYS)
def test_keys_of_pooled_are_what_they_were(model: str) -> None:
    spec = registry.get_spec(f"torchvision:{model}")
    tap = spec.tap("pooled")
    block = BlockSpec(
        source=spec.name,
        tap=tap.name,
        level=tap.level,
        shape=tap.shape,
        extractor_version=spec.extractor_version,
        weights={spec.weights: "0" * 64},
        preprocessing=spec.describe(),
        inputs={},
        numerics=numerics(TORCH_CPU, "float16"),
    )
    assert block.key == KEYS[model]


def _random(model: str) -> tuple[BackboneSpec, nn.Module, nn.Module]:
    """The spec, the backbone, and torchvision's own network with the same random weights and statistics."""
    torch.manual_seed(0)
    spec = registry.get_spec(f"torchvision:{model}")
    own = tv.get_model(model, weights=None).eval()
    for part in own.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_mean = torch.randn(part.num_features) * 0.1
            part.running_var = torch.rand(part.num_features) + 0.5
    backbone = registry.build(spec.name).eval()
    backbone.get_submodule("net").load_state_dict(own.state_dict())
    return spec, backbone, own


def _resnet(net: tv.ResNet, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    layer3 = net.layer3(net.layer2(net.layer1(x)))
    layer4 = net.layer4(layer3)
    return {"pooled": layer4.mean((2, 3)), "layer3": layer3, "layer4": layer4}


def _densenet(net: tv.DenseNet, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = F.relu(net.features(x))
    return {"pooled": found.mean((2, 3)), "map": found}


def _mobilenet(net: tv.MobileNetV2, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = net.features(x)
    return {"pooled": found.mean((2, 3)), "map": found}


def _vgg(net: tv.VGG, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = net.features(x)
    fc7 = F.relu(net.classifier[3](F.relu(net.classifier[0](found.flatten(1)))))
    return {"pooled": fc7, "map": found}


def _swin(net: tv.SwinTransformer, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = net.norm(net.features(x)).permute(0, 3, 1, 2)
    return {"pooled": found.mean((2, 3)), "map": found}


BY_HAND: dict[str, Callable[..., dict[str, torch.Tensor]]] = {
    "resnet18": _resnet,
    "densenet121": _densenet,
    "mobilenet_v2": _mobilenet,
    "vgg11": _vgg,
    "swin_t": _swin,
}


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=pytest.mark.soak if model == "vgg11" else ()) for model in BY_HAND]
)
@torch.inference_mode()
def test_taps_by_hand(model: str) -> None:
    spec, backbone, own = _random(model)
    images = torch.randn(2, 3, *spec.input_size, generator=torch.Generator().manual_seed(1))
    expected = BY_HAND[model](own, images)
    found = backbone(images)
    assert list(found) == [tap.name for tap in spec.taps] == list(expected)
    for tap, values in expected.items():
        torch.testing.assert_close(found[tap], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()))
    pooled = registry.families.find(spec.name)[0].build(spec.only(["pooled"])).eval()
    pooled.load_state_dict(backbone.state_dict())
    alone = pooled(images)
    assert list(alone) == ["pooled"]
    assert torch.equal(alone["pooled"], found["pooled"])  # what is listened to changes no bit


@torch.inference_mode()
def test_a_copy_listens_to_itself_and_nothing_is_held() -> None:
    _, backbone, _ = _random("resnet18")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = backbone(images)
    other = copy.deepcopy(backbone)
    nn.init.zeros_(other.get_submodule("net.layer4.1.bn2").weight)  # pyright: ignore[reportArgumentType]
    changed = other(images)
    assert torch.equal(changed["layer3"], expected["layer3"])
    assert not torch.equal(changed["layer4"], expected["layer4"])
    assert torch.equal(backbone(images)["layer4"], expected["layer4"])
    for module in (backbone, other):
        assert isinstance(module, torchvision.Classifier)
        assert all(heard._value is None for heard in module._heard.values())


def test_maps_can_be_trained_on() -> None:
    backbone = registry.build("torchvision:densenet121").train()
    found = backbone(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    (found["map"].mean() + found["pooled"].mean()).backward()
    gradient = backbone.get_submodule("net.features.conv0").weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert bool(gradient.any())


def test_a_spec_of_some_taps() -> None:
    spec = registry.get_spec("torchvision:resnet18")
    assert [tap.name for tap in spec.only(["layer4", "pooled"]).taps] == ["pooled", "layer4"]
    assert spec.only(tap.name for tap in spec.taps) == spec  # pyright: ignore[reportArgumentType]
    with pytest.raises(KeyError):
        spec.only(["map"])


def test_licences_that_torchvision_names() -> None:
    assert registry.get_spec("torchvision:vit_b_16").licence == "see torchvision"
    assert weights.entry("torchvision:resnet18").warnings == ()
    entry = weights.entry("torchvision:vit_h_14")
    assert entry.licence == "CC BY-NC 4.0 (SWAG: non-commercial)"
    assert entry.warnings
