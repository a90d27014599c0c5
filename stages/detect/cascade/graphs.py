"""MTCNN's three networks as graphs of OpenVINO over facenet-pytorch's state dicts: what `nets` is for torch.

Built layer by layer rather than converted, which takes milliseconds. Inputs and outputs are those of `nets`,
but for its filling zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.detect.cascade.nets import LAYERS, State, joined
from stages.runtime import compiled, graph, ops

_PLANES, _PIXELS = (0, 3, 1, 2), (0, 2, 3, 1)
"""From pixels whose channels come last to planes, and back."""

_PROPOSED = 6
"""Outputs that P-Net has; the zeros of `nets` after them are of no use here."""

SHAPES = 512
"""Sizes of P-Net's input that OpenVINO keeps kernels for: those of some 40 photo sizes, about 200 MB."""


class ProposalGraph:
    """P-Net, over a level of the pyramid."""

    def __init__(self, state: State) -> None:
        pixels = ops.parameter([1, -1, -1, 3], np.float32)
        x = _convolved(_ordered(pixels, _PLANES), state, LAYERS["proposal"].pools)
        weight, bias = (part[:_PROPOSED] for part in joined(state, LAYERS["proposal"].heads))
        x = _convolution(x, weight[:, :, None, None], bias)
        self._graph = graph([_ordered(x, _PIXELS)], [pixels])
        self._run = compiled(self._graph)
        self._shapes: set[tuple[int, ...]] = set()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (1, height, width, 3) float32, at least 11 px each way -> (rows, columns, 6) float32."""
        shape = tuple(pixels.shape)
        if shape not in self._shapes:
            if len(self._shapes) == SHAPES:  # OpenVINO keeps what it made for each: begin anew
                self._run = compiled(self._graph)
                self._shapes.clear()
            self._shapes.add(shape)
        [found] = self._run(pixels.numpy())
        return torch.from_numpy(found[0])


class CropGraph:
    """R-Net or O-Net, over a full bucket of crops.

    Attributes:
        side: px of a crop.
    """

    def __init__(self, state: State, name: str, bucket: int) -> None:
        """Build a net.

        Args:
            name: `refine` or `output`.
            bucket: crops of each call.
        """
        layers = LAYERS[name]
        self.side = layers.side
        number = len(layers.pools) + 1
        pixels = ops.parameter([bucket, self.side, self.side, 3], np.float32)
        x = _convolved(_ordered(pixels, _PLANES), state, layers.pools)
        x = ops.reshape(_ordered(x, (0, 3, 2, 1)), _constant([bucket, -1]), False)  # columns, rows, channels
        x = _product(x, state[f"dense{number}.weight"], state[f"dense{number}.bias"])
        x = ops.prelu(x, _constant(state[f"prelu{number}.weight"]))
        x = _product(x, *joined(state, layers.heads))
        self._run = compiled(graph([x], [pixels]))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (bucket, side, side, 3) float32 -> (bucket, OUTPUTS) float32."""
        [found] = self._run(pixels.numpy())
        return torch.from_numpy(found)


def _convolved(x: Any, state: State, pools: tuple[int, ...]) -> Any:
    """Convolutions, each with its PReLU, and the maximum over windows of so many px, every second px (0: none)."""
    for number, pool in enumerate(pools, start=1):
        x = _convolution(x, state[f"conv{number}.weight"], state[f"conv{number}.bias"])
        x = ops.prelu(x, _constant(state[f"prelu{number}.weight"]))
        if pool:
            x = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [pool, pool], "ceil").output(0)
    return x


def _convolution(x: Any, weight: Tensor, bias: Tensor) -> Any:
    found = ops.convolution(x, _constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.add(found, _constant(bias.view(1, -1, 1, 1)))


def _product(x: Any, weight: Tensor, bias: Tensor) -> Any:
    return ops.add(ops.matmul(x, _constant(weight), False, True), _constant(bias[None]))


def _ordered(x: Any, axes: tuple[int, ...]) -> Any:
    return ops.transpose(x, _constant(list(axes)))


def _constant(value: Tensor | list[int]) -> Any:
    return ops.constant(np.array(value) if isinstance(value, list) else value.numpy())
