"""Members that answer with several labels, from their predictions to the report, by the commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.index.manifest import Manifest
from stages.predictions import Predictions, read, write

Run = Callable[..., tuple[int, str, str]]
CLASSES = ("glad", "proud", "sad")


@pytest.fixture
def folder(tmp_path: Path, kuleshov: Run) -> Path:
    """A project over 24 small photos of one to three labels, after `index`."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{i:02d}.png")
        labels = [name for name in CLASSES if rng.random() < 0.5] or ["sad"]
        rows.append((f"{i:02d}.png", ";".join(labels), "train" if i < 8 else "test"))
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("path", "label", "split"), *rows])
    project = tmp_path / "project"
    assert kuleshov("init", str(project), "--adapter", "csv", "--root", str(tmp_path / "labels.csv"))[0] == 0
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["fuse"] = {"ensembles": {"both": {"members": ["kl"]}}}
    values["evaluate"] = {"split": "test", "resamples": 200}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    assert kuleshov("-C", str(project), "index")[0] == 0
    return project


def head(folder: Path, name: str, several: bool) -> None:
    """Write the answers of a trained head to all samples."""
    samples = Manifest.read(folder / "artifacts" / "manifest.csv").samples
    found = np.random.default_rng(len(name)).random((len(samples), len(CLASSES)))
    found += [[label in sample.labels for label in CLASSES] for sample in samples]
    member = Predictions(
        name=f"{name}-s0",
        kind="head",
        head=name,
        seed=0,
        sample_ids=tuple(s.sample_id for s in samples),
        splits=tuple(s.split for s in samples),
        labels=tuple(s.labels for s in samples),
        classes=CLASSES,
        probabilities=found / 2 if several else found / found.sum(1, keepdims=True),
        several=several,
    )
    write(folder / "artifacts" / "predictions" / "heads" / f"{name}-s0.csv", member)


def test_from_predictions_to_the_report(folder: Path, kuleshov: Run) -> None:
    head(folder, "kl", several=True)
    for command in ("fuse", "evaluate", "report"):
        status, said, err = kuleshov("-C", str(folder), command)
        assert (status, err) == (0, ""), command
        if command == "evaluate":
            assert said.startswith("evaluate: split test, n = 16; mean average precision with 95 % intervals\n  both: ")
            assert "accuracy" not in said
    artifacts = folder / "artifacts"
    assert read(artifacts / "predictions" / "fused" / "both.csv").several
    metrics = json.loads((artifacts / "metrics.json").read_text())
    scores = json.loads((artifacts / "scores.json").read_text())
    value = metrics["several"]["heads"]["kl"]["mean_average_precision"]["mean"]
    assert scores["kl"]["mean_average_precision"] == value > scores["baseline"]["mean_average_precision"]
    with open(artifacts / "plots" / "precision.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["name"] for row in rows] == ["both", "kl", "baseline"]
    assert float(rows[1]["mean_average_precision"]) == value
    for name in ("accuracy", "confusion"):
        assert len((artifacts / "plots" / f"{name}.csv").read_text().splitlines()) == 1
    assert "<h3>Class by class: both</h3>" in (artifacts / "report.html").read_text()


def test_beside_a_head_of_one_label(folder: Path, kuleshov: Run) -> None:
    head(folder, "kl", several=True)
    head(folder, "plain", several=False)
    assert kuleshov("-C", str(folder), "fuse")[0] == 0
    status, said, _ = kuleshov("-C", str(folder), "evaluate")
    assert status == 0
    assert "; accuracy with 95 % intervals\n  plain: " in said
    assert "n = 16; mean average precision with 95 % intervals\n  both: " in said
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["fuse"] = {"ensembles": {"both": {"members": ["kl", "plain"]}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    status, _, err = kuleshov("-C", str(folder), "fuse")
    assert status == 1
    assert err.startswith("kuleshov: error: ensemble 'both': kl-s0 answers with several labels and plain-s0 with one")
    assert err.count("\n") == 1
