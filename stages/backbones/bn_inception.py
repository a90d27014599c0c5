"""BN-Inception on whole photos: 1024 average-pooled values.

Ioffe & Szegedy 2015 (arXiv:1502.03167), the network of Tan et al. 2017's global images. The paper's table gives 576
channels out of 4c and 4d and 1024 out of 4e, which is less than the sum of the filters that it lists (608, 608, 1056);
the filters count, as in the published ImageNet network. Colour order, means and the names of the layers are those of
its port to PyTorch, whose convolutions have biases before their batch normalisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import BN_INCEPTION_PAPER, OWN_LICENCE
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

FEATURES = 1024


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("bn_inception", variant)
    return BackboneSpec(
        name="bn_inception",
        family="bn_inception",
        weights="bn_inception",
        licence=OWN_LICENCE,
        paper=BN_INCEPTION_PAPER,
        input="image",
        template=None,
        input_size=(224, 224),
        colour="BGR",
        mean=(104.0, 117.0, 128.0),
        std=(1.0, 1.0, 1.0),
        resize="shortest_side_center_crop",
        resize_to=256,
        taps=(Tap("pooled", "global", (FEATURES,)),),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights (He et al. 2015)."""
    from stages.backbones.networks.bn_inception import BNInception

    return BNInception()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with the port's names; its last layer, `last_linear` or `fc`, is left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.states import fill

    fill(module, path, classifier=("last_linear", "fc"))
