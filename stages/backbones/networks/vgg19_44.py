"""VGG-19's convolutions with batch normalisation, in torch. The names of the layers are those of torchvision's."""

from __future__ import annotations

import torch
from torch import nn

from stages.backbones.layers import draw_he
from stages.backbones.vgg19_44 import TAPPED

# (convolutions, filters of each) of each stage
STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class VGG19(nn.Module):
    """Normalised float32 (B, 3, 44, 44) -> {"early": (B, 128, 22, 22), "mid": (B, 256, 11, 11), "late": (B, 512, 5, 5),
    "pooled": (B, 512)}."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: dict[int, str] = {}
        names = {stage: tap for tap, stage in TAPPED.items()}
        inputs = 3
        for stage, (count, width) in enumerate(STAGES, 1):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            if stage in names:
                self.taps[len(layers) - 1] = names[stage]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        draw_he(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                found[self.taps[place]] = x
        return found | {"pooled": x.flatten(1)}
