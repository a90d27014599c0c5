"""EfficientNet-Lite0 on ImageNet: what a whole photo shows, pooled and as a 7x7 map.

Tan & Le 2019 (arXiv:1905.11946); Lite (Liu 2020) has no squeeze-and-excitation, ReLU6, and a stem and a head that do
not scale. Convolutions pad as TensorFlow's `same`. The photo is stretched to the input, not cropped as for ImageNet's
scores: people at the edge of a group photo count.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import EFFNET_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

FEATURES = 1280


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("effnet_lite0", variant)
    return BackboneSpec(
        name="effnet_lite0",
        family="effnet_lite0",
        weights="effnet_lite0",
        licence="Apache-2.0",
        paper=EFFNET_PAPER,
        input="image",
        template=None,
        input_size=(224, 224),
        colour="RGB",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        interpolation="bicubic",
        taps=(Tap("pooled", "global", (FEATURES,)), Tap("map", "global", (FEATURES, 7, 7))),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    from stages.backbones.networks.effnet_lite0 import EfficientNetLite0

    return EfficientNetLite0()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from its state dict.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.networks.effnet_lite0 import fill

    fill(module, path)
