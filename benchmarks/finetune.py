"""Fine-tuning: a step on cached crops, with random views, beside the same step on tensors in memory.

    python -m benchmarks.finetune                                   SphereFace-20 on 112 x 96, batches of 60
    python -m benchmarks.finetune --backbone resnet_small:18        a network a tenth as expensive on 48 x 48

Both train the same network with `stages.finetune.loop.fit`, in turn. Crops are read from the store, mirrored with
probability 1/2 and put together while the network computes; the tensors are batches that were read before. A step is
the time from one batch to the next, which has the waiting in it. The ratio is that of the median steps; to reach: 1.05.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.common import machine, manifest_of
from cache.keys import FACES, item_key
from cache.store import Store
from stages.align import run as align
from stages.backbones import registry
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem, Faces
from stages.finetune.batch import Draw, PixelBatch, PixelSet
from stages.finetune.loop import fit
from stages.finetune.pixels import Source, face_pixels
from stages.finetune.settings import FinetuneSettings
from stages.finetune.start import start
from stages.index.manifest import Manifest
from stages.ledger import Ledger

CLASSES = ("a", "b", "c")
FACES_A_PHOTO = 9
SIDE = 96.0
LANDMARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)


@dataclass
class Timed:
    """A set that notes when a batch is asked for.

    Attributes:
        pixels: where batches come from.
        asked: times (s) at which the loop asked, of each epoch.
    """

    pixels: PixelSet
    asked: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = self.pixels.labels

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, order: np.ndarray, size: int, draw: Draw | None, skip: int = 0) -> Iterator[PixelBatch]:
        """Those of `pixels`."""
        self.asked.append([])
        for batch in self.pixels.batches(order, size, draw, skip):
            yield batch
            self.asked[-1].append(time.perf_counter())

    def steps(self) -> list[float]:
        """Seconds of each step but the first of an epoch, which begins before there is anything to compute on."""
        return [float(later - earlier) for some in self.asked for earlier, later in pairwise(some)]


@dataclass
class InMemory:
    """Batches that are there, in the same order each time."""

    kept: list[PixelBatch]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: np.ndarray, size: int, draw: Draw | None, skip: int = 0) -> Iterator[PixelBatch]:
        """The batches, whatever is asked for."""
        yield from self.kept[skip:]


def crops(folder: Path, template: str, photos: int) -> tuple[Manifest, Source]:
    """Photos of noise with faces in a row, and their crops in a store."""
    noise = np.random.default_rng(0)
    paths: list[Path] = []
    corners = np.stack([np.arange(FACES_A_PHOTO) * 60.0, np.full(FACES_A_PHOTO, 50.0)], 1).astype(np.float32)
    boxes = np.concatenate([corners, corners + SIDE], 1).astype(np.float32)
    faces = Faces(boxes, np.ones(len(boxes), np.float32), corners[:, None] + LANDMARKS * np.float32(SIDE), (640, 200))
    for number in range(photos):
        paths.append(folder / f"{number:05d}.png")
        Image.fromarray(noise.integers(0, 256, (200, 640, 3), dtype=np.uint8)).save(paths[-1])
    plain = manifest_of(paths, "image").samples
    manifest = Manifest(tuple(replace(one, labels=(CLASSES[i % len(CLASSES)],)) for i, one in enumerate(plain)))
    items = {one.sample_id: [FaceItem(item_key(one.content, region=FACES), faces)] for one in manifest}
    detections = Detections(items, dict.fromkeys(items, (640, 200)), {}, "0" * 64)
    store = Store(folder / "store")
    align.run(manifest, folder, store, detections, (template,), "found", Ledger("align"))
    return manifest, Source(folder, store, detections, "found", CLASSES, Ledger("finetune"))


def measure(settings: FinetuneSettings, pixels: PixelSet, folder: Path) -> list[float]:
    """Seconds of the steps of a training from the same weights."""
    network, _ = start(settings, CLASSES, weights_dir=folder)
    timed = Timed(pixels)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        fit(network, timed, None, settings, Path(place), shown=False)
    return timed.steps()


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="sphereface:20", help="of faces (default %(default)s)")
    parser.add_argument("--batch", type=int, default=60, help="faces (default %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="of a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default %(default)s)")
    options = parser.parse_args()
    spec = registry.get_spec(options.backbone)
    asked = {"start": "random", "unit": "face", "epochs": 1, "learning_rate": 1e-3, "augment": {"flip": True}}
    settings = FinetuneSettings.model_validate(
        asked | {"backbone": options.backbone, "batch_size": options.batch, "device": "cpu"}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = -(-options.batch * options.steps // FACES_A_PHOTO)
        manifest, source = crops(folder, spec.template or "", photos)
        cached = face_pixels(source, manifest.samples, spec, settings.augment, unit="face")
        order = np.arange(options.batch * options.steps)
        memory = InMemory(list(cached.batches(order, options.batch, Draw(0, 0))), cached.labels[order])
        ways: dict[str, PixelSet] = {"in memory": memory, "cached": cached}
        for pixels in ways.values():  # warms up
            measure(settings, pixels, folder)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name in reversed(ways) if number % 2 else ways:
                seconds[name] += measure(settings, ways[name], folder)
    print(machine())
    print(f"{options.backbone}, batches of {options.batch} crops, {len(seconds['cached'])} steps")
    for name, some in seconds.items():
        print(f"{name:<12}{1e3 * median(some):>10.1f} ms a step, least {1e3 * min(some):.1f}")
    print(f"ratio: step {median(seconds['cached']) / median(seconds['in memory']):.3f}")


if __name__ == "__main__":
    main()
