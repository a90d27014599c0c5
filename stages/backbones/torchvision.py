"""Any of torchvision's classifiers: `torchvision:resnet50`, what its last layer reads, and maps.

Size, scale and interpolation are those of the default weights' own evaluation transform; the hash is the one in the
file's name. `pooled` is what the last layer reads: of VGG `fc7`, of DenseNet-161 the mean of its 2208 maps. ResNets
have their `layer3` and `layer4` besides, networks with a module `features` their last `map`, as they pool it: of
DenseNet after its last batch normalisation and ReLU.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import torchvision.models as tv
from torch import nn

from stages.backbones.catalogue import Url, WeightsFile
from stages.backbones.shapes import output_shapes, without_memory
from stages.backbones.spec import BackboneSpec, Tap
from stages.backbones.states import load_strictly, read_state, unwrapped
from stages.errors import SettingError, WeightsError

VARIANTS = "*"
POOLED = "pooled"
_MAP = "map"
_RESNET = ("layer1", "layer2", "layer3", "layer4")
_LICENCE = "see torchvision"
_SWAG_LICENCE = "CC BY-NC 4.0 (SWAG: non-commercial)"
_HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")
# Old DenseNet files write `denselayer1.norm.1.weight` for today's `denselayer1.norm1.weight`.
_OLD_DENSE = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


@functools.cache
def spec(variant: str | None) -> BackboneSpec:
    """The description of a model, by torchvision's name of it, with its default weights."""
    name, weights = _default(variant)
    transform = weights.transforms()
    crop, short = int(transform.crop_size[0]), int(transform.resize_size[0])
    return BackboneSpec(
        name=f"torchvision:{name}",
        family="torchvision",
        weights=f"torchvision:{name}",
        licence=_licence(weights),
        paper=f"see torchvision.models.{name}",
        input="image",
        template=None,
        input_size=(crop, crop),
        colour="RGB",
        mean=tuple(round(255.0 * float(value), 6) for value in transform.mean),
        std=tuple(round(255.0 * float(value), 6) for value in transform.std),
        resize="shortest_side_center_crop",
        resize_to=short,
        interpolation=str(transform.interpolation.value),
        taps=_taps(name, weights, (3, crop, crop)),
    )


def _taps(name: str, weights: Any, size: tuple[int, int, int]) -> tuple[Tap, ...]:
    with without_memory():
        net = _make(name, weights)
        _, last = _last_linear(net, name)
        maps = _maps(net)
        listening = Classifier(net, name, maps)
    shapes = output_shapes(listening, size) if maps else {}
    return (
        Tap(POOLED, "global", (last.in_features,)),
        *(Tap(tap, "global", shapes[tap]) for tap in maps),
    )


def weights_file(variant: str | None) -> WeightsFile:
    """The catalogue's entry of a model's default weights.

    Raises:
        SettingError: for an unknown model.
        WeightsError: when the file's name carries no hash.
    """
    name, weights = _default(variant)
    filename = str(weights.url).rsplit("/", 1)[1]
    found = _HASH.search(filename)
    if found is None:
        raise WeightsError(f"weights of torchvision:{name}: the file name {filename} carries no hash to check it by")
    source = Url(str(weights.url))
    licence = _licence(weights)
    return WeightsFile(
        f"torchvision:{name}", filename, found[1], None, licence, f"see torchvision.models.{name}", source
    )


class Classifier(nn.Module):
    """Normalised float32 (B, 3, H, W) -> the taps asked for: "pooled", float32 (B, D), is the input of the last Linear,
    the others are maps, float32 (B, C, H', W')."""

    def __init__(self, net: nn.Module, name: str, taps: Collection[str]) -> None:
        super().__init__()
        self.name = name
        where, last = _last_linear(net, name)
        net.set_submodule(where, _Through(last))
        self.net = net
        self._taps = tuple(taps)
        self._heard = {tap: _Heard(net, tap) for tap in taps if tap != POOLED}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = self.net(x)
        maps = {tap: heard.take() for tap, heard in self._heard.items()}
        return {tap: pooled if tap == POOLED else maps[tap] for tap in self._taps}


def _maps(net: nn.Module) -> tuple[str, ...]:
    """The maps that can be heard in a network."""
    if all(hasattr(net, layer) for layer in _RESNET):
        return _RESNET[2:]
    return (_MAP,) if hasattr(net, "features") else ()


class _Heard:
    """A map, listened to while the network runs, whose computing stays as it is: so do the bits of `pooled`.

    `map` is what the network's pooling reads. Where the pooling is no module, it is what `features` gives, of DenseNet
    after the ReLU that follows there.
    """

    def __init__(self, net: nn.Module, tap: str) -> None:
        self._value: torch.Tensor | None = None
        self._rectify = tap == _MAP and isinstance(net, tv.DenseNet)
        # bound methods, which a copy of the network binds to its own copy of this
        if tap == _MAP and hasattr(net, "avgpool"):
            net.get_submodule("avgpool").register_forward_pre_hook(self._before)
        else:
            net.get_submodule("features" if tap == _MAP else tap).register_forward_hook(self._after)

    def _before(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._value = inputs[0]

    def _after(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self._value = output

    def take(self) -> torch.Tensor:
        """The map of the last pass; it is not held any longer."""
        value, self._value = self._value, None
        if value is None:
            raise RuntimeError("the network ran past the layer that is listened to")
        return value.relu() if self._rectify else value


class _Through(nn.Linear):
    """A Linear that keeps its parameters, so that the weights file fits exactly, and hands on its input."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(1, 1, bias=False)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    name, weights = _default(spec.name.partition(":")[2])
    return Classifier(_make(name, weights), name, [tap.name for tap in spec.taps])


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from torchvision's file, or a state dict of the user's with the same keys.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    state = unwrapped(read_state(path))
    for key in [key for key in state if _OLD_DENSE.search(key)]:
        state[_OLD_DENSE.sub(r"\1\2", key)] = state.pop(key)
    load_strictly(module.get_submodule("net"), state, path)


def _default(variant: str | None) -> tuple[str, Any]:
    """A model's name and its default weights (torchvision's enum member)."""
    listed = tv.list_models(module=tv)
    if variant not in listed:
        near = [name for name in listed if variant and name.startswith(variant.split("_")[0][:6])] or ["resnet50"]
        raise SettingError(
            f"backbone 'torchvision:{variant or ''}' is unknown: write torchvision:MODEL with one of torchvision's "
            f"classifiers, such as {', '.join(near[:6])}"
        )
    return variant, tv.get_model_weights(variant)["DEFAULT"]


def _licence(weights: Any) -> str:
    """torchvision names a licence for those weights only that may not be used commercially."""
    return _SWAG_LICENCE if "SWAG" in str(weights.meta.get("license", "")) else _LICENCE


def _make(name: str, weights: Any) -> nn.Module:
    """The network that the default weights fit, with random ones."""
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # The weights were carried over with their own input scale and with the auxiliary heads.
        extra = {"transform_input": True, "aux_logits": True, "init_weights": False}
    elif name.startswith("vit_"):
        extra = {"image_size": weights.meta["min_size"][0]}
    return tv.get_model(name, weights=None, **extra)


def _last_linear(net: nn.Module, name: str) -> tuple[str, nn.Linear]:
    found = [(where, module) for where, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise SettingError(f"backbone 'torchvision:{name}' has no Linear layer whose input could be its feature")
    return found[-1]
