"""Inception-ResNet-v1 in torch (facenet-pytorch's), and reading its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from stages.backbones.states import load_strictly, read_state, unwrapped

# The released files carry the classifier they were trained with.
_CLASSIFIER = ("logits.weight", "logits.bias")


class InceptionResnet(nn.Module):
    """Normalised float32 (B, 3, 160, 160) -> {"embedding": float32 (B, 512), rows of length 1}."""

    def __init__(self) -> None:
        super().__init__()
        from facenet_pytorch import InceptionResnetV1

        self.net = InceptionResnetV1(pretrained=None)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": self.net(x)}


def fill(module: nn.Module, path: Path) -> None:
    """Fill the network from facenet-pytorch's release, or a state dict of the user's with the same keys.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    state = unwrapped(read_state(path))
    for key in _CLASSIFIER:
        state.pop(key, None)
    load_strictly(module.get_submodule("net"), state, path)
