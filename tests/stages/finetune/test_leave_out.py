"""Fine-tunes that leave out a subset, and fine-tunes towards annotators' shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.errors import DataError, SettingError
from stages.finetune import loop, seen
from stages.finetune.folds import run_folds
from stages.finetune.loop import _counted
from stages.finetune.members import accuracy, seen_of
from stages.finetune.run import Place, Result, run
from stages.finetune.settings import FinetuneSettings
from stages.heads.batch import HeadOutput
from stages.index.manifest import Manifest

VALUES: dict[str, Any] = {
    "backbone": "mini_xception",
    "start": "random",
    "unit": "face",
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.01,
    "device": "cpu",
}
CLASSES = ("calm", "glad")


def settings(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate(VALUES | changes)


@pytest.fixture
def glad(corpus: Any) -> Any:
    """Two classes; d.png is judged, e.png and f.png are of subset `extra`, and the clip is of none."""
    subsets = {"a.png": "gaf", "b.png": "gaf", "c.png": "gaf", "e.png": "extra", "f.png": "extra", "twin.png": "gaf"}
    samples = tuple(
        replace(
            sample,
            labels=("glad",) if sample.labels == ("sad",) else sample.labels,
            split="val" if sample.sample_id == "d.png" else "train",
            subset=subsets.get(sample.sample_id, ""),
        )
        for sample in corpus.manifest.samples
    )
    return replace(corpus, manifest=Manifest(samples))


def tune(corpus: Any, folder: Path, name: str = "one", **changes: Any) -> Result:
    return run(corpus.manifest, corpus.source(classes=CLASSES), settings(**changes), Place(folder, name, folder))


def test_left_out_is_not_seen(glad: Any, tmp_path: Path) -> None:
    found = tune(glad, tmp_path, leave_out=["extra"])
    assert found.left_out == {"without a face": 1, "of subset extra": 2}
    content = {s.sample_id: s.content for s in glad.manifest}
    trained = {content[name] for name in ("a.png", "b.png", "clip.mp4")}
    assert seen.read(found.weights).trained.contents == trained
    known = seen_of(found, found.answers)
    names = [s.sample_id for s in found.answers.samples]
    assert {name for name, was in zip(names, known, strict=True) if was} == {"a.png", "b.png", "clip.mp4", "twin.png"}
    assert accuracy(found.answers, CLASSES, known)["train"][1] == 2, "e.png and f.png are held out"
    weights = found.weights.read_bytes()
    without = Manifest(tuple(s for s in glad.manifest if s.subset != "extra"))
    alone = run(without, glad.source(classes=CLASSES), settings(), Place(tmp_path, "alone", tmp_path))
    assert alone.weights.read_bytes() == weights, "as if they were not there"
    whole = tune(glad, tmp_path, "whole")
    assert whole.weights.read_bytes() != weights
    assert not tune(glad, tmp_path, leave_out=["extra"]).trained, "trained before"


def test_folds_hold_out_the_same_samples(glad: Any, tmp_path: Path) -> None:
    """So a fine-tune that leaves some out can go on from the same fold of one that does not."""
    samples = (replace(s, subset="gaf") if s.sample_id == "f.png" else s for s in glad.manifest)
    glad = replace(glad, manifest=Manifest(tuple(samples)))  # each fold has both classes without e.png
    place, source = Place(tmp_path, "base", tmp_path), glad.source(classes=CLASSES)
    base = run_folds(glad.manifest, source, settings(), place, 2)
    asked = settings(leave_out=["extra"], start="finetune:base")
    less = run_folds(glad.manifest, source, asked, replace(place, name="less"), 2)
    assert less.folds == base.folds
    extra = {s.sample_id: s for s in glad.manifest if s.subset == "extra"}
    chained = [seen.read(tmp_path / f"base.fold{fold}" / "backbone.safetensors") for fold in range(2)]
    for fold, result in enumerate(less.results):
        mine = seen.read(result.weights)
        for name, one in extra.items():
            assert mine.trained.has(one) == (base.folds[name] != fold), "by what it started from"
        assert mine.chain == (chained[fold].weights,)


def test_what_cannot_be_left_out(glad: Any, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"^finetune\.one\.leave_out has 'web', and no training sample.*: there are extra, gaf$"
    ):
        tune(glad, tmp_path, leave_out=["web"])
    rest = replace(glad, manifest=Manifest(tuple(s for s in glad.manifest if s.subset)))
    with pytest.raises(DataError, match=r"^finetune\.one\.leave_out leaves out all 6 training samples"):
        tune(replace(rest, manifest=Manifest(rest.manifest.samples)), tmp_path, leave_out=["extra", "gaf"])
    source = glad.source(classes=CLASSES)
    with pytest.raises(SettingError, match=r"^finetune\.one\.leave_out has 'web'"):
        run_folds(glad.manifest, source, settings(leave_out=["web"]), Place(tmp_path, "one", tmp_path), 2)


def with_shares(corpus: Any, shares: dict[str, dict[str, float]]) -> Any:
    samples = tuple(
        replace(s, shares=tuple(sorted(shares.get(s.sample_id, {}).items()))) for s in corpus.manifest.samples
    )
    return replace(corpus, manifest=Manifest(samples))


def test_shares_of_one_class_are_its_label(glad: Any, tmp_path: Path) -> None:
    sure = with_shares(glad, {s.sample_id: {s.labels[0]: 1.0} for s in glad.manifest})
    for changes in ({}, {"unit": "faces", "class_weights": "balanced"}):
        by_label = tune(sure, tmp_path / str(len(changes)), "labels", patience=1, **changes)
        by_share = tune(sure, tmp_path / str(len(changes)), "shares", patience=1, targets="shares", **changes)
        np.testing.assert_allclose(by_share.answers.probabilities, by_label.answers.probabilities, atol=1e-5)
        [one, other] = (result.history.epochs[0] for result in (by_share, by_label))
        assert (one.loss, one.accuracy) == (pytest.approx(other.loss, rel=1e-5), other.accuracy)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-5)


@pytest.mark.parametrize("unit", ["face", "faces"])
def test_shares_reach_the_loss_and_the_training_is_another(
    glad: Any, tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = {"a.png": {"calm": 0.25, "glad": 0.75}, "b.png": {"calm": 0.3, "awe": 0.4, "glad": 0.3}}
    doubtful = with_shares(glad, votes)
    wanted: list[torch.Tensor] = []

    def spy(said: HeadOutput, labels: torch.Tensor, counts: torch.Tensor, *more: Any) -> Any:
        assert len(more[1]) == len(labels)
        wanted.append(torch.cat([labels[:, None].float(), more[1]], 1))
        return _counted(said, labels, counts, *more)

    monkeypatch.setattr(loop, "_counted", spy)
    found = tune(doubtful, tmp_path, targets="shares", unit=unit)
    rows = {tuple(round(value, 4) for value in row) for row in torch.cat(wanted).tolist()}
    assert rows == {(1, 0.25, 0.75), (0, 0.5, 0.5), (0, 1, 0), (1, 0, 1)}, "class, then its shares"
    assert found.no_class == ("awe",)
    again = with_shares(glad, votes | {"a.png": {"calm": 0.2, "glad": 0.8}})
    assert not tune(doubtful, tmp_path, targets="shares", unit=unit).trained
    assert tune(again, tmp_path, targets="shares", unit=unit).trained, "the votes are others"


def test_shares_that_cannot_be(glad: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^finetune\.one\.targets is shares, and no training sample has shares"):
        tune(with_shares(glad, {"d.png": {"glad": 1.0}, "a.png": {"awe": 1.0}}), tmp_path, targets="shares")
    with pytest.raises(ValueError, match=r"targets is shares and classifier\.kind is l_softmax: a margin is one of a"):
        settings(targets="shares", classifier={"kind": "l_softmax"})
