"""torchvision's ResNets without their classifier, for small faces, and at fewer channels."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

# (kind of block, blocks of each stage)
_BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "18": (BasicBlock, (2, 2, 2, 2)),
    "34": (BasicBlock, (3, 4, 6, 3)),
    "50": (Bottleneck, (3, 4, 6, 3)),
    "101": (Bottleneck, (3, 4, 23, 3)),
}
WIDTH = 64


class SmallResNet(nn.Module):
    """Normalised float32 (B, 3, 48, 48) -> {"pooled": float32 (B, 512), or (B, 2048) of 50 and 101 layers}, after ReLU.

    The maps are 24 px wide after the first convolution, 12 after its pooling, then 12, 6, 3 and 2. The names of the
    layers are torchvision's, and so are the weights that a seed draws.

    Args:
        variant: how many layers, `18`, `34`, `50` or `101`.
        width: channels of the first stage, 64 in the paper. The shape above is of that width.
        maps: stages that are given besides, such as `layer3`: float32 (B, C, H, W), after ReLU.
    """

    def __init__(self, variant: str, width: int = WIDTH, maps: Collection[str] = ()) -> None:
        super().__init__()
        block, counts = _BLOCKS[variant]
        self._maps = frozenset(maps)
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, count in enumerate(counts):
            made = _stage(block, inputs, width << stage, count, 1 if stage == 0 else 2)
            self.add_module(f"layer{stage + 1}", made)
            inputs = (width << stage) * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        nn.Linear(inputs, 1)  # torchvision draws its classifier here
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, part in self.named_children():  # in the order of the data
            x = part(x)
            if name in self._maps:
                found[name] = x
        return {"pooled": x.flatten(1)} | found


def _stage(block: type[BasicBlock | Bottleneck], inputs: int, planes: int, count: int, stride: int) -> nn.Sequential:
    """Blocks of one size of maps; the first one's shortcut has a 1x1 convolution where its shape changes."""
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(1, count)))
