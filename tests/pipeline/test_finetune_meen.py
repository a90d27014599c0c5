"""Meen et al. from photos to predictions: a face network, and a model over it while it is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.head_choice import with_head
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from stages import predictions
from stages.finetune.settings import HeadChoice
from stages.index.drawn.scenes import draw_scene

Run = Callable[..., tuple[int, str, str]]
SMALL = {"options": {"width": 4}}
FAST: dict[str, Any] = {"epochs": 1, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight drawn photos of two classes, each of them a face."""
    for index in range(8):
        place = tmp_path / "photos" / ("calm", "glad")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        draw_scene(8, index).image.resize((120, 90)).save(place / f"{index}.png")
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    values["data"]["split"] = {"val": 0.25, "test": 0.25, "seed": 0}
    values["detect"]["faces"] = "whole"
    values["extract"]["backbones"] = {"face": {"backbone": "vgg19_44:face", "finetuned": "thenet", "taps": ["late"]}}
    head = {"kind": "meen:model2", "dropout": 0.25, **SMALL}
    head |= {"inputs": {"pixels": ["box48/pixels"], "late": ["face/late"]}, "epochs": 1, "standardize": False}
    values["train"] = {"seeds": [0], "heads": {"model2": head}}
    values["fuse"] = {"ensembles": {}}
    values["finetune"] = {
        # it is made first, whatever the names are
        "meen": FAST | {"preset": "meen-model1-averaged", "start": "finetune:thenet", "head": SMALL},
        "thenet": FAST | {"preset": "meen-face"},
        "pixels": FAST | {"preset": "meen-model3-emotion", "head": SMALL},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    return tmp_path


def test_a_face_network_and_a_model_over_it(folder: Path, kuleshov: Run) -> None:
    for command in ("index", "detect", "align"):
        assert kuleshov("-C", folder, command)[::2] == (0, ""), command
    status, out, err = kuleshov("-C", folder, "finetune")
    assert (status, err) == (0, "")
    assert out.index("finetune thenet: 1 epochs") < out.index("finetune meen: 1 epochs")
    assert "  vgg19_44:face starts from fine-tune thenet, and is not trained\n" in out
    tuned = folder / "artifacts" / "finetune"
    parts = {
        name: {path.stem for path in (tuned / name).glob("*.safetensors")} for name in ("thenet", "meen", "pixels")
    }
    assert parts == {"thenet": {"backbone", "last_layer"}, "meen": {"backbone", "head"}, "pixels": {"head"}}
    before, after = (load_file(tuned / name / "backbone.safetensors") for name in ("thenet", "meen"))
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert load_file(tuned / "meen" / "head.safetensors")["network.features.0.weight"].shape == (4, 3, 3, 3)
    for name in ("meen", "pixels"):
        written = predictions.read(folder / "artifacts" / "predictions" / "finetuned" / f"{name}-s0.csv", "finetuned")
        assert len(written.sample_ids) == 8
        assert written.seen.tolist() == [split == "train" for split in written.splits]
    status, out, _ = kuleshov("-C", folder, "finetune")
    assert status == 0
    assert out.count("trained before (1 epochs)") == 3
    # over what is cached of the plain view
    for command in ("index", "extract", "train"):
        assert kuleshov("-C", folder, command)[::2] == (0, ""), command
    head = predictions.read(folder / "artifacts" / "predictions" / "heads" / "model2-s0.csv", "head")
    assert len(head.sample_ids) == 8


def test_the_options_of_a_head_of_params_count(folder: Path) -> None:
    project = Project(folder)
    found = with_head("meen", project.params.finetune["meen"], "model2", project.params.train.heads)
    assert found.head == HeadChoice(kind="meen:model2", dropout=0.25, options={"width": 4})
    assert (found.freeze, found.start, found.max_faces) == (True, "finetune:thenet", 1)
