"""Inception-ResNet-v1: a 512-d face embedding of unit length, trained on VGGFace2 or CASIA-WebFace.

Schroff et al. 2015 (arXiv:1503.03832) with the network of Szegedy et al. 2017 (arXiv:1602.07261), as facenet-pytorch
carries it over from TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import FACENET_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

VARIANTS = ("vggface2", "casia")
_SIZE = 512


def spec(variant: str | None) -> BackboneSpec:
    """The description of a variant: `vggface2` or `casia`."""
    name = families.need_variant("inception_resnet_v1", variant, VARIANTS)
    return BackboneSpec(
        name=name,
        family="inception_resnet_v1",
        weights=name,
        licence="MIT",
        paper=FACENET_PAPER,
        input="face",
        template="facenet160",
        input_size=(160, 160),
        colour="RGB",
        mean=(127.5, 127.5, 127.5),
        std=(128.0, 128.0, 128.0),
        taps=(Tap("embedding", "face", (_SIZE,)),),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    from stages.backbones.networks.inception_resnet_v1 import InceptionResnet

    return InceptionResnet()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from facenet-pytorch's release, or a state dict of the user's with the same keys.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.networks.inception_resnet_v1 import fill

    fill(module, path)
