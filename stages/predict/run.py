"""Prediction on new photos and clips: the same detection, crops, backbones and heads as in training, by the same code.

Their features go to a store of the caller's choosing (a temporary one by default), never to a model folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cache.keys import PLAIN, BlockSpec
from cache.store import Store
from stages.align import run as align
from stages.align.run import crops_block
from stages.align.templates import template_of
from stages.detect import run as detect
from stages.detect.faces import Faces
from stages.errors import DataError, MediaError, WeightsError
from stages.extract import run as extract
from stages.extract.plan import RolePlan, plan_role
from stages.extract.settings import IMPORTED, BatchSize, ExtractSettings
from stages.extract.views import FLIP
from stages.index.manifest import Manifest, Sample
from stages.index.samples import open_frames
from stages.ledger import Ledger
from stages.predict.annotate import annotate
from stages.predict.inputs import picture_name
from stages.train.answering import answers_of
from stages.train.features import gather
from stages.train.models import Ensemble, HeadModel

HERE = Path("/")
"""Samples of `predict` have absolute paths."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo or clip.

    Attributes:
        sample: the photo or clip.
        probabilities: class -> probability; of heads of several labels a score of each class by itself, in [0, 1], see
            `stages.predictions.scores_of`.
        faces: all faces found, of a clip those in all of the frames looked at.
        attention: (n,) weight of each face, averaged over the ensemble's members; a face that a head left out counts 0.
        frame: (n,) int64, the frame that each face is in, from 0 on; all 0 in a photo.
        tracks: (n,) int64, who each face of a clip is: faces of one number are one person's.
        times_us: (T,) presentation times of the frames looked at, in microseconds; None: a photo.
        several: whether it is that of heads of several labels.
    """

    sample: Sample
    probabilities: dict[str, float]
    faces: Faces
    attention: np.ndarray
    frame: np.ndarray
    tracks: np.ndarray
    times_us: np.ndarray | None
    several: bool = False

    @property
    def shown_frame(self) -> int:
        """The frame whose faces weigh most, the first of equals; of a clip without a face the middle one."""
        if self.times_us is None:
            return 0
        if not len(self.frame):
            return len(self.times_us) // 2
        return int(np.bincount(self.frame, self.attention, len(self.times_us)).argmax())

    @property
    def label(self) -> str:
        """The most probable class, or the one with the highest score."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


def run(
    model: Ensemble,
    manifest: Manifest,
    store: Store,
    weights_folder: Path,
    batch_size: BatchSize,
    ledger: Ledger,
    finetunes: Path | None = None,
) -> list[Prediction]:
    """Predict every photo and clip of a manifest, in its order; those that cannot be read go to the ledger.

    Args:
        store: takes the photos' detections, crops and features; what it already has is not computed again.
        weights_folder: where the backbones' weights are.
        batch_size: rows a forward pass of a backbone.
        finetunes: has a folder for each fine-tune, where the model has fine-tuned backbones.

    Raises:
        WeightsError: a backbone's weights are missing, or are not those the model was trained with.
        DataError: the ensemble's members disagree about classes or detection, or the model was trained on face boxes
            that came with its data, or on imported features.
    """
    first = model.members[0]
    for member in model.members[1:]:
        if member.classes != first.classes or member.detect != first.detect:
            raise DataError(f"model {model.name!r}: {member.name} and {first.name} differ in classes or detection")
        if member.settings.loss.several != first.settings.loss.several:
            raise DataError(
                f"model {model.name!r}: of {member.name} and {first.name} one answers with several labels, the other "
                "with one: their numbers have no mean; fuse them apart and predict with either"
            )
    if first.detect.faces == "given":
        raise DataError(
            f"model {model.name!r} was trained on face boxes given with the data (detect.faces: given), which new "
            "photos do not have; train one with detect.faces: found"
        )
    imported = sorted({f"{IMPORTED}/{name}" for member in model.members for name in member.extract.imported})
    if imported:
        raise DataError(
            f"model {model.name!r} reads imported features ({', '.join(imported)}), which new photos do not have; "
            "train one without them"
        )
    plans = _plans(model, weights_folder, detect.boxes_spec(first.detect).key, finetunes)
    detections, _, _ = detect.run(manifest, HERE, store, first.detect, ledger)
    templates = {plan.template for plan in plans.values() if plan.template}
    for member in model.members:
        blocks = (block for some in member.settings.inputs.values() for block in some)
        templates.update(filter(None, map(template_of, blocks)))
    align.run(manifest, HERE, store, detections, sorted(templates), first.detect.faces, ledger)
    for settings, some in _alike(model, plans, batch_size):
        ledgers = {plan.role: ledger for plan in some}
        extract.run(manifest, HERE, store, detections, some, settings, weights_folder, ledgers)
    return _answers(model, manifest, store, detections, plans, ledger)


def _plans(model: Ensemble, weights_folder: Path, detections_key: str, finetunes: Path | None) -> dict[str, RolePlan]:
    """Role -> plan, with the very weights of the training; checked before any photo is looked at."""
    plans: dict[str, RolePlan] = {}
    for member in model.members:
        for role in member.extract.backbones:
            if role not in plans:
                source = member.detect.faces
                plans[role] = plan_role(role, member.extract, weights_folder, detections_key, source, finetunes)
            [(_, found)] = next(iter(plans[role].blocks.values())).weights.items()
            wanted = member.weights[role]
            if found != wanted["sha256"]:
                name, file = wanted["backbone"], plans[role].file
                remedy = f"run kuleshov weights fetch {name}, or kuleshov weights add {name} FILE"
                raise WeightsError(
                    f"model {model.name!r} was trained with {name} of sha256 {wanted['sha256'][:12]}, here is "
                    f"{plans[role].spec.name} of {found[:12]}; {remedy if file is None else f'put that file to {file}'}"
                )
    return plans


def _alike(
    model: Ensemble, plans: dict[str, RolePlan], batch_size: BatchSize
) -> Iterator[tuple[ExtractSettings, list[RolePlan]]]:
    """The roles in groups that are computed alike: members may differ in their settings of extraction."""
    groups: dict[str, tuple[ExtractSettings, list[RolePlan]]] = {}
    for role, plan in plans.items():
        member = next(one for one in model.members if role in one.extract.backbones)
        settings = member.extract.model_copy(update={"batch_size": batch_size})
        alike = settings.model_dump_json(exclude={"backbones", "imported"})
        groups.setdefault(alike, (settings, []))[1].append(plan)
    yield from groups.values()


def _answers(
    model: Ensemble,
    manifest: Manifest,
    store: Store,
    detections: detect.Detections,
    plans: dict[str, RolePlan],
    ledger: Ledger,
) -> list[Prediction]:
    """The members' weighted means, for the photos that every member has an answer for."""
    samples = [s for s in manifest.samples if s.sample_id in detections.items and s.sample_id not in ledger]
    totals: dict[str, np.ndarray] = {}
    attention: dict[str, np.ndarray] = {}
    for member, weight in zip(model.members, model.weights, strict=True):
        answered = _member(member, samples, store, detections, plans, ledger) if samples else {}
        samples = [s for s in samples if s.sample_id in answered]
        for sample_id, (probabilities, faces) in answered.items():
            totals[sample_id] = totals.get(sample_id, 0.0) + weight * probabilities
            attention[sample_id] = attention.get(sample_id, 0.0) + weight * faces
    classes = model.members[0].classes
    scale = sum(model.weights)
    return [
        Prediction(
            sample=sample,
            probabilities=dict(zip(classes, (totals[sample.sample_id] / scale).tolist(), strict=True)),
            faces=detections.faces(sample.sample_id),
            attention=attention[sample.sample_id] / scale,
            frame=detections.places(sample.sample_id)[:, 0],
            tracks=detections.tracks(sample.sample_id),
            times_us=detections.times.get(sample.sample_id),
            several=model.members[0].settings.loss.several,
        )
        for sample in samples
    ]


def _member(
    member: HeadModel,
    samples: list[Sample],
    store: Store,
    detections: detect.Detections,
    plans: dict[str, RolePlan],
    ledger: Ledger,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """sample_id -> probabilities (K,) and attention over all its faces, of the samples that have features."""

    def specs(names: tuple[str, ...]) -> list[BlockSpec]:
        return [
            crops_block(name, detections.key, member.detect.faces)
            if template_of(name) is not None
            else plans[role].blocks[tap]
            for name, (role, _, tap) in ((name, name.partition("/")) for name in names)
        ]

    mirrored = member.settings.answer == "mirrored"
    features = gather(
        samples,
        store,
        detections,
        specs(member.settings.faces),
        specs(member.settings.global_),
        max_faces=member.settings.max_faces,
        ledger=ledger,
        views=(PLAIN, FLIP) if mirrored else (PLAIN,),
        inputs={name: specs(names) for name, names in member.settings.inputs.items()},
        frames=member.settings.frames,
    )
    ready = features.scaled(*member.scales, member.input_scales)
    view = 1 if mirrored else None
    probabilities, said = answers_of(member.head, ready, member.settings.loss.several, view)
    weights = np.split(said.attention, features.offsets[1:-1])
    answers = {}
    for i, (sample, row, some) in enumerate(zip(features.samples, probabilities, weights, strict=True)):
        every = np.zeros(len(detections.faces(sample.sample_id)))
        every[features.face_index[features.offsets[i] : features.offsets[i + 1]]] = some
        answers[sample.sample_id] = row, every
    return answers


def write(predictions: list[Prediction], classes: tuple[str, ...], out: Path, ledger: Ledger) -> Iterator[Path]:
    """Write predictions.csv, predictions.jsonl and an annotated picture each; yields each path when it is written.

    Probabilities have 7 digits. Scores of several labels, by which photos are ranked, have all of theirs, and are
    `scores` in predictions.jsonl; `predicted` is the class with the highest one, however low it is.

    A clip's picture is its `shown_frame`. What cannot be opened any more is recorded in the ledger and has no picture.
    """
    out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    pictures = [f"annotated/{picture_name(one.sample, taken)}" for one in predictions]
    with open(out / "predictions.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("file", "predicted", "faces", "picture", *classes))
        for one, picture in zip(predictions, pictures, strict=True):
            values = (repr(v) if one.several else f"{v:.7g}" for v in (one.probabilities[name] for name in classes))
            writer.writerow((one.sample.sample_id, one.label, len(one.faces), picture, *values))
    yield out / "predictions.csv"
    with open(out / "predictions.jsonl", "w", encoding="utf-8") as handle:
        for one, picture in zip(predictions, pictures, strict=True):
            handle.write(json.dumps(_as_json(one, picture), ensure_ascii=False) + "\n")
    yield out / "predictions.jsonl"
    (out / "annotated").mkdir(exist_ok=True)
    for one, picture in zip(predictions, pictures, strict=True):
        try:
            image = _picture(one)
        except MediaError as error:
            ledger.record(one.sample.sample_id, error.reason, error.detail)
            continue
        path = out / picture
        here = one.frame == one.shown_frame
        shown = annotate(image, one.faces.boxes[here], one.attention[here], one.probabilities)
        shown.save(path, quality=92, subsampling=0)
        yield path


def _picture(one: Prediction) -> Image.Image:
    """The photo, or the clip's `shown_frame`; raises MediaError."""
    times_us = None if one.times_us is None else [int(one.times_us[one.shown_frame])]
    [image] = open_frames([one.sample], HERE, times_us)
    return image


def _numbers(one: Prediction) -> dict[str, dict[str, float]]:
    if one.several:
        return {"scores": one.probabilities}
    return {"probabilities": {name: round(value, 6) for name, value in one.probabilities.items()}}


def _as_json(one: Prediction, picture: str) -> dict[str, object]:
    times_s = None if one.times_us is None else (one.times_us / 1e6).tolist()
    return {
        "file": one.sample.sample_id,
        "picture": picture,
        **({} if times_s is None else {"picture_s": times_s[one.shown_frame], "frames_s": times_s}),
        "predicted": one.label,
        **_numbers(one),
        "faces": [
            {
                "box": [round(float(v), 2) for v in box],
                "score": None if np.isnan(score) else round(float(score), 6),
                "attention": round(float(weight), 6),
                **({} if times_s is None else {"time_s": times_s[frame], "track": track}),
            }
            for box, score, weight, frame, track in zip(
                one.faces.boxes, one.faces.scores, one.attention, one.frame.tolist(), one.tracks.tolist(), strict=True
            )
        ],
    }
