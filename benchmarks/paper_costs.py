"""What training the papers' networks costs, counted on networks without memory: `python -m benchmarks.paper_costs`.

Parameters in millions; multiplications and additions of one input's forward pass in GFLOP (10^9), of convolutions and
matrix products, which is nearly all; and MiB that autograd keeps of one input for the backward pass, in float32,
weights not counted. A training step is about three forward passes. Inputs are of the papers' sizes. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from stages.backbones.networks.bn_inception import BNInception
from stages.backbones.networks.resnet_small import SmallResNet
from stages.backbones.networks.sphereface import SphereFace
from stages.backbones.networks.vgg19_44 import VGG19
from stages.backbones.networks.vgg_face import VGGFace
from stages.backbones.sphereface import UNITS
from stages.heads.dagnet import AttentionBranch, LocalAttention

INPUTS = 2  # at once: batch norm wants two
PHOTO = (3, 224, 224)
CATEGORIES = 26


@dataclass(frozen=True)
class Cost:
    """Of one input.

    Attributes:
        parameters: of the network.
        flop: multiplications and additions of a forward pass.
        kept: bytes for the backward pass.
    """

    parameters: int
    flop: float
    kept: float


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "DenseNet-161, 224 px": (models.densenet161, PHOTO),
    "ResNet-101, 224 px": (models.resnet101, PHOTO),
    "VGG-19, 224 px": (models.vgg19, PHOTO),
    "BN-Inception, 224 px": (BNInception, PHOTO),
    "SphereFace-20, 112x96": (lambda: SphereFace(UNITS["20"], normalised=False), (3, 112, 96)),
    "SphereFace-64, 112x96": (lambda: SphereFace(UNITS["64"], normalised=True), (3, 112, 96)),
    "ResNet-34, 48 px": (lambda: SmallResNet("34"), (3, 48, 48)),
    "VGG-Face, 256 px": (VGGFace, (3, 256, 256)),
    "VGG-19, 44 px": (VGG19, (3, 44, 44)),
    "VGG-19, 44 px, 512 maps": (lambda: VGG19(512), (512, 44, 44)),
    "DAG-Net's GSAM, ResNet-18's layer3": (lambda: AttentionBranch(256, 512, CATEGORIES, True), (256, 14, 14)),
    "DAG-Net's LSAM, N = 4, 224 px": (lambda: LocalAttention(4, True), PHOTO),
}
"""Name -> the network, and the shape of an input."""


def cost_of(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Cost:
    """Count one network, in training mode."""
    with torch.device("meta"):
        net = build().train()
        values = torch.zeros(INPUTS, *shape)
    own = {tensor.untyped_storage()._cdata for tensor in chain(net.parameters(), net.buffers())}
    kept: dict[int, Tensor] = {}  # by storage, each held so that no other takes its number

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        found = net(values)
    assert found is not None  # the graph, and what it keeps, lives as long as this
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    parameters = sum(one.numel() for one in net.parameters())
    return Cost(parameters, counter.get_total_flops() / INPUTS, size / INPUTS)


def main() -> None:
    """Print a row for each network, as docs/papers/README.md has them."""
    for name, (build, shape) in NETWORKS.items():
        print(row(name, cost_of(build, shape)))


def row(name: str, cost: Cost) -> str:
    """`| VGG-19, 44 px | 20.0 | 1.35 | 4.9 |`."""
    return f"| {name} | {cost.parameters / 1e6:.1f} | {cost.flop / 1e9:.2f} | {cost.kept / 2**20:.1f} |"


if __name__ == "__main__":
    main()
