"""One small experiment, drawn and scored for real: 18 photos, two heads of two seeds, one ensemble."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stages.evaluate.run import evaluate
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.predictions import Kind, Predictions, split_name
from stages.report.inputs import ReportInputs

CLASSES = ("calm", "glad", "sad")


def draw(path: Path, size: tuple[int, int], seed: int) -> str:
    """A plain face on a coloured ground; gives the hash of the file."""
    image = Image.new("RGB", size, tuple(np.random.default_rng(seed).integers(60, 200, 3).tolist()))
    pen = ImageDraw.Draw(image)
    middle, radius = (size[0] // 2, size[1] // 2), min(size) // 4
    pen.ellipse((middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius), fill=(230, 200, 170))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answers(manifest: Manifest, name: str, kind: Kind, skill: float) -> Predictions:
    """Answers that are right more often the higher `skill` is; rows sum to 1."""
    head, seed = split_name(name, kind)
    rng = np.random.default_rng([len(name), seed or 0])
    samples = [sample for sample in manifest.samples if sample.split == "test"]
    logits = rng.normal(size=(len(samples), len(CLASSES)))
    for row, sample in zip(logits, samples, strict=True):
        if sample.labels:
            row[CLASSES.index(sample.labels[0])] += skill
    odds = np.exp(logits)
    return Predictions(
        name=name,
        kind=kind,
        head=head,
        seed=seed,
        sample_ids=tuple(sample.sample_id for sample in samples),
        splits=tuple(sample.split for sample in samples),
        labels=tuple(sample.labels for sample in samples),
        classes=CLASSES,
        probabilities=odds / odds.sum(axis=1, keepdims=True),
    )


@pytest.fixture
def make_inputs(tmp_path: Path) -> Callable[..., ReportInputs]:
    """make_inputs(**fields): the experiment with some fields of ReportInputs replaced."""
    root = tmp_path / "photos"
    samples = []
    for split, count in (("train", 6), ("test", 12)):
        for i in range(count):
            path = f"{split}/{i}.png"
            content = draw(root / path, ((400, 300), (150, 500), (200, 200))[i % 3], i)
            labels = () if (split, i) == ("test", 11) else (CLASSES[i % 3],)
            subset = ("indoor", "outdoor")[i % 2]
            samples.append(Sample(f"{split}/{i:02d}", path, "image", labels, split, "", subset, (), content))
    manifest = Manifest(tuple(samples))
    members = [answers(manifest, f"{head}-s{seed}", "head", 1.0) for head in ("ada", "bea") for seed in (0, 1)]
    members.append(answers(manifest, "both", "fused", 2.0))
    faces = [(f"test/{i:02d}", str(face)) for i in range(12) for face in range(2)]
    failures = Ledger("detect")
    failures.record("test/zz", "truncated", "ends after 12 bytes")
    detections = [
        {"sample_id": key, "frame": "0", "face": face, "x1": f"{50 * int(face)}", "y1": "40", "x2": "120", "y2": "110"}
        for key, face in faces
    ]
    attention = [
        {"sample_id": key, "frame": "0", "face": face, "weight": ("0.25", "0.75")[int(face)]} for key, face in faces
    ]
    whole = ReportInputs(
        metrics=evaluate(members, manifest, split="test", resamples=200),
        predictions=members,
        manifest=manifest,
        images_root=root,
        detections=detections,
        attention={"ada-s0": attention},
        failures={"index": Ledger("index"), "detect": failures},
        provenance={"Kuleshov": "0.1.0", "Libraries": {"torch": "2", "numpy": "2"}, "Commands": ["a", "b"]},
    )
    return lambda **fields: replace(whole, **fields)


def rank(member: Predictions) -> Predictions:
    """The same with scores of several labels, higher for those that a sample has."""
    has = np.array([[name in labels for name in member.classes] for labels in member.labels])
    return replace(member, probabilities=(member.probabilities + 0.3 * has) / 1.3, several=True)


@pytest.fixture
def make_ranking(make_inputs: Callable[..., ReportInputs]) -> Callable[..., ReportInputs]:
    """make_ranking(**fields): the same experiment with one or two labels a sample, all members answering several."""

    def make(**fields: Any) -> ReportInputs:
        whole = make_inputs()
        manifest = Manifest(tuple(_with_second(sample, i) for i, sample in enumerate(whole.manifest.samples)))
        labels = {sample.sample_id: sample.labels for sample in manifest.samples}
        members = [replace(p, labels=tuple(labels[name] for name in p.sample_ids)) for p in whole.predictions]
        ranking = [rank(member) for member in members]
        metrics = evaluate(ranking, manifest, split="test", resamples=200)
        return replace(whole, **{"manifest": manifest, "predictions": ranking, "metrics": metrics, **fields})

    return make


def _with_second(sample: Sample, i: int) -> Sample:
    """Every other labelled sample has a second label."""
    if not sample.labels or i % 2:
        return sample
    return replace(sample, labels=(*sample.labels, CLASSES[(CLASSES.index(sample.labels[0]) + 1) % 3]))
