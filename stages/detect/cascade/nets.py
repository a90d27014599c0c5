"""MTCNN's three networks over facenet-pytorch's state dicts, arranged for speed.

The same layers with the same weights, in channels_last: on a CPU the pooling of facenet-pytorch's layout takes longer
than the convolutions. Heads that stand on the same features are one matrix; logits leave the nets, and what is left
after the threshold goes through the softmax. Results differ from facenet-pytorch's by rounding, about 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

State = Mapping[str, Tensor]

OUTPUTS = 16
"""Numbers that a net gives for a box: the logits of "none" and "face", the box's correction (4), and from O-Net five x
and five y of the landmarks; zeros from the others, as a product of that width takes half the time of a narrow one."""

_CHANNELS = 16
"""Feature maps are filled up with zeros to a multiple of it: what a CPU works on at once."""


@dataclass(frozen=True)
class _Layer:
    """A convolution, its PReLU, and the maximum over windows of `pool` px after it, every second px (0: none)."""

    weight: Tensor
    bias: Tensor
    slope: Tensor
    pool: int

    @classmethod
    def of(cls, state: State, number: int, inputs: int, pool: int) -> _Layer:
        """Layer `number` of a net, for that many input maps."""
        weight, bias, slope = (state[f"{name}{number}.{kind}"] for name, kind in _PARTS)
        more = -len(weight) % _CHANNELS
        weight = functional.pad(weight, (0, 0, 0, 0, 0, inputs - weight.shape[1], 0, more))
        weight = weight.contiguous(memory_format=torch.channels_last)
        return cls(weight, functional.pad(bias, (0, more)), functional.pad(slope, (0, more)), pool)

    def __call__(self, x: Tensor) -> Tensor:
        x = torch.prelu(functional.conv2d(x, self.weight, self.bias), self.slope)
        if not self.pool:
            return x
        if x.device.type != "cpu":
            return functional.max_pool2d(x, self.pool, 2, ceil_mode=True)
        return _maxima(_maxima(x, 2, self.pool), 3, self.pool)


@dataclass(frozen=True)
class Layers:
    """What a net is made of.

    Attributes:
        side: px of a crop; 0: a picture of any size.
        pools: for each convolution the window of the maximum after it, px (0: none).
        heads: names of the outputs' layers, those of `OUTPUTS` in their order.
    """

    side: int
    pools: tuple[int, ...]
    heads: tuple[str, ...]


LAYERS = {
    "proposal": Layers(0, (2, 0, 0), ("conv4_1", "conv4_2")),
    "refine": Layers(24, (3, 3, 0), ("dense5_1", "dense5_2")),
    "output": Layers(48, (3, 3, 2, 0), ("dense6_1", "dense6_2", "dense6_3")),
}
"""P-Net, R-Net and O-Net."""

_PARTS = (("conv", "weight"), ("conv", "bias"), ("prelu", "weight"))


def _maxima(x: Tensor, dim: int, size: int) -> Tensor:
    """Maxima over windows of 2 or 3 along one dimension, every second place, the last one perhaps cut off.

    The same values as max_pool2d with ceil_mode, which takes twice as long on a CPU as it also notes where they are.
    """
    whole, cut = (x.shape[dim] - size) // 2 + 1, (x.shape[dim] - size) % 2
    shape = list(x.shape)
    shape[dim] = whole + cut
    out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    places = [_every_second(x, dim, start, whole) for start in range(size)]
    found = torch.maximum(places[0], places[1], out=out.narrow(dim, 0, whole))
    if size == 3:
        torch.maximum(found, places[2], out=found)
    if cut:
        last = x.narrow(dim, 2 * whole, 1)
        torch.maximum(last, last if size == 2 else x.narrow(dim, 2 * whole + 1, 1), out=out.narrow(dim, whole, 1))
    return out


def _every_second(x: Tensor, dim: int, start: int, count: int) -> Tensor:
    """A view of `count` places along a dimension."""
    stop = start + 2 * count - 1
    return x[:, :, start:stop:2] if dim == 2 else x[:, :, :, start:stop:2]


def _layers(state: State, pools: tuple[int, ...]) -> list[_Layer]:
    """The convolutions of a net, each with its pooling."""
    layers: list[_Layer] = []
    for number, pool in enumerate(pools, start=1):
        layers.append(_Layer.of(state, number, len(layers[-1].bias) if layers else 3, pool))
    return layers


def joined(state: State, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Weight (OUTPUTS, inputs) and bias (OUTPUTS,) of several heads as one, filled up with zeros."""
    weight = torch.cat([state[f"{name}.weight"].flatten(1) for name in names])
    bias = torch.cat([state[f"{name}.bias"] for name in names])
    more = OUTPUTS - len(bias)
    return functional.pad(weight, (0, 0, 0, more)), functional.pad(bias, (0, more))


class ProposalNet:
    """P-Net, over a level of the pyramid."""

    def __init__(self, state: State) -> None:
        self._layers = _layers(state, LAYERS["proposal"].pools)
        self._heads = joined(state, LAYERS["proposal"].heads)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (1, height, width, 3) float32, at least 11 px each way -> (rows, columns, OUTPUTS) float32."""
        x = pixels.permute(0, 3, 1, 2)
        for layer in self._layers:
            x = layer(x)
        return functional.linear(x[0].permute(1, 2, 0), *self._heads)


class CropNet:
    """R-Net or O-Net, over crops of one size.

    Attributes:
        side: px of a crop.
    """

    def __init__(self, state: State, name: str) -> None:
        """Arrange a net's weights: `refine` or `output`."""
        layers = LAYERS[name]
        self.side = layers.side
        self._layers = _layers(state, layers.pools)
        number = len(layers.pools) + 1
        dense, maps = state[f"dense{number}.weight"], self._layers[-1].weight.shape[0]
        edge = round((dense.shape[1] // maps) ** 0.5)
        # facenet-pytorch flattens columns, rows, channels; the features lie here as rows, columns, channels
        dense = dense.view(-1, edge, edge, maps).transpose(1, 2).flatten(1).contiguous()
        self._dense = (dense, state[f"dense{number}.bias"])
        self._slope = state[f"prelu{number}.weight"]
        self._heads = joined(state, layers.heads)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (n, side, side, 3) float32 -> (n, OUTPUTS) float32."""
        x = pixels.permute(0, 3, 1, 2)
        for layer in self._layers:
            x = layer(x)
        x = functional.linear(x.permute(0, 2, 3, 1).flatten(1), *self._dense)
        return functional.linear(torch.prelu(x, self._slope), *self._heads)
