"""Trained on one data set and tested on another, with a label map: from params.yaml to metrics and the report."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.scaffold.write import ProjectData, files
from stages.index.manifest import Manifest

Run = Callable[..., tuple[int, str, str]]
MAIN = "glad", "sad"


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twenty photos in folders without splits; and a table of ten, classes 0, 1 and 7, with splits of its own."""
    for number in range(20):
        photo(tmp_path / "ours" / MAIN[number % 2] / f"{number:02}.png", number)
    with open(tmp_path / "theirs.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("file", "class", "split"))
        for number in range(10):
            photo(tmp_path / "elsewhere" / f"{number}.png", 100 + number)
            writer.writerow((f"{number}.png", (0, 1, 1, 7)[number % 4], ("train", "PublicTest")[number % 2]))
    return tmp_path


def write(place: Path, **data: Any) -> None:
    values = yaml.safe_load(files(ProjectData("folder", "ours"))["params.yaml"])
    table = {
        "adapter": "csv",
        "root": "theirs.csv",
        "images": "elsewhere",
        "columns": {"path": "file", "label": "class"},
    }
    values["data"]["split"] = {"val": 0.2, "test": 0, "seed": 0}
    values["data"]["also"] = {"theirs": {**table, "labels": {0: "sad", 1: "glad", 7: None}, "use": "test"}}
    values["data"] |= data
    values["detect"] |= {"faces": "whole"}
    values["extract"]["backbones"] = {"resnet29": {"taps": ["embedding"]}}
    head = {"kind": "tan2017:global", "epochs": 60, "learning_rate": 0.1, "global": ["imported/colour"]}
    values["train"] = {"seeds": [0], "heads": {"photo": head}}
    values["fuse"] = {"ensembles": {"both": {"members": ["photo"]}}}
    values["evaluate"] = {"split": "test", "resamples": 200}
    (place / "params.yaml").write_text(yaml.safe_dump(values))


def test_scores_are_of_the_other_data_set_alone(place: Path, kuleshov: Run) -> None:
    """The features tell the classes apart, and mean the opposite in the other data set: no score can be of both."""
    write(place)

    def go(*arguments: str) -> str:
        status, said, err = kuleshov("-C", place, *arguments)
        assert status == 0, err
        return said

    said = go("index").splitlines()
    assert said == [
        "index: 28 samples (train 16, val 4, test 8), 2 classes",
        "  glad: train 8, val 2, test 5",
        "  sad: train 8, val 2, test 3",
        "  data: 20 samples (train 16, val 4); glad 10, sad 10",
        "  data.also.theirs: 8 samples (test 8); glad 5, sad 3; left out by its labels: 2 (7 2)",
    ]
    manifest = Manifest.read(place / "artifacts" / "manifest.csv")
    assert {(s.split, s.subset) for s in manifest} == {("train", ""), ("val", ""), ("test", "theirs")}
    assert manifest.by_id["theirs/1.png"].path == "../elsewhere/1.png"

    assert "28 photos, 28 computed, 0 from the store, 0 failed" in go("detect")
    assert "28 photos, 0 computed, 28 from the store, 0 failed" in go("detect")
    sides = [1.0 if (s.labels == ("glad",)) == (s.subset == "") else -1.0 for s in manifest]
    ids = np.array([s.sample_id for s in manifest])
    np.savez(place / "colour.npz", sample_id=ids, features=np.array(sides)[:, None])
    [line] = re.findall(
        r"^  (imported: .*)$",
        go("cache", "import", str(place / "colour.npz"), "--name", "colour", "--level", "global"),
        re.M,
    )
    values = yaml.safe_load((place / "params.yaml").read_text())
    values["extract"] |= yaml.safe_load(line)
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    assert "accuracy train 1.000, val 1.000" in go("train")
    for command in ("fuse", "evaluate", "report"):
        go(command)
    metrics = json.loads((place / "artifacts" / "metrics.json").read_text())
    assert metrics["n"] == 8
    assert metrics["heads"]["photo"]["accuracy"]["mean"] == 0.0
    with open(place / "artifacts" / "predictions" / "heads" / "photo-s0.csv", newline="") as handle:
        rows = {row["sample_id"]: row["split"] for row in csv.DictReader(handle)}
    assert {name for name, split in rows.items() if split == "test"} == {n for n in rows if n.startswith("theirs/")}
    assert [(name, one["n"]) for name, one in metrics["subsets"].items()] == [("theirs", 8)]


def test_the_other_commands_find_its_photos(place: Path, kuleshov: Run) -> None:
    write(place)
    for command in (("index",), ("plan", "--items", "2"), ("detect",), ("align",), ("extract",)):
        status, said, err = kuleshov("-C", place, *command)
        assert status == 0, err
    assert "resnet29: 28 face groups, " in said
    status, said, err = kuleshov("-C", place, "cache", "why", "theirs/1.png")
    assert (status, err) == (0, "")
    assert said.startswith("theirs/1.png: ../elsewhere/1.png, content ")
    status, said, err = kuleshov("-C", place, "cache", "verify", "--sample", "40")
    assert status == 0, err
    (place / "elsewhere" / "1.png").unlink()
    status, said, err = kuleshov("-C", place, "index", "--max-failures", "0")
    assert status == 1
    failed = (place / "artifacts" / "failures" / "index.csv").read_text().splitlines()[1:]
    assert [row.rpartition(",")[0] for row in failed] == ["theirs/1.png,missing"]


def test_the_only_data_set_for_training(place: Path, kuleshov: Run) -> None:
    write(place, also={}, use="train")
    status, said, err = kuleshov("-C", place, "index")
    assert (status, err) == (0, "")
    assert said.splitlines() == [
        "index: 20 samples (train 20), 2 classes",
        "  glad: train 10",
        "  sad: train 10",
        "  warning: no samples in test, which evaluate scores; add samples, or set evaluate.split",
    ]


def test_the_main_data_set_s_map_says_what_it_leaves_out(place: Path, kuleshov: Run) -> None:
    write(place, also={}, labels={"glad": "joy", "sad": None})
    status, said, _ = kuleshov("-C", place, "index")
    assert status == 0
    assert "  data: 10 samples (train 8, val 2); joy 10; left out by its labels: 10 (sad 10)" in said.splitlines()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {0: "sad", 1: "glad"}}, "data.also.theirs.labels has no '7', a label of 2 sample(s) of "),
        ({"root": "nowhere.csv"}, "/nowhere.csv is not there: give the csv file"),
        ({"uses": "test"}, "unknown key 'data.also.theirs.uses'; did you mean 'use'?"),
        ({"use": "dev"}, "data.also.theirs.use is 'dev': input should be 'all', 'train', 'val' or 'test'"),
        (
            {"labels": {0: "sad", 1: True, 7: None}},
            ": a label was read as True, no text; put it in quotes",
        ),
        ({"labels": {0: "sad", "0": "glad"}}, ": label '0' occurs twice"),
        ({"labels": {0: "sad", 1: " "}}, ": label ' ': a label must not be empty, begin or"),
        ({"labels": [0, 1]}, "data.also.theirs.labels is [0, 1]: input should be a mapping, such as {name: value}"),
    ],
)
def test_bad_settings_are_one_line(place: Path, kuleshov: Run, change: dict[str, Any], said: str) -> None:
    write(place)
    values = yaml.safe_load((place / "params.yaml").read_text())
    values["data"]["also"]["theirs"] |= change
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    status, _, err = kuleshov("-C", place, "index")
    assert status == 1
    assert said in err
    assert "data.also.theirs." in err
    assert err.count("\n") == 1


def test_a_name_that_is_not_fit_for_ids(place: Path, kuleshov: Run) -> None:
    write(place, also={"a/b": {"adapter": "folder", "root": "ours"}})
    status, _, err = kuleshov("-C", place, "index")
    assert status == 1
    assert "params.yaml: data.also" in err
    assert "data set name 'a/b': use letters, digits, _ - . (it begins the sample_ids, as in NAME/a.jpg)" in err
