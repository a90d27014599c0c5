"""From a fine-tune to the scores: its network is a member, and what it has seen goes where its features go."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache.store import Store
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from pipeline.steps import train_inputs
from stages import predictions
from stages.errors import DataError
from stages.extract.notes import SEEN
from stages.index.drawn.scenes import draw_scene
from stages.ledger import Ledger
from stages.train.run import run as train

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve drawn scenes of two classes, a fine-tune that stops by val, a head on its features, and an ensemble."""
    for index in range(12):
        place = tmp_path / "photos" / ("calm", "glad")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        draw_scene(8, index).image.resize((240, 180)).save(place / f"{index:02d}.png")
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    values["detect"]["faces"] = "whole"
    values["finetune"] = {
        "net": {"backbone": "resnet_small:18", "start": "random", "unit": "face", "epochs": 1, "batch_size": 4}
        | {"learning_rate": 0.01, "patience": 1, "device": "cpu"},
    }
    values["extract"]["backbones"] = {
        "tuned": {"backbone": "resnet_small:18", "finetuned": "net", "taps": ["pooled"]},
        "effnet_lite0": {"taps": ["pooled"]},
    }
    head = values["train"]["heads"]["average"] | {"faces": ["tuned/pooled"], "epochs": 1, "batch_size": 4}
    values["train"] = {"seeds": [0], "heads": {"average": head}}
    values["fuse"] = {"ensembles": {"both": {"members": ["average", "net"]}}}
    values["data"]["split"] = {"val": 0.25, "test": 0.25, "seed": 0}
    values["evaluate"] = {"resamples": 100}
    values["extract"]["engine"] = "torch"
    write(tmp_path, values)
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    return tmp_path


def write(folder: Path, values: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def judge(folder: Path, split: str) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text())
    write(folder, values | {"evaluate": {"split": split, "resamples": 100}})


def go(kuleshov: Run, folder: Path, *commands: str) -> str:
    said = ""
    for command in commands:
        status, said, err = kuleshov("-C", folder, *command.split())
        assert (status, err) == (0, ""), command
    return said


def split_of(folder: Path, *splits: str) -> set[str]:
    with open(folder / "artifacts" / "manifest.csv", newline="", encoding="utf-8") as handle:
        return {row["sample_id"] for row in csv.DictReader(handle) if row["split"] in splits}


def test_what_a_fine_tune_has_seen_goes_with_its_features(
    folder: Path, kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(kuleshov, folder, "index", "detect", "align", "finetune net", "index", "extract")
    project = Project(folder)
    inputs = train_inputs(project)
    [tuned] = inputs.plans["tuned"].blocks.values()
    [plain] = inputs.plans["effnet_lite0"].blocks.values()
    file = folder / "artifacts" / "finetune" / "net" / "backbone.seen.json"
    assert project.store.note(tuned, SEEN) == file.read_bytes()
    assert project.store.note(plain, SEEN) is None

    # a store of before, and everything is cached
    note = project.store.place(tuned) / SEEN
    note.unlink()
    status, _, err = kuleshov("-C", folder, "train")
    assert status == 1
    assert err.rstrip().endswith("run kuleshov extract tuned")
    assert " 0 computed, 12 from the store" in go(kuleshov, folder, "extract tuned")
    assert note.read_bytes() == file.read_bytes()

    # its network is scored beside the head, and what was seen is told
    val = len(split_of(folder, "val"))
    assert f"val not counted (a fine-tune has seen all {val} samples)" in go(kuleshov, folder, "train")
    go(kuleshov, folder, "fuse", "evaluate", "report")
    artifacts = folder / "artifacts"
    metrics = json.loads((artifacts / "metrics.json").read_text())
    assert [list(metrics[kind]) for kind in ("heads", "finetuned", "fused")] == [["average"], ["net"], ["both"]]
    assert set(json.loads((artifacts / "scores.json").read_text())) >= {"average", "net", "both", "baseline"}
    assert "<small>fine-tune, 1 seed</small>" in (artifacts / "report.html").read_text()
    for member in predictions.read_all(artifacts / "predictions"):
        seen = {one for one, known in zip(member.sample_ids, member.seen, strict=True) if known}
        assert seen == split_of(folder, "train", "val"), member.name

    # neither trains, nor fuses, nor scores where it would be judged by what was seen
    judge(folder, "val")
    for command, who in (
        ("train", "train.heads.average: fine-tune net of extract.backbones.tuned"),
        ("fuse", "fuse.ensembles.both: head average-s0"),
        ("evaluate", "head average-s0"),
    ):
        status, _, err = kuleshov("-C", folder, command)
        assert status == 1
        assert err.startswith(f"kuleshov: error: {who} has seen {val} of the {val} samples of split val"), command

    # on the other side: another store, to which the features were pulled, and no file of the fine-tune's
    judge(folder, "test")
    assert " and 1 note sent" in "".join(go(kuleshov, folder, f"cache push {tmp_path / 'there'}"))
    other = Store(tmp_path / "other")
    monkeypatch.setenv("KULESHOV_STORE", str(other.root))
    assert " and 1 note received" in go(kuleshov, folder, f"cache pull {tmp_path / 'there'}")
    file.unlink()
    go(kuleshov, folder, "train")
    judge(folder, "val")
    status, _, err = kuleshov("-C", folder, "train")
    assert status == 1
    assert f"fine-tune net of extract.backbones.tuned has seen {val} of the {val} samples of split val" in err
    shutil.rmtree(artifacts / "finetune")
    there = replace(inputs, store=other)
    with pytest.raises(DataError, match=r"fine-tune net of extract\.backbones\.tuned has seen .* of split train"):
        train(there, project.params.train, tmp_path / "scratch", Ledger("train"), "train")
    assert [one.name for one in train(there, project.params.train, tmp_path / "scratch", Ledger("train"))] == [
        "average-s0"
    ]
