"""Networks of the papers at a quarter of their channels and a small input, to try things out on one core.

Each has the layers of the network that `OF` names, one for one, with a quarter of its channels everywhere: in
convolutions, batch normalisation, fully connected layers and taps. Photos are prepared as ImageNet's are, at 64 px
(the shortest side at 73) in place of 224 (at 256). Aligned faces are the crops of SphereFace, which the network halves
to 56x48 by the mean of four pixels; VGG-Face sees 64x64 instead of 256x256; those on 48x48 crops see what the full
ones see. So a step of training takes milliseconds a picture. Nobody publishes weights of them: they are for `start:
random` of a fine-tune, and for roles with `finetuned: NAME`.

Parameters, and of the full network without its classifier:

    bn_inception    649,288 of 10,270,240     sphereface20      927,568 of  22,670,656
    densenet161   1,698,384 of 26,472,000     sphereface64    2,527,184 of  48,201,536
    resnet101     2,677,776 of 42,500,160     vgg19           2,827,792 of 139,570,240
    resnet18        702,096 of 11,176,512     vgg19_44        1,255,632 of  20,035,392
    resnet34_48   1,335,248 of 21,284,672     vgg_face          920,784 of  14,714,688
    resnet50      1,480,976 of 23,508,032
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import bn_inception, families, resnet_small, sphereface, vgg19_44, vgg_face
from stages.backbones.catalogue import NARROW_PAPERS, OWN_LICENCE
from stages.backbones.spec import BackboneSpec, Tap

if TYPE_CHECKING:
    from torch import nn

VARIANTS = (
    "bn_inception",
    "densenet161",
    "resnet101",
    "resnet18",
    "resnet34_48",
    "resnet50",
    "sphereface20",
    "sphereface64",
    "vgg19",
    "vgg19_44",
    "vgg_face",
)
# The networks that are narrowed. `resnet34_48` is that of the faces that are not aligned of Tan et al. 2017.
OF = {
    "bn_inception": "bn_inception",
    "densenet161": "torchvision:densenet161",
    "resnet101": "torchvision:resnet101",
    "resnet18": "torchvision:resnet18",
    "resnet34_48": "resnet_small:34",
    "resnet50": "torchvision:resnet50",
    "sphereface20": "sphereface:20",
    "sphereface64": "sphereface:64",
    "vgg19": "torchvision:vgg19",
    "vgg19_44": "vgg19_44:emotion",
    "vgg_face": "vgg_face",
}
NARROWER = 4
SIDE = 64
_RESIZE_TO = 73
_MAPS = ("layer3", "layer4")
_TAPS: dict[str, dict[str, tuple[int, ...]]] = {
    "bn_inception": {"pooled": (256,)},
    "densenet161": {"pooled": (552,), "map": (552, 2, 2)},
    "resnet101": {"pooled": (512,), "layer3": (256, 4, 4), "layer4": (512, 2, 2)},
    "resnet18": {"pooled": (128,), "layer3": (64, 4, 4), "layer4": (128, 2, 2)},
    "resnet34_48": {"pooled": (128,)},
    "resnet50": {"pooled": (512,), "layer3": (256, 4, 4), "layer4": (512, 2, 2)},
    "sphereface20": {"embedding": (128,)},
    "sphereface64": {"embedding": (128,)},
    "vgg19": {"pooled": (1024,), "map": (128, 2, 2)},
    "vgg19_44": {"early": (32, 22, 22), "mid": (64, 11, 11), "late": (128, 5, 5), "pooled": (128,)},
    "vgg_face": {"conv5_3": (128, 4, 4), "pool5": (128, 2, 2)},
}


def spec(variant: str | None) -> BackboneSpec:
    """The description of a variant: a network's name, with its depth."""
    name = families.need_variant("narrow", variant, VARIANTS)
    full = _full(name.partition(":")[2])
    return replace(
        full,
        name=name,
        family="narrow",
        weights=name,
        licence=OWN_LICENCE,
        paper=NARROW_PAPERS[variant or ""],
        taps=tuple(Tap(tap, full.taps[0].level, shape) for tap, shape in _TAPS[variant or ""].items()),
    )


def _full(variant: str) -> BackboneSpec:
    """What the full network sees, at the size of the narrow one."""
    if variant == "resnet34_48":
        return resnet_small.spec("34")
    if variant == "vgg19_44":
        return vgg19_44.spec("emotion")
    if variant.startswith("sphereface"):
        return sphereface.spec(variant.removeprefix("sphereface"))
    if variant == "vgg_face":
        return replace(vgg_face.spec(None), template="box64", input_size=(SIDE, SIDE))
    photo = replace(bn_inception.spec(None), input_size=(SIDE, SIDE), resize_to=_RESIZE_TO)
    if variant == "bn_inception":
        return photo
    # torchvision's own, which are not asked: its import takes a second
    return replace(photo, colour="RGB", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def build(spec: BackboneSpec) -> nn.Module:
    """The network with random weights, drawn as those of the full one; of `vgg19` as He et al. 2015, all layers."""
    variant = spec.name.partition(":")[2]
    if variant.startswith("resnet"):
        from stages.backbones.networks.resnet_small import WIDTH, SmallResNet

        depth, _, small = variant.removeprefix("resnet").partition("_")
        return SmallResNet(depth, WIDTH // NARROWER, () if small else _MAPS)
    if variant.startswith("sphereface"):
        from stages.backbones.networks.sphereface import SphereFace

        depth = variant.removeprefix("sphereface")
        units = sphereface.UNITS[depth]
        return SphereFace(units, normalised=depth == "64", narrower=NARROWER, halved=True)
    if variant == "bn_inception":
        from stages.backbones.networks.bn_inception import BNInception

        return BNInception(NARROWER)
    if variant == "vgg_face":
        from stages.backbones.networks.vgg_face import VGGFace

        return VGGFace(NARROWER)
    if variant == "vgg19_44":
        from stages.backbones.networks.vgg19_44 import VGG19, WIDTH

        return VGG19(width=WIDTH // NARROWER)
    from stages.backbones.networks.narrow import NarrowDenseNet, NarrowVGG19

    return NarrowDenseNet(NARROWER) if variant == "densenet161" else NarrowVGG19(NARROWER, SIDE)


def load_state(module: nn.Module, path: Path) -> None:
    """Fill the network from a state dict with its own names, such as fine-tuning writes.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    from stages.backbones.states import fill

    fill(module, path)
