"""The files by which DVC notices an upgrade, fetched weights, another device."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline.scaffold.write import ProjectData, files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "calm").mkdir(parents=True)
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "photos" / "calm" / "a.png")
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.fixture
def keys(project: Path, kuleshov: Run) -> Callable[[], dict[str, list[list[str]]]]:
    def index() -> dict[str, list[list[str]]]:
        assert kuleshov("-C", project, "index")[0] == 0
        folder = project / "artifacts" / "keys"
        found = {}
        for path in sorted(folder.rglob("*.csv")):
            with open(path, newline="") as handle:
                found[path.relative_to(folder).with_suffix("").as_posix()] = list(csv.reader(handle))[1:]
        return found

    return index


def changed(before: dict[str, list[list[str]]], after: dict[str, list[list[str]]]) -> set[str]:
    return {stage for stage in before.keys() | after.keys() if before.get(stage) != after.get(stage)}


def test_index_writes_the_keys_that_the_stages_stand_for(project: Path, kuleshov: Run, keys: Callable) -> None:
    found = keys()
    assert set(found) == {
        "detect",
        "align",
        "finetune",
        "extract/resnet29",
        "extract/expression",
        "extract/effnet_lite0",
    }
    assert kuleshov("-C", project, "detect")[0] == 0
    with open(project / "artifacts" / "blocks" / "detect.csv", newline="") as handle:
        written = {row[0] for row in list(csv.reader(handle))[1:]}
    assert written == {f"{name}@{key[:32]}" for name, key in found["detect"] if name != "media/times"}, "no clips"
    assert [name for name, _ in found["align"]] == ["box112/pixels", "dlib150/pixels"]


def test_a_newer_extractor_changes_its_stage_and_what_stands_on_it(
    keys: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys()
    monkeypatch.setattr("stages.align.run.VERSION", 99)
    assert changed(before, keys()) == {"align", "extract/resnet29", "extract/expression"}
    monkeypatch.setattr("stages.detect.mtcnn.VERSION", 99)
    assert changed(before, keys()) == {"detect", "align", "extract/resnet29", "extract/expression"}


def test_missing_weights_are_unknown_keys_and_no_error(
    keys: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = keys()
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(tmp_path / "nothing"))
    after = keys()
    assert after["extract/resnet29"] == [["unknown", "unknown"]]
    assert after["detect"] == before["detect"]


def test_a_role_that_is_gone_leaves_no_file(project: Path, keys: Callable) -> None:
    keys()
    values = yaml.safe_load((project / "params.yaml").read_text())
    del values["extract"]["backbones"]["expression"]
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    assert "extract/expression" not in keys()
