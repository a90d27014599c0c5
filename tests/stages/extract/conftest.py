"""Samples with cached crops, a small real backbone, and a network that is easy to foresee."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.keys import FACES, item_key
from cache.store import Store
from stages.align.run import crops_spec
from stages.align.templates import find
from stages.backbones import weights
from stages.backbones.fetching import fetch
from stages.detect.faces import FaceItem, Faces
from stages.detect.run import Detections
from stages.index.manifest import Manifest, Sample

KEY = "0" * 64
FACES_OF = {"a.png": 2, "b.png": 1, "c.png": 0, "d.png": 3}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The user's weights folder, with resnet29's file fetched where it was missing."""
    folder = weights.weights_dir()
    fetch("resnet29", folder)
    return folder


@pytest.fixture(scope="session")
def pixels() -> Callable[[int, int], np.ndarray]:
    """`pixels(seed, n)`: uint8 (n, 150, 150, 3)."""

    def make(seed: int, count: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 150, 150, 3), dtype=np.uint8)

    return make


@dataclass(frozen=True)
class Place:
    """Four photos (a.png has a twin), their detections, and the crops of their faces in a store."""

    root: Path
    store: Store
    manifest: Manifest
    detections: Detections

    def key(self, name: str) -> bytes:
        """Of the faces of a photo."""
        return item_key(self.manifest.by_id[name].content, region=FACES)


@pytest.fixture
def place(tmp_path: Path, pixels: Callable[[int, int], np.ndarray]) -> Place:
    root = tmp_path / "photos"
    root.mkdir()
    for seed, name in enumerate(FACES_OF):
        Image.fromarray(pixels(seed, 1)[0]).save(root / name)
    (root / "twin.png").write_bytes((root / "a.png").read_bytes())
    samples, items = [], {}
    for name, count in {**FACES_OF, "twin.png": 2}.items():
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        samples.append(Sample(name, name, "image", (), "train", "", "", (), content))
        faces = Faces.from_rows(np.ones((count, 15), np.float32), (150, 150))
        items[name] = [FaceItem(item_key(content, region=FACES), faces)]
    store = Store(tmp_path / "store")
    place = Place(root, store, Manifest(tuple(samples)), Detections(items, dict.fromkeys(items, (150, 150)), {}, KEY))
    with store.writer(crops_spec(find("dlib150"), KEY, "found")) as writer:
        for seed, (name, count) in enumerate(FACES_OF.items()):
            if count:
                writer.add(place.key(name), pixels(seed, count))
    return place
