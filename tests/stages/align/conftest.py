"""Drawn photos with known faces: no detector is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.store import Store
from stages.align import run as stage
from stages.align.cut import Cutter, Media
from stages.decoding.pool import Decoded
from stages.detect.faces import Faces, FaceSource, faces_of
from stages.detect.run import Detections
from stages.index.drawn.scenes import Scene, draw_scene
from stages.index.manifest import Manifest, Sample


@pytest.fixture(scope="session")
def scene() -> Scene:
    return draw_scene(0, 1)


@pytest.fixture(scope="session")
def truth(scene: Scene) -> Faces:
    """The drawn faces as a detector that errs nowhere would find them."""
    return Faces(
        boxes=np.array([face.truth.box for face in scene.faces], np.float32),
        scores=np.ones(len(scene.faces), np.float32),
        landmarks=np.array([face.truth.landmarks for face in scene.faces], np.float32),
        size=scene.image.size,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def photos(tmp_path: Path, scene: Scene) -> Path:
    """a.png the scene, b.png the scene mirrored, c.png the same bytes as a.png."""
    root = tmp_path / "photos"
    root.mkdir()
    scene.image.save(root / "a.png")
    scene.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "b.png")
    (root / "c.png").write_bytes((root / "a.png").read_bytes())
    return root


@pytest.fixture
def manifest(photos: Path) -> Manifest:
    def row(path: Path) -> Sample:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        return Sample(path.name, path.name, "image", (), "train", "", "", (), content)

    return Manifest(tuple(row(path) for path in photos.iterdir()))


@pytest.fixture
def detections_of(truth: Faces) -> Callable[..., Detections]:
    """Detections of a manifest whose photos all have the drawn faces, but those in `empty` none."""

    def make(manifest: Manifest, source: FaceSource = "found", empty: tuple[str, ...] = ()) -> Detections:
        found = {s.sample_id: Faces.none(truth.size) if s.sample_id in empty else truth for s in manifest.samples}
        items = {s.sample_id: faces_of(s, found[s.sample_id], source) for s in manifest.samples}
        return Detections(items, dict.fromkeys(items, truth.size), {}, "0" * 64)

    return make


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sample_ids of each photo that a decoding process was asked to open."""
    calls: list[list[str]] = []
    real = stage.decoded

    def counting(cutter: Cutter, jobs: Iterable[Media]) -> Generator[Decoded[Media, Any], None, None]:
        for answer in real(cutter, jobs):
            calls.append([sample.sample_id for sample in answer.job.samples])
            yield answer

    monkeypatch.setattr(stage, "decoded", counting)
    return calls
