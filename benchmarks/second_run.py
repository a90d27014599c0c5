"""A second run: `kuleshov extract ROLE` where every row is in the store, beside `kuleshov --help`.

    python -m benchmarks.second_run                    a face role and a whole-photo role, 100,000 photos
    python -m benchmarks.second_run --items 10000      fewer

The project is synthetic: a manifest, detections and features under the keys that its settings ask for. There is no
photo and there are no crops, as a run that has all its features opens neither. The weights of the two backbones and of
the detector must be here (`kuleshov weights fetch`), because their hashes are part of the keys. Each command is a
process of its own; wall time is what a user waits, CPU time (user and system, of all threads) what counts where others
use the machine too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from cache.keys import FACES, BlockSpec, item_key
from cache.store import Store
from pipeline.project import Project
from stages.detect.run import SIZE_SPEC, boxes_spec
from stages.extract.plan import plan_role
from stages.index.manifest import Manifest, Sample

ITEMS = 100_000
SPLITS = ("train", "train", "train", "val", "test")
CLASSES = ("happy", "neutral", "sad")
ROLES = {"resnet29": "embedding", "effnet_lite0": "pooled"}
PARAMS = """\
data: {adapter: folder, root: photos}
detect: {device: cpu}
extract:
  device: cpu
  backbones:
    resnet29: {taps: [embedding]}
    effnet_lite0: {taps: [pooled]}
train:
  heads:
    average: {kind: "gupta2018:average", faces: [resnet29/embedding], global: [effnet_lite0/pooled]}
"""


@dataclass(frozen=True)
class Took:
    """Seconds of one process: wall, and user plus system."""

    wall: float
    cpu: float


def build(folder: Path, items: int, seed: int = 0) -> None:
    """A project in `folder`, its rows in the store of KULESHOV_STORE: one or two faces a photo, none in one of ten."""
    (folder / "photos").mkdir(parents=True)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    contents = [hashlib.sha256(f"second run {i}".encode()).hexdigest() for i in range(items)]
    project = Project(folder)
    Manifest(tuple(_sample(i, content) for i, content in enumerate(contents))).write(project.artifacts / "manifest.csv")
    settings, store = project.params, project.store
    rng = np.random.default_rng(seed)
    counts = np.where(np.arange(items) % 10 == 9, 0, rng.integers(1, 3, items)).tolist()
    boxes = boxes_spec(settings.detect)
    _fill(store, SIZE_SPEC, [item_key(c) for c in contents], [1] * items, np.array([[640, 480]]))
    faces = [item_key(c, region=FACES) for c in contents]
    row = np.concatenate([[100, 100, 200, 220, 0.99], np.linspace(110, 190, 10)])
    _fill(store, boxes, faces, counts, np.stack([row, row + 5]))
    for role in settings.extract.roles:
        plan = plan_role(role, settings.extract, project.weights_folder, boxes.key, settings.detect.faces)
        for spec in plan.blocks.values():
            values = rng.standard_normal((4096, *spec.shape), np.float32)
            if plan.crops:
                found = [(key, count) for key, count in zip(faces, counts, strict=True) if count]
                _fill(store, spec, [key for key, _ in found], [count for _, count in found], values)
            else:
                _fill(store, spec, [item_key(c) for c in contents], [1] * items, values)


def _sample(number: int, content: str) -> Sample:
    split, label = SPLITS[number % len(SPLITS)], CLASSES[number % len(CLASSES)]
    name = f"{split}/{label}/{number:07d}.jpg"
    return Sample(name, name, "image", (label,), split, f"event{number // 20}", "", (), content)


def _fill(store: Store, spec: BlockSpec, keys: Sequence[bytes], counts: Sequence[int], values: np.ndarray) -> None:
    """Write items; item i has `counts[i]` rows, taken from `values` in turn. An item without rows has no face."""
    with store.writer(spec) as writer:
        for number, (key, count) in enumerate(zip(keys, counts, strict=True)):
            start = number % (len(values) - count + 1)
            writer.add(key, values[start : start + count], status="ok" if count else "no_face")


def timed(command: Sequence[str]) -> tuple[Took, str]:
    """Run a command to its end; its seconds and what it printed."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall, cpu), done.stdout


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS, help="photos (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command (default %(default)s)")
    options = parser.parse_args()
    start = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KULESHOV_STORE"] = str(folder / "store")
        build(folder / "project", options.items)
        commands = {"--help": [*start, "--help"]}
        commands |= {f"extract {role}": [*start, "-C", str(folder / "project"), "extract", role] for role in ROLES}
        seconds: dict[str, list[Took]] = {name: [] for name in commands}
        for number in range(options.rounds + 1):  # the first warms up
            for what, command in commands.items():
                took, said = timed(command)
                if what != "--help" and ", 0 computed, " not in said:
                    raise SystemExit(f"kuleshov {what} computed something: {said}")
                if number:
                    seconds[what].append(took)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.items:,} photos")
    print(f"{'kuleshov':<24}{'median wall s':>15}{'fastest':>10}{'median CPU s':>15}{'least':>10}{'n':>4}")
    for what, some in seconds.items():
        walls, cpus = [took.wall for took in some], [took.cpu for took in some]
        print(
            f"{what:<24}{median(walls):>15.2f}{min(walls):>10.2f}{median(cpus):>15.2f}{min(cpus):>10.2f}{len(some):>4}"
        )
    help_wall, help_cpu = (median(getattr(took, of) for took in seconds["--help"]) for of in ("wall", "cpu"))
    for role in ROLES:
        some = seconds[f"extract {role}"]
        wall, cpu = (median(getattr(took, of) for took in some) for of in ("wall", "cpu"))
        print(f"difference: {role} {wall - help_wall:.2f} s wall, {cpu - help_cpu:.2f} s CPU")


if __name__ == "__main__":
    main()
