"""Where the time went: the file, the line, and that only runs that computed something leave them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from pipeline.timings import of_role, save_timings, time_line
from stages.index.drawn.scenes import draw_scene
from stages.timing import Timings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def spent() -> Timings:
    timings = Timings()
    timings.add("wait", 0.25)
    timings.add("forward/scene", 2.0, 8)
    timings.add("decode", 0.5, 8)
    timings.add("forward/face", 1.0, 22)
    timings.add("unheard-of", 0.1)
    return timings


def test_the_line_follows_the_work_and_sums_roles(spent: Timings) -> None:
    parts = "decode 0.5 s (16.0/s), forward 3.0 s (10.0/s), wait 0.2 s, unheard-of 0.1 s"
    assert time_line(spent, 3.46) == f"  time: 3.5 s ({parts})"
    assert time_line(Timings(), 3.46) == "  time: 3.5 s"


def test_a_role_has_its_own_network_and_what_is_shared(spent: Timings) -> None:
    assert of_role(spent, "face").spent.keys() == {"wait", "decode", "forward/face", "unheard-of"}
    assert of_role(spent, "scene").spent["forward/scene"].items == 8
    assert "forward/face" in spent.spent


def test_the_file_is_for_programs(tmp_path: Path, spent: Timings) -> None:
    save_timings(Project(tmp_path), "extract/face", of_role(spent, "face"), 1.23456)
    found = json.loads((tmp_path / "artifacts/timings/extract/face.json").read_text(encoding="utf-8"))
    assert found["stage"] == "extract/face"
    assert found["wall_s"] == 1.2346
    assert found["parts"]["decode"] == {"seconds": 0.5, "items": 8, "items_per_s": 16.0}
    assert found["parts"]["wait"]["items_per_s"] is None


def test_extract_says_it_once_for_all_roles(tmp_path: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    for index in range(2):
        draw_scene(8, index).image.resize((160, 120)).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text("path,label,split\n0.png,glad,train\n1.png,sad,train\n", encoding="utf-8")
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv"))["params.yaml"])
    del values["extract"]["backbones"]["expression"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    for command in ("index", "detect", "align"):
        assert kuleshov("-C", tmp_path, command)[0] == 0
    status, said, err = kuleshov("-C", tmp_path, "extract", "resnet29", "effnet_lite0")
    assert status == 0, err
    assert re.search(
        r"^extract/resnet29: 2 face groups, 2 computed.*; forward \d+\.\d s, \d+\.\d a second$", said, re.M
    )
    assert re.search(r"^extract/effnet_lite0: 2 photos, 2 computed.*; forward \d+\.\d s, \d+\.\d a second$", said, re.M)
    assert re.search(r"\n  time: \d+\.\d s \(load .*, decode .*\(.*/s\), forward .*, write .*, wait .*\)\n$", said)
    places = {role: tmp_path / f"artifacts/timings/extract/{role}.json" for role in ("resnet29", "effnet_lite0")}
    parts = {role: json.loads(path.read_text(encoding="utf-8"))["parts"] for role, path in places.items()}
    assert [kind for kind in parts["resnet29"] if kind.startswith("forward")] == ["forward/resnet29"]
    assert parts["effnet_lite0"]["decode"] == parts["resnet29"]["decode"]
    assert parts["effnet_lite0"]["forward/effnet_lite0"]["items"] == parts["effnet_lite0"]["decode"]["items"] == 2
    for path in places.values():
        path.unlink()
    _, said, _ = kuleshov("-C", tmp_path, "extract")
    assert said.count(" 0 computed, 2 from the store, 0 failed\n") == 2
    assert "time:" not in said
    assert not any(path.exists() for path in places.values())
