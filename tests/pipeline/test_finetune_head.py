"""`kuleshov finetune NAME --head HEAD`: trained end to end, extracted, and gone on from by `train`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cache.keys import key_list
from pipeline.cli import main
from pipeline.head_choice import with_head
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from pipeline.steps import train_inputs
from stages import predictions
from stages.errors import DataError, MissingInputError, SettingError
from stages.finetune.settings import FinetuneSettings, HeadChoice
from stages.heads.registry import Shapes
from stages.index.drawn.scenes import draw_scene
from stages.ledger import Ledger
from stages.train.features import gather
from stages.train.models import build_head
from stages.train.run import run
from stages.train.settings import HeadSettings, TrainSettings
from stages.train.starts import read_start

Run = Callable[..., tuple[int, str, str]]
SCENE = "torchvision:shufflenet_v2_x0_5"


def make(tmp_path: Path) -> None:
    """Eight drawn scenes of two classes, and a fine-tune of faces and photos, with another head."""
    for index in range(8):
        place = tmp_path / "photos" / ("calm", "glad")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        draw_scene(8, index).image.resize((240, 180)).save(place / f"{index}.png")
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    values["data"]["split"] = {"val": 0.0, "test": 0.25, "seed": 0}
    values["detect"]["faces"] = "whole"
    values["extract"]["dtype"] = "float32"
    values["extract"]["backbones"] = {
        "faces": {"backbone": "mini_xception", "finetuned": "joint", "taps": ["feature"]},
        "scenes": {"backbone": SCENE, "finetuned": "joint", "taps": ["pooled"]},
    }
    head = {"kind": "gupta2018:attention_a", "faces": ["faces/feature"], "global": ["scenes/pooled"], "epochs": 1}
    values["train"] = {"seeds": [0], "heads": {"attention": head | {"dropout": 0.25, "standardize": False}}}
    values["fuse"] = {"ensembles": {}}
    values["finetune"] = {
        "joint": {
            "backbone": "mini_xception",
            "start": "random",
            "unit": "faces",
            "head": {"kind": "gupta2018:average"},
            "photos": {"backbone": SCENE, "start": "random"},
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 0.01,
            "device": "cpu",
        },
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where everything was extracted from the fine-tune with the head of params.yaml, and what the fine-tune said."""
    folder, said = tmp_path_factory.mktemp("made"), io.StringIO()
    make(folder)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setenv("KULESHOV_STORE", str(folder / "store"))
        for command in ("index", "detect", "align", "finetune joint --head attention", "index", "extract"):
            patch.setattr("sys.argv", ["kuleshov", "-C", str(folder), *command.split()])
            main()  # a failure is SystemExit
    return folder, said.getvalue()


@pytest.fixture
def folder(made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose head starts from the fine-tune's."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    change(tmp_path, with_start)
    return tmp_path


def change(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text())
    change(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def with_start(values: dict[str, Any], **said: Any) -> None:
    values["train"]["heads"]["attention"] |= {"start": "finetune:joint"} | said


def run_train(folder: Path) -> list[Any]:
    """`train` as a function, so that its errors keep their kinds."""
    project = Project(folder)
    return run(train_inputs(project), project.params.train, folder / "artifacts", Ledger("train"))


def test_a_head_end_to_end_and_on_from_there(made: tuple[Path, str], folder: Path, kuleshov: Run) -> None:
    assert "  the head is new, for 2 classes" in made[1]
    tuned = folder / "artifacts" / "finetune" / "joint"
    assert {path.stem for path in tuned.glob("*.safetensors")} == {"backbone", "photos", "head"}
    project = Project(folder)
    inputs = train_inputs(project)
    settings = project.params.train.heads["attention"]
    blocks = [inputs.plans[role].blocks[tap] for role, tap in (("faces", "feature"), ("scenes", "pooled"))]
    samples = project.manifest.samples
    features = gather(
        samples, inputs.store, inputs.detections, blocks[:1], blocks[1:], max_faces=15, ledger=Ledger("train")
    )
    start = read_start("attention", settings, inputs.finetunes, Shapes(128, 1024), ("calm", "glad"))
    assert start is not None
    head = build_head(settings, Shapes(128, 1024), 2)
    start.fill(head)
    with torch.inference_mode():
        found = torch.softmax(head.eval()(features.batch(np.arange(len(samples)))).logits.double(), -1).numpy()
    written = predictions.read(folder / "artifacts" / "predictions" / "finetuned" / "joint-s0.csv", "finetuned")
    rows = [written.sample_ids.index(sample.sample_id) for sample in features.samples]
    assert np.abs(found - written.probabilities[rows]).max() < 1e-4, "the head says what the fine-tune said"

    status, _, err = kuleshov("-C", folder, "train")
    assert (status, err) == (0, "")
    model = folder / "artifacts" / "models" / "heads" / "attention-s0"
    trained, before = load_file(model / "head.safetensors"), load_file(tuned / "head.safetensors")
    change(folder, lambda values: with_start(values, learning_rate=1e-12))
    assert kuleshov("-C", folder, "train")[0] == 0
    still = load_file(model / "head.safetensors")
    for name in ("classify.weight", "face.weight"):
        assert torch.allclose(still[f"head.{name}"], before[name], atol=1e-6)
        assert not torch.allclose(trained[f"head.{name}"], before[name], atol=1e-6)
    status, _, err = kuleshov("-C", folder, "predict", model, folder / "photos" / "calm", "--out", folder / "out")
    assert (status, err) == (0, "")


def test_a_head_that_does_not_fit_is_refused(folder: Path) -> None:
    assert len(run_train(folder)) == 1
    kept = (folder / "artifacts" / "models" / "heads" / "attention-s0" / "model.json").read_bytes()
    change(folder, lambda values: with_start(values, kind="gupta2018:attention_c"))
    with pytest.raises(SettingError, match=r"start is finetune:joint.*its kind was gupta2018:attention_a and is .*_c"):
        run_train(folder)
    change(folder, lambda values: with_start(values, kind="gupta2018:attention_a", faces=["faces/feature"] * 2))
    with pytest.raises(SettingError, match="its widths was 128, 1024 and is 256, 1024"):
        run_train(folder)
    change(folder, lambda values: with_start(values, faces=["faces/feature"], start="finetune:other"))
    with pytest.raises(SettingError, match=r"train\.heads\.attention starts from 'other', and finetune has joint"):
        run_train(folder)
    change(folder, with_start)
    project = Project(folder)
    settings = project.params.train.heads["attention"]
    with pytest.raises(SettingError, match="its classes was calm, glad and is glad, calm"):
        read_start("attention", settings, project.finetunes, Shapes(128, 1024), ("glad", "calm"))
    inputs = train_inputs(project)
    with pytest.raises(MissingInputError, match="that fine-tune is not there"):
        run(replace(inputs, finetunes=None), project.params.train, folder / "artifacts", Ledger("train"))
    assert (folder / "artifacts" / "models" / "heads" / "attention-s0" / "model.json").read_bytes() == kept


def test_what_the_head_has_seen_counts(folder: Path) -> None:
    """Also where the features below it are nobody's fine-tune."""
    project = Project(folder)
    inputs = train_inputs(project)
    plain = {role: replace(plan, file=None) for role, plan in inputs.plans.items()}
    extract = inputs.extract.model_copy(
        update={
            "backbones": {
                role: one.model_copy(update={"finetuned": None}) for role, one in inputs.extract.backbones.items()
            }
        }
    )
    for role, plan in plain.items():
        for tap, block in plan.blocks.items():
            other, stored = replace(block, weights=dict.fromkeys(block.weights, "e" * 64)), inputs.store.open(block)
            with inputs.store.writer(other) as writer:
                for key in key_list(stored.keys):
                    writer.add(key, stored.item(key)[0])
            plain[role] = replace(plan, blocks={tap: other})
    inputs = replace(inputs, plans=plain, extract=extract)
    settings: TrainSettings = project.params.train
    run(inputs, settings, folder / "artifacts", Ledger("train"), judged="test")
    written = predictions.read(folder / "artifacts" / "predictions" / "heads" / "attention-s0.csv", "head")
    assert written.seen.tolist() == [split == "train" for split in written.splits]
    with pytest.raises(DataError, match=r"train\.heads\.attention\.start: .*head\.safetensors has seen 6 of the 6"):
        run(inputs, settings, folder / "artifacts", Ledger("train"), judged="train")


def test_a_start_wants_features_as_they_are() -> None:
    head = {"kind": "gupta2018:average", "faces": ["a/b"], "global": ["c/d"]}
    with pytest.raises(ValueError, match=r"start is finetune:x and standardize is true: .* use standardize: false"):
        HeadSettings.model_validate(head | {"start": "finetune:x"})
    assert HeadSettings.model_validate(head | {"start": "finetune:x", "standardize": False}).previous == "x"
    with pytest.raises(ValueError, match="start"):
        HeadSettings.model_validate(head | {"start": "x", "standardize": False})


def test_which_head_is_meant(folder: Path, kuleshov: Run) -> None:
    heads = Project(folder).params.train.heads
    settings = FinetuneSettings.model_validate(
        {"backbone": "mini_xception", "unit": "face", "epochs": 1, "batch_size": 4, "learning_rate": 0.1}
    )
    found = with_head("x", settings, "attention", heads)
    assert (found.head, found.unit) == (HeadChoice(kind="gupta2018:attention_a", dropout=0.25), "faces")
    assert with_head("x", settings, "gupta2018:average", heads).head == HeadChoice(kind="gupta2018:average")
    with pytest.raises(SettingError, match=r"nobody: train\.heads has attention, and the kinds are aminbeidokhti2019:"):
        with_head("x", settings, "nobody", heads)
    dropout = settings.model_copy(update={"dropout": 0.5})
    assert with_head("x", dropout, "attention", heads).dropout == 0, "it was the last layer's"
    with pytest.raises(SettingError, match=r"--head attention: finetune\.x\.keep_last is given"):
        with_head("x", settings.model_copy(update={"keep_last": True}), "attention", heads)
    status, _, err = kuleshov("-C", folder, "finetune", "--head", "attention")
    assert status == 1
    assert err.endswith("--head attention is of one fine-tune: name it, or set its head in params.yaml\n")
