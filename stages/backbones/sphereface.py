"""SphereFace: a 512-d face embedding, compared by its angle, of 20 or 64 convolutions.

Liu et al. 2017 (arXiv:1704.08063). Each of four stages is a stride-2 3x3 convolution and residual units of two 3x3
convolutions, with a PReLU after every convolution and none after the sum; FC1 (`fc5` in the published files) gives the
embedding. Its crops are 112 high and 96 wide, in the order blue, green, red, in which the published network was
trained and is tested.

`64` is the network of Tan et al. 2017: its slides put batch normalisation on FC1, which SphereFace's own network of 64
layers does not have. So the tap of `64` is what FC2 reads, FC1's output normalised, and a file without `fc5_bn` is
refused. `20` has none: it is the published network, and the one of Gupta et al. 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import SPHEREFACE_LICENCE, SPHEREFACE_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

VARIANTS = ("20", "64")
# Residual units of each stage.
UNITS = {"20": (1, 2, 4, 1), "64": (3, 8, 16, 3)}
FEATURES = 512


def spec(variant: str | None) -> BackboneSpec:
    """The description of a variant: `20` or `64`."""
    name = families.need_variant("sphereface", variant, VARIANTS)
    return BackboneSpec(
        name=name,
        family="sphereface",
        weights=name,
        licence=SPHEREFACE_LICENCE,
        paper=SPHEREFACE_PAPER,
        input="face",
        template="sphere112x96",
        input_size=(112, 96),
        colour="BGR",
        mean=(127.5, 127.5, 127.5),
        std=(128.0, 128.0, 128.0),
        taps=(Tap("embedding", "face", (FEATURES,)),),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights, drawn as SphereFace's."""
    from stages.backbones.networks.sphereface import SphereFace

    variant = spec.name.partition(":")[2]
    return SphereFace(UNITS[variant], normalised=variant == "64")


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with SphereFace's names; its last layer, `fc6`, is left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.states import fill

    fill(module, path, classifier=("fc6",))
