"""The main job with real DVC: photos in, features cached once, heads trained, report out."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.cli import main_group
from stages.index.drawn.scenes import draw_scene, scene_cell

SCENES = 14


def sh(folder: Path, *command: str, status: int = 0) -> str:
    """Run a program; its output, both streams."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    return said


def ran(said: str) -> set[str]:
    """The stages that `dvc repro` or `dvc exp run` ran."""
    return set(re.findall(r"Running stage '(.+?)'", said))


def set_param(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project over drawn scenes in folders, after its first `dvc repro` and a commit."""
    place = tmp_path_factory.mktemp("end to end")
    for index in range(SCENES):
        cell = scene_cell(index)
        split = "train" if index < 9 else "test"
        folder = place / "photos" / split / cell.label
        folder.mkdir(parents=True, exist_ok=True)
        draw_scene(3, index).image.save(folder / f"{index:02d}.png")
    (place / "photos" / "test" / "neutral").mkdir(exist_ok=True)
    (place / "photos" / "test" / "neutral" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    root = place / "photos"
    main_group.main(["init", str(place / "project"), "--adapter", "folder", "--root", str(root)], standalone_mode=False)
    project = place / "project"
    set_param(project, "seeds: [0, 1, 2]", "seeds: [0, 1]")
    set_param(project, "max_failures: 5%", "max_failures: 2")
    set_param(project, "gallery: 24", "gallery: 3")
    sh(project, "dvc", "repro")
    sh(project, "git", "add", ".")
    sh(project, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "first")
    return project


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_people_s_files_come_out(project: Path) -> None:
    artifacts = project / "artifacts"
    samples = {row["sample_id"] for row in rows(artifacts / "manifest.csv")}
    assert len(samples) == SCENES + 1
    assert [row["sample_id"] for row in rows(artifacts / "failures" / "detect.csv")] == ["test/neutral/broken.jpg"]
    predicted = rows(artifacts / "predictions" / "fused" / "all_heads.csv")
    assert {row["sample_id"] for row in predicted} == samples - {"test/neutral/broken.jpg"}
    for row in predicted:
        assert sum(float(row[name]) for name in ("negative", "neutral", "positive")) == pytest.approx(1, abs=1e-5)
    heads = sorted(path.name for path in (artifacts / "predictions" / "heads").glob("*.csv"))
    kinds = ("average", "logistic", *(f"attention_{one}" for one in "abc"))
    assert heads == sorted(f"{head}-s{seed}.csv" for head in kinds for seed in (0, 1))
    found = {row["sample_id"] for row in rows(artifacts / "detections.csv")}
    assert len(found) >= SCENES - 2
    metrics = json.loads((artifacts / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_failed"]) == (SCENES - 9 + 1, 1)
    assert metrics["fused"]["all_heads"]["n"] == SCENES - 9
    assert "<html" in (artifacts / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["heads/attention_c-s0", "fused/all_heads"])
def test_attention_sums_to_one_over_a_photo_s_faces(project: Path, name: str) -> None:
    total: dict[str, float] = {}
    for row in rows(project / "artifacts" / "attention" / f"{name}.csv"):
        total[row["sample_id"]] = total.get(row["sample_id"], 0.0) + float(row["weight"])
    assert total
    assert all(value == pytest.approx(1, abs=1e-4) for value in total.values())


def test_nothing_names_this_machine(project: Path) -> None:
    """Manifests and tables are the same on another machine: no place of the project or the store is in them."""
    for path in (project / "artifacts").rglob("*.csv"):
        assert str(project.parent) not in path.read_text(encoding="utf-8"), path


def test_a_second_repro_runs_nothing_but_the_look_at_the_data(project: Path) -> None:
    assert ran(sh(project, "dvc", "repro")) == {"index"}


def test_a_second_extract_loads_no_network(project: Path) -> None:
    said = sh(project, "kuleshov", "extract")
    assert said.count(" 0 computed") == 3


def test_a_changed_learning_rate_runs_no_backbone(project: Path) -> None:
    set_param(project, "learning_rate: 0.001", "learning_rate: 0.01")
    before = (project / "artifacts" / "predictions" / "heads" / "average-s0.csv").read_text()
    assert ran(sh(project, "dvc", "repro")) == {"index", "train", "fuse", "evaluate", "report"}
    assert (project / "artifacts" / "predictions" / "heads" / "average-s0.csv").read_text() != before
    set_param(project, "learning_rate: 0.01", "learning_rate: 0.001")
    assert ran(sh(project, "dvc", "repro")) == {"index"}, "DVC's run cache has the first results"
    assert (project / "artifacts" / "predictions" / "heads" / "average-s0.csv").read_text() == before


def test_an_experiment_in_one_line(project: Path) -> None:
    said = sh(project, "dvc", "exp", "run", "-S", "train.heads.average.epochs=2")
    assert ran(said) == {"index", "train", "fuse", "evaluate", "report"}
    shown = list(csv.DictReader(sh(project, "dvc", "exp", "show", "--csv").splitlines()))
    assert [row["train.heads.average.epochs"] for row in shown][1:] == ["16", "2"]
    assert all(0 <= float(row["all_heads.accuracy"]) <= 1 for row in shown)
    sh(project, "git", "checkout", "-q", ".")
    sh(project, "dvc", "checkout", "-q")


def test_dvc_shows_metrics_and_plots(project: Path) -> None:
    assert "all_heads.accuracy" in sh(project, "dvc", "metrics", "show", "--md")
    sh(project, "dvc", "plots", "show", "-q")
    page = (project / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "confusion" in page


def test_predict_gives_evaluation_s_numbers(project: Path, tmp_path: Path) -> None:
    chosen = sorted((project.parent / "photos" / "test").rglob("*.png"))[:3]
    out = tmp_path / "out"
    model = str(project / "artifacts" / "models" / "fused" / "all_heads")
    sh(project, "kuleshov", "predict", model, *map(str, chosen), "--out", str(out))
    expected = {
        row["sample_id"]: row for row in rows(project / "artifacts" / "predictions" / "fused" / "all_heads.csv")
    }
    answers = rows(out / "predictions.csv")
    assert len(answers) == 3
    for row in answers:
        same = expected[str(Path(row["file"]).relative_to(project.parent / "photos"))]
        for name in ("negative", "neutral", "positive"):
            assert float(row[name]) == pytest.approx(float(same[name]), abs=1e-4)
    assert len(list((out / "annotated").iterdir())) == 3


def test_a_fresh_store_gives_the_same_bytes(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same photos, same settings, another store and another folder: the same manifests and predictions."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, other / name)
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    for stage in ("index", "detect", "align", "extract", "train"):
        sh(other, "kuleshov", stage)
    compared = 0
    for path in (other / "artifacts").rglob("*.csv"):
        twin = project / "artifacts" / path.relative_to(other / "artifacts")
        assert path.read_bytes() == twin.read_bytes(), path.name
        compared += 1
    assert compared > 20


def test_a_new_photo_is_noticed_and_costs_itself(project: Path) -> None:
    """Last: it changes the project."""
    draw_scene(4, 0).image.save(project.parent / "photos" / "train" / "positive" / "new.png")
    said = sh(project, "dvc", "repro")
    assert {"index", "detect", "align", "train"} <= ran(said)
    assert f"detect: {SCENES + 2} photos, 1 computed" in said
    assert re.search(r"extract/resnet29: \d+ face groups, 1 computed", said)
    assert re.search(r"extract/effnet_lite0: \d+ photos, 1 computed", said)


def test_too_many_failures_stop_the_stage_and_keep_what_was_done(project: Path) -> None:
    said = sh(project, "kuleshov", "detect", "--max-failures", "0", status=1)
    assert "1 of 16 items failed" in said
    assert (project / "artifacts" / "failures" / "detect.csv").exists()
    assert "0 computed" in sh(project, "kuleshov", "detect")
