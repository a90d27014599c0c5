"""Extraction beside its bare networks, and beside the loop that a script would be.

    python -m benchmarks.extract                      drawn photos of 640 x 480 with nine faces
    python -m benchmarks.extract --photos 64          more of them (default 24)
    python -m benchmarks.extract --engine torch       another engine than auto
    python -m benchmarks.extract --papers             InceptionResnetV1 and DenseNet-161, with random weights
    python -m benchmarks.extract --second 500         photos of the second pass (default 500)

Everything runs on one thread of this process; the decoding processes are its children. The figures are CPU time (user
and system) of all of them, so that work on another core counts, and wall time beside it. Rounds alternate; medians.

- `bare_forward ROLE`: the network on tensors that are in memory, at its best batch size, over the whole stage from
  cached crops (or decoded photos): reading, packing, writing and recording included.
- `bare_nets`: P-Net, R-Net, O-Net and both backbones on what they see of these photos, over photos to features: decode,
  detect, align, embed, write.
- `plain_loop`: facenet-pytorch's detection, the boxes cut out, both backbones in eager torch, a photo at a time, over
  photos to features.
- `second_pass`: the first pass over a set of photos over the second, which finds everything in the store.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import facenet_pytorch
import numpy as np
import torch
from PIL import Image

from benchmarks.common import SIZE, Took, clock, draw_photos, machine
from cache.store import Store
from stages.align import run as align
from stages.backbones import registry, weights
from stages.backbones.preprocess import fit, preprocess
from stages.backbones.spec import BackboneSpec
from stages.backbones.weights import weights_dir
from stages.detect import mtcnn
from stages.detect import run as detect
from stages.detect.settings import DetectSettings
from stages.engines import Engine
from stages.extract import run as extract
from stages.extract.plan import RolePlan, plan_role
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.index.frames import ClipSettings
from stages.index.manifest import Manifest
from stages.index.media import open_image
from stages.ledger import Ledger
from stages.timing import Timings

SMALL = {"resnet29": "embedding", "effnet_lite0": "pooled"}
PAPERS = {"inception_resnet_v1:vggface2": "embedding", "torchvision:densenet161": "pooled"}
"""A backbone of faces and one of whole photos, and their taps."""
TAPS = dict(SMALL)
FACES = 9
PHOTOS = 24
SECOND = 500
ROUNDS = 5
BATCHES = (1, 2, 4, 8, 16, 32)


DEVICE = ["cpu"]
"""Where the networks compute."""


def settings_of(engine: str) -> tuple[DetectSettings, ExtractSettings]:
    """The settings of both ways through the stages."""
    backbones = {_role(name): BackboneSettings(backbone=name, taps=(tap,)) for name, tap in TAPS.items()}
    return (
        DetectSettings(device=DEVICE[0], engine=engine),  # pyright: ignore[reportArgumentType]
        ExtractSettings(backbones=backbones, device=DEVICE[0], engine=engine),  # pyright: ignore[reportArgumentType]
    )


def _role(backbone: str) -> str:
    return backbone.partition(":")[2] or backbone


def roles() -> list[str]:
    """Names of the backbones in the settings."""
    return [_role(name) for name in TAPS]


def take_papers(folder: Path) -> None:
    """From now on the backbones are those of the papers, with random weights in a folder of their own."""
    os.environ["KULESHOV_WEIGHTS"] = str(folder)
    TAPS.clear()
    TAPS.update(PAPERS)
    folder.mkdir()
    for name in TAPS:
        torch.manual_seed(0)
        torch.save(registry.build(name).get_submodule("net").state_dict(), folder / "random.pt")
        weights.add(name, folder / "random.pt", folder, trust=True)


def through_the_stages(
    manifest: Manifest, root: Path, place: Path, clips: ClipSettings | None = None, engine: str = "auto"
) -> Timings:
    """Detect, align and extract all samples into the store at `place`; where the time went."""
    how, what = settings_of(engine)
    how = how.model_copy(update={"clips": clips}) if clips else how
    store, timings = Store(place), Timings()
    detections, _, _ = detect.run(manifest, root, store, how, Ledger("detect"), None, timings)
    plans = [plan_role(role, what, weights_dir(), detections.key, how.faces) for role in roles()]
    templates = [plan.spec.template for plan in plans if plan.spec.template]
    align.run(manifest, root, store, detections, templates, how.faces, Ledger("align"), timings)
    ledgers = {plan.role: Ledger(plan.role) for plan in plans}
    extract.run(manifest, root, store, detections, plans, what, weights_dir(), ledgers, None, timings)
    return timings


class Plain:
    """The loop of a script: one picture at a time, eager torch, nothing kept."""

    def __init__(self) -> None:
        self._detector = facenet_pytorch.MTCNN(keep_all=True)
        self._nets = [(registry.get_spec(name), registry.load(name, weights_dir=weights_dir())) for name in TAPS]

    def photo(self, image: Image.Image) -> None:
        """Find the faces, cut them out, run both networks."""
        found = self._detector.detect(image)[0]
        boxes = [] if found is None else found.tolist()
        crops = [image.crop((x1, y1, x2, y2)) for x1, y1, x2, y2 in boxes]
        for spec, net in self._nets:
            if pictures := crops if spec.input == "face" else [image]:
                pixels = torch.from_numpy(np.stack([fit(picture, spec) for picture in pictures]))
                with torch.inference_mode():
                    net(preprocess(pixels, spec).contiguous())


@dataclass
class Rounds:
    """What each way took, round by round."""

    took: dict[str, list[Took]] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note the time of the block."""
        with clock() as took:
            yield
        self.took.setdefault(name, []).append(took)

    def median(self, name: str) -> Took:
        """The middle of the rounds."""
        some = self.took[name]
        return Took(median(one.wall for one in some), median(one.cpu for one in some))


def bare_backbone(spec: BackboneSpec, engine: Engine, pixels: np.ndarray) -> Callable[[int], None]:
    """A pass over images that are normalised and in memory, in full batches of a size; nothing else."""
    images = preprocess(torch.tensor(pixels), spec)
    net = registry.load(spec.name, weights_dir=weights_dir())
    if engine.runtime == "openvino":
        from stages.extract.forward_openvino import OpenVinoForward

        forward, values = OpenVinoForward(spec, net, "float32"), images.contiguous().numpy()
        compiled = {size: forward._compiled((size, *values.shape[1:])) for size in BATCHES}

        def run(size: int) -> None:
            for start in range(0, len(values) - size + 1, size):
                compiled[size](values[start : start + size])

        return run
    layout = getattr(torch, str(engine.layout))
    net = net.to(engine.device).to(memory_format=layout)
    images = images.to(engine.device).contiguous(memory_format=layout)

    def run_torch(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(images) - size + 1, size):
                net(images[start : start + size])
        if engine.device == "cuda":
            torch.cuda.synchronize()

    return run_torch


class Heard:
    """One of the detector's nets; keeps what it is called with."""

    def __init__(self, net: Any, calls: list[tuple[Any, Any]]) -> None:
        self._net, self._calls = net, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    def __call__(self, pixels: torch.Tensor) -> Any:
        self._calls.append((self._net, pixels.clone()))
        return self._net(pixels)


def bare_detector(images: Sequence[Image.Image], settings: DetectSettings) -> Callable[[], None]:
    """P-Net, R-Net and O-Net on the very tensors that they see of these photos; nothing else."""
    detector = mtcnn.load(settings, settings.device)
    calls: list[tuple[Any, Any]] = []
    cascade = detector._cascade
    for name in ("_proposal", "_refine", "_output"):
        setattr(cascade, name, Heard(getattr(cascade, name), calls))
    for start in range(0, len(images), 4):  # as the stage groups them
        detector.detect_many(images[start : start + 4])

    def run() -> None:
        with torch.inference_mode():
            for net, pixels in calls:
                net(pixels)

    return run


def best_batch(run: Callable[[int], None], rows: int) -> int:
    """The size with the least CPU time a row, of those that fit."""
    seconds: dict[int, float] = {}
    for size in (one for one in BATCHES if one <= rows):
        run(size)
        start = time.process_time()
        run(size)
        seconds[size] = (time.process_time() - start) / (rows // size * size)
    return min(seconds, key=seconds.__getitem__)


def forwards(rounds: Rounds, manifest: Manifest, root: Path, crops: Path, scratch: Path, engine: str) -> None:
    """For each backbone a round of its bare forward, and one of its stage from cached crops or photos."""
    how, what = settings_of(engine)
    detections = detect.read(manifest, Store(crops), how)
    for role in roles():
        plan = plan_role(role, what, weights_dir(), detections.key, how.faces)
        if role not in _BARE:
            rows = seen(manifest, root, Store(crops), detections, plan)
            bare = bare_backbone(plan.spec, plan.engine, rows)
            size = best_batch(bare, len(rows))
            _BARE[role] = Bare(bare, size, len(rows), len(rows) // size * size)
        bare, size = _BARE[role].run, _BARE[role].batch
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            store = Store(Path(place), [crops])
            ledgers = {role: Ledger(role)}
            with rounds.of(f"bare {role}"):
                bare(size)
            with rounds.of(f"stage {role}"):
                extract.run(manifest, root, store, detections, [plan], what, weights_dir(), ledgers)
            assert not ledgers[role].entries


class Bare(NamedTuple):
    """A role's bare forward, the batch size that suits it, how many rows there are, and how many fill batches."""

    run: Callable[[int], None]
    batch: int
    rows: int
    forwarded: int


_BARE: dict[str, Bare] = {}


def seen(manifest: Manifest, root: Path, store: Store, detections: detect.Detections, plan: RolePlan) -> np.ndarray:
    """Pixels that a role's network sees of all samples, uint8 (n, H, W, 3)."""
    if plan.crops is None:
        return np.stack([fit(open_image(sample.located(root)), plan.spec) for sample in manifest])
    return store.open(plan.crops).rows(detections.pick(manifest.samples).keys)[0]


def kept_networks() -> None:
    """Load each network once in this process, as imports are done once."""
    networks: dict[str, Any] = {}
    load_detector, load = detect._load, extract._load

    def detector(settings: DetectSettings) -> Any:
        if "detector" not in networks:
            networks["detector"] = load_detector(settings)
        return networks["detector"]

    def loaded(job: Any, plan: RolePlan) -> Any:
        if plan.role not in networks:
            networks[plan.role] = load(job, plan)
        return networks[plan.role]

    detect._load, extract._load = detector, loaded


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=PHOTOS, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default %(default)s)")
    parser.add_argument("--engine", default="auto", help="auto, torch or openvino (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where wall time counts (default %(default)s)")
    parser.add_argument("--papers", action="store_true", help="the papers' backbones, with random weights")
    parser.add_argument("--second", type=int, default=SECOND, help="photos of the second pass; 0: none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    DEVICE[0] = options.device
    kept_networks()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.papers:
            take_papers(scratch / "weights")
        root = scratch / "photos"
        manifest = draw_photos(root, options.photos, FACES)
        rounds, plain = Rounds(), Plain()
        images = [open_image(sample.located(root)) for sample in manifest]
        nets = bare_detector(images, settings_of(options.engine)[0])
        timings = through_the_stages(manifest, root, scratch / "warm", engine=options.engine)
        crops = scratch / "crops"
        detect_and_align(manifest, root, crops, options.engine)
        plain.photo(images[0])
        for _ in range(options.rounds):
            forwards(rounds, manifest, root, crops, scratch, options.engine)
            with rounds.of("bare detector"):
                nets()
            with tempfile.TemporaryDirectory(dir=scratch) as place, rounds.of("kuleshov"):
                timings = through_the_stages(manifest, root, Path(place) / "store", engine=options.engine)
            with rounds.of("plain loop"):
                for sample in manifest:
                    plain.photo(Image.open(sample.located(root)).convert("RGB"))
        report(rounds, options.photos, options.engine, timings)
        if options.second:
            second_pass(scratch, options.second, options.engine)


def detect_and_align(manifest: Manifest, root: Path, place: Path, engine: str) -> None:
    """A store with detections and crops, and no features."""
    how, what = settings_of(engine)
    store = Store(place)
    detections, _, _ = detect.run(manifest, root, store, how, Ledger("detect"))
    specs = [plan_role(role, what, weights_dir(), detections.key, how.faces).spec for role in roles()]
    templates = [spec.template for spec in specs if spec.template]
    align.run(manifest, root, store, detections, templates, how.faces, Ledger("align"))


def second_pass(scratch: Path, photos: int, engine: str) -> None:
    """A first and a second pass over more photos, in this process."""
    root = scratch / "many"
    manifest = draw_photos(root, photos, FACES // 3)
    rounds = Rounds()
    for name in ("first", "second", "second", "second"):
        with rounds.of(name):
            through_the_stages(manifest, root, scratch / "twice", engine=engine)
    first, second = rounds.median("first"), rounds.median("second")
    print(f"{photos} photos: first pass {first.wall:.1f} s, second {1e3 * second.wall:.0f} ms (wall)")
    print(f"ratio: second_pass {first.wall / second.wall:.0f}")


def report(rounds: Rounds, photos: int, engine: str, timings: Timings) -> None:
    """The table and the ratios."""
    print(f"{machine()}, engine {engine}")
    print(f"{photos} photos of {SIZE[0]} x {SIZE[1]} with {FACES} drawn faces, {len(rounds.took['kuleshov'])} rounds")
    print(f"{'ms a photo (median)':<24}{'CPU':>8}{'wall':>8}")
    for name in rounds.took:
        took = rounds.median(name)
        print(f"{name:<24}{1e3 * took.cpu / photos:>8.1f}{1e3 * took.wall / photos:>8.1f}")
    for kind, spent in sorted(timings.spent.items()):
        print(f"  of the last round: {kind} {1e3 * spent.seconds / photos:.1f} ms a photo")
    bare_cpu = bare_wall = 0.0
    for role, one in _BARE.items():
        bare, stage, share = rounds.median(f"bare {role}"), rounds.median(f"stage {role}"), one.rows / one.forwarded
        bare_cpu, bare_wall = bare_cpu + bare.cpu * share, bare_wall + bare.wall * share
        print(f"{role}: {one.rows} rows, batches of {one.batch}")
        print(
            f"ratio: bare_forward {role} {share * bare.cpu / stage.cpu:.3f} (wall {share * bare.wall / stage.wall:.3f})"
        )
    ours, plain, nets = (rounds.median(name) for name in ("kuleshov", "plain loop", "bare detector"))
    bare_cpu, bare_wall = bare_cpu + nets.cpu, bare_wall + nets.wall
    print(f"ratio: bare_nets {bare_cpu / ours.cpu:.3f} (wall {bare_wall / ours.wall:.3f})")
    print(f"ratio: plain_loop {plain.cpu / ours.cpu:.2f} (wall {plain.wall / ours.wall:.2f})")


if __name__ == "__main__":
    main()
