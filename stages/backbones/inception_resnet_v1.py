"""Inception-ResNet-v1: a 512-d face embedding of unit length, trained on VGGFace2 or CASIA-WebFace.

Schroff et al. 2015 (arXiv:1503.03832) with the network of Szegedy et al. 2017 (arXiv:1602.07261), as facenet-pytorch
carries it over from TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from stages.backbones.catalogue import FACENET_PAPER
from stages.backbones.spec import BackboneSpec, Tap
from stages.backbones.states import load_strictly, read_state
from stages.errors import SettingError

VARIANTS = ("vggface2", "casia")
_SIZE = 512
# The released files carry the classifier they were trained with.
_CLASSIFIER = ("logits.weight", "logits.bias")


def spec(variant: str | None) -> BackboneSpec:
    """The description of a variant: `vggface2` or `casia`."""
    if variant not in VARIANTS:
        names = " or ".join(f"'inception_resnet_v1:{known}'" for known in VARIANTS)
        asked = "inception_resnet_v1" if variant is None else f"inception_resnet_v1:{variant}"
        raise SettingError(f"backbone {asked!r} is unknown: write {names}")
    return BackboneSpec(
        name=f"inception_resnet_v1:{variant}",
        family="inception_resnet_v1",
        weights=f"inception_resnet_v1:{variant}",
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


class InceptionResnet(nn.Module):
    """Normalised float32 (B, 3, 160, 160) -> {"embedding": float32 (B, 512), rows of length 1}."""

    def __init__(self) -> None:
        super().__init__()
        from facenet_pytorch import InceptionResnetV1

        self.net = InceptionResnetV1(pretrained=None)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": self.net(x)}


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    return InceptionResnet()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from facenet-pytorch's release, or a state dict of the user's with the same keys.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    state = read_state(path)
    for key in _CLASSIFIER:
        state.pop(key, None)
    load_strictly(module.get_submodule("net"), state, path)
