"""torchvision's ResNets without their classifier, for small faces."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

_BLOCKS = {
    "18": (BasicBlock, [2, 2, 2, 2]),
    "34": (BasicBlock, [3, 4, 6, 3]),
    "101": (Bottleneck, [3, 4, 23, 3]),
}


class SmallResNet(nn.Module):
    """Normalised float32 (B, 3, 48, 48) -> {"pooled": float32 (B, 512), or (B, 2048) of 101 layers}, after ReLU.

    The maps are 24 px wide after the first convolution, 12 after its pooling, then 12, 6, 3 and 2. The names of the
    layers are torchvision's.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        block, layers = _BLOCKS[variant]
        for name, part in ResNet(block, layers, num_classes=1).named_children():  # in the order of the data
            if name != "fc":
                self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for part in self.children():
            x = part(x)
        return {"pooled": x.flatten(1)}
