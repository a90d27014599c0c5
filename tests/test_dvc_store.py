"""Experiments share the store: queued and temporary ones, and manifests restored without their shards."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.scaffold.write import ProjectData, write_project
from stages.index.drawn.scenes import draw_scene, scene_cell


def sh(folder: Path, *command: str, status: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    return said


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with its photos inside, after `dvc repro` and a commit."""
    place = tmp_path_factory.mktemp("shared") / "project"
    for index in range(8):
        folder = place / "photos" / ("train" if index < 6 else "test") / scene_cell(index).label
        folder.mkdir(parents=True, exist_ok=True)
        draw_scene(9, index).image.resize((320, 240)).save(folder / f"{index}.png")
    write_project(place, ProjectData("folder", "photos"))
    params = yaml.safe_load((place / "params.yaml").read_text())
    params["train"]["seeds"] = [0]
    params["train"]["heads"] = {"average": {**params["train"]["heads"]["average"], "epochs": 2}}
    params["train"]["heads"]["average"]["faces"] = ["resnet29/embedding"]
    del params["extract"]["backbones"]["expression"]
    params["fuse"]["ensembles"] = {}
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    sh(place, "dvc", "repro")
    sh(place, "git", "add", ".")
    sh(place, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "first")
    assert "photos" not in sh(place, "git", "ls-files"), "photos stay out of git"
    return place


def test_a_temporary_experiment_reads_the_photos_and_the_store_in_place(project: Path) -> None:
    said = sh(project, "dvc", "exp", "run", "--temp", "-S", "train.heads.average.epochs=3")
    assert set(re.findall(r"Running stage '(.+?)'", said)) == {"index", "train", "fuse", "evaluate", "report"}


def test_a_changed_backbone_setting_in_an_experiment_computes_only_that(project: Path) -> None:
    said = sh(project, "dvc", "exp", "run", "--temp", "-S", "extract.dtype=float32")
    assert "detect:" not in said
    assert said.count(" 8 computed") >= 1
    again = sh(project, "dvc", "exp", "run", "--temp", "-S", "extract.dtype=float32", "-S", "train.seeds=[1]")
    assert " 8 computed" not in again, "the first experiment's rows are in the store"


def test_queued_experiments_share_the_store(project: Path) -> None:
    for epochs in ("4", "5"):
        sh(project, "dvc", "exp", "run", "--queue", "-S", f"train.heads.average.epochs={epochs}")
    sh(project, "dvc", "exp", "run", "--run-all")
    assert sh(project, "dvc", "queue", "status").count("Success") == 2


def test_a_restored_manifest_whose_shards_are_gone_says_how_to_rebuild(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone with DVC's cache but another machine's empty store."""
    clone = tmp_path / "clone"
    sh(tmp_path, "git", "clone", "-q", str(project), str(clone))
    shutil.copytree(project / "photos", clone / "photos")
    sh(clone, "dvc", "remote", "add", "-q", "-d", "origin", str(project / ".dvc" / "cache"))
    shutil.copytree(project / ".dvc" / "cache", clone / ".dvc" / "cache")
    sh(clone, "dvc", "checkout", "-q")
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "empty store"))
    said = sh(clone, "kuleshov", "train", status=1)
    assert len(said.splitlines()) == 1
    assert "kuleshov detect" in said
    assert str(tmp_path / "empty store") in said
    for stage in ("detect", "align"):
        sh(clone, "kuleshov", stage)
    assert "kuleshov extract" in sh(clone, "kuleshov", "train", status=1)
    sh(clone, "kuleshov", "extract")
    sh(clone, "kuleshov", "train")
    kept = (project / "artifacts" / "predictions" / "heads" / "average-s0.csv").read_text()
    assert (clone / "artifacts" / "predictions" / "heads" / "average-s0.csv").read_text() == kept
