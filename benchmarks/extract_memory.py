"""Memory of photos to features: does it grow with the number of photos?

    python -m benchmarks.extract_memory               100 and 10,000 small photos, and 40 of 12 megapixels

Each run is a process of its own: detect, align and extract into an empty store. What is counted is its resident memory
together with that of its decoding processes, looked at every 50 ms, and the memory that they share counted for each.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import manifest_of
from stages.index.drawn.scenes import draw_scene

SMALL = (200, 150)
LARGE = (4000, 3000)
DRAWN = 20


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """So many files of different bytes: a few drawn scenes, each with a number after its last byte."""
    folder.mkdir()
    scenes: list[bytes] = []
    for index in range(DRAWN):
        buffer = io.BytesIO()
        draw_scene(0, index).image.resize(size).save(buffer, "JPEG", quality=90)
        scenes.append(buffer.getvalue())
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(scenes[number % DRAWN] + number.to_bytes(4, "big"))


def run(folder: Path) -> None:
    """In a process of its own: all stages."""
    import torch

    from benchmarks.extract import through_the_stages

    torch.set_num_threads(1)
    manifest = manifest_of(sorted((folder / "photos").iterdir()), "image")
    through_the_stages(manifest, folder / "photos", folder / "store")


def peak_of(folder: Path) -> tuple[float, float]:
    """MiB that the run and its children have at most, and its seconds."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.extract_memory", "--run", str(folder)])
    most = 0
    while child.poll() is None:
        total = 0
        try:
            this = psutil.Process(child.pid)
            for process in (this, *this.children(recursive=True)):
                total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        most = max(most, total)
        time.sleep(0.05)
    if child.returncode:
        raise SystemExit(child.returncode)
    return most / 2**20, time.perf_counter() - start


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=int, default=10_000, help="beside 100 (default %(default)s)")
    options = parser.parse_args()
    if options.run:
        run(options.run)
        return
    found: dict[str, float] = {}
    cases = {"100": (100, SMALL), f"{options.photos}": (options.photos, SMALL), "40 of 12 megapixels": (40, LARGE)}
    print(f"{'photos':<22}{'MiB at most':>12}{'seconds':>9}")
    for name, (count, size) in cases.items():
        with tempfile.TemporaryDirectory() as scratch:
            write_photos(Path(scratch) / "photos", count, size)
            found[name], seconds = peak_of(Path(scratch))
        print(f"{name:<22}{found[name]:>12.0f}{seconds:>9.0f}", flush=True)
    print(f"ratio: memory {found[str(options.photos)] / found['100']:.3f}")


if __name__ == "__main__":
    main()
