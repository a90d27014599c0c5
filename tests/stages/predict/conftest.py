"""One real project: seven drawn scenes, the real detector and backbones, two heads, one ensemble."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cache.store import Store
from stages.align import run as align
from stages.backbones import weights
from stages.backbones.fetching import fetch
from stages.detect import run as detect
from stages.detect.settings import DetectSettings
from stages.extract import run as extract
from stages.extract.plan import plan_role
from stages.extract.settings import ExtractSettings
from stages.fuse.run import run as fuse
from stages.fuse.settings import FuseSettings
from stages.index.drawn.dataset import draw_dataset
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.train.run import Inputs
from stages.train.run import run as train
from stages.train.settings import TrainSettings

ROLES = ("resnet29", "effnet_lite0")


@dataclass(frozen=True)
class Project:
    """A trained project: its photos, its artifacts, and where the backbones' weights are."""

    images: Path
    artifacts: Path
    weights: Path
    manifest: Manifest
    detections: detect.Detections


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    folder = weights.weights_dir()
    for name in ROLES:
        fetch(name, folder)
    draw_dataset(root / "data", scenes=7)
    with open(root / "data" / "labels.csv", newline="", encoding="utf-8") as handle:
        manifest = Manifest(tuple(_sample(root / "data", row) for row in csv.DictReader(handle)))
    store, ledger = Store(root / "store"), Ledger("all")
    settings = DetectSettings(device="cpu")
    detections, _, _ = detect.run(manifest, root / "data", store, settings, ledger)
    backbones = {"resnet29": {"taps": ["embedding"]}, "effnet_lite0": {"taps": ["pooled"]}}
    extraction = ExtractSettings.model_validate({"backbones": backbones, "device": "cpu", "batch_size": 8})
    plans = {role: plan_role(role, extraction, folder, detections.key, "found") for role in ROLES}
    templates = [plan.spec.template for plan in plans.values() if plan.spec.template]
    align.run(manifest, root / "data", store, detections, templates, "found", ledger)
    ledgers = dict.fromkeys(plans, ledger)
    extract.run(manifest, root / "data", store, detections, list(plans.values()), extraction, folder, ledgers)
    head = {"faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled"], "epochs": 3, "max_faces": 3}
    heads = {kind: {"kind": f"gupta2018:{kind}", **head} for kind in ("average", "attention_c")}
    train_settings = TrainSettings.model_validate({"seeds": [0], "heads": heads})
    train(Inputs(manifest, store, detections, plans, settings, extraction), train_settings, root / "artifacts", ledger)
    ensembles = {"both": {"members": ["average", "attention_c"], "weights": [1, 3]}}
    fuse(FuseSettings.model_validate({"ensembles": ensembles}), root / "artifacts")
    assert len(ledger) == 0
    return Project(root / "data", root / "artifacts", folder, manifest, detections)


def _sample(folder: Path, row: dict[str, str]) -> Sample:
    content = hashlib.sha256((folder / row["path"]).read_bytes()).hexdigest()
    return Sample(row["path"], row["path"], "image", (row["label"],), row["split"], "", "", (), content)
