"""A made-up project without a photo: a manifest, detections, and features written straight into a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.keys import FACES, BlockSpec, item_key
from cache.store import Store
from stages.backbones import registry
from stages.backbones.spec import BackboneSpec
from stages.detect.faces import FaceItem, Faces
from stages.detect.run import Detections
from stages.detect.settings import DetectSettings
from stages.extract.plan import RolePlan
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.index.manifest import Manifest, Sample
from stages.train.run import Inputs
from stages.train.settings import TrainSettings

FACE_WIDTHS = {"embedding": 6, "wide": 3}
SHA = {"resnet29": "a" * 64, "effnet_lite0": "b" * 64}


def block(source: str, tap: str, level: str, shape: tuple[int, ...], dtype: str = "float32") -> BlockSpec:
    return BlockSpec(source, tap, level, shape, 1, weights={source: SHA[source]}, numerics={"dtype": dtype})


def role(name: str, taps: Mapping[str, BlockSpec], stands_in_for: str | None = None) -> RolePlan:
    spec: BackboneSpec = registry.get_spec(name)
    return RolePlan(name, spec, stands_in_for, dict(taps), None)


GRID = block("resnet29", "grid", "face", (3, 4, 4))
"""A map of each face."""

FACE_PLAN = role(
    "resnet29",
    {tap: block("resnet29", tap, "face", (width,)) for tap, width in FACE_WIDTHS.items()} | {"grid": GRID},
)
GLOBAL_PLAN = role(
    "effnet_lite0",
    {
        "pooled": block("effnet_lite0", "pooled", "global", (5,), "float16"),
        "map": block("effnet_lite0", "map", "global", (2, 3, 3)),
    },
)


def content_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass
class World:
    """What a test draws up. Each sample's features are kept here too, to compare with."""

    store: Store
    samples: list[Sample] = field(default_factory=list)
    items: dict[str, list[FaceItem]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    faces: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    globals_: dict[str, np.ndarray] = field(default_factory=dict)
    waiting: list[tuple[BlockSpec, bytes, np.ndarray]] = field(default_factory=list)

    def add(
        self,
        name: str,
        label: str | tuple[str, ...] | None,
        split: str = "train",
        *,
        count: int = 2,
        boxes: np.ndarray | None = None,
        shift: float = 0.0,
        faces: bool = True,
        globals_: bool = True,
        content: str | None = None,
    ) -> None:
        """A sample with `count` faces; its features are noise about `shift`, and left out where told so."""
        rng = np.random.default_rng(len(self.samples))
        labels = () if label is None else (label,) if isinstance(label, str) else label
        sample = Sample(name, f"{name}.jpg", "image", labels, split, "", "", (), content or content_of(name))
        self.samples.append(sample)
        self.sizes[name] = (200, 100)
        if boxes is None:
            corners = rng.uniform(0, 50, (count, 2))
            boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)
        boxes = boxes.astype(np.float32).reshape(-1, 4)
        none = np.zeros(len(boxes), np.float32)
        found = Faces(boxes, none, np.zeros((len(boxes), 5, 2), np.float32), self.sizes[name])
        key = item_key(sample.content, region=FACES)
        self.items[name] = [FaceItem(key, found)]
        self.faces[name] = {
            tap: (shift + rng.normal(size=(len(boxes), width))).astype(np.float32) for tap, width in FACE_WIDTHS.items()
        }
        self.globals_[name] = (shift + rng.normal(size=5)).astype(np.float16)
        if faces and len(boxes):
            for tap, rows in self.faces[name].items():
                self.waiting.append((FACE_PLAN.blocks[tap], key, rows))
            grid = shift + np.random.default_rng(len(self.samples)).normal(size=(len(boxes), *GRID.shape))
            self.waiting.append((GRID, key, grid.astype(np.float32)))
        if globals_:
            self.waiting.append((GLOBAL_PLAN.blocks["pooled"], item_key(sample.content), self.globals_[name][None]))

    def fail(self, name: str, label: str, split: str = "train") -> None:
        """A sample whose photo could not be read."""
        self.samples.append(Sample(name, f"{name}.jpg", "image", (label,), split, "", "", (), content_of(name)))
        self.failed[name] = ("truncated", "the JPEG data end too soon")

    @property
    def detections(self) -> Detections:
        return Detections(self.items, self.sizes, self.failed, "key")

    def inputs(self, **changes: Any) -> Inputs:
        """Everything added so far, in the store: one shard a block and call, for speed."""
        for spec in {spec.key: spec for spec, _, _ in self.waiting}.values():
            with self.store.writer(spec) as writer:
                for wanted, key, rows in self.waiting:
                    if wanted.key == spec.key:
                        writer.add(key, rows)
        self.waiting.clear()
        extract = ExtractSettings(
            backbones={
                "resnet29": BackboneSettings(taps=("embedding", "wide")),
                "effnet_lite0": BackboneSettings(taps=("pooled", "map")),
            }
        )
        plans = {"resnet29": FACE_PLAN, "effnet_lite0": GLOBAL_PLAN}
        fields = {"plans": plans, "detect": DetectSettings(), "extract": extract} | changes
        return Inputs(Manifest(tuple(self.samples)), self.store, self.detections, **fields)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Store(tmp_path / "store"))


@pytest.fixture
def populated(world: World) -> World:
    """40 samples of two classes that lie far apart, in three splits; some without a face."""
    for i in range(40):
        label, split = ("calm", "glad")[i % 2], ("train", "train", "val", "test")[i // 2 % 4]
        world.add(f"s{i:02d}", label, split, count=i % 4, shift=(-1.5, 1.5)[i % 2])
    return world


@pytest.fixture
def train_settings() -> Callable[..., TrainSettings]:
    """`train_settings(kinds, seeds, **changes)`: heads named after their variants."""

    def make(kinds: Sequence[str] = ("attention_c",), seeds: Sequence[int] = (0,), **changes: Any) -> TrainSettings:
        head = {"faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled"], "epochs": 3, "batch_size": 8}
        heads = {kind: {"kind": f"gupta2018:{kind}", **head, **changes} for kind in kinds}
        return TrainSettings.model_validate({"seeds": list(seeds), "heads": heads})

    return make
