"""SphereFace in torch. The names of the layers are those of the published networks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones.sphereface import FEATURES

WIDTHS = (64, 128, 256, 512)
# (height, width) of a crop
SIZE = (112, 96)


class SphereFace(nn.Module):
    """Normalised float32 (B, 3, 112, 96) -> {"embedding": float32 (B, 512)}, not of unit length.

    Args:
        units: residual units of each of the four stages.
        normalised: whether FC1 has batch normalisation.
        narrower: how many times fewer channels all layers have, FC1 too: a divisor of 64.
        halved: the crop goes in at half its height and width, each pixel the mean of four.
    """

    def __init__(
        self, units: tuple[int, int, int, int], *, normalised: bool, narrower: int = 1, halved: bool = False
    ) -> None:
        super().__init__()
        self.units, self.halved = units, halved
        inputs, sides = 3, [side // 2 for side in SIZE] if halved else list(SIZE)
        for stage, (count, full) in enumerate(zip(units, WIDTHS, strict=True), 1):
            width, sides = full // narrower, [-(-side // 2) for side in sides]
            self._add(stage, 1, nn.Conv2d(inputs, width, 3, 2, 1))
            for place in range(2, 2 * count + 2):
                self._add(stage, place, nn.Conv2d(width, width, 3, 1, 1))
            inputs = width
        features = FEATURES // narrower
        self.fc5 = nn.Linear(inputs * sides[0] * sides[1], features)
        self.fc5_bn = nn.BatchNorm1d(features) if normalised else None
        self._draw()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.halved:
            x = F.avg_pool2d(x, 2)
        for stage, count in enumerate(self.units, 1):
            x = self._apply_layer(stage, 1, x)  # (B, 64, 56, 48), then half the sides at each stage
            for unit in range(count):
                y = self._apply_layer(stage, 2 * unit + 2, x)
                x = x + self._apply_layer(stage, 2 * unit + 3, y)
        x = self.fc5(x.flatten(1))
        return {"embedding": x if self.fc5_bn is None else self.fc5_bn(x)}

    def _add(self, stage: int, place: int, conv: nn.Conv2d) -> None:
        self.add_module(f"conv{stage}_{place}", conv)
        self.add_module(f"relu{stage}_{place}", nn.PReLU(conv.out_channels))

    def _apply_layer(self, stage: int, place: int, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"relu{stage}_{place}")(self.get_submodule(f"conv{stage}_{place}")(x))

    def _draw(self) -> None:
        """As SphereFace: the units' convolutions normal with std 0.01, so that a unit starts near the identity; the
        others by Xavier as Caffe has it, uniform with variance 1 / fan-in; biases zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.stride == (1, 1):
                nn.init.normal_(layer.weight, std=0.01)
            elif isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
