"""EfficientNet-Lite0 on ImageNet: what a whole photo shows, pooled and as a 7x7 map.

Tan & Le 2019 (arXiv:1905.11946); Lite (Liu 2020) has no squeeze-and-excitation, ReLU6, and a stem and a head that do
not scale. Convolutions pad as TensorFlow's `same`. The photo is stretched to the input, not cropped as for ImageNet's
scores: people at the edge of a group photo count.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones import families
from stages.backbones.catalogue import EFFNET_PAPER
from stages.backbones.layers import pad_same
from stages.backbones.spec import BackboneSpec, Tap
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
_STEM, _HEAD, _CLASSES = 32, 1280, 1000


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("effnet_lite0", variant)
    return BackboneSpec(
        name="effnet_lite0",
        family="effnet_lite0",
        weights="effnet_lite0",
        licence="Apache-2.0",
        paper=EFFNET_PAPER,
        input="image",
        template=None,
        input_size=(224, 224),
        colour="RGB",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        interpolation="bicubic",
        taps=(Tap("pooled", "global", (_HEAD,)), Tap("map", "global", (_HEAD, 7, 7))),
    )


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


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    return EfficientNetLite0()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from its state dict.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    load_strictly(module, read_state(path), path)
