"""Every registered network by a real forward: shapes, frozen numbers, and one item's independence of the others.

How the parameters of networks without a package are counted by hand stands in test_own_networks.py.

The frozen numbers were checked on the same pixels against independent code: resnet29 against a separate parser whose
output is dlib's own (2e-7), expression against face-api run by node (3e-6), mini_xception against a numpy walk through
Keras's layer list (3e-7), effnet_lite0 against the package's own network (equal).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from torch import nn

from stages.backbones import expression, mini_xception, registry
from stages.backbones.preprocess import preprocess

PACKAGED = ("resnet29", "expression", "mini_xception", "effnet_lite0")
PARAMETERS = {
    "resnet29": 5_614_592,
    "expression": 323_687,
    "mini_xception": 56_951,
    "effnet_lite0": 4_652_008,
    "inception_resnet_v1:vggface2": 23_482_624,
    "inception_resnet_v1:casia": 23_482_624,
    "sphereface:20": 22_670_656,
    "sphereface:64": 48_201_536,
    "resnet_small:18": 11_176_512,
    "resnet_small:34": 21_284_672,
    "resnet_small:101": 42_500_160,
    "bn_inception": 10_270_240,
    "vgg_face": 14_714_688,
    "vgg19_44:emotion": 20_035_392,
    "vgg19_44:face": 20_035_392,
    "torchvision:resnet18": 11_689_512,
    "narrow:bn_inception": 649_288,
    "narrow:densenet161": 1_698_384,
    "narrow:resnet101": 2_677_776,
    "narrow:resnet18": 702_096,
    "narrow:resnet34_48": 1_335_248,
    "narrow:resnet50": 1_480_976,
    "narrow:sphereface20": 927_568,
    "narrow:sphereface64": 2_527_184,
    "narrow:vgg19": 2_827_792,
    "narrow:vgg19_44": 1_255_632,
    "narrow:vgg_face": 920_784,
}
# One forward of these takes a second: their shapes are read on the meta device, and they see two items.
LARGE = ("sphereface:64", "vgg_face")
# First values of the first drawn item, and the sum over the second one.
GOLDEN = {
    ("resnet29", "embedding"): ([-0.111197, 0.125697, 0.093228, -0.022601, -0.085395, -0.04921], -0.35972),
    ("resnet29", "map"): ([0.131977, 1.457896, 1.89027, 1.620817, 1.445065, 1.768586], 1162.32264),
    ("expression", "feature"): ([1.482823, 0.0, 1.340148, 0.46984, 0.0, 3.127581], 146.52171),
    ("expression", "probabilities"): ([0.002456, 0.00567, 0.991348, 0.000522, 0.0, 1e-06], 1.0),
    ("expression", "map"): ([21.822798, 0.0, 0.0, 0.0, 0.0, 0.0], 7179.56408),
    ("mini_xception", "feature"): ([0.201369, -0.402625, -0.28341, -0.040733, -0.197822, -0.095339], -14.67973),
    ("mini_xception", "probabilities"): ([0.19667, 0.000218, 0.143141, 0.344571, 0.176225, 0.121086], 1.0),
    ("mini_xception", "map"): ([0.184802, 0.506888, 0.368434, 0.193029, 0.21472, -0.141919], -234.87574),
    ("effnet_lite0", "pooled"): ([1.77291, 0.0, 0.0, 0.0, 0.0, 0.027846], 280.50903),
    ("effnet_lite0", "map"): ([0.197789, 1.392659, 2.367303, 2.084733, 1.618857, 1.313969], 13744.94243),
}

Draw = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def networks(weights_folder: Path) -> dict[str, nn.Module]:
    """Every network once: the packaged ones with their weights, the others with random ones."""
    torch.manual_seed(0)
    found = {name: registry.load(name, weights_dir=weights_folder) for name in PACKAGED}
    return found | {name: registry.build(name).eval() for name in PARAMETERS if name not in found}


def _forward(networks: dict[str, nn.Module], name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return networks[name](preprocess(pixels, registry.get_spec(name)))


def test_everything_listed_is_tested() -> None:
    assert set(registry.names()) <= PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_taps_have_the_shapes_of_the_spec(networks: dict[str, nn.Module], drawn: Draw, name: str) -> None:
    spec = registry.get_spec(name)
    if name in LARGE:
        with torch.device("meta"):
            out = registry.build(name).eval()(torch.empty(2, spec.channels, *spec.input_size))
    else:
        out = _forward(networks, name, drawn(*spec.pixels_size, 2))
        assert all(bool(value.isfinite().all()) for value in out.values())
    assert {tap: tuple(value.shape) for tap, value in out.items()} == {tap.name: (2, *tap.shape) for tap in spec.taps}
    assert all(value.dtype == torch.float32 for value in out.values())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(networks: dict[str, nn.Module], name: str) -> None:
    assert sum(parameter.numel() for parameter in networks[name].parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_item_does_not_depend_on_its_batch(networks: dict[str, nn.Module], drawn: Draw, name: str) -> None:
    pixels = drawn(*registry.get_spec(name).pixels_size, 2 if name in LARGE else 3)
    whole = _forward(networks, name, pixels)
    again = _forward(networks, name, pixels)
    turned = None if name in LARGE else _forward(networks, name, pixels.flip(0))
    alone = _forward(networks, name, pixels[1:2])
    for tap, value in whole.items():
        assert torch.equal(again[tap], value)
        scale = float(value.abs().max())
        if turned is not None:
            torch.testing.assert_close(turned[tap].flip(0), value, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(alone[tap][0], value[1], rtol=1e-4, atol=1e-5 * scale)
        assert not torch.allclose(value[0], value[1], rtol=1e-3, atol=1e-6 * scale)  # it does depend on the pixels


@pytest.mark.parametrize("name", PACKAGED)
def test_frozen_numbers(networks: dict[str, nn.Module], drawn: Draw, name: str) -> None:
    out = _forward(networks, name, drawn(*registry.get_spec(name).input_size, 2))
    for tap, value in out.items():
        first, total = GOLDEN[name, tap]
        torch.testing.assert_close(value[0].flatten()[:6], torch.tensor(first), rtol=1e-4, atol=1e-4)
        assert float(value[1].double().sum()) == pytest.approx(total, rel=1e-4, abs=1e-4)


def test_probabilities_are_probabilities(networks: dict[str, nn.Module], drawn: Draw) -> None:
    assert expression.EMOTIONS == ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
    assert mini_xception.EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    for name in ("expression", "mini_xception"):
        rows = _forward(networks, name, drawn(*registry.get_spec(name).input_size, 4))["probabilities"]
        torch.testing.assert_close(rows.sum(1), torch.ones(4))
        assert rows.min() >= 0


@pytest.mark.parametrize(("name", "tap"), [("effnet_lite0", "pooled"), ("expression", "feature")])
def test_pooled_is_the_mean_of_the_map(networks: dict[str, nn.Module], drawn: Draw, name: str, tap: str) -> None:
    out = _forward(networks, name, drawn(*registry.get_spec(name).input_size, 1))
    torch.testing.assert_close(out["map"].mean((2, 3)), out[tap])
    assert out["map"].min() >= 0
    assert name != "effnet_lite0" or out["map"].max() <= 6


@torch.inference_mode()
def test_last_layers_read_the_map(networks: dict[str, nn.Module], drawn: Draw) -> None:
    out = _forward(networks, "mini_xception", drawn(64, 64, 2))
    torch.testing.assert_close(out["map"].mean((2, 3)), out["feature"])
    logits = networks["mini_xception"].get_submodule("classes")(out["map"]).mean((2, 3))
    torch.testing.assert_close(logits.softmax(1), out["probabilities"])
    out = _forward(networks, "resnet29", drawn(150, 150, 2))
    torch.testing.assert_close(networks["resnet29"].get_submodule("fc")(out["map"].mean((2, 3))), out["embedding"])


def test_facenet_embeddings_have_length_one(networks: dict[str, nn.Module], drawn: Draw) -> None:
    out = _forward(networks, "inception_resnet_v1:casia", drawn(160, 160, 2))["embedding"]
    torch.testing.assert_close(out.norm(dim=1), torch.ones(2))


def test_loaded_networks_are_frozen_and_leave_the_seed_alone(weights_folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module = registry.load("mini_xception", weights_dir=weights_folder)
    assert torch.equal(torch.rand(3), expected)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "densenet121", "swin_t"])
def test_torchvision_pooled_is_what_the_last_linear_reads(model: str, drawn: Draw) -> None:
    net = registry.build(f"torchvision:{model}").eval()
    own = tv.get_model(model, weights=None).eval()
    own.load_state_dict(net.get_submodule("net").state_dict())
    last = [module for module in own.modules() if isinstance(module, nn.Linear)][-1]
    read: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    spec = registry.get_spec(f"torchvision:{model}")
    x = preprocess(drawn(*spec.input_size, 1), spec)
    with torch.inference_mode():
        own(x)
        torch.testing.assert_close(net(x)["pooled"], read[0])
    assert tuple(read[0].shape[1:]) == spec.taps[0].shape


@pytest.mark.parametrize("model", ["googlenet", "inception_v3"])
def test_torchvision_networks_with_auxiliary_heads(model: str, drawn: Draw) -> None:
    net = registry.build(f"torchvision:{model}").eval()
    spec = registry.get_spec(f"torchvision:{model}")
    with torch.inference_mode():
        out = net(preprocess(drawn(*spec.input_size, 1), spec))
    assert out["pooled"].shape == (1, *spec.taps[0].shape)
    # torchvision's own loading needs both, else the released files do not fit or the input is scaled otherwise
    assert net.get_submodule("net").transform_input is True
    assert any("aux" in key.lower() for key in net.state_dict())
