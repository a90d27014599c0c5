"""A fine-tune from the settings to its folder, on a real store: what is written, what it says it has seen."""

from __future__ import annotations

import csv
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.errors import MissingInputError, SettingError, WeightsError
from stages.finetune import loop, seen
from stages.finetune.run import CHECKPOINT, Place, Result, run
from stages.finetune.settings import FinetuneSettings
from stages.finetune.start import load_finetuned
from stages.index.manifest import Manifest
from stages.ledger import Ledger

VALUES: dict[str, Any] = {
    "backbone": "mini_xception",
    "start": "random",
    "unit": "face",
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.01,
    "device": "cpu",
}


def settings(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate(VALUES | changes)


def tune(corpus: Any, folder: Path, name: str = "one", ledger: Ledger | None = None, **changes: Any) -> Result:
    """The twin of the first photo and the clip are for validation, d.png for the test."""
    splits = {"twin.png": "val", "clip.mp4": "val", "d.png": "test"}
    samples = tuple(
        replace(sample, split=splits.get(sample.sample_id, "train"), group=f"group {sample.sample_id}")
        for sample in corpus.manifest.samples
    )
    source = corpus.source(classes=("calm", "glad"), ledger=ledger or Ledger("finetune"))
    return run(Manifest(samples), source, settings(**changes), Place(folder, name, folder / "weights"))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def glad(corpus: Any) -> Any:
    """Two classes: the sad ones are glad, so that each class has training samples with faces."""
    samples = tuple(
        replace(sample, labels=("glad",) if sample.labels == ("sad",) else sample.labels)
        for sample in corpus.manifest.samples
    )
    return replace(corpus, manifest=Manifest(samples))


def test_what_is_written(glad: Any, tmp_path: Path) -> None:
    ledger = Ledger("finetune")
    result = tune(glad, tmp_path, ledger=ledger)
    folder = tmp_path / "one"
    assert result.weights == folder / "backbone.safetensors"
    assert {path.name for path in folder.iterdir()} == {
        *("backbone.safetensors", "backbone.seen.json", "last_layer.safetensors"),
        *("steps.csv", "epochs.csv", "training.json"),
    }
    assert not ledger.entries, "c.png has no face, which is no failure"
    assert (result.rows, result.left_out, result.trained) == (
        {"train": 3 + 1 + 2 + 1, "val": 3 + 8},
        {"without a face": 1},
        True,
    )
    found = result.answers
    names = ["a.png", "b.png", "c.png", "clip.mp4", "d.png", "e.png", "f.png", "twin.png"]
    assert [sample.sample_id for sample in found.samples] == names
    assert found.answered.tolist() == [name != "c.png" for name in names]
    assert found.probabilities[found.answered].sum(1) == pytest.approx(1)
    assert (found.probabilities[0] == found.probabilities[-1]).all(), "the same photo twice"
    assert len(table(folder / "epochs.csv")) == 1
    mode = stat.S_IMODE((folder / "epochs.csv").stat().st_mode)
    assert stat.S_IMODE(result.weights.stat().st_mode) == mode, "others may read the weights as they may the tables"
    loaded = load_finetuned("mini_xception", result.weights)
    assert sum(value.numel() for value in loaded.parameters()) == 56_951


def test_it_says_what_it_has_seen_and_passes_it_on(glad: Any, tmp_path: Path) -> None:
    contents = {sample.sample_id: sample.content for sample in glad.manifest.samples}
    first = tune(glad, tmp_path, "first", patience=1)
    of_first = seen.read(first.weights)
    assert of_first.trained.contents == {contents[name] for name in ("a.png", "b.png", "e.png", "f.png")}
    names = ("a.png", "b.png", "e.png", "f.png")
    assert of_first.trained.groups == {seen.group_hash(f"group {name}") for name in names}
    assert of_first.stopped.contents == {contents["twin.png"], contents["clip.mp4"]}
    second = tune(glad, tmp_path, "second", start="finetune:first", unit="faces", seed=3)
    of_second = seen.read(second.weights)
    assert of_second.chain == (of_first.weights,)
    assert of_second.stopped == of_first.stopped, "what the first one has seen counts as well"
    assert (of_second.seed, of_second.start, of_second.classes) == (3, "finetune:first", ("calm", "glad"))
    assert second.started == (
        "mini_xception starts from fine-tune first",
        "the last layer is kept from fine-tune first",
    )


def stop_after_an_epoch(patch: pytest.MonkeyPatch) -> None:
    end = loop._Training.end_epoch

    def stopped(self: Any, *sets: Any) -> None:
        end(self, *sets)
        raise KeyboardInterrupt

    patch.setattr(loop._Training, "end_epoch", stopped)


@pytest.mark.parametrize("unit", ["face", "faces"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    glad: Any, tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"unit": unit, "epochs": 2, "batch_size": 2, "augment": {"flip": True}}
    whole = tune(glad, tmp_path / "whole", **changes).weights.read_bytes()

    with monkeypatch.context() as patch:
        stop_after_an_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            tune(glad, tmp_path / "again", **changes)
    assert (tmp_path / "again" / "one" / CHECKPOINT).is_dir()
    assert not (tmp_path / "again" / "one" / "backbone.safetensors").exists()
    assert tune(glad, tmp_path / "again", **changes).weights.read_bytes() == whole
    assert not (tmp_path / "again" / "one" / CHECKPOINT).exists()


def test_answers_follow_the_settings(glad: Any, tmp_path: Path) -> None:
    asked = ({}, {"of": "logits"}, {"largest": 1}, {"mirrored": True})
    found = []
    for number, answer in enumerate(asked):
        result = tune(glad, tmp_path, f"run{number}", answer=answer)
        rows = zip(result.answers.samples, result.answers.probabilities[:, 1].tolist(), strict=True)
        found.append({sample.sample_id: value for sample, value in rows})
    plain = found[0]
    for other in found[1:]:
        assert other["d.png"] != plain["d.png"], "it has four faces"
    assert found[2]["b.png"] == plain["b.png"], "its only face is the largest"
    assert found[1]["b.png"] == pytest.approx(plain["b.png"])
    assert np.isfinite(list(plain.values())).all()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"start": "finetune:one"}, SettingError, "it cannot start from itself"),
        ({"start": "finetune:other"}, MissingInputError, "run kuleshov finetune other"),
        (
            {"start": "weights", "backbone": "resnet_small:18"},
            WeightsError,
            r"resnet_small:18: your own file is not there",
        ),
        ({"unit": "photo"}, SettingError, "sees crops of faces, not whole photos"),
        ({"backbone": "vgg_face"}, MissingInputError, "run kuleshov align"),
        ({"tap": "fc9"}, SettingError, "tap is 'fc9', and mini_xception has feature"),
    ],
)
def test_what_cannot_be(glad: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tune(glad, tmp_path, **changes)


def test_patience_needs_something_to_judge_by(glad: Any, tmp_path: Path) -> None:
    only = replace(glad, manifest=Manifest(tuple(s for s in glad.manifest.samples if s.sample_id != "clip.mp4")))
    without = replace(only, manifest=Manifest(tuple(s for s in only.manifest.samples if s.sample_id != "twin.png")))
    with pytest.raises(SettingError, match="patience is 2, but split val has no sample"):
        tune(without, tmp_path, patience=2)
    assert tune(without, tmp_path).rows == {"train": 7}


def test_a_checkpoint_of_other_samples_is_refused(glad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after_an_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            tune(glad, tmp_path, epochs=2)
    other = replace(glad, manifest=Manifest(tuple(s for s in glad.manifest.samples if s.sample_id != "f.png")))
    with pytest.raises(SettingError, match="data was"):
        tune(other, tmp_path, epochs=2)
    with pytest.raises(SettingError, match="learning_rate was"):
        tune(glad, tmp_path, epochs=2, learning_rate=0.5)


def test_what_is_trained_is_not_trained_again(glad: Any, tmp_path: Path) -> None:
    first = tune(glad, tmp_path)
    written = first.weights.stat().st_mtime_ns
    again = tune(glad, tmp_path, answer={"of": "logits"}, device="auto")
    assert (first.trained, again.trained) == (True, False)
    assert again.weights.stat().st_mtime_ns == written
    assert again.history.plain() == first.history.plain()
    assert again.rows == first.rows
    row = [sample.sample_id for sample in again.answers.samples].index("d.png")
    assert (again.answers.probabilities[row] != first.answers.probabilities[row]).all(), "it is answered in another way"
    same = tune(glad, tmp_path)
    assert (same.answers.probabilities == first.answers.probabilities).all()


@pytest.mark.parametrize("change", ["setting", "label", "photo", "faces", "weights", "gone"])
def test_what_changed_is_trained_again(glad: Any, tmp_path: Path, change: str) -> None:
    before = tune(glad, tmp_path).weights
    if change == "weights":
        before.write_bytes(before.read_bytes()[:-1] + b"x")
    if change == "gone":
        (before.parent / "last_layer.safetensors").unlink()
    other = {
        "label": {"e.png": {"labels": ("glad",)}},
        "photo": {"e.png": {"content": glad.manifest.by_id["d.png"].content}},
    }.get(change, {})
    samples = tuple(replace(sample, **other.get(sample.sample_id, {})) for sample in glad.manifest.samples)
    if change == "faces":  # crops of other detections are not there: that it asks for them is enough
        with pytest.raises(MissingInputError, match="run kuleshov align"):
            tune(replace(glad, detections=replace(glad.detections, key="1" * 64)), tmp_path)
        return
    seed: dict[str, Any] = {"seed": 5} if change == "setting" else {}
    assert tune(replace(glad, manifest=Manifest(samples)), tmp_path, **seed).trained
    assert not tune(replace(glad, manifest=Manifest(samples)), tmp_path, **seed).trained


def test_what_was_seen_is_told_again_where_it_is_lost(glad: Any, tmp_path: Path) -> None:
    first = tune(glad, tmp_path)
    told = seen.place(first.weights)
    before = told.read_bytes()
    for damage in (told.unlink, lambda: told.write_text("{}"), lambda: told.write_bytes(before.replace(b"a", b"b"))):
        damage()
        again = tune(glad, tmp_path)
        assert not again.trained
        assert told.read_bytes() == before


def test_other_groups_are_other_weights_files(glad: Any, tmp_path: Path) -> None:
    """The numbers are the same: the key of the features, and what goes with them, must not be."""
    first = tune(glad, tmp_path)
    content = first.weights.read_bytes()
    source = glad.source(classes=("calm", "glad"), ledger=Ledger("finetune"))
    splits = {"twin.png": "val", "clip.mp4": "val", "d.png": "test"}
    samples = tuple(
        replace(sample, split=splits.get(sample.sample_id, "train"), group="one for all")
        for sample in glad.manifest.samples
    )
    other = run(Manifest(samples), source, settings(), Place(tmp_path, "one", tmp_path / "weights"))
    assert other.trained
    assert other.weights.read_bytes() != content
    assert other.seen.trained.groups == {seen.group_hash("one for all")}
    loaded = [load_finetuned("mini_xception", path) for path in (first.weights, other.weights)]
    assert loaded[0].state_dict().keys() == loaded[1].state_dict().keys()


def test_the_checkpoint_of_another_training_stays(glad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(glad, tmp_path)
    with monkeypatch.context() as patch:
        stop_after_an_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            tune(glad, tmp_path, epochs=2)
    assert not tune(glad, tmp_path).trained
    assert (tmp_path / "one" / CHECKPOINT).is_dir()
    resumed = tune(glad, tmp_path, epochs=2)
    assert resumed.history.gone_on == 2
