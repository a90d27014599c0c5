"""Any of timm's models, where timm is installed: `timm:resnet50`, or with its weights' tag, `timm:resnet50.a1_in1k`.

Size, scale, interpolation and crop are those of the weights' own configuration in timm. The one tap, `pooled`, is what
a model without its classifier gives: its features, pooled.

Weights are named with their tag: another version of timm may mean another file by `resnet50`. timm's own releases carry
a hash in the file's name, and are fetched. Those of the Hugging Face hub have no published hash: they are a file of the
user's. Both are plain state dicts with timm's names.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.backbones.catalogue import Own, Url, WeightsFile
from stages.backbones.shapes import output_shapes, without_memory
from stages.backbones.spec import BackboneSpec, Tap
from stages.backbones.states import load_strictly, read_state, unwrapped
from stages.errors import SettingError

VARIANTS = "*"
INSTALL = "pip install 'kuleshov[timm]'"
_RELEASE = re.compile(r"https://.*/pytorch-image-models/releases/.*-([0-9a-f]{8,64})\.pth")
_HUB = "https://huggingface.co/{}/resolve/main/{}"
_HUB_FILE = "model.safetensors"


@functools.cache
def spec(variant: str | None) -> BackboneSpec:
    """The description of a model, by timm's name of it, with or without the tag of its weights.

    Raises:
        SettingError: timm is not installed, has no such model, or its pixels cannot be prepared here as timm does.
    """
    config = _config(variant)
    size = tuple(int(side) for side in config.input_size)
    with without_memory():
        network = Features(_make(config))
    shape = output_shapes(network, size)[Features.TAP]
    if len(shape) != 1 or size[0] != 3:
        raise SettingError(f"backbone 'timm:{variant}' turns {size} into {shape}, not colours into a row of features")
    return BackboneSpec(
        name=f"timm:{variant}",
        family="timm",
        weights=_name(config),
        licence=_licence(config),
        paper=_paper(config),
        input="image",
        template=None,
        input_size=(size[1], size[2]),
        colour="RGB",
        mean=tuple(round(255.0 * float(value), 6) for value in config.mean),
        std=tuple(round(255.0 * float(value), 6) for value in config.std),
        interpolation=str(config.interpolation),
        taps=(Tap(Features.TAP, "global", shape),),
        **_resizing(config, variant),
    )


def weights_file(variant: str | None) -> WeightsFile:
    """The catalogue's entry of a model's weights, under the name with their tag.

    Raises:
        SettingError: timm is not installed or has no such model.
    """
    config = _config(variant)
    name, url = _name(config), str(config.url or "")
    released = _RELEASE.fullmatch(url)
    if released is not None and not config.custom_load:
        filename = url.rsplit("/", 1)[1]
        return WeightsFile(name, filename, released[1], None, _licence(config), _paper(config), Url(url))
    fits = f"a state dict of {name}"
    if config.hf_hub_id:
        fits = _HUB.format(config.hf_hub_id, config.hf_hub_filename or _HUB_FILE)
    filename = f"{name.replace(':', '-')}.safetensors"
    return WeightsFile(name, filename, "", None, _licence(config), _paper(config), Own(fits))


class Features(nn.Module):
    """Normalised float32 (B, 3, H, W) -> {"pooled": float32 (B, D)}, of a model of timm without its classifier."""

    TAP = "pooled"

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.TAP: self.net(x)}


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    return Features(_make(_config(spec.name.partition(":")[2])))


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with timm's names; its classifier is left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    net: Any = module.get_submodule("net")
    state = unwrapped(read_state(path))
    own = net.state_dict()
    for left_out in _classifiers(net.pretrained_cfg.get("classifier"), own):
        for key in [key for key in state if key.startswith(left_out)]:
            del state[key]
    load_strictly(net, state, path)


def _classifiers(layers: str | Iterable[str] | None, own: Iterable[str]) -> list[str]:
    """How the keys begin that a model has only with its classifier.

    Args:
        layers: the classifier's last layers. Some are the end of a larger head, which goes with them.
        own: keys of the model without it.
    """
    own = list(own)
    found: list[str] = []
    for layer in (layers,) if isinstance(layers, str) else layers or ():
        parts = layer.split(".")
        starts = (".".join(parts[: count + 1]) + "." for count in range(len(parts)))
        found += next(([start] for start in starts if not any(key.startswith(start) for key in own)), [])
    return found


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise SettingError(f"backbones timm:MODEL need timm, which is not installed here; run {INSTALL}") from error
    return timm


def _config(variant: str | None) -> Any:
    """timm's configuration of a model's weights."""
    timm = _timm()
    model = (variant or "").partition(".")[0]
    try:
        # is_model: a name of the hub, or of a local folder, is not looked up
        found = timm.get_pretrained_cfg(variant) if variant and timm.is_model(model) else None
    except RuntimeError:  # no such tag
        found = None
    if found is None:
        known = timm.list_models(f"{model}*", pretrained=True) if timm.is_model(model) else []
        near = known or difflib.get_close_matches(model, timm.list_models()) or ["resnet50"]
        raise SettingError(
            f"backbone 'timm:{variant or ''}' is unknown: write timm:MODEL with one of timm's models, such as "
            f"{', '.join(near[:6])}"
        )
    return found


def _name(config: Any) -> str:
    return f"timm:{config.architecture}" + (f".{config.tag}" if config.tag else "")


def _licence(config: Any) -> str:
    return str(config.license or "see timm")


def _paper(config: Any) -> str:
    ids = config.paper_ids or ()
    said = [str(config.paper_name or ""), *((ids,) if isinstance(ids, str) else ids)]
    return ", ".join(one for one in said if one) or f"see timm's card of {config.architecture}"


def _resizing(config: Any, variant: str | None) -> dict[str, Any]:
    """As timm prepares images of its own evaluations: the share `crop_pct` of the shorter side, from the middle."""
    height, width = int(config.input_size[1]), int(config.input_size[2])
    share = float(config.crop_pct)
    if config.crop_mode == "squash" and share == 1.0:
        return {"resize": "stretch"}
    if config.crop_mode != "center" or height != width:
        raise SettingError(
            f"backbone 'timm:{variant}' wants crop mode {config.crop_mode!r} of {share:g} for {height}x{width}, which "
            "is not prepared here; choose weights with another tag"
        )
    return {"resize": "shortest_side_center_crop", "resize_to": math.floor(height / share)}


def _make(config: Any) -> nn.Module:
    """The network with random weights, without its classifier."""
    return _timm().create_model(_name(config).partition(":")[2], pretrained=False, num_classes=0)
