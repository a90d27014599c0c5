"""`kuleshov finetune`: align cuts what the backbone sees, the command trains it and says what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.plans import role_plans
from pipeline.project import Project
from pipeline.provenance import provenance
from pipeline.scaffold.write import ProjectData, files
from stages.backbones.weights import hash_file
from stages.detect.run import boxes_spec, read
from stages.extract.forward import load_forward
from stages.index.drawn.scenes import draw_scene
from stages.predictions import read as read_predictions

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight drawn scenes of two classes, in folders, and two fine-tunes in params.yaml."""
    for index in range(8):
        place = tmp_path / "photos" / ("calm", "glad")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        draw_scene(8, index).image.resize((240, 180)).save(place / f"{index}.png")
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    values["detect"]["faces"] = "whole"
    values["finetune"] = {
        "first": {
            "preset": "tan-nonaligned-scratch",
            "backbone": "resnet_small:18",
            "epochs": 1,
            "batch_size": 4,
            "device": "cpu",
        },
        "second": {"preset": "tan-nonaligned", "backbone": "resnet_small:18", "start": "finetune:first", "epochs": 1}
        | {"batch_size": 4, "device": "cpu"},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    return tmp_path


def test_a_fine_tune_and_one_that_goes_on_from_it(folder: Path, kuleshov: Run) -> None:
    for command in ("index", "detect", "align"):
        status, said, err = kuleshov("-C", folder, command)
        assert (status, err) == (0, "")
    assert "box48" in said, "the templates that align says"
    assert "box48/pixels" in (folder / "artifacts" / "keys" / "align.csv").read_text()
    status, _, err = kuleshov("-C", folder, "finetune", "second")
    assert status == 1
    assert "run kuleshov finetune first" in err
    for name, origin in (("first", "random weights"), ("second", "fine-tune first")):
        status, said, err = kuleshov("-C", folder, "finetune", name)
        assert (status, err) == (0, "")
        lines = said.splitlines()
        assert re.match(rf"finetune {name}: 1 epochs, \d+ steps in [\d.]+ s$", lines[0])
        assert lines[1] == f"  resnet_small:18 starts from {origin}"
        assert re.search(r"accuracy of samples that were not seen: test [01]\.\d{3} \(n = 1\)", said)
        assert (folder / "artifacts" / "finetune" / name / "backbone.safetensors").is_file()
        assert (folder / "artifacts" / "plots" / "finetune" / f"{name}.csv").is_file()
        written = read_predictions(folder / "artifacts" / "predictions" / "finetuned" / f"{name}-s0.csv")
        assert (len(written), written.seen.sum()) == (8, 6), "the training samples are seen"
    assert (folder / "artifacts" / "failures" / "finetune.csv").is_file()


def test_all_of_them_in_their_order_and_nothing_twice(folder: Path, kuleshov: Run) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["finetune"]["again"] = values["finetune"].pop("first")  # `first` sorted before `second`; this one too
    values["finetune"]["a"] = values["finetune"].pop("second") | {"start": "finetune:again"}
    path.write_text(yaml.safe_dump(values))
    for command in ("index", "detect", "align"):
        assert kuleshov("-C", folder, command)[0] == 0
    status, said, err = kuleshov("-C", folder, "finetune")
    assert (status, err) == (0, "")
    assert said.index("finetune again:") < said.index("finetune a:"), "one starts from the other"
    table = (folder / "artifacts" / "finetune" / "weights.csv").read_text()
    assert table.count("backbone.safetensors") == 2
    _, said, _ = kuleshov("-C", folder, "finetune")
    assert said.count("trained before (1 epochs)") == 2
    assert (folder / "artifacts" / "finetune" / "weights.csv").read_text() == table
    values["finetune"] = {}
    path.write_text(yaml.safe_dump(values))
    assert kuleshov("-C", folder, "finetune")[1] == "finetune: none in params.yaml\n"
    assert not list((folder / "artifacts" / "predictions" / "finetuned").glob("*.csv"))
    assert (folder / "artifacts" / "finetune" / "a" / "backbone.safetensors").is_file(), "weights took hours"
    both = {"preset": "tan-nonaligned", "backbone": "resnet_small:18"}
    values["finetune"] = {"a": both | {"start": "finetune:b"}, "b": both | {"start": "finetune:a"}}
    path.write_text(yaml.safe_dump(values))
    status, _, err = kuleshov("-C", folder, "finetune")
    assert status == 1
    assert "no one can be first" in err


def test_a_fine_tune_and_a_block_for_each_fold(folder: Path, kuleshov: Run) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    first = values["finetune"]["first"] | {"start": "weights", "backbone": "mini_xception", "freeze_norm": True}
    values["finetune"] = {"first": first}
    values["extract"]["backbones"] = {
        "tuned": {"backbone": "mini_xception", "finetuned": "first", "folds": 2, "taps": ["feature"]}
    }
    path.write_text(yaml.safe_dump(values))
    for command in ("index", "detect", "align"):
        assert kuleshov("-C", folder, command)[0] == 0, command
    status, said, err = kuleshov("-C", folder, "finetune", "first", "--folds", "2")
    assert (status, err) == (0, "")
    assert re.search(r"not seen: test [01]\.\d{3} \(n = 1\), train [01]\.\d{3} \(n = 6\)", said)
    assert (folder / "artifacts" / "finetune" / "first.folds.csv").read_text().count("\n") == 7
    written = read_predictions(folder / "artifacts" / "predictions" / "finetuned" / "first-s0.csv")
    assert (len(written), written.seen.any()) == (8, False)
    status, said, err = kuleshov("-C", folder, "extract", "tuned")
    assert (status, err) == (0, "")
    assert "extract/tuned.fold0: 8 face groups, 8 computed" in said
    assert "extract/tuned.fold1: 8 face groups, 8 computed" in said
    assert len((folder / "artifacts" / "blocks" / "extract" / "tuned.csv").read_text().splitlines()) == 1 + 16
    assert set(Project(folder).params.extract.roles) == {"tuned.fold0", "tuned.fold1"}
    status, _, err = kuleshov("-C", folder, "extract", "tuned.fold1")
    assert (status, err) == (1, "kuleshov: error: extract.backbones has no 'tuned.fold1': it has tuned\n")
    values["extract"]["backbones"]["tuned"]["folds"] = 3
    path.write_text(yaml.safe_dump(values))
    status, _, err = kuleshov("-C", folder, "extract")
    assert status == 1
    assert "extract.backbones.tuned.folds is 3, and first has 2; run kuleshov finetune first --folds 3" in err
    values["extract"]["backbones"]["tuned"]["folds"] = 2
    values["finetune"]["first"]["learning_rate"] = 0.5
    path.write_text(yaml.safe_dump(values))
    status, _, err = kuleshov("-C", folder, "extract")
    assert status == 1
    assert "learning_rate was 0.01 and is 0.5; run kuleshov finetune first --folds 2" in err
    values["finetune"]["first"] |= {"learning_rate": 0.01, "folds": 3}
    path.write_text(yaml.safe_dump(values))
    assert "set extract.backbones.tuned.folds to 3 as well" in kuleshov("-C", folder, "index")[2]
    values["finetune"] = {"other": first}
    path.write_text(yaml.safe_dump(values))
    assert "finetuned is 'first', and finetune has other: name one of these" in kuleshov("-C", folder, "index")[2]
    values["finetune"] = {"first": first}
    path.write_text(yaml.safe_dump(values))
    assert kuleshov("-C", folder, "finetune", "--folds", "2")[0] == 1, "of which one?"
    assert kuleshov("-C", folder, "finetune", "first", "--folds", "7")[0] == 1, "there are six"


def test_what_the_command_refuses(folder: Path, kuleshov: Run) -> None:
    for command in ("index", "detect"):
        assert kuleshov("-C", folder, command)[0] == 0
    status, out, err = kuleshov("-C", folder, "finetune", "third")
    assert (status, out) == (1, "")
    assert err == "kuleshov: error: finetune has no 'third' in params.yaml: it has first, second\n"
    status, _, err = kuleshov("-C", folder, "finetune", "first")
    assert status == 1
    assert "run kuleshov align" in err
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["finetune"]["a/b"] = values["finetune"].pop("second")
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    assert "finetune.a/b" in kuleshov("-C", folder, "index")[2]
    values["finetune"] = {"first": {"preset": "tan-nonaligned"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    assert "start: finetune:NAME" in kuleshov("-C", folder, "index")[2]


def test_extract_reads_a_fine_tune_and_train_refuses_what_it_has_seen(folder: Path, kuleshov: Run) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["extract"]["backbones"] = {
        "tuned": {"backbone": "resnet_small:18", "finetuned": "first", "taps": ["pooled"]},
        "effnet_lite0": {"taps": ["pooled"]},
    }
    head = values["train"]["heads"]["average"] | {"faces": ["tuned/pooled"], "epochs": 1, "batch_size": 4}
    values["train"] = {"seeds": [0], "heads": {"average": head}}
    values["fuse"] = {"ensembles": {}}
    values["data"]["split"] = {"val": 0.0, "test": 0.25, "seed": 0}
    path.write_text(yaml.safe_dump(values))
    for command in ("index", "detect", "align"):
        assert kuleshov("-C", folder, command)[0] == 0, command
    keys = (folder / "artifacts" / "keys" / "extract" / "tuned.csv").read_text()
    assert "unknown" not in keys, "the weights come later, and are a dependency of their own"
    status, _, err = kuleshov("-C", folder, "extract")
    assert status == 1
    assert err.rstrip().endswith("extract.backbones.tuned is of it; put it there, or run kuleshov finetune first")
    for command in (("finetune", "first"), ("index",), ("extract",), ("train",)):
        status, _, err = kuleshov("-C", folder, *command)
        assert (status, err) == (0, ""), command
    assert (folder / "artifacts" / "keys" / "extract" / "tuned.csv").read_text() == keys
    first = (folder / "artifacts" / "blocks" / "extract" / "tuned.csv").read_text()
    weights = folder / "artifacts" / "finetune" / "first" / "backbone.safetensors"
    project = Project(folder)
    plan = role_plans(project, boxes_spec(project.params.detect).key)[0]["tuned"]
    [block] = plan.blocks.values()
    assert block.key[:32] in first
    assert block.weights == {"resnet_small:18": hash_file(weights)}
    faces = read(project.manifest, project.store, project.params.detect).pick(project.manifest.samples[:1]).keys
    assert plan.crops is not None
    crops, _ = project.store.open(plan.crops).rows(faces)
    forward = load_forward("resnet_small:18", folder, plan.engine, file=weights)
    stored, _ = project.store.open(block).rows(faces)
    assert np.allclose(stored, forward(np.array(crops))["pooled"], rtol=2e-3, atol=1e-4)
    assert "fine-tuned as first" in provenance(project)["backbones"]["tuned"]  # pyright: ignore[reportIndexIssue]
    model = folder / "artifacts" / "models" / "heads" / "average-s0"
    status, said, err = kuleshov("-C", folder, "predict", model, folder / "photos" / "calm", "--out", "out")
    assert (status, err) == (0, "")
    assert said.startswith("predict: 4 photos")
    values["evaluate"] = {"split": "train"}
    path.write_text(yaml.safe_dump(values))
    status, _, err = kuleshov("-C", folder, "train")
    assert status == 1
    assert re.search(r"fine-tune first of extract\.backbones\.tuned has seen 6 of the 6 samples of split train", err)
    values["finetune"]["first"]["seed"] = 1
    path.write_text(yaml.safe_dump(values))
    for command in (("finetune", "first"), ("extract",)):
        assert kuleshov("-C", folder, *command)[0] == 0
    assert (folder / "artifacts" / "blocks" / "extract" / "tuned.csv").read_text() != first
    status, _, err = kuleshov("-C", folder, "predict", model, folder / "photos" / "calm", "--out", "out")
    assert status == 1
    assert f"put that file to {weights}" in err
