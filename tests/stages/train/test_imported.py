"""Heads that read imported features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import predictions
from stages.detect.settings import DetectSettings
from stages.errors import MissingInputError, SettingError
from stages.extract.imported import FaceItems, run
from stages.ledger import Ledger
from stages.train.models import load
from stages.train.run import Inputs
from stages.train.run import run as train
from stages.train.settings import TrainSettings

Make = Callable[..., TrainSettings]
OWN = {"faces": ["imported/mood"], "global": ["imported/voice"], "epochs": 20, "learning_rate": 0.03}


@pytest.fixture
def inputs(world: Any, tmp_path: Path) -> Inputs:
    """40 samples whose cached features say nothing, and imported ones that give the label away; s39 has no voice."""
    for i in range(40):
        split = ("train", "train", "val", "test")[i // 2 % 4]
        world.add(f"s{i:02d}", ("calm", "glad")[i % 2], split, count=1 + i % 3)
    inputs: Inputs = world.inputs()
    noise = np.random.default_rng(5)
    voice = np.array([[i % 2, noise.normal()] for i in range(39)])
    np.savez(tmp_path / "voice.npz", sample_id=np.array([f"s{i:02d}" for i in range(39)]), features=voice)
    rows = [(f"s{i:02d}", face) for i in range(40) for face in range(1 + i % 3)]
    mood = {"features": noise.normal(size=(len(rows), 3)), "face_index": np.array([face for _, face in rows])}
    np.savez(tmp_path / "mood.npz", sample_id=np.array([name for name, _ in rows]), **mood)
    faces = FaceItems(inputs.detections, "found")
    voiced = run(tmp_path / "voice.npz", "voice", "global", inputs.manifest, inputs.store, None)
    moody = run(tmp_path / "mood.npz", "mood", "face", inputs.manifest, inputs.store, faces)
    frames = {"sample_id": np.array(["s00"]), "features": np.ones((1, 2)), "frame_index": np.array([0])}
    np.savez(tmp_path / "frames.npz", **frames)
    framed = run(tmp_path / "frames.npz", "frames", "frame", inputs.manifest, inputs.store, None)
    specs = {"voice": voiced.spec, "mood": moody.spec, "frames": framed.spec}
    keys = {name: spec.key[:16] for name, spec in specs.items()} | {"gone": "0" * 16}
    return replace(inputs, extract=inputs.extract.model_copy(update={"imported": keys}))


def accuracy(inputs: Inputs, settings: TrainSettings, out: Path) -> float:
    [one] = train(inputs, settings, out, Ledger("train"))
    return one.accuracy["test"]


def test_a_feature_that_gives_the_label_away_is_learnt(inputs: Inputs, train_settings: Make, tmp_path: Path) -> None:
    assert accuracy(inputs, train_settings(**OWN), tmp_path / "own") == 1
    noise = OWN | {"faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled"]}
    assert accuracy(inputs, train_settings(**noise), tmp_path / "noise") < 1
    joined = OWN | {"faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled", "imported/voice"]}
    assert accuracy(inputs, train_settings(**joined), tmp_path / "joined") >= 0.9


def test_samples_without_rows_are_recorded(inputs: Inputs, train_settings: Make, tmp_path: Path) -> None:
    ledger = Ledger("train")
    train(inputs, train_settings(**OWN), tmp_path, ledger)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"s39": "no_features"}
    assert ledger.entries["s39"][1].startswith("imported/voice: missing")
    written = predictions.read(tmp_path / "predictions" / "heads" / "attention_c-s0.csv")
    assert "s39" not in written.sample_ids
    assert len(written.sample_ids) == 39


def test_the_model_says_what_it_read(inputs: Inputs, train_settings: Make, tmp_path: Path) -> None:
    train(inputs, train_settings(**OWN), tmp_path, Ledger("train"))
    [model] = load(tmp_path / "models" / "heads" / "attention_c-s0").members
    assert (model.extract.backbones, model.weights) == ({}, {})
    assert model.extract.imported == {name: inputs.extract.imported[name] for name in ("mood", "voice")}
    train(inputs, train_settings(epochs=1), tmp_path, Ledger("train"))
    [model] = load(tmp_path / "models" / "heads" / "attention_c-s0").members
    assert model.extract.imported == {}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"global": ["imported/mood"]},
            SettingError,
            r"'imported/mood' is a face block of shape \(3,\): it cannot be in",
        ),
        ({"faces": ["imported/voice"]}, SettingError, "'imported/voice' is a global block .* it cannot be in faces"),
        ({"global": ["imported/frames"]}, SettingError, "'imported/frames' is a frame block .* it cannot be in global"),
        ({"global": ["imported/nothing"]}, SettingError, r"extract\.imported has no 'nothing', it has voice, mood"),
        ({"global": ["imported/gone"]}, MissingInputError, "has no imported/gone of key 0+; run kuleshov cache import"),
    ],
)
def test_what_cannot_be_read(
    inputs: Inputs, train_settings: Make, tmp_path: Path, changes: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        train(inputs, train_settings(**OWN | changes), tmp_path, Ledger("train"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictions").exists()


def test_faces_of_other_detections_are_refused(inputs: Inputs, train_settings: Make, tmp_path: Path) -> None:
    """Never rows of one detection for the faces of another, even where their number is the same."""
    others = (replace(inputs, detections=replace(inputs.detections, key="1" * 64)),)
    others += (replace(inputs, detect=DetectSettings(faces="whole")),)
    for other in others:
        with pytest.raises(MissingInputError, match="imported/mood was imported for faces of other settings of detect"):
            train(other, train_settings(**OWN), tmp_path, Ledger("train"))
