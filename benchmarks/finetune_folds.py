"""Fine-tuning against the frozen network: both judged on the same held-out folds of a labelled set of photos.

    python -m benchmarks.finetune_folds --labels labels.csv --images images --label emotion --group identity

For each fold the network is fine-tuned on the others, once per seed. The frozen network has a linear probe: logistic
regression on its standardized features, whose C is chosen by inner folds of the training samples. Both answer a photo
by the mean of its faces' probabilities. The paired difference of their accuracies has a bootstrap interval over groups.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import steps
from pipeline.plans import plan_of
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from stages.detect.run import read
from stages.finetune.answers import photo_probabilities
from stages.finetune.folds import run_folds
from stages.finetune.pixels import Source
from stages.finetune.run import Place
from stages.finetune.settings import FinetuneSettings
from stages.index.folds import folds_of
from stages.ledger import Ledger

# Chosen before the first run and not changed after it: Tan et al.'s rate and steps, and ten times that rate above.
SETTINGS = {
    "start": "weights",
    "unit": "face",
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 0.001,
    "head_learning_rate": 0.01,
    "schedule": {"kind": "steps", "every": 4},
    "augment": {"flip": True},
    "device": "cpu",
}
PROBE_C = (0.001, 0.01, 0.1, 1.0)
RESAMPLES = 10_000


def make_project(place: Path, args: argparse.Namespace) -> Project:
    """All photos in the training split, one backbone."""
    place.mkdir(parents=True, exist_ok=True)
    with open(args.labels, newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row[args.label] not in args.without]
    with open(place / "labels.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "label", "group"))
        writer.writerows((row[args.path], row[args.label], row[args.group]) for row in rows)
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv"))["params.yaml"])
    values["data"] |= {"images": str(args.images.resolve()), "split": {"val": 0.0, "test": 0.0, "seed": 0}}
    values["extract"]["backbones"] = {"net": {"backbone": args.backbone, "taps": [args.tap]}}
    values["finetune"] = {"tuned": SETTINGS | {"backbone": args.backbone, "tap": args.tap}}
    (place / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    project = Project(place)
    for step in (steps.index, steps.detect, steps.align, steps.extract):
        print("\n".join(step(project)), flush=True)
    return project


def probe(project: Project, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """sample_id -> probabilities (K,) of the frozen network's probe, for samples with a face."""
    detections = read(project.manifest, project.store, project.params.detect)
    plan = plan_of(project, "net", detections.key)
    samples = detections.readable(project.manifest.samples)
    picked = detections.pick(samples)
    rows, offsets = project.store.open(plan.blocks[args.tap]).rows(picked.keys)
    owner = np.repeat(picked.owner, np.diff(offsets))
    features = np.asarray(rows, np.float32).reshape(len(rows), -1)
    folds = np.array(folds_of(samples, args.folds))
    classes = list(project.manifest.classes)
    labels = np.array([classes.index(s.labels[0]) for s in samples])
    groups = np.array([s.group or s.sample_id for s in samples])
    found: dict[str, np.ndarray] = {}
    for fold in range(args.folds):
        used = folds[owner] != fold
        inner = StratifiedGroupKFold(4, shuffle=True, random_state=0)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        search = GridSearchCV(model, {"logisticregression__C": PROBE_C}, cv=inner, scoring="accuracy")
        search.fit(features[used], labels[owner][used], groups=groups[owner][used])
        held = ~used
        logits = search.decision_function(features[held])
        means, answered = photo_probabilities(logits, owner[held], len(samples))
        found |= {samples[i].sample_id: means[i] for i in np.flatnonzero(answered)}
        print(f"probe, fold {fold}: C = {search.best_params_['logisticregression__C']}", flush=True)
    return found


def tune(project: Project, args: argparse.Namespace, seed: int) -> dict[str, np.ndarray]:
    """As `probe`, of the fine-tuned networks."""
    detections = read(project.manifest, project.store, project.params.detect)
    classes = tuple(project.manifest.classes)
    source = Source(project.images_root, project.store, detections, "found", classes, Ledger("finetune"))
    settings = FinetuneSettings.model_validate(SETTINGS | {"backbone": args.backbone, "tap": args.tap, "seed": seed})
    place = Place(project.finetunes, f"tuned-{seed}", project.weights_folder)
    began = time.process_time()
    folded = run_folds(project.manifest, source, settings, place, args.folds)
    spent = " ".join(f"{result.seconds:.0f}" for result in folded.results)
    print(f"fine-tune, seed {seed}: {spent} s a fold; {time.process_time() - began:.0f} CPU s in all", flush=True)
    found, rows = folded.answers, np.flatnonzero(folded.answers.answered & ~folded.seen)
    return {found.samples[i].sample_id: found.probabilities[i] for i in rows}


def main() -> None:
    """Run both and print accuracies and the paired difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--path", default="path")
    parser.add_argument("--label", default="label")
    parser.add_argument("--group", default="group")
    parser.add_argument("--without", nargs="*", default=[], help="classes that are left out")
    parser.add_argument("--backbone", default="expression")
    parser.add_argument("--tap", default="feature")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--place", type=Path, help="a folder for the project, which is gone on with if it is there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        project = make_project(args.place or Path(temporary) / "project", args)
        probed = probe(project, args)
        tuned = [tune(project, args, seed) for seed in args.seeds]
        compare(project, probed, tuned, args.seeds)


def compare(
    project: Project, probed: dict[str, np.ndarray], tuned: list[dict[str, np.ndarray]], seeds: list[int]
) -> None:
    """Print what came of it, on the samples that both answer."""
    classes = list(project.manifest.classes)
    samples = [s for s in project.manifest.samples if all(s.sample_id in one for one in (probed, *tuned))]
    labels = np.array([classes.index(s.labels[0]) for s in samples])
    frozen = np.array([probed[s.sample_id].argmax() for s in samples]) == labels
    fine = np.array([[one[s.sample_id].argmax() for s in samples] for one in tuned]) == labels
    groups = np.unique([s.group or s.sample_id for s in samples], return_inverse=True)[1]
    gain = fine.mean(0) - frozen
    rng = np.random.default_rng(0)
    sums, sizes = np.bincount(groups, gain), np.bincount(groups)
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))
    recalls = [np.mean([hits[labels == k].mean() for k in range(len(classes))]) for hits in (frozen, fine.mean(0))]
    print(f"n = {len(samples)} photos of {len(sums)} groups, {len(classes)} classes")
    print(f"accuracy frozen {frozen.mean():.4f}, mean recall {recalls[0]:.4f}")
    print(
        f"accuracy fine-tuned {fine.mean():.4f}, mean recall {recalls[1]:.4f}; by seed "
        + ", ".join(f"{seed}: {value:.4f}" for seed, value in zip(seeds, fine.mean(1).tolist(), strict=True))
    )
    print(f"paired difference {gain.mean():+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}] (groups, {RESAMPLES} draws)")


if __name__ == "__main__":
    main()
