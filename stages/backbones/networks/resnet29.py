"""dlib's ResNet-29 in torch, and reading its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones.dlib_file import Layer, read_layers
from stages.errors import WeightsError

# (channels in, channels out, whether the block halves the side)
BLOCKS = (
    *[(32, 32, False)] * 3,
    (32, 64, True),
    *[(64, 64, False)] * 3,
    (64, 128, True),
    *[(128, 128, False)] * 2,
    (128, 256, True),
    *[(256, 256, False)] * 2,
    (256, 256, True),
)


class _ConvAffine(nn.Module):
    """A convolution, then a gain and a shift per channel (dlib's frozen batch normalisation)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1))
        self.shift = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * self.gain + self.shift


class _Block(nn.Module):
    """Two convolutions beside a shortcut. A halving block's shortcut is average-pooled, and both sides are padded with
    zeros, after the data, to the larger number of channels, rows and columns."""

    def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
        super().__init__()
        self.first = _ConvAffine(inputs, outputs, 3, 2 if halves else 1, 0 if halves else 1)
        self.second = _ConvAffine(outputs, outputs, 3, 1, 1)
        self.halves = halves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.halves:
            x = F.avg_pool2d(x, 2, 2)
            sides = [max(a, b) for a, b in zip(x.shape[1:], y.shape[1:], strict=True)]
            x, y = _pad_to(x, sides), _pad_to(y, sides)
        return F.relu(x + y)


def _pad_to(x: torch.Tensor, sides: list[int]) -> torch.Tensor:
    channels, height, width = (side - own for side, own in zip(sides, x.shape[1:], strict=True))
    return F.pad(x, (0, width, 0, height, 0, channels))


class ResNet29(nn.Module):
    """Normalised float32 (B, 3, 150, 150) -> {"embedding": (B, 128), "map": (B, 256, 2, 2), after ReLU}."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvAffine(3, 32, 7, 2, 0)
        self.blocks = nn.ModuleList([_Block(*block) for block in BLOCKS])
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)  # (B, 32, 35, 35)
        for block in self.blocks:
            x = block(x)
        return {"embedding": self.fc(x.mean((2, 3))), "map": x}


def fill(module: nn.Module, path: Path) -> None:
    """Fill the network from dlib's file, whose layers must be this network's, one by one.

    Raises:
        WeightsError: for a damaged file or another network.
    """
    network = cast("ResNet29", module)
    layers = read_layers(path)
    kinds = [layer.kind for layer in layers]
    if kinds != _expected_kinds():
        raise WeightsError(f"{path} is another dlib network: its {len(kinds)} layers are not those of ResNet-29")
    filled = iter([layer for layer in layers if layer.values.size])
    with torch.no_grad():
        for pair in _pairs(network):
            _fill(pair, next(filled), next(filled), path)
        last = next(filled)
        if last.settings != (128, 256) or last.values.size != 128 * 256:
            raise WeightsError(f"{path} has a last layer of {last.settings} (outputs, inputs), expected (128, 256)")
        network.fc.weight.copy_(torch.from_numpy(last.values.reshape(256, 128).T.copy()))


def _pairs(network: ResNet29) -> Iterator[_ConvAffine]:
    yield network.stem
    for block in network.blocks:
        yield cast("_Block", block).first
        yield cast("_Block", block).second


def _expected_kinds() -> list[str]:
    kinds = ["con_4", "affine_", "relu_", "max_pool_2"]
    for _, _, halves in BLOCKS:
        kinds += ["con_4", "affine_", "relu_", "con_4", "affine_", *(["avg_pool_2"] * halves), "add_prev_", "relu_"]
    return [*kinds, "avg_pool_2", "fc_2"]


def _fill(pair: _ConvAffine, conv: Layer, affine: Layer, path: Path) -> None:
    """Filters then biases; gains then shifts."""
    weight = pair.conv.weight
    outputs = weight.shape[0]
    stride, padding = int(pair.conv.stride[0]), int(pair.conv.padding[0])
    settings = (outputs, *weight.shape[2:], stride, stride, padding, padding)
    if conv.settings != settings or conv.values.size != weight.numel() + outputs or affine.values.size != 2 * outputs:
        raise WeightsError(f"{path} has a convolution {conv.settings} where ResNet-29 has {settings}")
    values = torch.from_numpy(conv.values)
    weight.copy_(values[: weight.numel()].view_as(weight))
    cast("nn.Parameter", pair.conv.bias).copy_(values[weight.numel() :])
    gains = torch.from_numpy(affine.values)
    pair.gain.copy_(gains[:outputs].view_as(pair.gain))
    pair.shift.copy_(gains[outputs:].view_as(pair.shift))
