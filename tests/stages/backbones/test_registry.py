"""Specs and names: everything that can be listed, and what a wrong name says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.align.templates import find
from stages.backbones import families, registry, weights
from stages.backbones.spec import BackboneSpec, Tap
from stages.errors import SettingError, WeightsError

LISTED = [
    "bn_inception",
    "effnet_lite0",
    "expression",
    "inception_resnet_v1:casia",
    "inception_resnet_v1:vggface2",
    "mini_xception",
    "narrow:bn_inception",
    "narrow:densenet161",
    "narrow:resnet101",
    "narrow:resnet18",
    "narrow:resnet34_48",
    "narrow:resnet50",
    "narrow:sphereface20",
    "narrow:sphereface64",
    "narrow:vgg19",
    "narrow:vgg19_44",
    "narrow:vgg_face",
    "resnet29",
    "resnet_small:101",
    "resnet_small:18",
    "resnet_small:34",
    "sphereface:20",
    "sphereface:64",
    "vgg19_44:emotion",
    "vgg19_44:face",
    "vgg_face",
]
KNOWN = [
    *LISTED,
    "timm:resnet18",
    "torchvision:resnet18",
    "torchvision:efficientnet_b2",
    "torchvision:regnet_y_400mf",
]


def test_names_are_listed() -> None:
    assert registry.names() == LISTED


@pytest.mark.parametrize("name", KNOWN)
def test_every_spec_is_whole(name: str) -> None:
    spec = registry.get_spec(name)
    assert spec.name == name
    assert spec.family == name.partition(":")[0]
    assert spec == registry.get_spec(name)
    assert weights.entry(name).name == weights.entry(spec.weights).name == spec.weights
    assert spec.licence
    assert spec.paper
    assert {tap.level for tap in spec.taps} == {"face" if spec.input == "face" else "global"}
    assert json.loads(json.dumps(spec.describe())) == spec.describe()
    assert spec.template is None or find(spec.template).size == spec.pixels_size
    assert spec.stand_in is None or registry.get_spec(spec.stand_in)


def test_describe_holds_what_changes_values_and_no_more() -> None:
    spec = registry.get_spec("resnet29")
    assert spec.describe() == {
        "input": "face",
        "template": "dlib150",
        "input_size": [150, 150],
        "colour": "RGB",
        "mean": [122.782, 117.001, 104.298],
        "std": [256.0, 256.0, 256.0],
        "resize": "stretch",
        "resize_to": None,
        "interpolation": "bilinear",
    }
    assert dataclasses.replace(spec, licence="other", paper="other").describe() == spec.describe()
    assert dataclasses.replace(spec, crop_size=(160, 160)).describe() == spec.describe() | {"crop_size": [160, 160]}


def test_preprocessing_facts() -> None:
    facts = {
        name: (spec.template, spec.input_size, spec.colour, spec.mean, spec.std)
        for name in KNOWN[:-1]
        for spec in [registry.get_spec(name)]
    }
    imagenet = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert facts["expression"] == ("box112", (112, 112), "RGB", (122.782, 117.001, 104.298), (255.0,) * 3)
    assert facts["mini_xception"] == ("box64", (64, 64), "grey", (127.5,), (127.5,))
    assert facts["effnet_lite0"] == (None, (224, 224), "RGB", (127.0,) * 3, (128.0,) * 3)
    assert facts["inception_resnet_v1:casia"] == ("facenet160", (160, 160), "RGB", (127.5,) * 3, (128.0,) * 3)
    assert facts["sphereface:20"] == ("sphere112x96", (112, 96), "BGR", (127.5,) * 3, (128.0,) * 3)
    assert facts["resnet_small:34"] == ("box48", (48, 48), "RGB", *imagenet)
    assert facts["bn_inception"] == (None, (224, 224), "BGR", (104.0, 117.0, 128.0), (1.0,) * 3)
    assert facts["vgg_face"] == ("box256", (256, 256), "RGB", (129.1863, 104.7624, 93.594), (1.0,) * 3)
    assert facts["vgg19_44:face"] == ("box48", (44, 44), "RGB", (0.0,) * 3, (255.0,) * 3)
    assert facts["torchvision:resnet18"] == (None, (224, 224), "RGB", *imagenet)
    assert facts["torchvision:efficientnet_b2"] == (None, (288, 288), "RGB", *imagenet)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet30", "inception_resnet_v1:vggface2"),
        ("resnet30", "timm:MODEL, torchvision:MODEL"),
        ("shapes", "is unknown"),
        ("weights", "is unknown"),
        ("spec", "is unknown"),
        ("../resnet29", "is unknown"),
        ("", "is unknown"),
        ("resnet29:large", "no variants"),
        ("expression:x", "no variants"),
        ("sphereface", "write 'sphereface:20' or 'sphereface:64'"),
        ("sphereface:36", "'sphereface:36' is unknown"),
        ("vgg19_44", "'vgg19_44:face'"),
        ("inception_resnet_v1", "'inception_resnet_v1:casia'"),
        ("narrow", "'narrow:vgg19' or 'narrow:vgg19_44'"),
        ("narrow:resnet34", "'narrow:resnet34_48'"),
        ("inception_resnet_v1:msceleb", "'inception_resnet_v1:vggface2'"),
        ("torchvision", "torchvision:MODEL"),
        ("torchvision:resnet19", "resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "classifiers"),
        ("torchvision:squeezenet1_0", "no Linear layer"),
    ],
)
def test_a_wrong_name_says_what_there_is(name: str, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        registry.get_spec(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError):
        registry.build(name)


def test_only_the_family_asked_for_is_imported() -> None:
    program = (
        "import sys; from stages.backbones import families, weights; families.names(); weights.catalogue();"
        "assert 'torch' not in sys.modules;"
        "from stages.backbones import registry; registry.get_spec('resnet29');"
        "assert 'torch' not in sys.modules;"
        "loaded = {f for f in families.families() if 'stages.backbones.' + f in sys.modules};"
        "assert loaded == {'resnet29'}, loaded; [registry.get_spec(name) for name in families.names()];"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_family_file_is_a_family() -> None:
    assert families.families() == sorted({name.partition(":")[0] for name in KNOWN})
    for name in KNOWN:
        family, _ = families.find(name)
        assert all(callable(getattr(family, part)) for part in ("spec", "build", "load_state"))


def test_torchvision_weights_follow_from_the_model() -> None:
    entry = weights.entry("torchvision:resnet18")
    assert (entry.filename, entry.sha256, entry.licence) == ("resnet18-f37072fd.pth", "f37072fd", "see torchvision")
    assert isinstance(entry.source, weights.Url)
    assert entry.source.url.startswith("https://")
    with pytest.raises(SettingError, match="torchvision:nothing"):
        weights.entry("torchvision:nothing")
    with pytest.raises(
        SettingError, match=r"not in the catalogue: choose one of resnet29, .*, timm:MODEL, torchvision:M"
    ):
        weights.entry("nothing")


def _spec(**changes: object) -> BackboneSpec:
    return dataclasses.replace(registry.get_spec("effnet_lite0"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "YUV"},
        {"colour": "grey"},
        {"mean": (0.0,)},
        {"std": (1.0, 0.0, 1.0)},
        {"input": "face"},
        {"template": "box64"},
        {"resize": "pad"},
        {"resize_to": 256},
        {"resize": "shortest_side_center_crop"},
        {"resize": "shortest_side_center_crop", "resize_to": 200},
        {"interpolation": "nearest"},
        {"crop_size": (256, 256)},
        {"input": "face", "template": "box64", "crop_size": (224, 223)},
        {"input": "face", "template": "box64", "crop_size": (224, 224)},
        {"taps": ()},
        {"taps": (Tap("a", "face", (1,)), Tap("a", "face", (2,)))},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="effnet_lite0"):
        _spec(**changes)


def test_a_tap_has_a_known_level() -> None:
    with pytest.raises(ValueError, match="level"):
        Tap("a", "person", (1,))
    assert registry.get_spec("expression").tap("feature").shape == (256,)
    with pytest.raises(KeyError):
        registry.get_spec("expression").tap("pooled")


def test_missing_weights_name_the_remedy(folder: Path) -> None:
    with pytest.raises(WeightsError, match="kuleshov weights fetch torchvision:resnet18"):
        registry.load("torchvision:resnet18", weights_dir=folder)


def test_the_docs_list_every_backbone() -> None:
    page = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## ")[0].splitlines() if line.startswith("| `")]
    expected = []
    for spec in map(registry.get_spec, registry.names()):
        sees = f"{spec.template or 'photo'}, {spec.input_size[0]}x{spec.input_size[1]} {spec.colour}"
        taps = ", ".join(f"`{tap.name}` {'x'.join(map(str, tap.shape))}" for tap in spec.taps)
        expected.append(f"| `{spec.name}` | {sees} | {taps} | {spec.licence} |")
    assert rows == expected


def test_a_spec_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    registry.get_spec("torchvision:swin_t")
    assert torch.equal(torch.rand(2), expected)
