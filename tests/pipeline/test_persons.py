"""Persons from a table to their rows, through the commands: given boxes, faces' surroundings, nobody, a box outside."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from cache.block import Block
from cache.keys import box_region, item_key, key_list
from pipeline.cli import main_group
from pipeline.crops import templates_of
from pipeline.project import Project
from pipeline.provenance import provenance
from pipeline.scaffold.write import ProjectData, files
from pipeline.steps import train_inputs
from stages.align.run import crops_block
from stages.errors import SettingError
from stages.extract.items import keys_of
from stages.index.drawn.scenes import draw_scene

Run = Callable[..., tuple[int, str, str]]

ROLES = {
    "body": {"backbone": "effnet_lite0", "taps": ["pooled"], "region": "person"},
    "around": {"backbone": "effnet_lite0", "taps": ["pooled"], "region": "context"},
    "scene": {"backbone": "effnet_lite0", "taps": ["pooled"]},
}
HEADER = ("path", "sample_id", "label", "split", "x1", "y1", "x2", "y2", "box_kind")
ONE, OTHER = (10, 20, 70, 110), (90, 5, 150.5, 118)
ROWS = (
    ("0.png", "one", "glad", "train", *ONE, "person"),
    ("0.png", "other", "sad", "train", *OTHER, "person"),
    ("0.png", "same", "sad", "train", *ONE, "person"),
    ("1.png", "faces", "glad", "train", "", "", "", "", ""),
    ("wall.png", "nobody", "sad", "train", "", "", "", "", ""),
    ("wall.png", "outside", "sad", "train", 60, 0, 90, 30, "person"),
)


def settings(place: Path) -> dict[str, dict]:
    return yaml.safe_load((place / "params.yaml").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of ROWS, extracted; a store of its own. A head reads crops of persons and faces as well."""
    place = tmp_path_factory.mktemp("project")
    for index in range(2):
        draw_scene(8, index).image.resize((180, 120)).save(place / f"{index}.png")
    Image.new("RGB", (60, 40), "grey").save(place / "wall.png")
    with open(place / "labels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([HEADER, *ROWS])
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv"))["params.yaml"])
    values["extract"] |= {"backbones": ROLES, "engine": "torch", "batch_size": 4}
    values["detect"]["engine"] = "torch"
    values["train"]["heads"] = {
        "h": {
            "kind": "tan2017:global",
            "global": ["scene/pooled"],
            "inputs": {"body_pixels": ["person64/pixels"], "pixels": ["box48/pixels"], "body": ["body/pooled"]},
        }
    }
    del values["fuse"]
    values["max_failures"] = "1"
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KULESHOV_STORE", str(place / "store"))
        for command in ("index", "detect", "align", "extract"):
            main_group.main(["-C", str(place), command], standalone_mode=False)
    return place


@pytest.fixture
def project(place: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("KULESHOV_STORE", str(place / "store"))
    return Project(place)


def block_of(project: Project, role: str) -> Block:
    inputs = train_inputs(project)
    return project.store.open(inputs.plans[role].blocks["pooled"])


def test_each_sample_has_the_rows_of_its_persons(project: Project) -> None:
    inputs = train_inputs(project)
    samples = inputs.detections.readable(project.manifest.samples)
    keys, owner = keys_of(samples, inputs.detections, "person")
    faces = len(inputs.detections.faces("faces"))
    assert faces > 1
    counts = dict(zip([s.sample_id for s in samples], np.bincount(owner, minlength=len(samples)).tolist(), strict=True))
    assert counts == {"faces": faces, "nobody": 0, "one": 1, "other": 1, "outside": 0, "same": 1}
    of = {sample_id: [] for sample_id in counts}
    for key, number in zip(key_list(keys), owner.tolist(), strict=True):
        of[samples[number].sample_id].append(key)
    content = project.manifest.by_id["one"].content
    assert of["one"] == of["same"] == [item_key(content, region=box_region(*ONE))]
    assert of["other"] == [item_key(content, region=box_region(*OTHER))]
    rows = {role: block_of(project, role).rows(keys)[0] for role in ("body", "around")}
    for some in rows.values():
        assert some.shape == (len(keys), 1280)
        assert len({row.tobytes() for row in some}) == len({*key_list(keys)}) == len(keys) - 1
    assert not np.array_equal(rows["body"], rows["around"])


def test_align_cuts_what_heads_name_and_index_says_so(place: Path, project: Project) -> None:
    wanted = ["box48", "context224", "person224", "person64"]
    assert templates_of(project) == wanted
    with open(place / "artifacts" / "keys" / "align.csv", newline="") as handle:
        told = list(csv.reader(handle))[1:]
    assert [name for name, _ in told] == [f"{name}/pixels" for name in wanted]
    with open(place / "artifacts" / "blocks" / "align.csv", newline="") as handle:
        written = {row[0] for row in list(csv.reader(handle))[1:]}
    assert written == {f"{name}@{key[:32]}" for name, key in told}
    key = train_inputs(project).detections.key
    assert [crops_block(name, key, "found").key for name, _ in told] == [key for _, key in told]


def test_a_template_that_is_not_there_is_named(project: Project) -> None:
    head = project.params.train.heads["h"].model_copy(update={"inputs": {"faces": ("mug/pixels",)}})
    train = project.params.train.model_copy(update={"heads": {"h": head}})
    project.__dict__["params"] = project.params.model_copy(update={"train": train})
    with pytest.raises(SettingError, match=r"train\.heads\.h\.inputs\.faces: align template 'mug': use one of"):
        templates_of(project)


def test_a_box_outside_is_among_the_failures(place: Path) -> None:
    with open(place / "artifacts" / "failures" / "align.csv", newline="") as handle:
        [failure] = list(csv.DictReader(handle))
    assert (failure["sample_id"], failure["reason"]) == ("outside", "box_outside")
    assert "60, 0, 90, 30 lies in the photo of 60 x 40 px" in failure["detail"]


def test_provenance_says_what_a_backbone_sees(project: Project) -> None:
    said = provenance(project)["backbones"]
    assert isinstance(said, dict)
    assert said["around"].startswith("effnet_lite0 over photos without the person, Apache-2.0")
    assert said["scene"].startswith("effnet_lite0, Apache-2.0")


def test_the_tools_know_persons(project: Project, place: Path, kuleshov: Run, tmp_path: Path) -> None:
    status, out, _ = kuleshov("cache", "ls")
    assert status == 0
    levels = {tuple(line.split()[:2]) for line in out.splitlines()}
    assert {("person224/pixels", "person"), ("effnet_lite0/pooled", "person")} <= levels
    said = {name: kuleshov("-C", place, "cache", "why", name)[1] for name in ("one", "faces", "nobody", "outside")}
    assert "effnet_lite0/pooled (person, of context224/pixels): hit, ok, 1 row, key" in said["one"]
    assert "person64/pixels (person): hit, ok " in said["faces"]
    nobody = "person224/pixels (person): no item, this sample has no person box in the photo and no face"
    assert nobody in said["nobody"]
    assert nobody in said["outside"]
    assert kuleshov("-C", place, "plan")[:2] == (0, "plan: everything is in the store\n")
    assert kuleshov("-C", place, "cache", "export", tmp_path / "all.h5", "--samples")[0] == 0
    with h5py.File(tmp_path / "all.h5") as file:
        samples = file["samples"]
        assert isinstance(samples, h5py.Group)
        offsets = np.asarray(samples["persons_offsets"])
        assert np.diff(offsets).tolist()[1:] == [0, 1, 1, 0, 1]


def test_verify_computes_persons_again(project: Project, place: Path, kuleshov: Run) -> None:
    status, out, err = kuleshov("-C", place, "cache", "verify", "--sample", "100%")
    assert (status, err) == (0, "")
    persons = [line for line in out.splitlines() if "-person-" in line]
    assert len(persons) == 5, "three templates, two roles"
    assert all(line.endswith("bit for bit equal") for line in persons)
    assert "not compared" not in out
    (place / "0.png").rename(place / "away.png")
    try:
        status, out, _ = kuleshov("-C", place, "cache", "verify", "--sample", "100%")
    finally:
        (place / "away.png").rename(place / "0.png")
    assert status == 0
    assert re.search(r"^not compared: 2 items of person224-pixels-person-\w{16}, not to be had now$", out, re.M)
    assert "one could not be computed again (missing" in out


def test_a_plan_counts_persons(project: Project, place: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = len(train_inputs(project).detections.faces("faces"))
    monkeypatch.setenv("KULESHOV_STORE", str(place / "planned"))
    status, out, _ = kuleshov("-C", place, "plan", "--items", "1")
    assert status == 0
    left = {line.split("  ")[0]: line.split() for line in out.splitlines()[2:] if line.startswith(("align", "extract"))}
    assert [left[f"extract {role}"][4] for role in ROLES] == ["persons", "persons", "photos"]
    # of three photos one was computed; those of the others are expected to have as many persons
    assert all(left[f"extract {role}"][3].startswith("~") for role in ("body", "around"))
    assert kuleshov("-C", place, "detect")[0] == 0
    _, out, _ = kuleshov("-C", place, "plan", "--items", "1")
    body = next(line.split() for line in out.splitlines() if line.startswith("extract body"))
    assert int(body[3]) == faces + 2, "counted"


def test_another_reach_asks_for_other_persons_around_faces_only(
    project: Project, place: Path, kuleshov: Run, tmp_path: Path
) -> None:
    values = settings(place)
    values["detect"]["persons"] = {"sides": 0.5}
    for name in ("0.png", "1.png", "wall.png", "labels.csv"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    faces = len(train_inputs(project).detections.faces("faces"))
    said = {command: kuleshov("-C", tmp_path, command)[1] for command in ("index", "detect", "align")}
    assert "0 computed" in said["detect"]
    assert "align: 6 photos, 1 computed" in said["align"]
    status, out, _ = kuleshov("-C", tmp_path, "extract", "body")
    assert status == 0
    assert f"extract/body: {faces + 2} persons, {faces} computed" in out
