"""Prediction on new photos: the same detection, crops, backbones and heads as in training, by the same code.

Features of these photos go to a store of the caller's choosing (a temporary one by default), never to a model folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.store import Store
from stages.align import run as align
from stages.detect import run as detect
from stages.detect.faces import Faces
from stages.errors import DataError, MediaError, WeightsError
from stages.extract import run as extract
from stages.extract.plan import RolePlan, plan_role
from stages.index.manifest import Manifest, Sample
from stages.index.samples import open_sample
from stages.ledger import Ledger
from stages.predict.annotate import annotate
from stages.predict.inputs import picture_name
from stages.train.features import gather
from stages.train.loop import infer
from stages.train.models import Ensemble, HeadModel

HERE = Path("/")
"""Samples of `predict` have absolute paths."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo.

    Attributes:
        probabilities: class -> probability.
        faces: all faces found.
        attention: (n,) weight of each face, averaged over the ensemble's members; a face that a head left out counts 0.
    """

    sample: Sample
    probabilities: dict[str, float]
    faces: Faces
    attention: np.ndarray

    @property
    def label(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


def run(
    model: Ensemble, manifest: Manifest, store: Store, weights_folder: Path, batch_size: int, ledger: Ledger
) -> list[Prediction]:
    """Predict every photo of a manifest; those that cannot be read go to the ledger.

    Raises:
        WeightsError: a backbone's weights are missing, or are not those the model was trained with.
        DataError: the ensemble's members disagree about classes or detection.
    """
    first = model.members[0]
    for member in model.members[1:]:
        if member.classes != first.classes or member.detect != first.detect:
            raise DataError(f"model {model.name!r}: {member.name} and {first.name} differ in classes or detection")
    detections, _, _ = detect.run(manifest, HERE, store, first.detect, ledger)
    plans = _plans(model, weights_folder, detections.key)
    templates = sorted({plan.spec.template for plan in plans.values() if plan.spec.template})
    align.run(manifest, HERE, store, detections, templates, first.detect.faces, ledger)
    for member in model.members:
        for role in member.extract.backbones:
            settings = member.extract.model_copy(update={"batch_size": batch_size})
            extract.run(manifest, HERE, store, detections, plans[role], settings, weights_folder, ledger)
    return _answers(model, manifest, store, detections, plans, ledger)


def _plans(model: Ensemble, weights_folder: Path, detections_key: str) -> dict[str, RolePlan]:
    plans: dict[str, RolePlan] = {}
    for member in model.members:
        for role in member.extract.backbones:
            if role in plans:
                continue
            plan = plan_role(role, member.extract, weights_folder, detections_key, member.detect.faces)
            wanted = member.weights[role]
            [(_, found)] = next(iter(plan.blocks.values())).weights.items()
            if found != wanted["sha256"]:
                name = wanted["backbone"]
                raise WeightsError(
                    f"model {model.name!r} was trained with {name} of sha256 {wanted['sha256'][:12]}, here is "
                    f"{plan.spec.name} of {found[:12]}; run kuleshov weights fetch {name}, or add that file"
                )
            plans[role] = plan
    return plans


def _answers(
    model: Ensemble,
    manifest: Manifest,
    store: Store,
    detections: detect.Detections,
    plans: dict[str, RolePlan],
    ledger: Ledger,
) -> list[Prediction]:
    chosen: list[Sample] = []
    total = np.zeros((0, 0))
    attention: dict[str, np.ndarray] = {}
    for member, weight in zip(model.members, model.weights, strict=True):
        samples, probabilities, faces = _member(member, manifest, store, detections, plans, ledger)
        if not chosen:
            chosen, total = samples, np.zeros_like(probabilities)
        elif [s.sample_id for s in samples] != [s.sample_id for s in chosen]:
            raise DataError(f"model {model.name!r}: its members need different features; predict with one of them")
        total += weight * probabilities
        for sample_id, one in faces.items():
            attention[sample_id] = attention.get(sample_id, 0.0) + weight * one
    classes = model.members[0].classes
    return [
        Prediction(
            sample=sample,
            probabilities=dict(zip(classes, row.tolist(), strict=True)),
            faces=detections.faces(sample.sample_id),
            attention=attention[sample.sample_id],
        )
        for sample, row in zip(chosen, total / max(sum(model.weights), 1e-12), strict=True)
    ]


def _member(
    member: HeadModel,
    manifest: Manifest,
    store: Store,
    detections: detect.Detections,
    plans: dict[str, RolePlan],
    ledger: Ledger,
) -> tuple[list[Sample], np.ndarray, dict[str, np.ndarray]]:
    """Samples that have features, their probabilities (n, K), and sample_id -> attention over all its faces."""
    readable = [s for s in manifest.samples if s.sample_id in detections.items and s.sample_id not in ledger]
    if not readable:
        return [], np.zeros((0, len(member.classes))), {}

    def specs(names: tuple[str, ...]) -> list:
        return [plans[role].blocks[tap] for role, _, tap in (name.partition("/") for name in names)]

    features = gather(
        readable,
        store,
        detections,
        specs(member.settings.faces),
        specs(member.settings.global_),
        max_faces=member.settings.max_faces,
        ledger=ledger,
    )
    probabilities, weights = infer(member.head, features.scaled(*member.scales))
    attention = {}
    for i, (sample, some) in enumerate(zip(features.samples, weights, strict=True)):
        every = np.zeros(len(detections.faces(sample.sample_id)))
        every[features.face_index[features.offsets[i] : features.offsets[i + 1]]] = some
        attention[sample.sample_id] = every
    return list(features.samples), probabilities, attention


def write(predictions: list[Prediction], classes: tuple[str, ...], out: Path, ledger: Ledger) -> Iterator[Path]:
    """Write predictions.csv, predictions.jsonl and an annotated picture each; yields the paths written."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "predictions.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("file", "predicted", "faces", *classes))
        for one in predictions:
            values = (f"{one.probabilities[name]:.6g}" for name in classes)
            writer.writerow((one.sample.sample_id, one.label, len(one.faces), *values))
    yield out / "predictions.csv"
    with open(out / "predictions.jsonl", "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(_as_json(one), ensure_ascii=False) + "\n" for one in predictions)
    yield out / "predictions.jsonl"
    (out / "annotated").mkdir(exist_ok=True)
    taken: set[str] = set()
    for one in predictions:
        try:
            image = open_sample(one.sample, HERE)
        except MediaError as error:
            ledger.record(one.sample.sample_id, error.reason, error.detail)
            continue
        path = out / "annotated" / picture_name(one.sample, taken)
        annotate(image, one.faces.boxes, one.attention, one.probabilities).save(path, quality=90)
        yield path


def _as_json(one: Prediction) -> dict[str, object]:
    return {
        "file": one.sample.sample_id,
        "predicted": one.label,
        "probabilities": {name: round(value, 6) for name, value in one.probabilities.items()},
        "faces": [
            {
                "box": [round(float(v), 2) for v in box],
                "score": None if np.isnan(score) else round(float(score), 6),
                "attention": round(float(weight), 6),
            }
            for box, score, weight in zip(one.faces.boxes, one.faces.scores, one.attention, strict=True)
        ],
    }
