"""Heads against each other on drawn scenes where it is known whose face decides.

    python -m benchmarks.drawn_heads --folder FOLDER

Scenes are drawn and go through the ordinary stages. Then, for each of three rules, two heads are trained on the scenes
of that rule alone and compared on its test scenes: attention C with average pooling where the one marked face decides;
attention B with average pooling where the setting says whose faces decide; the three largest faces with all faces where
the largest decide. Each head's learning rate is the best of three by split val. Prints each head's accuracy, and the
paired difference of the means over seeds with its 95 % bootstrap interval over scenes.

Number of scenes, seeds, rates and epochs were written down before the first run.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import yaml

from pipeline import steps
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from stages import predictions
from stages.index.drawn.dataset import draw_dataset
from stages.index.drawn.rules import LARGEST, MARKED, SETTING

SCENES, SCENE_SEED, SEEDS = 4800, 6, (0, 1, 2, 3, 4)
RATES = (0.001, 0.01, 0.1)
RESAMPLES = 10_000

FACES, PHOTO = ["resnet29/embedding", "expression/feature"], ["effnet_lite0/pooled"]
RULES = {
    MARKED: ("gupta2018:attention_c", "gupta2018:average"),
    SETTING: ("gupta2018:attention_b", "gupta2018:average"),
    LARGEST: ("tan2017:largest3", "tan2017:all"),
}
"""Rule -> the head that should be able to follow it, and the one that cannot."""


def project(folder: Path, table: Path, images: Path, kinds: tuple[str, ...]) -> Project:
    """A project over a table of scenes, with these heads."""
    data = ProjectData(adapter="csv", root=str(table), images=str(images), title="drawn heads")
    for name, content in files(data).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    settings["train"] = {"seeds": list(SEEDS), "heads": {}}
    for kind in kinds:
        photo = {} if kind.startswith("tan2017") else {"global": PHOTO}
        head = {"kind": kind, "faces": FACES, **photo, "grid": {"learning_rate": list(RATES)}}
        settings["train"]["heads"][kind.partition(":")[2]] = head
    settings["fuse"] = {"ensembles": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    return Project(folder)


def hits(folder: Path, head: str) -> tuple[list[str], np.ndarray]:
    """Ids of the test scenes, and (seeds, n) bool: which are answered right."""
    found = []
    ids: list[str] = []
    for seed in SEEDS:
        member = predictions.read(folder / "artifacts" / "predictions" / "heads" / f"{head}-s{seed}.csv")
        rows = [i for i, split in enumerate(member.splits) if split == "test"]
        ids = [member.sample_ids[i] for i in rows]
        truth = [member.classes.index(member.labels[i][0]) for i in rows]
        found.append(member.probabilities[rows].argmax(1) == truth)
    return ids, np.array(found)


def paired(one: np.ndarray, other: np.ndarray) -> str:
    """The difference of two heads' accuracies, each the mean over its seeds, with its interval over scenes."""
    gain = (one.mean(0) - other.mean(0)).astype(np.float64)
    rng = np.random.default_rng(0)
    draws = np.array([gain[rng.integers(len(gain), size=len(gain))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Draw, extract, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for scenes and projects")
    parser.add_argument("--scenes", type=int, default=SCENES)
    asked = parser.parse_args()
    drawn = asked.folder / "scenes"
    if not (drawn / "labels.csv").exists():
        draw_dataset(drawn, scenes=asked.scenes, seed=SCENE_SEED)
    everything = project(asked.folder / "all", drawn / "labels.csv", drawn, ("gupta2018:average",))
    for line in (step for run in (steps.index, steps.detect, steps.align, steps.extract) for step in run(everything)):
        print(line, flush=True)
    with open(drawn / "labels.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    print(f"{len(rows)} scenes of seed {SCENE_SEED}, heads' seeds {SEEDS}, rates {RATES} chosen by split val")
    for rule, kinds in RULES.items():
        table = asked.folder / f"{rule}.csv"
        with open(table, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if row["subset"] == rule)
        here = project(asked.folder / rule, table, drawn, kinds)
        for run in (steps.index, steps.detect, steps.train):
            lines = run(here)
        for line in lines:
            print("   ", line)
        names = [kind.partition(":")[2] for kind in kinds]
        found = {name: hits(asked.folder / rule, name) for name in names}
        (ids, one), (others, other) = found[names[0]], found[names[1]]
        if ids != others:
            raise SystemExit("the heads answered different scenes")
        for name in names:
            each = found[name][1].mean(1)
            print(f"{rule}: {name} {each.mean():.3f}, sd over seeds {each.std(ddof=1):.3f}, n = {len(ids)}")
        print(f"{rule}: {names[0]} - {names[1]} {paired(one, other)}", flush=True)


if __name__ == "__main__":
    main()
