"""What the benchmarks of extraction share: drawn photos and clips on disk, and the time that something took."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import torch

from stages.index.drawn.scenes import draw_scene, plan_scene
from stages.index.manifest import Manifest, Sample

SIZE = (640, 480)


@dataclass
class Took:
    """Seconds: wall, and CPU (user and system) of this process with its children, which decode."""

    wall: float = 0.0
    cpu: float = 0.0


def cpu_seconds() -> float:
    """CPU time so far of this process and of its living children."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system
    return total


@contextmanager
def clock() -> Iterator[Took]:
    """Measure the block."""
    took = Took()
    start, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield took
    finally:
        took.wall, took.cpu = time.perf_counter() - start, cpu_seconds() - cpu


def draw_photos(folder: Path, photos: int, faces: int, size: tuple[int, int] = SIZE) -> Manifest:
    """The first drawn scenes of this size with so many faces, as JPEG files, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for index in count():
        if len(paths) == photos:
            break
        plan = plan_scene(0, index)
        if plan.size == size and len(plan.people) == faces:
            path = folder / f"{len(paths):05d}.jpg"
            draw_scene(0, index).image.save(path, quality=92)
            paths.append(path)
    return manifest_of(paths, "image")


def manifest_of(paths: list[Path], media: str) -> Manifest:
    """Files as samples without a label."""
    samples = []
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        samples.append(Sample(path.name, path.name, media, (), "train", "", "", (), content))
    return Manifest(tuple(samples))


def machine() -> str:
    """One line about where this runs."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on {torch.get_num_threads()} thread"
    )
