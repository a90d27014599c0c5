"""face-api's expression network: seven classes, the 256 values they are read from, and the 7x7 map that those average.

Muehler 2018 (face-api.js, MIT; no paper): four dense blocks of depthwise separable convolutions. The weights are a
TensorFlow.js file, 8-bit values with a scale and an offset per tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import EXPRESSION_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

# The classes of the `probabilities` tap, in its order.
EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
FEATURES = 256


def spec(variant: str | None) -> BackboneSpec:
    """The network's description; it has no variants."""
    families.no_variant("expression", variant)
    return BackboneSpec(
        name="expression",
        family="expression",
        weights="expression",
        licence="MIT",
        paper=EXPRESSION_PAPER,
        input="face",
        template="box112",
        input_size=(112, 112),
        colour="RGB",
        mean=(122.782, 117.001, 104.298),
        std=(255.0, 255.0, 255.0),
        taps=(
            Tap("feature", "face", (FEATURES,)),
            Tap("probabilities", "face", (len(EMOTIONS),)),
            Tap("map", "face", (FEATURES, 7, 7)),
        ),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights."""
    from stages.backbones.networks.expression import ExpressionNet

    return ExpressionNet()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from face-api's .bin and the weights manifest beside it,
    or from a .safetensors with a state dict of its own.

    Raises:
        WeightsError: for a damaged file or other tensors.
    """
    from stages.backbones import states
    from stages.backbones.networks.expression import fill

    (states.fill if states.is_safetensors(path) else fill)(module, path)
