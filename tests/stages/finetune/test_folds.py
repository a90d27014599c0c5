"""Fine-tunes of folds: who is held out, who answers, and what they start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.errors import DataError, MissingInputError, SettingError
from stages.finetune import folds as module
from stages.finetune import seen
from stages.finetune.folds import Folded, run_folds
from stages.finetune.members import accuracy, member, seen_of
from stages.finetune.run import Place, run
from stages.finetune.settings import FinetuneSettings
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


@pytest.fixture
def glad(corpus: Any) -> Any:
    """Two classes, one group for two of the photos, the first photo's twin and d.png for the test."""
    splits = {"twin.png": "test", "d.png": "test"}
    groups = {"b.png": "pair", "f.png": "pair"}
    samples = tuple(
        replace(
            sample,
            labels=("glad",) if sample.labels == ("sad",) else sample.labels,
            split=splits.get(sample.sample_id, "train"),
            group=groups.get(sample.sample_id, ""),
        )
        for sample in corpus.manifest.samples
    )
    return replace(corpus, manifest=Manifest(samples))


def fold(corpus: Any, folder: Path, name: str = "one", count: int = 2, **changes: Any) -> Folded:
    settings = FinetuneSettings.model_validate(VALUES | changes)
    return run_folds(corpus.manifest, corpus.source(classes=CLASSES), settings, Place(folder, name, folder), count)


def test_each_sample_is_answered_by_who_has_not_seen_it(glad: Any, tmp_path: Path) -> None:
    found = fold(glad, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"one.fold0", "one.fold1"}
    assert set(found.folds) == {"a.png", "b.png", "c.png", "clip.mp4", "e.png", "f.png"}
    assert found.folds["b.png"] == found.folds["f.png"]
    assert set(found.folds.values()) == {0, 1}
    by_id = {sample.sample_id: sample for sample in glad.manifest.samples}
    rows = {sample.sample_id: row for row, sample in enumerate(found.answers.samples)}
    for at, result in enumerate(found.results):
        known = seen.read(result.weights).trained
        held = {name for name, of in found.folds.items() if of == at}
        assert not any(known.has(by_id[name]) for name in held)
        assert all(known.has(by_id[name]) for name, of in found.folds.items() if of != at and name != "c.png")
        of_fold = {s.sample_id: p for s, p in zip(result.answers.samples, result.answers.probabilities, strict=True)}
        for name in held - {"c.png"}:
            assert (found.answers.probabilities[rows[name]] == of_fold[name]).all()
            assert not found.seen[rows[name]]
    means = np.mean([result.answers.probabilities[rows["d.png"]] for result in found.results], 0)
    assert found.answers.probabilities[rows["d.png"]] == pytest.approx(means)
    assert found.seen[rows["twin.png"]], "it is the photo of a.png"
    assert not found.answers.answered[rows["c.png"]], "it has no face"


def test_a_sample_of_no_fold_is_seen(glad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = {"a.png": 0, "b.png": 1, "c.png": 0, "clip.mp4": -1, "e.png": 0, "f.png": 1}
    monkeypatch.setattr(module, "folds_of", lambda samples, count: [of[sample.sample_id] for sample in samples])
    found = fold(glad, tmp_path)
    names = [sample.sample_id for sample in found.answers.samples]
    assert {name for name, has in zip(names, found.seen, strict=True) if has} == {"clip.mp4", "twin.png"}
    shown = accuracy(found.answers, CLASSES, found.seen)
    assert {split: n for split, (_, n) in shown.items()} == {"train": 4, "test": 1}
    written = member("one", 3, found.answers, CLASSES, found.seen)
    assert (written.name, written.kind, written.seed) == ("one-s3", "finetuned", 3)
    assert written.sample_ids == tuple(name for name in names if name != "c.png")
    assert [name for name, has in zip(written.sample_ids, written.seen, strict=True) if has] == ["clip.mp4", "twin.png"]


def test_folds_go_on_from_the_same_folds(glad: Any, tmp_path: Path) -> None:
    first = fold(glad, tmp_path, "first")
    second = fold(glad, tmp_path, "second", start="finetune:first", seed=1)
    for before, after in zip(first.results, second.results, strict=True):
        assert seen.read(after.weights).chain == (seen.sha256_of(before.weights),)
    assert second.results[1].started[0] == "mini_xception starts from fine-tune first.fold1"


def test_a_start_that_has_seen_what_is_held_out_is_refused(glad: Any, tmp_path: Path) -> None:
    settings = FinetuneSettings.model_validate(VALUES)
    whole = run(glad.manifest, glad.source(classes=CLASSES), settings, Place(tmp_path, "whole", tmp_path))
    assert seen_of(whole, whole.answers).sum() == 6, "the training samples with a face, and the twin"
    with pytest.raises(DataError, match=r"fine-tune whole, from which one.fold0 would start, has seen \d of the"):
        fold(glad, tmp_path, start="finetune:whole")
    with pytest.raises(MissingInputError, match="run kuleshov finetune other"):
        fold(glad, tmp_path, start="finetune:other")
    with pytest.raises(SettingError, match="no more than the 5 groups"):
        fold(glad, tmp_path, count=6)


def test_the_network_of_photos_starts_from_its_fold_too(glad: Any, tmp_path: Path) -> None:
    scene: dict[str, Any] = {"backbone": "torchvision:shufflenet_v2_x0_5", "start": "random"}
    plain = FinetuneSettings.model_validate(VALUES | scene | {"unit": "photo"})
    run(glad.manifest, glad.source(classes=CLASSES), plain, Place(tmp_path, "scenes", tmp_path))
    photos: dict[str, Any] = {"photos": scene | {"start": "finetune:scenes"}}
    head: dict[str, Any] = {"unit": "faces", "head": {"kind": "gupta2018:average"}}
    with pytest.raises(DataError, match=r"fine-tune scenes, from which both\.fold0 would start, has seen 3 of the 3"):
        fold(glad, tmp_path, "both", **head, **photos)
    fold(glad, tmp_path, "scenes", **scene, unit="photo")
    found = fold(glad, tmp_path, "both", **head, **photos)
    of_scenes = [seen.read(tmp_path / f"scenes.fold{at}" / "backbone.safetensors").weights for at in (0, 1)]
    assert [result.seen.chain for result in found.results] == [(weights,) for weights in of_scenes]
    assert found.answers.answered.all()
