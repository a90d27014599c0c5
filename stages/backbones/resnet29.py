"""dlib's ResNet-29: a 128-d embedding of a face whose Euclidean distances tell persons apart.

King 2017 (dlib's `dlib_face_recognition_resnet_model_v1`), a ResNet-34 of He et al. 2016 (arXiv:1512.03385) with fewer
layers and half the filters. Below about 0.6 two embeddings are usually of one person. They are not of unit length.
`map` is what the last layer reads the mean of: 2x2 px, of which the last block's own convolutions fill one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import RESNET29_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("resnet29", variant)
    return BackboneSpec(
        name="resnet29",
        family="resnet29",
        weights="resnet29",
        licence="CC0-1.0",
        paper=RESNET29_PAPER,
        input="face",
        template="dlib150",
        input_size=(150, 150),
        colour="RGB",
        mean=(122.782, 117.001, 104.298),
        std=(256.0, 256.0, 256.0),
        taps=(Tap("embedding", "face", (128,)), Tap("map", "face", (256, 2, 2))),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    from stages.backbones.networks.resnet29 import ResNet29

    return ResNet29()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from dlib's file, whose layers must be this network's, one by one,
    or from a .safetensors with a state dict of its own.

    Raises:
        WeightsError: for a damaged file or another network.
    """
    from stages.backbones import states
    from stages.backbones.networks.resnet29 import fill

    (states.fill if states.is_safetensors(path) else fill)(module, path)
