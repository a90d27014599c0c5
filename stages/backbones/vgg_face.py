"""VGG-Face's convolutions on 256x256 faces: the maps of the last one, and those after its pooling.

Parkhi et al. 2015: VGG-16 trained to tell 2,622 persons apart. Without its fully connected layers it takes crops of
256 px, those of Aminbeidokhti et al. 2019, whose text reads the last convolution (H/16), and whose published code the
pooling after it (H/32). The means are the network's own, of its port to PyTorch; it has no std.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import VGG_FACE_LICENCE, VGG_FACE_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

FEATURES = 512


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("vgg_face", variant)
    return BackboneSpec(
        name="vgg_face",
        family="vgg_face",
        weights="vgg_face",
        licence=VGG_FACE_LICENCE,
        paper=VGG_FACE_PAPER,
        input="face",
        template="box256",
        input_size=(256, 256),
        colour="RGB",
        mean=(129.1863, 104.7624, 93.5940),
        std=(1.0, 1.0, 1.0),
        taps=(Tap("conv5_3", "face", (FEATURES, 16, 16)), Tap("pool5", "face", (FEATURES, 8, 8))),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights (He et al. 2015)."""
    from stages.backbones.networks.vgg_face import VGGFace

    return VGGFace()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with VGG-Face's names (`conv1_1.weight`); `fc6` to `fc8` are left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.states import fill

    fill(module, path, classifier=("fc6", "fc7", "fc8"))
