"""A file of the user's is compared with its network when it is added, not when it is first used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.backbones import fitting, registry, weights
from stages.backbones.shapes import without_memory
from stages.errors import WeightsError

MODEL = "torchvision:mobilenet_v3_small"
# One of each family, those whose packages have files of another format among them.
FAMILIES = (
    "resnet29",
    "expression",
    "mini_xception",
    "effnet_lite0",
    "inception_resnet_v1:vggface2",
    "resnet_small:18",
    "bn_inception",
    "torchvision:mobilenet_v3_small",
    "timm:mobilenetv3_small_050",
)
LARGE = ("sphereface:20", "vgg_face", "vgg19_44:face")


def _state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: value.clone() for key, value in registry.build(name).state_dict().items()}


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.soak) for name in LARGE)])
def test_every_family_takes_safetensors(name: str, folder: Path, tmp_path: Path) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    file = tmp_path / "mine.safetensors"
    state = _state(name)
    save_file(state, file)
    with pytest.raises(WeightsError, match=rf"run .*`kuleshov weights add {name}.* FILE --trust` if you vouch for it$"):
        weights.add(name, file, folder)
    path = weights.add(name, file, folder, trust=True)
    assert path.suffix == ".safetensors"
    assert weights.sha256(name, folder) == hashlib.sha256(file.read_bytes()).hexdigest()
    loaded = registry.load(name, weights_dir=folder).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_the_package_takes_the_place_of_ones_own(folder: Path, tmp_path: Path, weights_folder: Path) -> None:
    save_file(_state("resnet29"), tmp_path / "mine.safetensors")
    own = weights.add("resnet29", tmp_path / "mine.safetensors", folder, trust=True)
    packaged = weights.add("resnet29", weights.locate("resnet29", weights_folder), folder)
    assert packaged == weights.locate("resnet29", folder)
    assert not own.exists()


def test_a_packages_file_by_another_name_still_needs_its_companion(
    folder: Path, tmp_path: Path, weights_folder: Path
) -> None:
    renamed = tmp_path / "model.safetensors"
    renamed.write_bytes(weights.locate("expression", weights_folder).read_bytes())
    with pytest.raises(WeightsError, match=r"weights_manifest\.json is not there"):
        weights.add("expression", renamed, folder)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_of_another_architecture(folder: Path, tmp_path: Path, ending: str, trust: bool) -> None:
    state = _state("resnet_small:18")
    state["features.0.0.weight"] = torch.zeros(8, 3, 3, 3)
    file = tmp_path / f"other.{ending}"
    save_file(state, file) if ending == "safetensors" else torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        weights.add(MODEL, file, folder, trust=trust)
    message = str(caught.value)
    assert message.startswith(f"{file} does not fit MobileNetV3: ")
    assert " missing: classifier.0.bias, " in message
    assert "; 120 unexpected: bn1.bias, " in message
    assert message.endswith("; 1 wrong shape: features.0.0.weight (8, 3, 3, 3) for (16, 3, 3, 3)")
    assert "\n" not in message
    assert len(message) < 700
    assert not folder.exists()


def test_what_was_there_stays(folder: Path, tmp_path: Path) -> None:
    save_file(_state(MODEL), tmp_path / "mine.safetensors")
    path = weights.add(MODEL, tmp_path / "mine.safetensors", folder, trust=True)
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError):
        weights.add(MODEL, tmp_path / "broken.safetensors", folder, trust=True)
    assert weights.locate(MODEL, folder) == path


def _huge_header(data: bytes) -> bytes:
    return (2**40).to_bytes(8, "little") + data[8:]


def _no_json(data: bytes) -> bytes:
    return data[:8] + b"!" + data[9:]


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:4], lambda data: data[:-1], lambda data: data + b"0", _huge_header, _no_json],
    ids=["empty", "cut in its head", "cut", "longer", "huge header", "no json"],
)
def test_a_damaged_safetensors(folder: Path, tmp_path: Path, damage: object) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(_state(MODEL), file)
    file.write_bytes(damage(file.read_bytes()))  # pyright: ignore[reportCallIssue]
    with pytest.raises(
        WeightsError, match=r"mine\.safetensors cannot be read as a state dict \(.*\): fetch or add"
    ) as e:
        weights.add(MODEL, file, folder, trust=True)
    assert "\n" not in str(e.value)
    assert not folder.exists()


def test_a_detectors_networks_are_nobodys_own(folder: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=r"expected [0-9a-f]{64}"):
        weights.add("mtcnn_pnet", tmp_path / "mine.safetensors", folder, trust=True)
    assert not fitting.is_backbone("mtcnn_pnet")
    assert fitting.is_backbone(MODEL)


def test_a_check_takes_no_memory_and_changes_no_numbers(tmp_path: Path) -> None:
    with without_memory():
        module = registry.build(MODEL)
    assert all(parameter.is_meta for parameter in module.parameters())
    save_file(_state(MODEL), tmp_path / "mine.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fitting.check(MODEL, tmp_path / "mine.safetensors")
    assert torch.equal(torch.rand(2), expected)
