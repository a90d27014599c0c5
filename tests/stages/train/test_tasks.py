"""What candidates are judged by: nothing that was seen, and the same samples for all."""

from __future__ import annotations

import csv
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import predictions
from stages.errors import DataError, SettingError
from stages.extract.notes import SEEN
from stages.finetune.seen import Rows, Seen, encode
from stages.heads import registry
from stages.ledger import Ledger
from stages.train import run as stage
from stages.train.run import TrainedHead, run
from stages.train.settings import HeadSettings, TrainSettings
from stages.train.starts import HeadStart

HEAD = {
    "kind": "gupta2018:average",
    "faces": ["resnet29/embedding"],
    "global": ["effnet_lite0/pooled"],
    "epochs": 2,
    "batch_size": 8,
}
RATES = {"learning_rate": [0.001, 0.01]}


def train(world: Any, out: Path, changes: dict[str, Any], judged: str = "test", **others: Any) -> list[TrainedHead]:
    head = HEAD | changes
    settings = TrainSettings.model_validate({"seeds": [0], "heads": {"h": head}, **others})
    return run(world.inputs(), settings, out, Ledger("train"), judged)


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "candidates" / "heads" / "h.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def seen(world: Any, names: Sequence[str]) -> Seen:
    trained = Rows.of([sample for sample in world.samples if sample.sample_id in names])
    return Seen("a" * 64, trained, Rows(), {}, None, ("calm", "glad"), 0, "weights")


def of_split(world: Any, split: str) -> list[str]:
    return [sample.sample_id for sample in world.samples if sample.split == split]


def with_start(world: Any, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> dict[str, Any]:
    """A head starts from a fine-tune that has seen these samples."""
    torch.manual_seed(0)
    state = registry.build("gupta2018:average", registry.Shapes(6, 5), 2, 0.5).state_dict()
    start = HeadStart(Path("head.safetensors"), state, seen(world, names))
    monkeypatch.setattr(stage, "read_start", lambda *_: start)
    return {"start": "finetune:joint", "standardize": False}


def test_a_start_that_has_seen_val_does_not_choose_by_it(
    populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    val = of_split(populated, "val")
    started = with_start(populated, monkeypatch, val[:4])
    [one] = train(populated, tmp_path, {**started, "grid": RATES})
    assert one.choice is not None
    assert one.choice.n == len(val) - 4
    started = with_start(populated, monkeypatch, val)
    with pytest.raises(
        DataError, match=r"h\.grid chooses by split val, which has no labelled sample .*choose\.by: folds"
    ):
        train(populated, tmp_path, {**started, "grid": RATES})
    with pytest.raises(DataError, match=r"h\.patience chooses by split val, .* leave it out"):
        train(populated, tmp_path, {**started, "patience": 2})


def test_patience_does_not_look_at_what_the_start_has_seen(
    populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their labels change nothing."""
    val = of_split(populated, "val")
    found = []
    for turn in range(2):
        started = with_start(populated, monkeypatch, val[:4])
        train(populated, tmp_path / str(turn), {**started, "patience": 1, "epochs": 12, "learning_rate": 0.05})
        answered = predictions.read(tmp_path / str(turn) / "predictions" / "heads" / "h-s0.csv", "head")
        found.append(answered.probabilities)
        for i, sample in enumerate(populated.samples):
            if sample.sample_id in val[:4]:
                populated.samples[i] = replace(sample, labels=("glad",) if sample.labels == ("calm",) else ("calm",))
    np.testing.assert_array_equal(*found)


def test_a_start_must_fit_every_candidate(populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(stage, "read_start", lambda name, head, *_: asked.append(head.kind))
    grid = {"kind": ["gupta2018:average", "gupta2018:attention_c"], **RATES}
    train(populated, tmp_path, {"start": "finetune:joint", "standardize": False, "grid": grid})
    assert sorted(asked) == ["gupta2018:attention_c", "gupta2018:average"]  # once each, of four candidates


def test_patience_in_a_grid_looks_at_val_too(populated: Any, tmp_path: Path) -> None:
    grid = {"grid": {"patience": [1, 2]}, "epochs": 3}
    folds: dict[str, Any] = {"choose": {"by": "folds", "folds": 2}}
    with pytest.raises(SettingError, match=r"heads\.h\.patience chooses by split val, and evaluate\.split is val"):
        train(populated, tmp_path, grid, judged="val", **folds)
    for place in (0, 4):
        populated.samples[place] = replace(populated.samples[place], group="film 1")
    with pytest.raises(DataError, match="group 'film 1' with s04 of split val"):
        train(populated, tmp_path, grid, **folds)


def test_blocks_that_only_a_grid_names_must_not_have_seen_what_is_reported(populated: Any, tmp_path: Path) -> None:
    spec = populated.inputs().plans["resnet29"].blocks["wide"]
    populated.store.writer(spec, notes={SEEN: encode(seen(populated, of_split(populated, "test")[:3]))})
    grid = {"grid": {"faces": [["resnet29/embedding"], ["resnet29/wide"]]}}
    assert HeadSettings.model_validate(HEAD | grid).blocks == (
        "resnet29/embedding",
        "effnet_lite0/pooled",
        "resnet29/wide",
    )
    only = HeadSettings.model_validate(HEAD | {"grid": {"faces": [["resnet29/wide"]]}})
    assert only.blocks == ("resnet29/wide", "effnet_lite0/pooled")
    with pytest.raises(DataError, match=r"train\.heads\.h: .*resnet29 has seen 3 of the 10"):
        train(populated, tmp_path, grid)
    train(populated, tmp_path, {"grid": {"faces": [["resnet29/embedding"]]}})


@pytest.mark.parametrize("choose", [{"by": "val"}, {"by": "folds", "folds": 2}], ids=["val", "folds"])
def test_candidates_are_judged_by_the_same_samples(populated: Any, tmp_path: Path, choose: dict[str, Any]) -> None:
    """Where one lacks the features of some."""
    lost = {"val": of_split(populated, "val")[:3], "train": of_split(populated, "train")[:2]}
    gone = {populated.items[name][0].key for names in lost.values() for name in names}
    populated.waiting[:] = [one for one in populated.waiting if one[0].tap != "wide" or one[1] not in gone]
    faces = sum(bool(len(populated.faces[name]["wide"])) for name in lost[choose["by"].replace("folds", "train")])
    assert faces
    grid = {"grid": {"faces": [["resnet29/embedding"], ["resnet29/wide"]]}}
    [one] = train(populated, tmp_path, grid, choose=choose)
    assert one.choice is not None
    every = 10 if choose["by"] == "val" else 20
    assert one.choice.n == every - faces


def test_values_of_a_grid_that_do_not_go_together(populated: Any, tmp_path: Path) -> None:
    grid = {"loss.kind": ["cross_entropy", "focal"], "loss.smoothing": [0.0, 0.1]}
    with pytest.raises(SettingError, match=r"train\.heads\.h\.grid\.loss: smoothing is 0\.1 .*do not go together"):
        train(populated, tmp_path, {"grid": grid})


def test_a_setting_that_is_called_as_a_column(populated: Any, tmp_path: Path) -> None:
    train(populated, tmp_path, {"grid": {"loss": [{"kind": "focal"}, {"smoothing": 0.1}]}})
    rows = rows_of(tmp_path)
    assert [row["train.loss"] for row in rows] == ["{'kind': 'focal'}", "{'smoothing': 0.1}"]
    assert all(float(row["loss"]) > 0 for row in rows)


@pytest.mark.parametrize("how", [{"folds": 4}, {"choose": {"by": "folds", "folds": 4}}], ids=["folds", "choose"])
def test_fewer_groups_than_folds(populated: Any, tmp_path: Path, how: dict[str, Any]) -> None:
    for i, sample in enumerate(populated.samples):
        populated.samples[i] = replace(sample, group=f"{i % 3}-{sample.split}")
    (tmp_path / "predictions" / "heads").mkdir(parents=True)
    (tmp_path / "predictions" / "heads" / "old.csv").touch()
    with pytest.raises(SettingError, match=r"train\.heads\.h: folds is 4: .*no more than the 3 groups .*train\.folds"):
        train(populated, tmp_path, {"grid": RATES}, **how)
    assert (tmp_path / "predictions" / "heads" / "old.csv").exists()


def test_names_that_begin_alike_have_files_of_their_own(populated: Any, tmp_path: Path) -> None:
    heads = {name: HEAD | {"learning_rate": 0.01 * (i + 1)} for i, name in enumerate(("a", "a-b", "a-b-s", "a.csv"))}
    settings = TrainSettings.model_validate({"seeds": [0, 10], "heads": heads, "folds": 2})
    lines = run(populated.inputs(), settings, tmp_path, Ledger("train"))
    assert [line.name for line in lines] == [f"{name}-s{seed}" for name in heads for seed in (0, 10)]
    for folder in ("predictions/heads", "attention/heads", "models/heads"):
        assert len(list((tmp_path / folder).iterdir())) == 8
    assert len(list((tmp_path / "predictions" / "folds").iterdir())) == 9
    assert len(list((tmp_path / "candidates" / "heads").iterdir())) == 4


def test_a_fold_of_several_labels_is_judged(populated: Any, tmp_path: Path) -> None:
    for i, sample in enumerate(populated.samples):
        if i % 5 == 0:
            populated.samples[i] = replace(sample, labels=("calm", "glad"))
    grid = {"loss": {"kind": "kl"}, "grid": RATES}
    [one] = train(populated, tmp_path, grid, choose={"by": "folds", "folds": 3, "score": "loss"})
    assert one.choice is not None
    assert one.choice.by == "loss on 3 folds of split train"
    assert all(0 < float(row["loss"]) == float(row["score"]) for row in rows_of(tmp_path))
    mixed = {"loss": {"kind": "kl"}, "grid": {"loss.kind": ["kl", "multi_label"]}}
    train(populated, tmp_path, mixed)
    with pytest.raises(SettingError, match=r"train\.heads\.h\.grid tries kl and multi_label"):
        train(populated, tmp_path, mixed, choose={"score": "loss"})


def test_heads_are_written_as_they_are_done(populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of many tasks would not fit in memory."""
    monkeypatch.setattr("stages.train.training.PARAMETERS", 1)
    alive, most = list[weakref.ref[Any]](), [0]
    finish = stage._finish

    def spy(inputs: Any, trained: Any, *others: Any) -> TrainedHead:
        alive.append(weakref.ref(trained.module))
        gc.collect()
        most[0] = max(most[0], sum(one() is not None for one in alive))
        return finish(inputs, trained, *others)

    monkeypatch.setattr(stage, "_finish", spy)
    heads = {f"h{i}": HEAD for i in range(8)}
    settings = TrainSettings.model_validate({"seeds": [0, 1], "heads": heads})
    run(populated.inputs(), settings, tmp_path, Ledger("train"))
    assert len(alive) == 16
    assert most[0] <= 4  # the seeds of one, and of the one before
