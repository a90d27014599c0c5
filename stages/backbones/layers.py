"""Layers that several families share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def pad_same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Pad (B, C, H, W) as TensorFlow's `same` does: sides become ceil(side / stride), odd px go after."""
    pads: list[int] = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


def draw_he(module: nn.Module) -> None:
    """Draw all convolutions and linear layers as He et al. 2015 (arXiv:1502.01852), by fan-out, with biases of zero;
    layers that normalise stay as torch makes them, gain one and shift zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
