"""BN-Inception in torch. The names of the layers are those of the port of the published ImageNet network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones.layers import draw_he


class Block(NamedTuple):
    """A row of the paper's table; 0: the block does not have this branch.

    Attributes:
        one: filters of the 1x1 branch.
        three: of the 3x3 branch: the 1x1 before it, and its own.
        double: of the branch of two 3x3: the 1x1 before them, and each one's own.
        pool: `avg` or `max`.
        project: of the 1x1 after the pooling. Without it the block has stride 2 and the pooled input passes through.
    """

    one: int
    three: tuple[int, int]
    double: tuple[int, int]
    pool: str
    project: int

    def over(self, narrower: int) -> Block:
        """The same with so many times fewer filters."""
        one, three, double = self.one // narrower, _over(self.three, narrower), _over(self.double, narrower)
        return Block(one, three, double, self.pool, self.project // narrower)


def _over(filters: tuple[int, int], narrower: int) -> tuple[int, int]:
    return filters[0] // narrower, filters[1] // narrower


BLOCKS = {
    "3a": Block(64, (64, 64), (64, 96), "avg", 32),
    "3b": Block(64, (64, 96), (64, 96), "avg", 64),
    "3c": Block(0, (128, 160), (64, 96), "max", 0),
    "4a": Block(224, (64, 96), (96, 128), "avg", 128),
    "4b": Block(192, (96, 128), (96, 128), "avg", 128),
    "4c": Block(160, (128, 160), (128, 160), "avg", 128),
    "4d": Block(96, (128, 192), (160, 192), "avg", 128),
    "4e": Block(0, (128, 192), (192, 256), "max", 0),
    "5a": Block(352, (192, 320), (160, 224), "avg", 128),
    "5b": Block(352, (192, 320), (192, 224), "max", 128),
}
_STEM, _AFTER_STEM = 64, 192


class BNInception(nn.Module):
    """Normalised float32 (B, 3, 224, 224) -> {"pooled": float32 (B, 1024)}, after ReLU.

    Args:
        narrower: how many times fewer filters each layer has than the paper's, a divisor of 32.
    """

    def __init__(self, narrower: int = 1) -> None:
        super().__init__()
        stem, inputs = _STEM // narrower, _AFTER_STEM // narrower
        self._blocks = {name: block.over(narrower) for name, block in BLOCKS.items()}
        self._add("conv1_7x7_s2", 3, stem, 7, 2)
        self._add("conv2_3x3_reduce", stem, stem, 1)
        self._add("conv2_3x3", stem, inputs, 3)
        for name, block in self._blocks.items():
            inputs = self._add_block(f"inception_{name}", inputs, block)
        draw_he(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = _halved(self._layer("conv1_7x7_s2", x))  # (B, 64, 56, 56)
        x = _halved(self._layer("conv2_3x3", self._layer("conv2_3x3_reduce", x)))  # (B, 192, 28, 28)
        for name, block in self._blocks.items():
            x = self._block(f"inception_{name}", block, x)
        return {"pooled": x.mean((2, 3))}

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def _add_block(self, name: str, inputs: int, block: Block) -> int:
        """Returns the channels that come out."""
        stride = 1 if block.project else 2
        if block.one:
            self._add(f"{name}_1x1", inputs, block.one, 1)
        self._add(f"{name}_3x3_reduce", inputs, block.three[0], 1)
        self._add(f"{name}_3x3", *block.three, 3, stride)
        self._add(f"{name}_double_3x3_reduce", inputs, block.double[0], 1)
        self._add(f"{name}_double_3x3_1", *block.double, 3)
        self._add(f"{name}_double_3x3_2", block.double[1], block.double[1], 3, stride)
        if block.project:
            self._add(f"{name}_pool_proj", inputs, block.project, 1)
        return block.one + block.three[1] + block.double[1] + (block.project or inputs)

    def _block(self, name: str, block: Block, x: torch.Tensor) -> torch.Tensor:
        branches = [self._layer(f"{name}_1x1", x)] if block.one else []
        branches.append(self._layer(f"{name}_3x3", self._layer(f"{name}_3x3_reduce", x)))
        double = self._layer(f"{name}_double_3x3_1", self._layer(f"{name}_double_3x3_reduce", x))
        branches.append(self._layer(f"{name}_double_3x3_2", double))
        if not block.project:
            branches.append(_halved(x))
        else:
            pool = F.avg_pool2d if block.pool == "avg" else F.max_pool2d
            branches.append(self._layer(f"{name}_pool_proj", pool(x, 3, 1, 1)))
        return torch.cat(branches, 1)


def _halved(x: torch.Tensor) -> torch.Tensor:
    """The 3x3 max pooling of stride 2; odd px at the end count, as in Caffe."""
    return F.max_pool2d(x, 3, 2, ceil_mode=True)
