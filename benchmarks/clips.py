"""Clips to features: 16 frames of each, beside a plain loop of PyAV, facenet-pytorch and eager torch.

    python -m benchmarks.clips                        8 drawn clips of 320 x 240, one face in each frame
    python -m benchmarks.clips --clips FOLDER         clips of one's own

The plain loop does what a script does: it decodes the clip from its beginning, and for each wanted frame it finds the
faces, cuts their boxes out, and runs the two backbones on them and on the frame. Ours runs the stages detect, align and
extract into an empty store. Both run on one thread; the ratio is of the CPU time of all processes, wall time beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import av
import torch

from benchmarks.common import Took, clock, machine, manifest_of
from benchmarks.extract import Plain, kept_networks, roles, through_the_stages
from stages.index.clips import probe
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.frames import ClipSettings, select

COUNT = 16
CLIPS = 8
ROUNDS = 3


def wanted_of(path: Path) -> set[int]:
    """Which frames are looked at; a script would know or count them, so this is not timed."""
    return set(select(probe(path).times_us, ClipSettings(count=COUNT), "").tolist())


def plain_clip(path: Path, wanted: set[int], plain: Plain) -> int:
    """The frames of one clip through the plain loop; returns how many there were."""
    seen = 0
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                plain.photo(frame.to_image())
                seen += 1
    return seen


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, help="a folder of clips, instead of drawn ones")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept_networks()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.clips or Path(scratch) / "clips"
        if options.clips is None:
            folder.mkdir()
            for index in range(CLIPS):
                write_clip(folder / f"{index:03d}.mp4", plan_clip(0, index))
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".mp4", ".mov", ".avi", ".mkv"})
        manifest = manifest_of(paths, "video")
        plain = Plain()
        wanted = {path: wanted_of(path) for path in paths}
        plain_clip(paths[0], wanted[paths[0]], plain)  # both ways have their networks before the clock starts
        through_the_stages(manifest, folder, Path(scratch) / "warm", ClipSettings(count=1))
        spent: dict[str, list[Took]] = {"plain loop": [], "kuleshov": []}
        frames = 0
        for number in range(options.rounds):
            store = Path(scratch) / f"store{number}"
            with clock() as took:
                frames = sum(plain_clip(path, wanted[path], plain) for path in paths)
            spent["plain loop"].append(took)
            with clock() as took:
                through_the_stages(manifest, folder, store, ClipSettings(count=COUNT))
            spent["kuleshov"].append(took)
    print(machine())
    print(f"{len(paths)} clips, {frames} frames, {options.rounds} rounds; {', '.join(roles())}")
    print(f"{'ms a frame (median)':<22}{'CPU':>8}{'wall':>8}")
    middle = {name: Took(median(t.wall for t in some), median(t.cpu for t in some)) for name, some in spent.items()}
    for name, took in middle.items():
        print(f"{name:<22}{1e3 * took.cpu / frames:>8.1f}{1e3 * took.wall / frames:>8.1f}")
    print(f"ratio: clips {middle['plain loop'].cpu / middle['kuleshov'].cpu:.2f}")
    print(f"ratio: clips_wall {middle['plain loop'].wall / middle['kuleshov'].wall:.2f}")


if __name__ == "__main__":
    main()
