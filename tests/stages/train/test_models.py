"""Model folders: nothing is lost on the way to disk and back, and a damaged folder is one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stages import predictions
from stages.errors import DataError, KuleshovError, MissingInputError
from stages.ledger import Ledger
from stages.train.answering import infer
from stages.train.features import gather
from stages.train.models import load, save_ensemble, save_head
from stages.train.run import run

HEADS = ("average", "attention_a", "attention_b", "attention_c")


@pytest.fixture
def trained(populated: Any, train_settings: Callable[..., Any], tmp_path: Path) -> Path:
    """The artifacts of one seed of every head."""
    run(populated.inputs(), train_settings(HEADS, epochs=1), tmp_path / "artifacts", Ledger("train"))
    return tmp_path / "artifacts"


@pytest.fixture
def folder(trained: Path) -> Path:
    return trained / "models" / "heads" / "attention_c-s0"


@pytest.mark.parametrize("name", HEADS)
def test_a_loaded_model_gives_the_same_probabilities(populated: Any, trained: Path, name: str) -> None:
    ensemble = load(trained / "models" / "heads" / f"{name}-s0")
    [model] = ensemble.members
    assert (ensemble.name, ensemble.weights, model.seed, (model.shapes.faces, model.shapes.global_)) == (
        f"{name}-s0",
        (1.0,),
        0,
        (6, 5),
    )
    inputs = populated.inputs()
    blocks = ([inputs.plans["resnet29"].blocks["embedding"]], [inputs.plans["effnet_lite0"].blocks["pooled"]])
    features = gather(
        populated.samples, populated.store, populated.detections, *blocks, max_faces=15, ledger=Ledger("t")
    )
    probabilities, _ = infer(model.head, features.scaled(*model.scales))
    written = predictions.read(trained / "predictions" / "heads" / f"{name}-s0.csv")
    np.testing.assert_allclose(probabilities, written.probabilities, rtol=1e-6)
    assert model.classes == written.classes


def test_saving_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    [model] = load(folder).members
    save_head(tmp_path / "again", model)
    for name in ("model.json", "head.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_backbones_are_named_by_hash_and_not_contained(folder: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    assert set(about["weights"]) == {"resnet29", "effnet_lite0"}
    assert about["weights"]["resnet29"]["backbone"] == "resnet29"
    assert [len(entry["sha256"]) for entry in about["weights"].values()] == [64, 64]
    assert all(entry["licence"] for entry in about["weights"].values())
    assert sorted(path.name for path in folder.iterdir()) == ["head.safetensors", "model.json"]
    tensors = load_file(folder / "head.safetensors")
    assert {name.split(".")[1] for name in tensors if name.startswith("head.")} == {
        *("face", "global_", "score", "score_hidden", "classify", "face_norm", "global_norm")
    }
    assert {name for name in tensors if not name.startswith("head.")} == {
        *("scale.faces.mean", "scale.faces.deviation", "scale.global.mean", "scale.global.deviation")
    }


def test_an_ensemble_holds_its_members(trained: Path, tmp_path: Path) -> None:
    heads = trained / "models" / "heads"
    sources = {name: heads / name for name in ("average-s0", "attention_b-s0")}
    save_ensemble(tmp_path / "both", "both", sources, [0.25, 0.75])
    shutil.rmtree(heads)
    ensemble = load(tmp_path / "both")
    assert ensemble.name == "both"
    members = {m.name: w for m, w in zip(ensemble.members, ensemble.weights, strict=True)}
    assert members == {"average-s0": 0.25, "attention_b-s0": 0.75}


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (about | changes).items() if v is not ...}))


def refused(folder: Path, kind: type[KuleshovError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_not_a_model_folder(tmp_path: Path) -> None:
    refused(tmp_path, MissingInputError, "not a model folder")
    refused(tmp_path / "nothing", MissingInputError, "not a model folder")


def test_a_newer_schema(folder: Path) -> None:
    edit(folder, schema=2)
    refused(folder, DataError, "schema 2, this version reads up to 1; upgrade")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"schema": 1}', '{"schema": 1, "kind": "tree"}', "{", b"\xff"])
def test_an_unreadable_description(folder: Path, text: str | bytes) -> None:
    (folder / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, DataError, "not readable as a model's description; train")


@pytest.mark.parametrize(
    "changes",
    [
        *({"classes": ...}, {"classes": None}, {"head": {}}, {"seed": "x"}, {"dims": [6]}, {"dims": None}),
        *({"detect": {"min_face": 3}}, {"extract": None}, {"weights": {}}, {"weights": []}),
        {"weights": {"resnet29": {"sha256": "a"}, "effnet_lite0": {"sha256": "b"}}},
    ],
    ids=str,
)
def test_a_description_with_a_bad_part(folder: Path, changes: Any) -> None:
    edit(folder, **changes)
    refused(folder, DataError, "not readable as a model's description; train")


def test_a_head_that_this_version_has_not(folder: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    edit(folder, head={**about["head"], "kind": "meen:model_1"})
    refused(folder, DataError, "'meen:model_1'.*upgrade")


def test_missing_and_damaged_tensors(folder: Path) -> None:
    path = folder / "head.safetensors"
    whole = path.read_bytes()
    for bad in (whole[:-10], whole[:20], b"", b"x" * len(whole)):
        path.write_bytes(bad)
        refused(folder, DataError, "damaged, or of another model")
    path.unlink()
    refused(folder, DataError, re.escape("head.safetensors is not there; train"))


@pytest.mark.parametrize("name", ["scale.faces.mean", "head.score.weight", "scale.global.deviation"])
@pytest.mark.parametrize("what", ["gone", "reshaped"])
def test_tensors_of_another_model(folder: Path, name: str, what: str) -> None:
    tensors = load_file(folder / "head.safetensors")
    value = tensors.pop(name)
    if what == "reshaped":
        tensors[name] = np.zeros((*value.shape[:-1], value.shape[-1] + 1), value.dtype)
    save_file(tensors, folder / "head.safetensors")
    refused(folder, DataError, "damaged, or of another model")


@pytest.mark.parametrize("members", [..., {}, [], {"a-s0": "x"}, {"average-s0": 0.4}, {"a": 2.0, "b": -1.0}])
def test_a_damaged_ensemble(trained: Path, tmp_path: Path, members: Any) -> None:
    save_ensemble(tmp_path / "e", "e", {"average-s0": trained / "models" / "heads" / "average-s0"}, [1.0])
    edit(tmp_path / "e", members=members)
    refused(tmp_path / "e", DataError, "not readable as a model's description; train")


def test_an_ensemble_without_a_member(trained: Path, tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", "e", {"average-s0": trained / "models" / "heads" / "average-s0"}, [1.0])
    shutil.rmtree(tmp_path / "e" / "members" / "average-s0")
    refused(tmp_path / "e", MissingInputError, "not a model folder")
