"""Any of torchvision's classifiers: `torchvision:resnet50`, the features that its last layer reads.

Size, scale and interpolation are those of the default weights' own evaluation transform; the hash is the one in the
file's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision.models as tv
from torch import nn
from torch.overrides import TorchFunctionMode

from stages.backbones.catalogue import Url, WeightsFile
from stages.backbones.spec import BackboneSpec, Tap
from stages.backbones.states import load_strictly, read_state
from stages.errors import SettingError, WeightsError

VARIANTS = "*"
_LICENCE = "see torchvision"
_HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")
# Old DenseNet files write `denselayer1.norm.1.weight` for today's `denselayer1.norm1.weight`.
_OLD_DENSE = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


def spec(variant: str | None) -> BackboneSpec:
    """The description of a model, by torchvision's name of it, with its default weights."""
    name, weights = _default(variant)
    transform = weights.transforms()
    with torch.random.fork_rng(devices=[]), _ParametersOnMeta():  # building a few models draws numbers
        _, last = _last_linear(_make(name, weights), name)
    crop, short = int(transform.crop_size[0]), int(transform.resize_size[0])
    return BackboneSpec(
        name=f"torchvision:{name}",
        family="torchvision",
        weights=f"torchvision:{name}",
        licence=_LICENCE,
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
        taps=(Tap("pooled", "global", (last.in_features,)),),
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
    return WeightsFile(
        f"torchvision:{name}", filename, found[1], None, _LICENCE, f"see torchvision.models.{name}", source
    )


class Classifier(nn.Module):
    """Normalised float32 (B, 3, H, W) -> {"pooled": float32 (B, D)}: the input of the last Linear."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.name = name
        where, last = _last_linear(net, name)
        net.set_submodule(where, _Through(last))
        self.net = net

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooled": self.net(x)}


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
    return Classifier(_make(name, weights), name)


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from torchvision's file, or a state dict of the user's with the same keys.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    state = read_state(path)
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


class _ParametersOnMeta(TorchFunctionMode):
    """Makes parameters without memory: only `torch.empty` goes to the meta device, since some models of torchvision
    compute their widths with tensors while they are built."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
