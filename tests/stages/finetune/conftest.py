"""A small corpus with real crops in a real store: photos of noise and a clip, whose faces are given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.keys import FACES, frame_key, item_key
from cache.store import Store
from stages.align import run as align
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem, Faces
from stages.finetune.pixels import Source
from stages.index.clips import probe
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger

CLASSES = ("calm", "glad", "sad")
FACES_OF = {"a.png": 3, "b.png": 1, "c.png": 0, "d.png": 4, "e.png": 2, "f.png": 1}
LABELS_OF = {"a.png": "glad", "b.png": "calm", "c.png": "sad", "d.png": "sad", "e.png": "calm", "f.png": "glad"}
FACES_OF_FRAME = (1, 0, 2, 1, 3, 1)
TEMPLATES = ("box48", "box64", "sphere112x96")


@dataclass(frozen=True)
class Corpus:
    """Six photos, a twin of the first with another label, and a clip of six frames; `c.png` has no face."""

    root: Path
    store: Store
    manifest: Manifest
    detections: Detections

    @property
    def photos(self) -> list[Sample]:
        """Without the clip."""
        return [sample for sample in self.manifest.samples if sample.media == "image"]

    @property
    def clip(self) -> Sample:
        return self.manifest.by_id["clip.mp4"]

    def source(self, **changes: object) -> Source:
        """With a ledger of its own."""
        source = Source(self.root, self.store, self.detections, "found", CLASSES, Ledger("finetune"))
        return replace(source, **changes)  # pyright: ignore[reportArgumentType]

    def with_labels(self, labels: dict[str, tuple[str, ...]]) -> list[Sample]:
        """The photos, some with other labels."""
        return [replace(sample, labels=labels.get(sample.sample_id, sample.labels)) for sample in self.photos]


def faces(count: int, size: tuple[int, int], seed: int) -> Faces:
    """Faces of different sizes, with landmarks in their boxes."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    sides = rng.permutation(np.arange(count)) * 8 + 20.0
    boxes = np.concatenate([corners, corners + sides[:, None]], 1).astype(np.float32)
    places = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    landmarks = (corners[:, None] + places * sides[:, None, None]).astype(np.float32)
    return Faces(boxes, np.ones(count, np.float32), landmarks, size)


def sample_of(root: Path, name: str, label: str, media: str = "image") -> Sample:
    content = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return Sample(name, name, media, (label,), "train", "", "", (), content)


def make_corpus(place: Path) -> Corpus:
    root = place / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    samples, items, sizes = [], {}, {}
    for seed, (name, count) in enumerate(FACES_OF.items()):
        sizes[name] = (120 + 20 * seed, 130)
        noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        noise.resize(sizes[name], Image.Resampling.BICUBIC).save(root / name)
        samples.append(sample_of(root, name, LABELS_OF[name]))
        items[name] = [FaceItem(item_key(samples[-1].content, region=FACES), faces(count, sizes[name], seed))]
    (root / "twin.png").write_bytes((root / "a.png").read_bytes())
    samples.append(sample_of(root, "twin.png", "sad"))
    items["twin.png"], sizes["twin.png"] = items["a.png"], sizes["a.png"]
    write_clip(root / "clip.mp4", plan_clip(0, 0))
    clip = sample_of(root, "clip.mp4", "calm", "video")
    times = probe(root / "clip.mp4").times_us[[0, 3, 4, 9, 12, 20]]
    items["clip.mp4"] = [
        FaceItem(frame_key(clip.content, time_us, region=FACES), faces(count, (320, 240), 50 + number))
        for number, (time_us, count) in enumerate(zip(times.tolist(), FACES_OF_FRAME, strict=True))
    ]
    sizes["clip.mp4"] = (320, 240)
    manifest = Manifest((*samples, clip))
    detections = Detections(items, sizes, {}, "0" * 64, {"clip.mp4": times})
    store = Store(place / "store")
    ledger = Ledger("align")
    align.run(manifest, root, store, detections, TEMPLATES, "found", ledger)
    assert not ledger.entries
    return Corpus(root, store, manifest, detections)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Nobody changes it."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def new_corpus(tmp_path: Path) -> Callable[[], Corpus]:
    """One that may be damaged."""
    return lambda: make_corpus(tmp_path)
