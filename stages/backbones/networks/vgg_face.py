"""VGG-16's convolutions in torch. The names of the layers are VGG-Face's."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones.layers import draw_he
from stages.backbones.vgg_face import FEATURES

# (convolutions, filters of each) of each stage
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, FEATURES))


class VGGFace(nn.Module):
    """Normalised float32 (B, 3, 256, 256) -> {"conv5_3": (B, 512, 16, 16), after ReLU, "pool5": (B, 512, 8, 8)}.

    Args:
        narrower: how many times fewer filters each layer has than VGG-16's, a divisor of 64.
    """

    def __init__(self, narrower: int = 1) -> None:
        super().__init__()
        inputs = 3
        for stage, (count, full) in enumerate(STAGES, 1):
            width = full // narrower
            for place in range(1, count + 1):
                self.add_module(f"conv{stage}_{place}", nn.Conv2d(inputs, width, 3, padding=1))
                inputs = width
        draw_he(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        last = x
        for stage, (count, _) in enumerate(STAGES, 1):
            for place in range(1, count + 1):
                x = F.relu(self.get_submodule(f"conv{stage}_{place}")(x))
            last, x = x, F.max_pool2d(x, 2)
        return {"conv5_3": last, "pool5": x}
