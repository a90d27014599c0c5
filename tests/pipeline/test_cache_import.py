"""`kuleshov cache import` in a real project: a file, a line in params.yaml, a head that reads it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import params
from pipeline.cli import main_group
from pipeline.scaffold.write import ProjectData, files
from stages.errors import SettingError
from stages.index.drawn.scenes import draw_scene

Run = Callable[..., tuple[int, str, str]]
SCENES = 8
HEAD = {"kind": "gupta2018:average", "epochs": 20, "learning_rate": 0.03, "batch_size": 4}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small scenes, labelled in turn, with real detections and a store of their own; one photo is broken."""
    place = tmp_path_factory.mktemp("project")
    lines = ["path,sample_id,label,split"]
    for index in range(SCENES):
        draw_scene(8, index).image.resize((160, 120)).save(place / f"{index}.png")
        lines.append(f"{index}.png,s{index},{('glad', 'sad')[index % 2]},{'train' if index < 6 else 'test'}")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    (place / "labels.csv").write_text("\n".join([*lines, "broken.jpg,broken,sad,train", ""]))
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv"))["params.yaml"])
    values["max_failures"] = "2"
    values["extract"]["backbones"] = {"resnet29": {"taps": ["embedding"]}}
    values["train"] = {
        "seeds": [0],
        "heads": {"own": HEAD | {"faces": ["imported/mood"], "global": ["imported/voice"]}},
    }
    values["fuse"] = {"ensembles": {"all": {"members": ["own"]}}}
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KULESHOV_STORE", str(place / "store"))
        for command in ("index", "detect"):
            main_group.main(["-C", str(place), command], standalone_mode=False)
    return place


@pytest.fixture
def go(project: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("KULESHOV_STORE", str(project / "store"))
    monkeypatch.chdir(project)
    return kuleshov


def voice(path: Path, *, each: int = 1) -> Path:
    """A number a sample that changes after `each` of them; with 1 it is the label, with 2 it says nothing of it."""
    values = [[i // each % 2 * 2.0 - 1] for i in range(SCENES)]
    np.savez(path, sample_id=np.array([f"s{i}" for i in range(SCENES)] + ["nobody"]), features=[*values, [9]])
    return path


def mood(path: Path, project: Path) -> Path:
    with open(project / "artifacts" / "detections.csv", newline="") as handle:
        faces = [(row["sample_id"], row["face"]) for row in csv.DictReader(handle)]
    path.write_text("sample_id,face_index,x\n" + "".join(f"{name},{face},0.5\n" for name, face in faces))
    return path


def add_printed_line(project: Path, said: str) -> str:
    """Do as the command says: put its line under extract; the key of what was imported."""
    [line] = re.findall(r"^  imported: \{.*\}$", said, re.M)
    path = project / "params.yaml"
    text = re.sub(r"\n  imported:(.*|(\n    .*)*)$", "", path.read_text(), flags=re.M)
    path.write_text(text.replace("\nextract:\n", f"\nextract:\n{line}\n"))
    [key] = re.findall(r", key ([0-9a-f]{16})$", said, re.M)
    assert f'"{key}"' in line
    return key


def test_from_a_file_to_a_head_and_back(project: Path, go: Run) -> None:
    status, out, err = go("cache", "import", voice(project / "voice.npz"), "--name", "voice", "--level", "global")
    assert (status, err) == (0, "")
    assert re.match(r"imported/voice \(global\): 8 samples, 8 rows of 1 number, key [0-9a-f]{16}\n", out)
    assert "\n  left out, as not in the manifest: 1 sample ('nobody')\n" in out
    assert "\n  in the manifest without a row, so left out of heads that read this: 1 sample ('broken')\n" in out
    assert "  add to extract in params.yaml:" in out
    assert out.endswith("  a head reads it as imported/voice in global\n")
    first = add_printed_line(project, out)
    assert (
        "params.yaml asks for this block already"
        in go(*("cache", "import", project / "voice.npz", "--name", "voice", "--level", "global"))[1]
    )

    status, out, err = go("cache", "import", mood(project / "mood.csv", project), "--name", "mood", "--level", "face")
    assert (status, err) == (0, "")
    assert "replace the line of extract in params.yaml" in out
    assert "broken" not in out, "a photo that cannot be read has no faces to lack"
    add_printed_line(project, out)
    assert set(params.load(project).extract.imported) == {"voice", "mood"}

    status, out, err = go("train")
    assert status == 0, err
    assert "accuracy train 1.000" in out
    with open(project / "artifacts" / "predictions" / "heads" / "own-s0.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["sample_id"] for row in rows] == [f"s{i}" for i in range(SCENES)]
    assert all(float(row[row["label"]]) > 0.5 for row in rows), "those of the test split too"

    status, out, _ = go("cache", "why", "s0")
    assert re.search(rf"^imported/voice \(global\): hit, ok, 1 row, key {first}$", out, re.M)
    assert re.search(r"^imported/mood \(face\): hit, ok, \d rows?, key ", out, re.M)
    assert "the settings of this project ask for this block" in go("cache", "why", "imported/voice")[1]

    assert go("fuse")[0] == 0
    status, _, err = go("predict", "artifacts/models/fused/all", "0.png", "--out", "predicted")
    assert status == 1
    assert "model 'all' reads imported features (imported/mood, imported/voice), which new photos do not have" in err
    assert len(err.splitlines()) == 1

    for command in ("evaluate", "report"):
        assert go(command)[0] == 0
    report = (project / "artifacts" / "report.html").read_text(encoding="utf-8")
    assert f"key {first}" in report

    # a changed file is another block: nothing is read until params.yaml says so
    _, out, _ = go("cache", "import", voice(project / "voice.npz", each=2), "--name", "voice", "--level", "global")
    assert f"key {first}" not in out
    said = go("cache", "why", "imported/voice")[1]
    assert re.search(r"preprocessing\.file_sha256: \w{12} here, \w{12} in block imported-voice-global-", said)
    assert "accuracy train 1.000" in go("train")[1]
    assert float(rows[0]["glad"]) == pytest.approx(_glad_of_s0(project)), "the first file's rows"
    second = add_printed_line(project, out)
    assert second != first
    assert go("train")[0] == 0
    assert abs(float(rows[0]["glad"]) - _glad_of_s0(project)) > 0.01

    # the block is gone: train says how to get it back
    status, _, err = go("cache", "gc", "--block", f"imported/voice@{second}")
    assert (status, err) == (0, "")
    status, _, err = go("train")
    assert status == 1
    assert f"has no imported/voice of key {second}; run kuleshov cache import FILE --name voice again" in err
    assert "has no imported/voice of key" in go("cache", "why", "s0")[1]


def _glad_of_s0(project: Path) -> float:
    with open(project / "artifacts" / "predictions" / "heads" / "own-s0.csv", newline="") as handle:
        return float(next(csv.DictReader(handle))["glad"])


def test_frames_are_stored_and_it_is_said_that_no_head_reads_them(project: Path, go: Run, tmp_path: Path) -> None:
    rows = {"features": np.ones((2, 3)), "frame_index": np.array([0, 1])}
    np.savez(tmp_path / "f.npz", sample_id=np.array(["s0", "s0"]), **rows)
    status, out, _ = go("cache", "import", tmp_path / "f.npz", "--name", "moves", "--level", "frame")
    assert status == 0
    assert out.startswith("imported/moves (frame): 1 sample, 2 rows of 3 numbers, key ")
    assert (
        "in the manifest without a row, so left out of heads that read this: 8 samples ('broken', 's1', 's2', ...)"
        in out
    )
    assert "in inputs, such as frames: of aminbeidokhti2019:temporal" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.npz", "--name", "a", "--level", "global"), "gone.npz: cannot be read (No such file or directory)"),
        (
            ("labels.csv", "--name", "a", "--level", "global"),
            "labels.csv line 2: column 'path' is '0.png', not a number",
        ),
        (("labels.csv", "--name", "a b", "--level", "global"), "the name 'a b' cannot name a block"),
    ],
)
def test_a_bad_call_is_one_line(go: Run, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = go("cache", "import", *arguments)
    assert (status, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["yes", "null", "1.5", "2026-01-02"])
def test_a_name_that_yaml_reads_as_something_else_is_printed_in_quotes(project: Path, go: Run, name: str) -> None:
    status, out, err = go("cache", "import", voice(project / "v.npz"), "--name", name, "--level", "global")
    assert (status, err) == (0, "")
    [line] = re.findall(r"^  (imported: \{.*\})$", out, re.M)
    assert name in yaml.safe_load(line)["imported"]


def test_faces_need_detections(project: Path, go: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path))
    status, _, err = go("cache", "import", mood(tmp_path / "m.csv", project), "--name", "mood", "--level", "face")
    assert status == 1
    assert "run kuleshov detect" in err


@pytest.mark.parametrize(
    ("extract", "said"),
    [
        ({"imported": {"voice": 1234567890123456}}, "a key was read as a number; put it in quotes"),
        ({"imported": {"voice": "0123"}}, r"extract\.imported\.voice is '0123': string should match pattern"),
        ({"imported": {"a b": "0" * 16}}, r"extract\.imported\.a b"),
        ({"backbones": {"imported": {"taps": ["a"]}}}, "a role is called 'imported', which is kept for"),
        ({"backbones": {}}, "backbones is empty; name at least one"),
        ({"backbones": {}, "imported": {"voice": "0" * 16}}, "backbones is empty; name at least one"),
    ],
)
def test_settings_that_are_refused(extract: dict[str, object], said: str) -> None:
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    values["extract"] |= extract
    with pytest.raises(SettingError, match=said):
        params.parse(values, "params.yaml")


def test_a_new_line_in_params_reruns_training_and_no_extraction() -> None:
    stages = yaml.safe_load(files(ProjectData("folder", "photos"))["dvc.yaml"])["stages"]
    listed = {name: stage.get("do", stage).get("params", []) for name, stage in stages.items()}
    reads = {name for name, keys in listed.items() if {"extract", "extract.imported"} & set(keys)}
    assert "train" in reads
    assert reads <= {"train", "report"}
