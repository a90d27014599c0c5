"""Face detection: our driver of MTCNN beside facenet-pytorch's, one photo at a time, on one core.

    python -m benchmarks.detect                       drawn scenes of 640 x 480 with nine faces
    python -m benchmarks.detect --photos FOLDER       photos of one's own, at most 640 x 480
    python -m benchmarks.detect --profile             also where the time of our driver goes

Both run in one process on one thread, photo by photo in turn, and count the CPU time (user and system) of that process:
other programs then disturb both alike. The ratio is facenet-pytorch's median round over our driver's.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import median

import facenet_pytorch
import numpy as np
import torch
from PIL import Image

from stages.detect import mtcnn
from stages.detect.faces import Faces, iou
from stages.detect.settings import DetectSettings
from stages.index.drawn.scenes import draw_scene, plan_scene

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


def agreement(ours: Sequence[Faces], theirs: Sequence[Faces]) -> str:
    """How far the faces of the same photos differ, face by face in their order."""
    if [len(faces) for faces in ours] != [len(faces) for faces in theirs]:
        return f"faces differ: {[len(faces) for faces in ours]} and {[len(faces) for faces in theirs]}"
    rows, expected = (np.concatenate([faces.to_rows() for faces in some]) for some in (ours, theirs))
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


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos, instead of drawn scenes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="over all photos (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print torch's operators of our driver by their time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = of_folder(options.photos) if options.photos else drawn(PHOTOS)
    own = mtcnn.load(DetectSettings(device="cpu", max_side=0), "cpu")
    ways: dict[str, Detect] = {"facenet-pytorch": reference(), "detect_torch": own.detect}
    found = {name: [detect(image) for image in images] for name, detect in ways.items()}  # warms up, too
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in reversed(ways) if number % 2 else ways:
            seconds[name].append(spent(ways[name], images))
    faces = sum(len(some) for some in found["detect_torch"])
    print(f"{platform.machine()}, {os.cpu_count()} cores, one used, torch {torch.__version__}")
    print(f"{len(images)} photos, {faces / len(images):.1f} faces a photo, {options.rounds} rounds")
    print(f"{'':<18}{'median CPU ms a photo':>22}{'least':>8}")
    for name, some in seconds.items():
        print(f"{name:<18}{1e3 * median(some) / len(images):>22.1f}{1e3 * min(some) / len(images):>8.1f}")
    print(f"agreement: {agreement(found['detect_torch'], found['facenet-pytorch'])}")
    print(f"ratio: detect_torch {median(seconds['facenet-pytorch']) / median(seconds['detect_torch']):.2f}")
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            spent(own.detect, images)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


if __name__ == "__main__":
    main()
