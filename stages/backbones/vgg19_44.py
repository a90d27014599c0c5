"""VGG-19 on the middle 44x44 of 48x48 faces: Meen's emotion network, and its twin that tells faces from other images.

Simonyan & Zisserman 2014 (arXiv:1409.1556), its 16 convolutions and no hidden fully connected layer: at 44 px its
stages have maps of 44, 22, 11, 5 and 2 px, and one pixel is left after the last pooling. Both networks are one
architecture with weights of their own, `emotion` (seven classes of FER2013) and `face` (face or no face); the last
layer is the classifier that fine-tuning puts on `pooled`.

Each convolution has batch normalisation. The text does not say so, but trains from scratch at a rate of 0.01, and its
size, batch, rate and decay are those of the public FER2013 code for VGG-19, which has it. That code also scales pixels
to 0..1 and does no more.

Taps, all after ReLU: the text wants features of an early, a middle and a late layer of the face network, and gives one
shape, (512, 5, 5), that of the last convolution of stage 4. So `early`, `mid` and `late` are the last convolutions of
stages 2, 3 and 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families
from stages.backbones.catalogue import OWN_LICENCE, VGG19_44_PAPER
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

VARIANTS = ("emotion", "face")
# Tap -> the stage whose last convolution it is.
TAPPED = {"early": 2, "mid": 3, "late": 4}


def spec(variant: str | None) -> BackboneSpec:
    """The description of a variant: `emotion` or `face`."""
    name = families.need_variant("vgg19_44", variant, VARIANTS)
    return BackboneSpec(
        name=name,
        family="vgg19_44",
        weights=name,
        licence=OWN_LICENCE,
        paper=VGG19_44_PAPER,
        input="face",
        template="box48",
        input_size=(44, 44),
        crop_size=(48, 48),
        colour="RGB",
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        taps=(
            Tap("early", "face", (128, 22, 22)),
            Tap("mid", "face", (256, 11, 11)),
            Tap("late", "face", (512, 5, 5)),
            Tap("pooled", "face", (512,)),
        ),
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights (He et al. 2015)."""
    from stages.backbones.networks.vgg19_44 import VGG19

    return VGG19()


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with the names of torchvision's vgg19_bn; its last layers are left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.states import fill

    fill(module, path, classifier=("classifier", "classifier.0", "classifier.3", "classifier.6"))
