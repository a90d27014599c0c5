"""Face detection: our driver of MTCNN beside facenet-pytorch's, one photo at a time, on one core.

    python -m benchmarks.detect                       drawn scenes of 640 x 480 with nine faces
    python -m benchmarks.detect --photos FOLDER       photos of one's own, at most 640 x 480
    python -m benchmarks.detect --profile             also where the time of our driver goes

All run in one process on one thread, photo by photo in turn, and count the CPU time (user and system) of that process:
other programs then disturb all alike. The ratio is facenet-pytorch's median round over our driver's: `detect_torch` in
torch, `detect_fast` with the nets in OpenVINO, where that is installed.

Then two processes at once, each on one thread over all photos, for two cores: `detect_torch_2` and `detect_fast_2` are
the same ratio of what both spend together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import count
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import facenet_pytorch
import numpy as np
import torch
from PIL import Image

from stages.detect import mtcnn
from stages.detect.faces import Faces, iou
from stages.detect.settings import DetectSettings
from stages.engines import EngineName, installed
from stages.index.drawn.scenes import draw_scene, plan_scene

ENGINES: dict[str, EngineName] = {"detect_torch": "torch", "detect_fast": "openvino"}
SIZE = (640, 480)
FACES = 9
PHOTOS = 8
ROUNDS = 9

Detect = Callable[[Image.Image], Faces]


def drawn(photos: int) -> list[Image.Image]:
    """The first scenes of SIZE with FACES faces."""
    found: list[Image.Image] = []
    for index in count():
        plan = plan_scene(0, index)
        if plan.size == SIZE and len(plan.people) == FACES:
            found.append(draw_scene(0, index).image)
            if len(found) == photos:
                return found
    raise AssertionError


def of_folder(folder: Path) -> list[Image.Image]:
    """The photos of a folder in the order of their names, shrunk to fit SIZE."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in Image.registered_extensions():
            image = Image.open(path).convert("RGB")
            image.thumbnail(SIZE)
            found.append(image)
    return found


def reference() -> Detect:
    """facenet-pytorch's single-image detection."""
    net = facenet_pytorch.MTCNN(keep_all=True)

    def detect(image: Image.Image) -> Faces:
        found = net.detect(image, landmarks=True)
        if found[0] is None:
            return Faces.none(image.size)
        boxes, scores, points = (np.asarray(list(part), np.float32) for part in found)
        return Faces(boxes, scores, points, image.size)

    return detect


def ours(engine: EngineName) -> Detect:
    """Our driver, on photos as they are."""
    return mtcnn.load(DetectSettings(device="cpu", engine=engine, max_side=0), "cpu").detect


def ways() -> dict[str, Callable[[], Detect]]:
    """What is compared, by name, facenet-pytorch first; each is set up when it is called."""
    found = {name: partial(ours, engine) for name, engine in ENGINES.items() if engine == "torch" or installed()}
    return {"facenet-pytorch": reference, **found}


def agreement(found: Sequence[Faces], theirs: Sequence[Faces]) -> str:
    """How far the faces of the same photos differ, face by face in their order."""
    if [len(faces) for faces in found] != [len(faces) for faces in theirs]:
        return f"faces differ: {[len(faces) for faces in found]} and {[len(faces) for faces in theirs]}"
    rows, expected = (np.concatenate([faces.to_rows() for faces in some]) for some in (found, theirs))
    if not len(rows):
        return "no face in any photo"
    least = min(iou(a[:4], b[:4]) for a, b in zip(rows.tolist(), expected.tolist(), strict=True))
    score, points = np.abs(rows - expected)[:, 4].max(), np.abs(rows - expected)[:, 5:].max()
    return f"{len(rows)} of {len(rows)} faces, IoU at least {least:.5f}, landmarks {points:.5f} px, scores {score:.1e}"


def spent(detect: Detect, images: Sequence[Image.Image]) -> float:
    """CPU seconds of this process, over all photos."""
    start = time.process_time()
    for image in images:
        detect(image)
    return time.process_time() - start


@cache
def _kept(name: str) -> Detect:
    return ways()[name]()


_start: list[Barrier] = []


def _begin(start: Barrier) -> None:
    """In a process of its own: one thread, and the gate that both go through."""
    torch.set_num_threads(1)
    _start.append(start)


def _over(name: str, images: Sequence[Image.Image]) -> float:
    """In a process of its own: CPU seconds over all photos with what that process keeps."""
    detect = _kept(name)
    _start[0].wait()
    return spent(detect, images)


def at_once(pool: Pool, name: str, images: Sequence[Image.Image]) -> float:
    """CPU seconds of two processes together, over all photos each."""
    return sum(pool.starmap(_over, [(name, images)] * 2, chunksize=1))


def in_turn(names: Sequence[str], rounds: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """Seconds of each round, the names in turn, forwards and backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in reversed(names) if number % 2 else names:
            seconds[name].append(measure(name))
    return seconds


def show(seconds: dict[str, list[float]], photos: int, ending: str = "") -> None:
    """Print a table and the ratios to the first."""
    print(f"{'':<18}{'median CPU ms a photo':>22}{'least':>8}")
    for name, some in seconds.items():
        print(f"{name:<18}{1e3 * median(some) / photos:>22.1f}{1e3 * min(some) / photos:>8.1f}")
    slow, *fast = seconds
    for name in fast:
        print(f"ratio: {name}{ending} {median(seconds[slow]) / median(seconds[name]):.2f}")


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos, instead of drawn scenes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="over all photos (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print torch's operators of our driver by their time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = of_folder(options.photos) if options.photos else drawn(PHOTOS)
    detect = {name: load() for name, load in ways().items()}
    found = {name: [one(image) for image in images] for name, one in detect.items()}  # warms up, too
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    if not installed():
        print("openvino is not installed: no detect_fast")
    faces = sum(len(some) for some in found["detect_torch"])
    print(f"{len(images)} photos, {faces / len(images):.1f} faces a photo, {options.rounds} rounds")
    for name in list(detect)[1:]:
        print(f"agreement of {name}: {agreement(found[name], found['facenet-pytorch'])}")
    print("one process")
    names = list(detect)
    show(in_turn(names, options.rounds, lambda name: spent(detect[name], images)), len(images))
    print("two processes at once, each over all photos")
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, _begin, [context.Barrier(2)]) as pool:
        for name in names:  # loads and warms up
            at_once(pool, name, images)
        show(in_turn(names, options.rounds, lambda name: at_once(pool, name, images)), 2 * len(images), "_2")
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            spent(detect[names[-1]], images)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


if __name__ == "__main__":
    main()
