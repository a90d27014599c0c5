"""ResNet-18, -34 or -101 on 48x48 faces that are not aligned: the average-pooled feature.

He et al. 2016 (arXiv:1512.03385), with the stem of ImageNet's, as in Tan et al. 2017 (34; 18 and 101 were inferior
there), trained from scratch on FERPlus. The slides name no scale: it is ImageNet's mean and std here, so that
torchvision's files fit too. The dropout of 0.9 after the pooling belongs to the classifier that fine-tuning puts on the
tap, and is not in this network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import OWN_LICENCE, RESNET_SMALL_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

VARIANTS = ("18", "34", "101")
FEATURES = {"18": 512, "34": 512, "101": 2048}


def spec(variant: str | None) -> BackboneSpec:
    """The description of a variant: `18`, `34` or `101` layers."""
    name = families.need_variant("resnet_small", variant, VARIANTS)
    return BackboneSpec(
        name=name,
        family="resnet_small",
        weights=name,
        licence=OWN_LICENCE,
        paper=RESNET_SMALL_PAPER,
        input="face",
        template="box48",
        input_size=(48, 48),
        colour="RGB",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        taps=(Tap("pooled", "face", (FEATURES[name.partition(":")[2]],)),),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights, drawn as torchvision's (He et al. 2015, by fan-out)."""
    from stages.backbones.networks.resnet_small import SmallResNet

    return SmallResNet(spec.name.partition(":")[2])


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with torchvision's names; its last layer, `fc`, is left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.states import fill

    fill(module, path, classifier=("fc",))
