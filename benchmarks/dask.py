"""Photos to features on one and on two local Dask workers, a thread each.

    python -m benchmarks.dask                         drawn photos of 640 x 480 with nine faces
    python -m benchmarks.dask --photos 128 --workers 4

Detect and extract run in parts on the workers (align is not spread, and not counted). Workers are started and have
computed something before the clock starts, because that costs seconds whatever the work. Wall time counts here: more
workers take as much CPU time. Each round has an empty store; rounds alternate, medians. Workers share the machine's
memory and caches with each other and with whoever else uses it: the ratio says how this machine scales.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import dask.system

from benchmarks.common import SIZE, Took, clock, draw_photos
from benchmarks.extract import FACES, roles, settings_of
from cache.store import Store
from pipeline.cluster import Cluster
from stages.align import run as align
from stages.backbones.weights import weights_dir
from stages.detect import run as detect
from stages.extract import run as extract
from stages.extract.plan import plan_role
from stages.index.manifest import Manifest
from stages.ledger import Ledger

PHOTOS = 64
ROUNDS = 3


def through_the_stages(manifest: Manifest, root: Path, store: Store, cluster: Cluster) -> list[Took]:
    """Detect and extract on the workers; what each took."""
    how, what = settings_of("auto")
    with clock() as detected:
        detections, _, _ = detect.run(manifest, root, store, how, Ledger("detect"), cluster)
    plans = [plan_role(role, what, weights_dir(), detections.key, how.faces) for role in roles()]
    templates = [plan.spec.template for plan in plans if plan.spec.template]
    align.run(manifest, root, store, detections, templates, how.faces, Ledger("align"))
    ledgers = {plan.role: Ledger(plan.role) for plan in plans}
    with clock() as extracted:
        extract.run(manifest, root, store, detections, plans, what, weights_dir(), ledgers, cluster)
    return [detected, extracted]


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=PHOTOS, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="beside one (default %(default)s)")
    options = parser.parse_args()
    numbers = (1, options.workers)
    walls: dict[int, list[tuple[float, ...]]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder) / "photos"
        manifest = draw_photos(root, options.photos, FACES)
        clusters = {number: stack.enter_context(Cluster(None, number)) for number in numbers}
        for number in numbers:  # starts the workers; they load their networks
            dask.system.CPU_COUNT = number  # the cores that a cluster shares out: one for each worker
            through_the_stages(manifest, root, Store(Path(folder) / f"warm{number}"), clusters[number])
        for turn in range(options.rounds):
            for number in numbers:
                store = Store(Path(folder) / f"store{number}-{turn}")
                some = through_the_stages(manifest, root, store, clusters[number])
                walls[number].append((*(one.wall for one in some), sum(one.wall for one in some)))
    print(f"{os.cpu_count()} cores, {options.photos} photos of {SIZE[0]} x {SIZE[1]} with {FACES} drawn faces")
    print(f"{'workers':<10}{'detect s':>10}{'extract s':>11}{'both s':>9}  (median wall of {options.rounds} rounds)")
    middle = {number: [median(column) for column in zip(*some, strict=True)] for number, some in walls.items()}
    for number, (detected, extracted, both) in middle.items():
        print(f"{number:<10}{detected:>10.2f}{extracted:>11.2f}{both:>9.2f}")
    for name, column in (("detect", 0), ("extract", 1), ("both", 2)):
        print(f"ratio: dask_{options.workers} {name} {middle[1][column] / middle[options.workers][column]:.2f}")


if __name__ == "__main__":
    main()
