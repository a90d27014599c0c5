"""VGG-19's convolutions with batch normalisation, in torch. The names of the layers are those of torchvision's."""

from __future__ import annotations

import torch
from torch import nn

from stages.backbones.layers import draw_he
from stages.backbones.vgg19_44 import TAPPED

# (convolutions, filters of each as multiples of the first's) of each stage
STAGES = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))
WIDTH = 64
LAST = "last"


class VGG19(nn.Module):
    """Normalised float32 (B, 3, 44, 44) -> {"early": (B, 128, 22, 22), "mid": (B, 256, 11, 11), "late": (B, 512, 5, 5),
    "pooled": (B, 512)}.

    Args:
        channels: of the input.
        width: filters of the first stage, 64 in VGG-19. The shapes above are of that width.
    """

    def __init__(self, channels: int = 3, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: dict[int, str] = {}
        names = {stage: tap for tap, stage in TAPPED.items()}
        inputs = channels
        for stage, (count, times) in enumerate(STAGES, 1):
            for _ in range(count):
                filters = times * width
                layers += [nn.Conv2d(inputs, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
                inputs = filters
            if stage in names:
                self.taps[len(layers) - 1] = names[stage]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        draw_he(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.maps(x)
        return found | {"pooled": self.pool(found.pop(LAST))}

    def maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """`early`, `mid`, `late`, and `last` (B, 512, 2, 2): what the last convolution gives, after ReLU."""
        found: dict[str, torch.Tensor] = {}
        for place, layer in enumerate(self.features[:-1]):
            x = layer(x)
            if place in self.taps:
                found[self.taps[place]] = x
        return found | {LAST: x}

    def pool(self, last: torch.Tensor) -> torch.Tensor:
        """The last pooling: maps (B, C, 2, 2) -> (B, C)."""
        return self.features[-1](last).flatten(1)
