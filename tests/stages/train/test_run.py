"""The stage over a made-up store: files, bytes, classes, and what a user can get wrong."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import predictions
from stages.errors import DataError, MissingInputError, SettingError
from stages.ledger import Ledger
from stages.train.features import Features, gather
from stages.train.models import HeadModel, load, save_head
from stages.train.rows import StoredRows
from stages.train.run import TrainedHead, run
from stages.train.settings import TrainSettings
from stages.train.training import schedule_of

Make = Callable[..., TrainSettings]


def train(world: Any, settings: TrainSettings, out: Path) -> list[TrainedHead]:
    return run(world.inputs(), settings, out, Ledger("train"))


def read(out: Path, name: str = "attention_c-s0") -> predictions.Predictions:
    return predictions.read(out / "predictions" / "heads" / f"{name}.csv")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_and_bytes(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    settings = train_settings(("average", "attention_b"), (0, 7))
    trained = train(populated, settings, tmp_path / "one")
    members = ["average-s0", "average-s7", "attention_b-s0", "attention_b-s7"]
    assert [one.name for one in trained] == members
    written = bytes_of(tmp_path / "one")
    assert set(written) == {
        f"{folder}/{name}{ending}"
        for name in members
        for folder, ending in (
            *(("predictions/heads", ".csv"), ("attention/heads", ".csv")),
            *(("models/heads", "/model.json"), ("models/heads", "/head.safetensors")),
        )
    } | {"predictions/folds/folds.csv", "candidates/heads/average.csv", "candidates/heads/attention_b.csv"}
    train(populated, settings, tmp_path / "two")
    assert bytes_of(tmp_path / "two") == written
    assert written["predictions/heads/average-s0.csv"] != written["predictions/heads/average-s7.csv"]


def test_features_that_stay_in_the_store_give_the_same_files(
    populated: Any, train_settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of two sets of blocks share the limit."""
    settings = train_settings(("attention_c",), (0,))
    wide = settings.heads["attention_c"].model_copy(update={"faces": ("resnet29/wide", "resnet29/embedding")})
    settings = settings.model_copy(update={"heads": {**settings.heads, "wide": wide}})
    train(populated, settings, tmp_path / "held")
    asked: list[tuple[int, bool]] = []

    def spy(*arguments: Any, **named: Any) -> Features:
        found = gather(*arguments, **named)
        asked.append((named["held_bytes"], isinstance(found.faces, StoredRows)))
        return found

    monkeypatch.setattr("stages.train.prepared.gather", spy)
    monkeypatch.setattr("stages.train.run.HELD_BYTES", 100)
    train(populated, settings, tmp_path / "stored")
    assert asked == [(50, True), (50, True)]
    assert bytes_of(tmp_path / "stored") == bytes_of(tmp_path / "held")


def test_a_member_does_not_depend_on_the_others(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    """But for rounding, which depends on who is computed beside it."""
    train(populated, train_settings(("average", "attention_b"), (0, 7)), tmp_path / "all")
    train(populated, train_settings(("attention_b",), (7,)), tmp_path / "alone")
    one, other = (read(tmp_path / folder, "attention_b-s7") for folder in ("all", "alone"))
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_an_earlier_run_leaves_nothing(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    train(populated, train_settings(("average",)), tmp_path)
    train(populated, train_settings(("attention_b",)), tmp_path)
    assert not [name for name in bytes_of(tmp_path) if "average" in name]


def test_accuracy_and_loss_are_those_of_the_predictions(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    populated.add("unlabelled", None, "test")
    [one] = train(populated, train_settings(epochs=15, learning_rate=0.01), tmp_path)
    found = read(tmp_path)
    assert set(one.accuracy) == {"train", "val", "test"}
    for split, accuracy in one.accuracy.items():
        rows = [i for i, s in enumerate(found.splits) if s == split and found.labels[i]]
        right = [found.classes[found.probabilities[i].argmax()] == found.labels[i][0] for i in rows]
        assert accuracy == pytest.approx(np.mean(right))
    assert one.accuracy["test"] > 0.9
    assert 0 < one.loss < 0.7


def test_attention_rows_sum_to_one(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    train(populated, train_settings(), tmp_path)
    with open(tmp_path / "attention" / "heads" / "attention_c-s0.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["sample_id", "frame", "face", "weight"]
    assert [row["sample_id"] for row in rows] == sorted(row["sample_id"] for row in rows)
    weights: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        assert row["frame"] == "0"
        assert int(row["face"]) == len(weights[row["sample_id"]])
        weights[row["sample_id"]].append(float(row["weight"]))
    assert {name: len(some) for name, some in weights.items()} == {f"s{i:02d}": i % 4 for i in range(40) if i % 4}
    assert all(sum(some) == pytest.approx(1, abs=1e-5) for some in weights.values())


def test_attention_names_the_stored_face(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    sides = np.array([10, 30, 20])
    populated.add("zz", "calm", boxes=np.stack([0 * sides, 0 * sides, sides, sides], axis=1))
    train(populated, train_settings(max_faces=2), tmp_path)
    lines = (tmp_path / "attention" / "heads" / "attention_c-s0.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines if line.startswith("zz,")] == ["1", "2"]


def test_unlabelled_and_multi_label_samples_are_predicted_only(
    populated: Any, train_settings: Make, tmp_path: Path
) -> None:
    train(populated, train_settings(), tmp_path / "before")
    populated.add("u", None, "train", shift=50)
    populated.add("v", ("calm", "glad"), "train", shift=-50)
    train(populated, train_settings(), tmp_path / "after")
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    assert after.sample_ids == (*before.sample_ids, "u", "v")
    assert after.labels[-2:] == ((), ("calm", "glad"))
    np.testing.assert_allclose(after.probabilities[:40], before.probabilities, atol=1e-6)


def test_a_class_of_the_test_split_has_a_column(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    populated.add("only", "awed", "test")
    train(populated, train_settings(), tmp_path)
    found = read(tmp_path)
    assert found.classes == ("awed", "calm", "glad")
    assert found.labels[0] == ("awed",)


def test_a_label_that_occurs_once(world: Any, train_settings: Make, tmp_path: Path) -> None:
    for i in range(8):
        world.add(f"s{i}", "calm")
    world.add("z", "glad")
    train(world, train_settings(), tmp_path)  # 9 rows in batches of 8: the last one joins the others
    assert read(tmp_path).classes == ("calm", "glad")


@pytest.mark.parametrize("label", ["calm", None, ("calm", "glad")])
def test_one_class_is_an_error(world: Any, train_settings: Make, tmp_path: Path, label: Any) -> None:
    for i in range(4):
        world.add(f"s{i}", "calm")
    world.add("other", label)
    world.add("elsewhere", "glad", "test")
    with pytest.raises(DataError, match=r"fewer than two classes \(calm\)"):
        train(world, train_settings(), tmp_path)


def test_one_class_with_features_is_an_error(world: Any, train_settings: Make, tmp_path: Path) -> None:
    world.add("a", "calm")
    world.add("b", "calm")
    world.add("c", "glad", globals_=False)
    with pytest.raises(DataError, match=r"features of fewer than two classes \(calm\)"):
        train(world, train_settings(), tmp_path)


def test_two_training_samples_are_enough(world: Any, train_settings: Make, tmp_path: Path) -> None:
    world.add("a", "calm")
    world.add("b", "glad", count=0)
    assert len(train(world, train_settings(), tmp_path)) == 1


def test_missing_features_go_to_the_ledger(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    populated.add("x", "calm", globals_=False)
    populated.fail("y", "glad")
    ledger = Ledger("train")
    run(populated.inputs(), train_settings(("average", "attention_b")), tmp_path, ledger)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"x": "no_features", "y": "truncated"}
    assert not {"x", "y"} & set(read(tmp_path, "average-s0").sample_ids)


def test_an_error_leaves_the_earlier_run(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    train(populated, train_settings(), tmp_path)
    before = bytes_of(tmp_path)
    inputs = populated.inputs()
    empty = replace(inputs, store=type(inputs.store)(tmp_path / "empty"))
    with pytest.raises(MissingInputError, match=r"run kuleshov extract resnet29$"):
        run(empty, train_settings(), tmp_path, Ledger("train"))
    after = bytes_of(tmp_path)
    assert before == {name: after[name] for name in before}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"faces": ["resnet50/embedding"]}, r"train\.heads\.attention_c: 'resnet50/embedding' is not extracted"),
        ({"faces": ["resnet29/logits"]}, r"gives effnet_lite0/pooled, effnet_lite0/map, resnet29/embedding"),
        ({"faces": ["effnet_lite0/pooled"]}, r"is a global block of shape \(5,\): it cannot be in faces"),
        ({"global": ["resnet29/embedding"]}, r"is a face block of shape \(6,\): it cannot be in global"),
        ({"global": ["effnet_lite0/map"]}, r"shape \(2, 3, 3\): it cannot be in global"),
        ({"kind": "gupta2018:attention_d"}, r"'gupta2018:attention_d': use one of gupta2018:average"),
        ({"learning_rate": 1e30}, r"loss of attention_c-s0 is (nan|inf) in epoch \d; lower its learning_rate"),
    ],
)
def test_bad_settings(populated: Any, train_settings: Make, tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        train(populated, train_settings(**changes), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({"learning_rate": 0.01}, {"epochs": 4}, {"batch_size": 4}, {"dropout": 0.1}, {"momentum": 0.0}),
        *({"weight_decay": 0.5}, {"step": 1}, {"standardize": False}, {"max_faces": 1}, {"faces": ["resnet29/wide"]}),
    ],
    ids=str,
)
def test_every_setting_matters(populated: Any, train_settings: Make, tmp_path: Path, changes: Any) -> None:
    train(populated, train_settings(), tmp_path / "one")
    train(populated, train_settings(**changes), tmp_path / "two")
    assert np.abs(read(tmp_path / "one").probabilities - read(tmp_path / "two").probabilities).max() > 1e-6


def test_a_test_row_changes_nothing_but_its_own_answer(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    """Above all not what features are standardized with."""
    populated.add("t", "calm", "test", count=1, shift=3)
    train(populated, train_settings(), tmp_path / "one")
    populated.samples.pop()
    populated.add("t", "calm", "test", count=1, shift=90, content="e" * 64)
    train(populated, train_settings(), tmp_path / "two")
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    np.testing.assert_allclose(one.probabilities[:-1], two.probabilities[:-1], atol=1e-6)
    assert not np.allclose(one.probabilities[-1], two.probabilities[-1])
    name = Path("models", "heads", "attention_c-s0", "head.safetensors")
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_schedules_left_open_are_the_papers(train_settings: Make) -> None:
    settings = train_settings(("average", "attention_a"), epochs=None, step=None)
    (epochs, schedule), (more, slower) = (schedule_of(head) for head in settings.heads.values())
    assert (epochs, schedule.every, more, slower.every) == (16, 5, 27, 9)
    assert (schedule.kind, schedule.unit, schedule.gamma) == ("steps", "epoch", 0.1)


def test_the_model_is_pinned_to_what_played_the_role(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    """A stand-in in training stays one in prediction, also where the other's weights have come since."""
    inputs = populated.inputs()
    stand_in = inputs.extract.backbones["resnet29"].model_copy(
        update={"backbone": "expression", "stand_in": "resnet29"}
    )
    extract = inputs.extract.model_copy(
        update={"backbones": {**inputs.extract.backbones, "resnet29": stand_in, "unused": stand_in}}
    )
    run(populated.inputs(extract=extract), train_settings(), tmp_path, Ledger("train"))
    [model] = load(tmp_path / "models" / "heads" / "attention_c-s0").members
    assert set(model.extract.backbones) == {"resnet29", "effnet_lite0"}
    assert model.extract.backbones["resnet29"].backbone == "resnet29"
    assert model.extract.backbones["resnet29"].stand_in is None
    assert model.weights["resnet29"]["sha256"] == "a" * 64


def test_a_training_that_breaks_off_leaves_the_earlier_run(
    populated: Any, train_settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some heads were written, as Ctrl-C does."""
    train(populated, train_settings(("average", "attention_b")), tmp_path)
    before = bytes_of(tmp_path)
    written: list[str] = []

    def stop(folder: Path, model: HeadModel) -> None:
        written.append(model.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        save_head(folder, model)

    monkeypatch.setattr("stages.train.run.save_head", stop)
    with pytest.raises(KeyboardInterrupt):
        train(populated, train_settings(("attention_c", "attention_a")), tmp_path)
    assert len(written) == 2
    assert bytes_of(tmp_path) == before


def test_samples_of_several_labels_and_a_loss_of_one(world: Any, train_settings: Make, tmp_path: Path) -> None:
    for i in range(4):
        world.add(f"s{i}", ("calm", "glad"))
    said = r"two classes \(none\): 4 samples have several labels, .*use loss: \{kind: kl\} or \{kind: multi_label"
    with pytest.raises(DataError, match=said):
        train(world, train_settings(), tmp_path)


def test_patience_tells_whose_weights_are_kept(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    [head] = train(populated, train_settings(patience=1, epochs=40, learning_rate=0.3), tmp_path)
    assert head.epoch is not None
    assert 1 <= head.epoch < 40
    [other] = train(populated, train_settings(), tmp_path)
    assert other.epoch is None
