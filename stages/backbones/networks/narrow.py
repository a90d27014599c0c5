"""Networks of other families with fewer channels, in torch: those that torchvision has without a class that scales."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import DenseNet
from torchvision.models.vgg import cfgs, make_layers

from stages.backbones.layers import draw_he

# DenseNet-161's (Huang et al. 2017, arXiv:1608.06993): filters that a layer adds, layers of each block, the stem's.
_GROWTH, _LAYERS, _STEM = 48, (6, 12, 36, 24), 96
_FC = 4096


class NarrowDenseNet(nn.Module):
    """DenseNet-161 without its classifier: normalised float32 (B, 3, H, W) -> {"pooled": (B, 2208 // narrower), "map":
    (B, 2208 // narrower, H / 32, W / 32)}, after the last batch normalisation and ReLU.

    The names of the layers are torchvision's.

    Args:
        narrower: how many times fewer channels each layer has, a divisor of 48.
    """

    def __init__(self, narrower: int) -> None:
        super().__init__()
        self.features = DenseNet(_GROWTH // narrower, _LAYERS, _STEM // narrower, num_classes=1).features

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.relu(self.features(x))
        return {"pooled": x.mean((2, 3)), "map": x}


class NarrowVGG19(nn.Module):
    """VGG-19 up to `fc7`: normalised float32 (B, 3, side, side) -> {"pooled": (B, 4096 // narrower), "map": (B,
    512 // narrower, side / 32, side / 32)}, the last map after its pooling.

    No batch normalisation, and dropout of a half after both fully connected layers, as in Simonyan & Zisserman 2014
    (arXiv:1409.1556). The names of the layers are torchvision's.

    Args:
        narrower: how many times fewer channels each layer has, a divisor of 64.
        side: of the input, a multiple of 32 px: `fc6` reads the last map as it is.
    """

    def __init__(self, narrower: int, side: int) -> None:
        super().__init__()
        filters = [one // narrower if isinstance(one, int) else one for one in cfgs["E"]]
        self.features = make_layers(filters)
        last, hidden = 512 // narrower * (side // 32) ** 2, _FC // narrower
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()
        )
        draw_he(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.features(x)
        return {"pooled": self.classifier(x.flatten(1)), "map": x}
