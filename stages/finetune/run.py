"""Fine-tuning a backbone: pixels of the training split -> weights, what they have seen, and the photos' answers.

Everything goes to one folder. While training runs there is a checkpoint in it, from which a stopped run goes on; the
other files are written when it has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.backbones import registry
from stages.backbones.spec import BackboneSpec
from stages.errors import MissingInputError, SettingError
from stages.extract.plan import finetuned_weights
from stages.finetune import checkpoint, seen
from stages.finetune.answers import Answers, answers
from stages.finetune.history import History
from stages.finetune.loop import fit
from stages.finetune.network import Finetuned
from stages.finetune.pixels import Pixels, Source, face_pixels, photo_pixels
from stages.finetune.seen import Rows, Seen
from stages.finetune.settings import AugmentSettings, FinetuneSettings
from stages.finetune.start import describe, start
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.tables import write_csv

CHECKPOINT = "checkpoint"
"""Folder of the checkpoint, in that of the fine-tune."""


@dataclass(frozen=True)
class Place:
    """Where a fine-tune writes, and where those are that it may start from.

    Attributes:
        folder: has a folder for each fine-tune, by its name.
        name: of this one.
        weights_dir: the weights folder.
    """

    folder: Path
    name: str
    weights_dir: Path

    @property
    def own(self) -> Path:
        """This fine-tune's folder."""
        return self.folder / self.name


@dataclass(frozen=True)
class Result:
    """What came of a fine-tune.

    Attributes:
        weights: the backbone's file.
        history: loss and accuracy, by steps and epochs.
        started: lines on where the weights came from.
        rows: split -> how many rows (faces or photos) it was trained on (`train`) or judged by (`val`).
        left_out: why -> how many training samples are no row.
        accuracy: split -> share of right answers, and of how many samples.
        unanswered: samples without an answer.
    """

    weights: Path
    history: History
    started: tuple[str, ...]
    rows: dict[str, int]
    left_out: dict[str, int]
    accuracy: dict[str, tuple[float, int]]
    unanswered: int


def run(manifest: Manifest, source: Source, settings: FinetuneSettings, place: Place) -> Result:
    """Train the backbone that `settings` names, or go on where an earlier run was stopped.

    Writes `backbone.safetensors` and `last_layer.safetensors`, `backbone.seen.json` (see `seen`), `steps.csv` and
    `epochs.csv` (see `History`), and `predictions.csv`: `sample_id, split, label`, and a column per class with the
    probability, of every sample that has an answer.

    Args:
        source: of the pixels; its ledger takes the samples that are missing or cannot be read.

    Raises:
        SettingError: settings, backbone and data do not fit, the loss is no longer a number, or memory is too small.
        MissingInputError: no crops, or no fine-tune of the name that `settings.start` gives.
        DataError: no training sample, or none of a class.
        WeightsError: weights or the checkpoint are missing, damaged or of another network.
    """
    spec = registry.get_spec(settings.backbone)
    earlier = _earlier(settings, place)
    samples = {split: [s for s in manifest if s.split == split] for split in ("train", "val")}
    train = _pixels(source, samples["train"], spec, settings, settings.augment)
    val = _judging(source, samples["val"], spec, settings)
    network, started = start(
        settings, source.classes, weights_dir=place.weights_dir, previous=earlier and earlier.parent
    )
    about = {"data": _data_hash(train), "validation": _data_hash(val) if val else "", "classes": _words(source.classes)}
    if earlier is not None:
        about["starts from"] = seen.sha256_of(earlier)
    history = fit(network, train, val, settings, place.own / CHECKPOINT, about=about)
    weights = _write(network, settings, train, val, earlier, place)
    history.write(place.own)
    everyone = _pixels(source, manifest.samples, spec, _alone(settings), AugmentSettings(), labelled=False)
    found = _answers(network, everyone, settings, source.ledger)
    _write_predictions(place.own / "predictions.csv", found, source.classes)
    shutil.rmtree(place.own / CHECKPOINT, ignore_errors=True)
    left_out = {"without a face": len(train.faceless), "without one label": len(train.unlabelled)}
    return Result(
        weights=weights,
        history=history,
        started=started.said,
        rows={"train": len(train)} | ({"val": len(val)} if val else {}),
        left_out={why: count for why, count in left_out.items() if count},
        accuracy=_accuracy(found, source.classes),
        unanswered=int((~found.answered).sum()),
    )


def _earlier(settings: FinetuneSettings, place: Place) -> Path | None:
    """The backbone's file of the fine-tune that this one starts from."""
    if settings.previous is None:
        return None
    if settings.previous == place.name:
        raise SettingError(f"finetune.{place.name}.start is finetune:{place.name}: it cannot start from itself")
    path = finetuned_weights(place.folder, settings.previous)
    if not path.exists():
        raise MissingInputError(f"{path} is not there; run kuleshov finetune {settings.previous}")
    return path


def _alone(settings: FinetuneSettings) -> FinetuneSettings:
    """For the answers each face is a row, whatever was trained: they are averaged afterwards."""
    return settings.model_copy(update={"unit": "face", "frames": None}) if settings.unit == "faces" else settings


def _pixels(
    source: Source,
    samples: Sequence[Sample],
    spec: BackboneSpec,
    settings: FinetuneSettings,
    augment: AugmentSettings,
    *,
    labelled: bool = True,
) -> Pixels:
    if settings.unit == "photo":
        return photo_pixels(source, samples, spec, augment, labelled=labelled)
    unit, most, frames = settings.unit, settings.max_faces, settings.frames
    return face_pixels(source, samples, spec, augment, unit=unit, max_faces=most, frames=frames, labelled=labelled)


def _judging(
    source: Source, samples: Sequence[Sample], spec: BackboneSpec, settings: FinetuneSettings
) -> Pixels | None:
    """The validation split's rows; None where it has none that can be judged."""
    usable = [s for s in source.detections.readable(samples) if len(s.labels) == 1 and s.labels[0] in source.classes]
    if settings.unit != "photo":
        usable = [s for s in usable if len(source.detections.faces(s.sample_id))]
    if usable:
        return _pixels(source, usable, spec, settings, AugmentSettings())
    if settings.patience is not None:
        raise SettingError(
            f"patience is {settings.patience}, but split val has no sample to judge by: leave it out, or set data.split"
        )
    return None


def _data_hash(pixels: Pixels) -> str:
    return checkpoint.data_hash(pixels.ids(np.arange(len(pixels))), pixels.labels)


def _words(names: Sequence[str]) -> str:
    return ", ".join(names)


def _write(
    network: Finetuned,
    settings: FinetuneSettings,
    train: Pixels,
    val: Pixels | None,
    earlier: Path | None,
    place: Place,
) -> Path:
    """The weights and what they have seen; returns the backbone's file."""
    parts = checkpoint.save_parts(place.own, network.parts(), describe(network, settings))
    weights = parts["backbone"]
    judged = val.samples if val is not None and settings.patience is not None else ()
    has_seen = Seen(
        weights=seen.sha256_of(weights),
        trained=Rows.of(train.samples),
        stopped=Rows.of(judged),
        settings=settings.model_dump(mode="json"),
        preset=settings.preset,
        classes=network.classes,
        seed=settings.seed,
        start=settings.start,
    )
    seen.write(weights, has_seen.after(seen.read(earlier)) if earlier else has_seen)
    return weights


def _answers(network: Finetuned, pixels: Pixels, settings: FinetuneSettings, ledger: Ledger) -> Answers:
    how = settings.answer
    network.unit = "photo" if settings.unit == "photo" else "face"
    return answers(network, pixels, settings.batch_size, ledger, of=how.of, most=how.largest, mirrored=how.mirrored)


def _write_predictions(path: Path, found: Answers, classes: Sequence[str]) -> None:
    rows = (
        (sample.sample_id, sample.split, ";".join(sample.labels), *probabilities.tolist())
        for sample, probabilities, has in zip(found.samples, found.probabilities, found.answered, strict=True)
        if has
    )
    write_csv(path, ("sample_id", "split", "label", *classes), rows)


def _accuracy(found: Answers, classes: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Split -> share of right answers among its samples of one label that have one, and how many these are."""
    hits: dict[str, list[bool]] = {}
    for sample, probabilities, has in zip(found.samples, found.probabilities, found.answered, strict=True):
        if has and len(sample.labels) == 1:
            hits.setdefault(sample.split, []).append(classes[int(probabilities.argmax())] == sample.labels[0])
    return {split: (float(np.mean(some)), len(some)) for split, some in hits.items()}
