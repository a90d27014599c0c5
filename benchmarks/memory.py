"""Peak memory of the writer and of two readers at 10,000 and at 1,000,000 rows: `python -m benchmarks.store --memory`.

Each is a process of its own, of which the system's high-water mark is taken: the writer, photo by photo; a reader of
the block, one epoch of random batches; and training as `kuleshov train` does it: manifest, detections, features, their
scales, one epoch of a head, and its answers for all samples.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.keys import FACES, BlockSpec, item_key
from cache.store import Store

DIM, GLOBAL_DIM, FACES_A_PHOTO = 512, 64, 5
PART = 2_000  # photos drawn at once
SMALL, LARGE = 10_000, 1_000_000
FACE_BLOCK = BlockSpec("synthetic", "embedding", "face", (DIM,), 1, numerics={"dtype": "float16"})
PHOTO_BLOCK = BlockSpec("synthetic", "pooled", "global", (GLOBAL_DIM,), 1, numerics={"dtype": "float16"})
WHO = ("writing", "reading a block", "training")


@dataclass(frozen=True)
class Photos:
    """Some photos: contents, faces of each, and the features of those (R, DIM) float16."""

    contents: list[str]
    counts: list[int]
    rows: np.ndarray


def drawn(rows: int) -> Iterator[Photos]:
    """About `rows` faces in parts, the same each time: a Poisson number a photo."""
    photos = rows // FACES_A_PHOTO
    for start in range(0, photos, PART):
        rng = np.random.default_rng(start)
        contents = [hashlib.sha256(f"photo {i}".encode()).hexdigest() for i in range(start, min(start + PART, photos))]
        counts = rng.poisson(FACES_A_PHOTO, len(contents))
        features = rng.standard_normal((int(counts.sum()), DIM), np.float32).astype(np.float16)
        yield Photos(contents, counts.tolist(), features)


def write(folder: Path, rows: int) -> None:
    """The face features of all photos, by one writer."""
    with Store(folder / "store").writer(FACE_BLOCK) as writer:
        for part in drawn(rows):
            start = 0
            for content, count in zip(part.contents, part.counts, strict=True):
                if count:
                    writer.add(item_key(content, region=FACES), part.rows[start : start + count])
                start += count


def write_rest(folder: Path, rows: int) -> None:
    """What else training reads: the manifest, the detections, a photo's own features."""
    from stages.detect.run import SIZE_SPEC, boxes_spec
    from stages.detect.settings import DetectSettings
    from stages.index.manifest import Manifest, Sample

    store, samples = Store(folder / "store"), list[Sample]()
    size, box = np.array([[640, 480]], np.int32), np.arange(15, dtype=np.float32)
    with (
        store.writer(boxes_spec(DetectSettings(device="cpu"))) as boxes,
        store.writer(SIZE_SPEC) as sizes,
        store.writer(PHOTO_BLOCK) as photos,
    ):
        for part in drawn(rows):
            for content, count in zip(part.contents, part.counts, strict=True):
                name, label = f"train/{len(samples):07d}.jpg", ("happy", "neutral", "sad")[len(samples) % 3]
                samples.append(Sample(name, name, "image", (label,), "train", "", "", (), content))
                status = "ok" if count else "no_face"
                boxes.add(item_key(content, region=FACES), np.tile(box, (count, 1)), status=status)
                sizes.add(item_key(content), size)
                photos.add(item_key(content), part.rows[:1, :GLOBAL_DIM])
    Manifest(tuple(samples)).write(folder / "manifest.csv")


def read(folder: Path, rows: int) -> None:
    """One epoch of random batches of 32 photos."""
    block, rng = Store(folder / "store").open(FACE_BLOCK), np.random.default_rng(0)
    for batch in np.array_split(rng.permutation(len(block)), max(len(block) // 32, 1)):
        block.batch(block.keys[batch])


def train(folder: Path, rows: int) -> None:
    """One head, one epoch, and its answers."""
    from stages.detect.run import read as detections_of
    from stages.detect.settings import DetectSettings
    from stages.heads.gupta2018 import GuptaHead
    from stages.index.manifest import Manifest
    from stages.ledger import Ledger
    from stages.train.answering import infer
    from stages.train.features import gather
    from stages.train.population.engine import train_population
    from stages.train.population.members import Member, Plan

    manifest, store = Manifest.read(folder / "manifest.csv"), Store(folder / "store")
    detections = detections_of(manifest, store, DetectSettings(device="cpu"))
    blocks = ([FACE_BLOCK], [PHOTO_BLOCK])
    features = gather(manifest.samples, store, detections, *blocks, max_faces=15, ledger=Ledger("train"))
    all_rows, labels = np.arange(len(features)), np.arange(len(features)) % 3
    ready = features.scaled(*features.scales(all_rows))
    head = GuptaHead("attention_c", DIM, GLOBAL_DIM, 3, 0.5)
    train_population([Member(head, 0, 0.001, all_rows)], ready, labels, Plan())
    infer(head, ready)


def peak() -> float:
    """High-water mark of this process's memory, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of Linux begins with the memory of the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(what: str, folder: Path, rows: int) -> float:
    """Peak memory (MiB) of a process that does one of `STEPS`."""
    command = [sys.executable, "-m", "benchmarks.memory", what, str(folder), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    return float(done.stdout)


def compare(sizes: Sequence[int] = (SMALL, LARGE)) -> None:
    """Print the peaks at each size, and the differences between the last and the first."""
    found: dict[tuple[str, int], float] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            for what, step in (("writing", "write"), ("", "rest"), ("reading a block", "read"), ("training", "train")):
                start = time.perf_counter()
                mebibytes = measured(step, Path(name), rows)
                if what:
                    found[what, rows] = mebibytes
                    took = time.perf_counter() - start
                    size = rows * DIM * 2 / 2**20
                    print(f"peak memory of {what} {rows:,} rows ({size:,.0f} MiB): {mebibytes:.0f} MiB, {took:.1f} s")
    for what in WHO:
        print(f"difference: {what} {found[what, sizes[-1]] - found[what, sizes[0]]:.0f} MiB")


STEPS = {"write": write, "rest": write_rest, "read": read, "train": train}

if __name__ == "__main__":
    STEPS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(peak())
