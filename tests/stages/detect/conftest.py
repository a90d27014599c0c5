"""Drawn photos on disk, detected once with the real detector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.store import Store
from stages.blocks import BlockRow, Counts
from stages.detect import mtcnn
from stages.detect.run import Detections, run
from stages.detect.settings import DetectSettings
from stages.index.drawn.scenes import Scene, draw_scene
from stages.index.manifest import Box, Manifest, Sample
from stages.ledger import Ledger

SampleOf = Callable[..., Sample]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def settings() -> DetectSettings:
    return DetectSettings(device="cpu")


@pytest.fixture(scope="session")
def sample_of() -> SampleOf:
    """`sample_of(root, name)`: the manifest's row of a file as it is now."""

    def make(root: Path, name: str, *, sample_id: str | None = None, boxes: tuple[Box, ...] = ()) -> Sample:
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        return Sample(sample_id or name, name, "image", (), "train", "", "", boxes, content)

    return make


@dataclass(frozen=True)
class Detected:
    """A run over four photos: three scenes and a grey wall; the store must not be written to."""

    root: Path
    store: Store
    manifest: Manifest
    scenes: dict[str, Scene]
    detections: Detections
    rows: list[BlockRow]
    counts: Counts
    ledger: Ledger


@pytest.fixture(scope="session")
def detected(tmp_path_factory: pytest.TempPathFactory, settings: DetectSettings, sample_of: SampleOf) -> Detected:
    root = tmp_path_factory.mktemp("photos")
    scenes = {f"scene{index}.png": draw_scene(0, index) for index in (1, 2, 11)}
    for name, scene in scenes.items():
        scene.image.save(root / name)
    Image.new("RGB", (200, 150), "grey").save(root / "wall.png")
    manifest = Manifest(tuple(sample_of(root, path.name) for path in sorted(root.iterdir())))
    store = Store(tmp_path_factory.mktemp("store"))
    ledger = Ledger("detect")
    return Detected(root, store, manifest, scenes, *run(manifest, root, store, settings, ledger), ledger)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the detector is an error."""

    def load(settings: DetectSettings, device: str) -> None:
        raise AssertionError("the detector was loaded")

    monkeypatch.setattr(mtcnn, "load", load)


@pytest.fixture(scope="session")
def noise() -> Callable[[int], Image.Image]:
    """A small photo without a face that no other seed gives."""

    def make(seed: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 60, (24, 24, 3), dtype=np.uint8))

    return make
