"""EfficientNet-Lite0 in torch, and reading its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones.effnet_lite0 import FEATURES
from stages.backbones.layers import pad_same
from stages.backbones.states import load_strictly, read_state

# (repeats, kernel, stride of the first, expansion, channels out)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _CLASSES = 32, FEATURES, 1000


class _SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's `same`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(pad_same(input, int(self.kernel_size[0]), int(self.stride[0])))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """An inverted bottleneck. The attribute names are those of the weights file."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion != 1
        self.skips = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _SameConv(inputs, width, 1), _norm(width)
        self._depthwise_conv, self._bn1 = _SameConv(width, width, kernel, stride, groups=width), _norm(width)
        self._project_conv, self._bn2 = _SameConv(width, outputs, 1), _norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.skips else y


class EfficientNetLite0(nn.Module):
    """Normalised float32 (B, 3, 224, 224) -> {"pooled": (B, 1280), "map": (B, 1280, 7, 7)}, after ReLU6.

    The classifier is kept, unused, so that the weights file fits exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _SameConv(3, _STEM, 3, 2), _norm(_STEM)
        blocks: list[nn.Module] = []
        inputs = _STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(_Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _SameConv(inputs, _HEAD, 1), _norm(_HEAD)
        self._fc = nn.Linear(_HEAD, _CLASSES)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return {"pooled": x.mean((2, 3)), "map": x}


def fill(module: nn.Module, path: Path) -> None:
    """Fill the network from its state dict.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    load_strictly(module, read_state(path), path)
