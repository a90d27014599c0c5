"""The weights folder: finding, checking, remembering, and taking in a user's own file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.backbones import registry, weights
from stages.backbones.fetching import FetchResult, fetch, fetch_entry
from stages.backbones.preprocess import preprocess
from stages.errors import SettingError, WeightsError

MODEL = "torchvision:resnet18"


@pytest.fixture
def bin_file(weights_folder: Path, tmp_path: Path) -> Path:
    """A copy of the expression network's two files, outside any weights folder."""
    (tmp_path / "downloads").mkdir()
    for part in weights.entry("expression").files:
        shutil.copy(weights_folder / part.filename, tmp_path / "downloads" / part.filename)
    return tmp_path / "downloads" / weights.entry("expression").filename


@pytest.fixture(scope="module")
def random_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random state dict of resnet18, as a user might have trained it."""
    path = tmp_path_factory.mktemp("states") / "mine.pth"
    torch.manual_seed(1)
    torch.save(registry.build(MODEL).get_submodule("net").state_dict(), path)
    return path


def test_the_catalogue_is_whole() -> None:
    listed = weights.catalogue()
    assert {name for name in listed if name.startswith("mtcnn")} == {"mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet"}
    assert {registry.get_spec(name).weights for name in registry.names()} <= listed.keys()
    for name, entry in listed.items():
        assert entry.name == name
        assert entry.licence
        assert entry.paper
        assert len(entry.files) == 1 + len(entry.companions)
        for part in entry.files:
            unpublished = isinstance(entry.source, weights.Own) or name == "inception_resnet_v1:casia"
            assert len(part.sha256) == (0 if unpublished else 64)
            assert Path(part.filename).name == part.filename
        if not isinstance(entry.source, (weights.Url, weights.Own)):
            assert len(entry.source.members) == len(entry.files)
        assert entry.stand_in is None or registry.get_spec(entry.stand_in).stand_in == name
    filenames = [part.filename for entry in listed.values() for part in entry.files]
    assert len(set(filenames)) == len(filenames)


def test_real_weights_have_the_catalogues_hash_and_size(weights_folder: Path) -> None:
    for name in ("resnet29", "expression", "mini_xception", "effnet_lite0", "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet"):
        entry = weights.entry(name)
        path = weights.locate(name, weights_folder)
        assert path.stat().st_size == entry.size_bytes
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256 == weights.sha256(name, weights_folder)
        assert weights.status(name, weights_folder) == weights.WeightsStatus(
            name, True, path, True, entry.sha256, False, ""
        )


def test_an_installed_package_is_a_place(folder: Path) -> None:
    path = weights.locate("mtcnn_pnet", folder)
    assert path.parts[-3:] == ("facenet_pytorch", "data", "pnet.pt")


def test_weights_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(tmp_path / "w"))
    assert weights.weights_dir() == tmp_path / "w"
    monkeypatch.delenv("KULESHOV_WEIGHTS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert weights.weights_dir().parts[-2:] == ("kuleshov", "weights")


def test_missing(folder: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        weights.locate("expression", folder)
    message = str(caught.value)
    assert str(folder / "face_expression_model.bin") in message
    assert "`kuleshov weights fetch expression`" in message
    assert "`kuleshov weights add expression FILE`" in message
    status = weights.status("expression", folder)
    assert (status.present, status.path, status.verified, status.detail) == (False, None, False, message)
    with pytest.raises(SettingError, match="not in the catalogue"):
        weights.status("nothing", folder)
    assert not folder.exists()


def test_add_checks_and_copies(folder: Path, bin_file: Path) -> None:
    path = weights.add("expression", bin_file, folder)
    assert path == weights.locate("expression", folder) == folder / "face_expression_model.bin"
    assert sorted(file.name for file in folder.iterdir()) == [
        "face_expression_model-weights_manifest.json",
        "face_expression_model.bin",
        "verified.json",
    ]
    assert bin_file.exists()


def test_add_refuses_another_file(folder: Path, bin_file: Path) -> None:
    data = bytearray(bin_file.read_bytes())
    data[1000] ^= 1
    bin_file.write_bytes(data)
    found = hashlib.sha256(data).hexdigest()
    with pytest.raises(WeightsError, match=f"has SHA-256 {found}, expected {weights.entry('expression').sha256}"):
        weights.add("expression", bin_file, folder)
    with pytest.raises(WeightsError, match=r"where a package has the weights, .* only as \.safetensors"):
        weights.add("expression", bin_file, folder, trust=True)
    assert list(folder.iterdir()) == []


def test_add_needs_the_file_and_its_companion(folder: Path, bin_file: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere is not there"):
        weights.add("expression", bin_file.with_name("nowhere"), folder)
    bin_file.with_name("face_expression_model-weights_manifest.json").unlink()
    with pytest.raises(WeightsError, match=r"weights_manifest\.json is not there"):
        weights.add("expression", bin_file, folder)


def test_a_companion_is_checked_too(folder: Path, bin_file: Path) -> None:
    weights.add("expression", bin_file, folder)
    companion = folder / "face_expression_model-weights_manifest.json"
    companion.write_text("[]", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"weights_manifest\.json.*expected 5b349c17"):
        weights.locate("expression", folder)
    companion.unlink()
    with pytest.raises(WeightsError, match=r"weights_manifest\.json is not there"):
        weights.locate("expression", folder)
    assert weights.status("expression", folder).present
    assert not weights.status("expression", folder).verified


def test_a_damaged_file_is_noticed_after_it_was_verified(folder: Path, bin_file: Path) -> None:
    path = weights.add("expression", bin_file, folder)
    weights.locate("expression", folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    stamp = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(stamp + 1, stamp + 1))
    with pytest.raises(WeightsError, match=r"face_expression_model\.bin.*kuleshov weights fetch expression"):
        weights.locate("expression", folder)
    assert not weights.status("expression", folder).verified


def test_a_verification_is_remembered_and_a_damaged_memory_is_not_believed(folder: Path, bin_file: Path) -> None:
    path = weights.add("expression", bin_file, folder)
    weights.locate("expression", folder)
    memory = json.loads((folder / "verified.json").read_text("utf-8"))
    assert memory[str(path)] == [path.stat().st_size, path.stat().st_mtime_ns, weights.entry("expression").sha256]
    memory[str(path)][2] = "0" * 64
    (folder / "verified.json").write_text(json.dumps(memory), encoding="utf-8")
    with pytest.raises(WeightsError, match="has SHA-256 0000"):  # so the memory is what was read
        weights.locate("expression", folder)
    for damaged in ("", "[]", "{", json.dumps({str(path): 3}), json.dumps({str(path): [1, 2]})):
        (folder / "verified.json").write_text(damaged, encoding="utf-8")
        assert weights.locate("expression", folder) == path


def test_a_users_own_file_needs_trust(
    folder: Path, random_state: Path, drawn: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"expected f37072fd.*--trust"):
        weights.add(MODEL, random_state, folder)
    path = weights.add(MODEL, random_state, folder, trust=True)
    assert path == weights.locate(MODEL, folder)
    own = hashlib.sha256(random_state.read_bytes()).hexdigest()
    assert weights.sha256(MODEL, folder) == own
    status = weights.status(MODEL, folder)
    assert (status.verified, status.trusted, status.sha256) == (True, True, own)
    loaded = registry.load(MODEL, weights_dir=folder)
    torch.manual_seed(1)
    built = registry.build(MODEL).eval()
    spec = registry.get_spec(MODEL)
    x = preprocess(drawn(224, 224, 1), spec)
    with torch.inference_mode():
        assert torch.equal(loaded(x)["pooled"], built(x)["pooled"])


def test_a_users_own_file_is_checked_against_its_own_hash(folder: Path, random_state: Path) -> None:
    path = weights.add(MODEL, random_state, folder, trust=True)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="own-torchvision-resnet18"):
        weights.locate(MODEL, folder)
    status = weights.status(MODEL, folder)
    assert (status.present, status.path, status.verified, status.trusted) == (True, path, False, True)
    path.unlink()
    with pytest.raises(WeightsError, match="your own file"):
        weights.locate(MODEL, folder)
    assert not weights.status(MODEL, folder).verified


def test_a_second_file_of_the_users_takes_the_place_of_the_first(folder: Path, random_state: Path) -> None:
    first = weights.add(MODEL, random_state, folder, trust=True)
    assert weights.add(MODEL, random_state, folder, trust=True) == first == weights.locate(MODEL, folder)
    other = random_state.with_name("other.pth")
    torch.save({key: value + 1 for key, value in torch.load(random_state).items()}, other)
    second = weights.add(MODEL, other, folder, trust=True)
    assert second == weights.locate(MODEL, folder) != first
    assert not first.exists()


@pytest.mark.parametrize("text", ["", "{}", '{"trusted": {"a": {"filename": "../x", "sha256": "00"}}}', "[]"])
def test_a_damaged_index_is_an_error(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "index.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"index\.json is damaged"):
        weights.locate("expression", folder)


def test_the_catalogues_file_takes_the_place_of_the_users_own(
    folder: Path, random_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = weights.add(MODEL, random_state, folder, trust=True)
    other = random_state.with_name("right.pth")
    other.write_bytes(b"right")
    right = dataclasses.replace(weights.entry(MODEL), sha256=hashlib.sha256(b"right").hexdigest()[:8])
    copy = folder / "copy"
    copy.write_bytes(b"right")
    assert weights.install(right, [copy], folder) == folder / "resnet18-f37072fd.pth"
    assert not own.exists()
    assert weights.find(right, folder)[0] == folder / "resnet18-f37072fd.pth"


def test_torchs_download_folders_are_places(folder: Path, tmp_path: Path) -> None:
    right = dataclasses.replace(weights.entry(MODEL), sha256=hashlib.sha256(b"right").hexdigest()[:8])
    for place in (tmp_path / "torch" / "checkpoints", tmp_path / "torch" / "hub" / "checkpoints"):
        place.mkdir(parents=True)
        (place / right.filename).write_bytes(b"right")
        assert weights.find(right, folder) == (place / right.filename, hashlib.sha256(b"right").hexdigest())
    folder.mkdir(exist_ok=True)
    (folder / right.filename).write_bytes(b"wrong")  # a wrong file in one place does not hide the right one elsewhere
    assert weights.find(right, folder)[0] == tmp_path / "torch" / "hub" / "checkpoints" / right.filename


def test_a_file_in_torchs_download_folder_is_not_fetched_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = dataclasses.replace(weights.entry(MODEL), sha256=hashlib.sha256(b"right").hexdigest()[:8])
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = tmp_path / "cache" / "torch" / "hub" / "checkpoints" / right.filename
    there.parent.mkdir(parents=True)
    there.write_bytes(b"right")
    monkeypatch.setattr("urllib.request.build_opener", None)  # the network is not asked
    assert fetch_entry(right, folder) == FetchResult(there, "present", ())
    there.write_bytes(b"wrong")
    with pytest.raises(TypeError):  # one with another hash is no reason not to ask it
        fetch_entry(right, folder)


def test_a_file_without_a_published_hash_is_taken_on_trust_only(folder: Path, tmp_path: Path) -> None:
    name = "inception_resnet_v1:casia"
    torch.manual_seed(2)
    state = registry.build(name).get_submodule("net").state_dict()
    state["logits.weight"], state["logits.bias"] = torch.zeros(10575, 512), torch.zeros(10575)
    file = tmp_path / "20180408-102900-casia-webface.pt"
    torch.save(state, file)
    with pytest.raises(WeightsError, match=r"none is published.*--trust"):
        weights.add(name, file, folder)
    with pytest.raises(WeightsError, match=r"download https://.*--trust"):
        weights.locate(name, folder)
    weights.add(name, file, folder, trust=True)
    loaded = registry.load(name, weights_dir=folder)  # the classifier that the release carries is left out
    assert torch.equal(loaded.state_dict()["net.last_linear.weight"], state["last_linear.weight"])


def test_weights_that_are_always_ones_own(folder: Path, tmp_path: Path) -> None:
    name = "bn_inception"
    says = (
        "weights of bn_inception: your own file is not there; nothing fetches it: get a state dict named as in the "
        "port from Caffe and run `kuleshov weights add bn_inception FILE --trust`"
    )
    assert weights.status(name, folder) == weights.WeightsStatus(name, False, None, False, None, False, says)
    with pytest.raises(WeightsError) as caught:
        fetch(name, folder)
    assert str(caught.value) == says
    assert not folder.exists()
    state = registry.build(name).state_dict()
    file = tmp_path / "mine.pth"
    torch.save(state | {"last_linear.weight": torch.zeros(1000, 1024), "last_linear.bias": torch.zeros(1000)}, file)
    with pytest.raises(WeightsError, match=r"none is published; run `kuleshov weights add bn_inception FILE --trust`"):
        weights.add(name, file, folder)
    path = weights.add(name, file, folder, trust=True)
    fetched = fetch(name, folder)
    assert (fetched.path, fetched.how) == (path, "present")
    assert weights.sha256(name, folder) == hashlib.sha256(file.read_bytes()).hexdigest()
    status = weights.status(name, folder)
    assert (status.verified, status.trusted) == (True, True)
    loaded = registry.load(name, weights_dir=folder).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"expected [0-9a-f]{64}; run `kuleshov weights add bn_inception FILE --tr"):
        weights.locate(name, folder)
    path.unlink()
    with pytest.raises(WeightsError, match=r"\(your own file\) is not there; nothing fetches it: get a state dict"):
        fetch(name, folder)


def test_a_read_only_folder_is_enough_to_read(folder: Path, bin_file: Path) -> None:
    path = weights.add("expression", bin_file, folder)
    (folder / "verified.json").unlink(missing_ok=True)
    (folder / "verified.json").mkdir()  # nothing can be written there, whoever runs this
    assert weights.locate("expression", folder) == path
