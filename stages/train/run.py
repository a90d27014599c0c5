"""Training: every head of the settings, once per seed, over cached features.

No photo is opened and no backbone runs: features come from the store, in one read per set of blocks.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from cache.keys import PLAIN, BlockSpec
from cache.store import Store
from stages import predictions as prediction_files
from stages.detect.run import Detections
from stages.detect.settings import DetectSettings
from stages.errors import DataError, SettingError
from stages.extract.imported import FaceItems, check_faces
from stages.extract.imported import find as find_imported
from stages.extract.plan import RolePlan
from stages.extract.settings import IMPORTED, ExtractSettings, ViewSettings
from stages.extract.views import names as view_names
from stages.heads import registry
from stages.index.manifest import Manifest
from stages.ledger import Ledger
from stages.predictions import Predictions
from stages.progress import progress
from stages.train import attention as attention_files
from stages.train.features import HELD_BYTES, Features, gather
from stages.train.held_out import SeenBlocks
from stages.train.loop import Schedule, fit, infer
from stages.train.models import HeadModel, build_head, save_head
from stages.train.rows import Scale
from stages.train.settings import HeadSettings, TrainSettings
from stages.train.starts import HeadStart, read_start, require_starts_held_out


@dataclass(frozen=True)
class TrainedHead:
    """A line of the stage's summary.

    Attributes:
        name: `HEAD-sSEED`.
        loss: mean training loss of the last epoch.
        accuracy: split -> share of right answers among its samples of one label that have features; but for split
            train without those that a fine-tune behind the features has seen.
        left_out: split -> how many of those there are, and of how many samples; splits without any are not in it.
    """

    name: str
    loss: float
    accuracy: dict[str, float]
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Where features come from: the manifest, the store, its detections, and the roles' blocks. `finetunes` has a
    folder for each fine-tune that a head may start from; None: there are none."""

    manifest: Manifest
    store: Store
    detections: Detections
    plans: Mapping[str, RolePlan]
    detect: DetectSettings
    extract: ExtractSettings
    finetunes: Path | None = None


@dataclass(frozen=True)
class _Prepared:
    """What heads of the same blocks share: standardized features, and each sample's class and split.

    Attributes:
        features: of n samples, standardized where the settings say so.
        scales: what they were standardized with; mean 0 and deviation 1 where they were not.
        labels: (n,) int64; -1 for a sample with no label or with several, which is predicted but not trained on.
        splits: (n,) str.
        rows: positions of the training samples.
        seen: (n,) bool, which samples a fine-tune behind the features has seen.
    """

    features: Features
    scales: tuple[Scale, Scale]
    labels: np.ndarray
    splits: np.ndarray
    rows: np.ndarray
    seen: np.ndarray


def run(
    inputs: Inputs, settings: TrainSettings, artifacts: Path, ledger: Ledger, judged: str = "test"
) -> list[TrainedHead]:
    """Train all heads; write their predictions, attention and model folders under `artifacts`.

    What an earlier run wrote there is removed, but not before all features are at hand.

    Args:
        judged: the split that `evaluate` scores, of which no fine-tune behind the features may have seen a sample.

    Raises:
        SettingError: a head asks for a role or tap that is not extracted, for imported features that the settings do
            not name, or a kind that does not exist; it has no features of a level that it reads, or some of one that it
            does not; or its loss is not finite.
        DataError: fewer than two classes in the training split, or no face where a head reads nothing else; or a
            fine-tune has seen samples of `judged`.
        MissingInputError: features that are not cached or not imported, or of a fine-tune of which it is not known what
            it has seen; the message names the command.
        WeightsError: a fine-tune that a head starts from is damaged.
    """
    blocks = _blocks(inputs, settings)
    for name, head in settings.heads.items():
        _check(name, head, blocks, inputs.extract.views)
    seen = SeenBlocks(inputs.store, blocks, inputs.extract)
    seen.require_held_out(settings.heads, inputs.manifest.samples, judged)
    classes = tuple(inputs.manifest.classes)
    _need_two_classes({s.labels[0] for s in inputs.manifest if s.split == "train" and len(s.labels) == 1}, "labels")
    distinct = {_shared(head): head for head in settings.heads.values()}
    held = HELD_BYTES // max(len(distinct), 1)
    ready = {shared: _prepare(inputs, head, blocks, seen, classes, ledger, held) for shared, head in distinct.items()}
    starts = {
        name: read_start(name, head, inputs.finetunes, _dims(ready[_shared(head)]), classes)
        for name, head in settings.heads.items()
    }
    require_starts_held_out(starts, inputs.manifest.samples, judged)
    for folder in ("predictions/heads", "attention/heads", "models/heads"):
        shutil.rmtree(artifacts / folder, ignore_errors=True)
        (artifacts / folder).mkdir(parents=True)
    jobs = [(name, head, seed) for name, head in settings.heads.items() for seed in settings.seeds]
    return [
        _train_one(inputs, f"{name}-s{seed}", head, seed, ready[_shared(head)], starts[name], classes, artifacts)
        for name, head, seed in progress(jobs, desc="train", unit="head")
    ]


def schedule_of(head: HeadSettings) -> Schedule:
    """The head's schedule, with its paper's epochs and step where the settings leave them open."""
    module, variant = registry.find(head.kind)
    paper = module.SCHEDULES[variant]
    return Schedule(
        epochs=head.epochs or paper["epochs"],
        batch_size=head.batch_size,
        learning_rate=head.learning_rate,
        step=head.step or paper["step"],
        gamma=head.gamma,
        momentum=head.momentum,
        weight_decay=head.weight_decay,
    )


def _blocks(inputs: Inputs, settings: TrainSettings) -> dict[str, BlockSpec]:
    """`ROLE/TAP` -> its block, of every role, and `imported/NAME` -> its block, of those that heads read."""
    blocks = {f"{r}/{tap}": spec for r, plan in sorted(inputs.plans.items()) for tap, spec in plan.blocks.items()}
    read = sorted({name for head in settings.heads.values() for name in _imported(head)})
    faces = FaceItems(inputs.detections, inputs.detect.faces)
    for name in read:
        spec = blocks[f"{IMPORTED}/{name}"] = find_imported(inputs.store, name, inputs.extract)
        check_faces(spec, faces)
    return blocks


def _check(name: str, head: HeadSettings, blocks: Mapping[str, BlockSpec], views: ViewSettings) -> None:
    module, variant = registry.find(head.kind)
    for level, key, asked in (("face", "faces", head.faces), ("global", "global", head.global_)):
        reads, where = level in module.NEEDS[variant], f"train.heads.{name}.{key}"
        what = "faces" if level == "face" else "whole photos"
        if reads and not asked:
            raise SettingError(f"{where} is empty, and {head.kind} reads {what}: name a {level} block, ROLE/TAP")
        if asked and not reads:
            raise SettingError(f"{where} is {', '.join(asked)}, and {head.kind} does not read {what}: use {key}: []")
    if head.views == "drawn" and len(view_names(views)) == 1:
        raise SettingError(
            f"train.heads.{name}.views is 'drawn', but extract.views asks for no other view; set flip or crops there"
        )
    if head.views == "drawn" and all(block.startswith(f"{IMPORTED}/") for block in (*head.faces, *head.global_)):
        raise SettingError(
            f"train.heads.{name}.views is 'drawn', but it reads imported features only, which have no other view; "
            "remove it"
        )
    for level, names in (("face", head.faces), ("global", head.global_)):
        for block in names:
            where = f"train.heads.{name}: {block!r}"
            if block not in blocks:
                raise SettingError(f"{where} is not extracted; extract.backbones gives {', '.join(blocks)}")
            found = blocks[block]
            if found.level != level or len(found.shape) != 1:
                need = "faces" if level == "face" else "global"
                raise SettingError(f"{where} is a {found.level} block of shape {found.shape}: it cannot be in {need}")


def _need_two_classes(found: Collection[str], of_what: str) -> None:
    if len(found) < 2:
        names = ", ".join(sorted(found)) or "none"
        raise DataError(f"the training split has {of_what} of fewer than two classes ({names}): label more samples")


def _shared(head: HeadSettings) -> tuple[object, ...]:
    """The settings on which a head's features depend."""
    return head.faces, head.global_, head.max_faces, head.standardize, head.views


def _prepare(
    inputs: Inputs,
    head: HeadSettings,
    blocks: Mapping[str, BlockSpec],
    seen: SeenBlocks,
    classes: tuple[str, ...],
    ledger: Ledger,
    held_bytes: int,
) -> _Prepared:
    features = gather(
        inputs.manifest.samples,
        inputs.store,
        inputs.detections,
        [blocks[name] for name in head.faces],
        [blocks[name] for name in head.global_],
        max_faces=head.max_faces,
        ledger=ledger,
        views=view_names(inputs.extract.views) if head.views == "drawn" else (PLAIN,),
        held_bytes=held_bytes,
    )
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[s.labels[0]] if len(s.labels) == 1 else -1 for s in features.samples], np.int64)
    splits = np.array([s.split for s in features.samples])
    rows = np.flatnonzero((splits == "train") & (labels >= 0))
    _need_two_classes({classes[i] for i in labels[rows]}, "features")
    if not head.global_ and not np.diff(features.offsets)[rows].any():
        raise DataError(f"the training split has no face, and {head.kind} reads nothing else: use a head of photos")
    scales = features.scales(rows) if head.standardize else _no_scales(features)
    return _Prepared(features.scaled(*scales), scales, labels, splits, rows, seen.rows(head, features.samples))


def _train_one(
    inputs: Inputs,
    name: str,
    settings: HeadSettings,
    seed: int,
    ready: _Prepared,
    start: HeadStart | None,
    classes: tuple[str, ...],
    artifacts: Path,
) -> TrainedHead:
    torch.manual_seed(seed)
    dims = _dims(ready)
    head = build_head(settings, dims, len(classes))
    if start is not None:
        start.fill(head)
        ready = replace(ready, seen=ready.seen | start.has_seen(ready.features.samples))
    losses = fit(head, ready.features, ready.labels, ready.rows, schedule_of(settings), seed)
    if not np.isfinite(losses).all():
        epoch = int(np.argmin(np.isfinite(losses))) + 1
        rate = f"learning_rate ({settings.learning_rate:g})"
        raise SettingError(f"train.heads: the loss of {name} is {losses[epoch - 1]} in epoch {epoch}; lower its {rate}")
    probabilities, attention = infer(head, ready.features)
    _write_predictions(artifacts, name, ready, classes, probabilities)
    rows = _attention_rows(ready.features, attention)
    attention_files.write(artifacts / "attention" / "heads" / f"{name}.csv", rows)
    model = HeadModel(
        name=name,
        classes=classes,
        settings=settings,
        seed=seed,
        detect=inputs.detect,
        extract=_used(inputs, settings),
        weights={role: _weights(inputs.plans[role]) for role in _roles(settings)},
        dims=dims,
        scales=ready.scales,
        head=head,
    )
    save_head(artifacts / "models" / "heads" / name, model)
    return TrainedHead(name, losses[-1], *_accuracy(probabilities, ready))


def _accuracy(probabilities: np.ndarray, ready: _Prepared) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    """See `TrainedHead`."""
    hits = probabilities.argmax(1) == ready.labels
    accuracy: dict[str, float] = {}
    left_out: dict[str, tuple[int, int]] = {}
    for split in map(str, np.unique(ready.splits[ready.labels >= 0])):
        mine = (ready.labels >= 0) & (ready.splits == split)
        seen = mine & ready.seen & (split != "train")
        if seen.any():
            left_out[split] = int(seen.sum()), int(mine.sum())
        if (mine & ~seen).any():
            accuracy[split] = float(hits[mine & ~seen].mean())
    return accuracy, left_out


def _dims(ready: _Prepared) -> tuple[int, int]:
    """Width of a face's and of a photo's vector."""
    return ready.features.faces.shape[1], ready.features.global_.shape[1]


def _no_scales(features: Features) -> tuple[Scale, Scale]:
    f, g = features.faces.shape[1], features.global_.shape[1]
    return (np.zeros(f, np.float32), np.ones(f, np.float32)), (np.zeros(g, np.float32), np.ones(g, np.float32))


def _names(settings: HeadSettings) -> list[tuple[str, str]]:
    """Role (or `imported`) and tap (or name) of each block that a head reads."""
    return [(role, tap) for role, _, tap in (name.partition("/") for name in (*settings.faces, *settings.global_))]


def _roles(settings: HeadSettings) -> list[str]:
    return sorted({role for role, _ in _names(settings) if role != IMPORTED})


def _imported(settings: HeadSettings) -> list[str]:
    return sorted({name for role, name in _names(settings) if role == IMPORTED})


def _used(inputs: Inputs, settings: HeadSettings) -> ExtractSettings:
    """What a head reads, each role pinned to the backbone that played it: no stand-in, no change of mind."""
    backbones = {
        role: inputs.extract.roles[role].model_copy(update={"backbone": inputs.plans[role].spec.name, "stand_in": None})
        for role in _roles(settings)
    }
    imported = {name: inputs.extract.imported[name] for name in _imported(settings)}
    return inputs.extract.model_copy(update={"backbones": backbones, "imported": imported, "views": ViewSettings()})


def _weights(plan: RolePlan) -> dict[str, str]:
    [(_, sha256)] = next(iter(plan.blocks.values())).weights.items()
    return {"backbone": plan.spec.name, "sha256": sha256, "licence": plan.spec.licence}


def _write_predictions(
    artifacts: Path, name: str, ready: _Prepared, classes: tuple[str, ...], probabilities: np.ndarray
) -> None:
    features = ready.features
    head, seed = prediction_files.split_name(name, "head")
    prediction_files.write(
        artifacts / "predictions" / "heads" / f"{name}.csv",
        Predictions(
            name=name,
            kind="head",
            head=head,
            seed=seed,
            sample_ids=tuple(s.sample_id for s in features.samples),
            splits=tuple(s.split for s in features.samples),
            labels=tuple(s.labels for s in features.samples),
            classes=classes,
            probabilities=probabilities,
            seen=ready.seen,
        ),
    )


def _attention_rows(features: Features, attention: list[np.ndarray]) -> Iterator[attention_files.Row]:
    for i, (sample, weights) in enumerate(zip(features.samples, attention, strict=True)):
        places = features.places[features.offsets[i] : features.offsets[i + 1]].tolist()
        for (frame, face), weight in zip(places, weights, strict=True):
            yield sample.sample_id, frame, face, float(weight)
