"""Grids: which candidate a head becomes and by which samples, folds, and what large grids say first."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cache.keys import item_key
from stages import predictions
from stages.errors import DataError, SettingError
from stages.heads.loss_settings import LossSettings
from stages.index.folds import folds_of
from stages.ledger import Ledger
from stages.train import choosing, training
from stages.train.choosing import Tried, best_of, score_name
from stages.train.judging import judge
from stages.train.run import TrainedHead, run
from stages.train.settings import ChooseSettings, HeadSettings, TrainSettings

HEAD = {
    "kind": "gupta2018:average",
    "faces": ["resnet29/embedding"],
    "global": ["effnet_lite0/pooled"],
    "epochs": 3,
    "batch_size": 8,
}


def settings(changes: dict[str, Any], seeds: Sequence[int] = (0, 1), **others: Any) -> TrainSettings:
    return TrainSettings.model_validate({"seeds": list(seeds), "heads": {"h": {**HEAD, **changes}}, **others})


def train(world: Any, wanted: TrainSettings, out: Path, **others: Any) -> list[TrainedHead]:
    out.mkdir(exist_ok=True)
    return run(world.inputs(), wanted, out, Ledger("train"), **others)


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "candidates" / "heads" / "h.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def table_of(out: Path) -> list[Path]:
    return list((out / "candidates" / "heads").iterdir())


def answers(out: Path, name: str = "h-s0", folder: str = "heads") -> predictions.Predictions:
    return predictions.read(out / "predictions" / folder / f"{name}.csv", "head")


GRID = {"grid": {"learning_rate": [1e-9, 0.03], "weight_decay": [0.0, 1e-3]}}


@pytest.mark.parametrize("choose", [{"by": "val"}, {"by": "folds", "folds": 3}], ids=["val", "folds"])
def test_the_best_candidate_is_the_head(populated: Any, tmp_path: Path, choose: dict[str, Any]) -> None:
    """And what it is, is what its settings alone give, to rounding."""
    [one, _] = train(populated, settings({**GRID, "epochs": 10}, choose=choose), tmp_path / "grid")
    rows = table(tmp_path / "grid")
    assert [row["candidate"] for row in rows] == ["0", "1", "2", "3"]
    assert [(row["learning_rate"], row["weight_decay"]) for row in rows][:2] == [("1e-09", "0.0"), ("1e-09", "0.001")]
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["learning_rate"] == "0.03"
    assert float(chosen["score"]) == max(float(row["score"]) for row in rows)
    runs, n = ("2", 10) if choose["by"] == "val" else ("6", 20)
    assert {row["runs"] for row in rows} == {runs}
    assert {row["n"] for row in rows} == {str(n)}
    assert one.choice is not None
    where = "split val" if choose["by"] == "val" else "3 folds of split train"
    assert f"best of 4 candidates by accuracy on {where}" in one.choice.said
    assert f"n = {n})" in one.choice.said
    alone = {"learning_rate": 0.03, "weight_decay": float(chosen["weight_decay"]), "epochs": 10}
    train(populated, settings(alone), tmp_path / "alone")
    np.testing.assert_allclose(
        answers(tmp_path / "grid").probabilities, answers(tmp_path / "alone").probabilities, atol=1e-5
    )
    [only] = table(tmp_path / "alone")
    assert (only["candidate"], only["score"], only["by"], only["chosen"]) == ("0", "", "", "yes")


def test_no_candidate_sees_the_reported_split(populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def spy(score: str, probabilities: np.ndarray, targets: np.ndarray, *others: Any) -> tuple[float, float]:
        seen.append({str(len(targets))})
        return judge(score, probabilities, targets, *others)

    monkeypatch.setattr("stages.train.tasks.judge", spy)
    train(populated, settings(GRID), tmp_path / "one")
    assert seen == [{"10"}] * 8  # 4 candidates, 2 seeds, the 10 samples of split val
    before = table(tmp_path / "one")
    for i, sample in enumerate(populated.samples):
        if sample.split == "test":
            populated.samples[i] = replace(sample, labels=("calm",) if sample.labels == ("glad",) else ("glad",))
    train(populated, settings(GRID), tmp_path / "two")
    assert table(tmp_path / "two") == before


def test_choosing_by_what_is_reported_is_refused(populated: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"heads\.h\.grid chooses by split val, and evaluate\.split is val"):
        train(populated, settings(GRID), tmp_path, judged="val")
    with pytest.raises(SettingError, match=r"heads\.h\.patience chooses by split val"):
        train(populated, settings({"patience": 2}), tmp_path, judged="val")
    train(populated, settings(GRID, choose={"by": "folds", "folds": 2}), tmp_path, judged="val")


def test_a_val_split_without_labels_cannot_choose(populated: Any, tmp_path: Path) -> None:
    populated.samples[:] = [s for s in populated.samples if s.split != "val"]
    with pytest.raises(
        DataError, match=r"h\.grid chooses by split val, which has no labelled sample .*choose\.by: folds"
    ):
        train(populated, settings(GRID), tmp_path)


def test_out_of_fold_answers(populated: Any, tmp_path: Path) -> None:
    """Every training sample is answered by a head that was trained without it, and its group."""
    for i, sample in enumerate(populated.samples):
        populated.samples[i] = replace(sample, group=f"g{i // 8}-{sample.split}")
    wanted = settings({"learning_rate": 0.03, "epochs": 10}, folds=4)
    train(populated, wanted, tmp_path / "one")
    found = answers(tmp_path / "one", folder="folds")
    mine = [s for s in populated.samples if s.split == "train"]
    assert found.sample_ids == tuple(sorted(s.sample_id for s in mine))
    assert set(found.splits) == {"train"}
    with open(tmp_path / "one" / "predictions" / "folds" / "folds.csv", newline="", encoding="utf-8") as handle:
        said = {row["sample_id"]: int(row["fold"]) for row in csv.DictReader(handle) if row["head"] == "h"}
    assert said == dict(zip([s.sample_id for s in mine], folds_of(mine, 4), strict=True))
    within = answers(tmp_path / "one").picked([split == "train" for split in answers(tmp_path / "one").splits])
    assert np.abs(found.probabilities - within.probabilities).max() > 1e-3
    # Another label of a held-out sample changes the others' answers, and not those of its own fold.
    folds = dict(zip([s.sample_id for s in mine], folds_of(mine, 4), strict=True))
    place = next(i for i, s in enumerate(populated.samples) if s.sample_id == mine[3].sample_id)
    other = replace(populated.samples[place], labels=("calm" if mine[3].labels == ("glad",) else "glad",))
    populated.samples[place] = other
    again = folds_of([s for s in populated.samples if s.split == "train"], 4)
    assert list(folds.values()) == again
    train(populated, wanted, tmp_path / "two")
    changed = np.abs(answers(tmp_path / "two", folder="folds").probabilities - found.probabilities).max(1)
    own = np.array([folds[one] == folds[mine[3].sample_id] for one in found.sample_ids])
    assert changed[own].max() < 1e-5 < 1e-3 < changed[~own].max()


def test_a_grid_goes_over_options_loss_and_kinds_of_training(populated: Any, tmp_path: Path) -> None:
    grid = {"loss.kind": ["cross_entropy", "focal"], "optimiser": ["sgd", "adam"], "dropout": [0.0, 0.5]}
    train(populated, settings({"grid": grid}), tmp_path)
    rows = table(tmp_path)
    assert len(rows) == 8
    assert len({row["loss"] for row in rows}) == 8  # each was trained in its own way


def test_candidates_that_break_down_lose(populated: Any, tmp_path: Path) -> None:
    [one, _] = train(populated, settings({"grid": {"learning_rate": [1e30, 0.01]}}), tmp_path)
    assert one.choice is not None
    assert one.choice.best == 1
    assert table(tmp_path)[0]["score"] == "nan"
    with pytest.raises(SettingError, match=r"heads\.h\.grid: the loss of every candidate is NaN or infinite"):
        train(populated, settings({"grid": {"learning_rate": [1e30, 1e31]}}), tmp_path)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"learning_rate": []}, r"grid\.learning_rate is empty"),
        ({"learning_rate": [0.1, -1]}, r"grid\.learning_rate: Input should be greater than 0"),
        ({"lr": [1]}, r"grid\.lr: there is no such setting to try"),
        ({"grid": [1]}, r"grid\.grid: there is no such setting"),
        ({"kind.x": [1]}, r"grid\.kind\.x: there is no such setting"),
        ({"loss.gamma": [2.0]}, r"grid\.loss: gamma is 2 and kind is cross_entropy"),
        ({"start": ["finetune:a"]}, r"grid\.start: there is no such setting to try"),
        ({"loss.kind": ["cross_entropy", "kl"]}, r"grid\.loss\.kind: kl is of samples of several labels, .*two heads"),
        ({"dropout": [0.5, 0.2, 0.5]}, r"grid\.dropout has a value twice: 0\.5, 0\.2, 0\.5"),
    ],
    ids=str,
)
def test_bad_grids(grid: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HeadSettings.model_validate({**HEAD, "grid": grid})


def test_an_option_that_the_head_has_not(populated: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"train\.heads\.h\.options\.width of head gupta2018:average: .*it has none"):
        train(populated, settings({"grid": {"options.width": [1, 2]}}), tmp_path)


RATES, DECAYS = [0.001 * (1 + i) for i in range(100)], [1e-6 * i for i in range(50)]
LARGE = {"grid": {"learning_rate": RATES, "weight_decay": DECAYS}}


def test_a_large_grid_says_its_size_and_time_first(populated: Any, tmp_path: Path) -> None:
    said: list[str] = []

    class Stopped(Exception):
        pass

    def say(line: str) -> None:
        said.append(line)
        raise Stopped

    with pytest.raises(Stopped):
        train(populated, settings(LARGE), tmp_path, say=say, processes=1)
    form = r"train: 10002 heads \(5000 candidates, 2 seeds\): about \d+ (s|min) in 1 process"
    assert re.fullmatch(form, said[0]), said
    assert not (tmp_path / "candidates").exists()


@pytest.mark.soak
def test_ten_thousand_heads(populated: Any, tmp_path: Path) -> None:
    said: list[str] = []
    start = time.monotonic()
    train(populated, settings(LARGE), tmp_path, say=said.append)
    print(said, f"took {time.monotonic() - start:.0f} s")
    rows = table(tmp_path)
    assert len(rows) == 5000
    assert sum(bool(row["chosen"]) for row in rows) == 1


def test_grids_are_trained_part_by_part(populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = settings({"grid": {"learning_rate": [0.001, 0.003, 0.01, 0.03]}})
    train(populated, wanted, tmp_path / "whole")
    monkeypatch.setattr(training, "PARAMETERS", 1)
    train(populated, wanted, tmp_path / "parts")
    for one, other in zip(table(tmp_path / "whole"), table(tmp_path / "parts"), strict=True):
        assert one["score"] == other["score"]
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=1e-5)


def test_processes_change_no_bit(populated: Any, tmp_path: Path) -> None:
    wanted = settings({"grid": {"learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1]}})
    for number in (1, 2):
        train(populated, wanted, tmp_path / str(number), processes=number)
    assert table(tmp_path / "1") == table(tmp_path / "2")
    assert np.array_equal(answers(tmp_path / "1").probabilities, answers(tmp_path / "2").probabilities)


@pytest.mark.parametrize("what", ["group", "content"])
def test_groups_and_files_on_both_sides(populated: Any, tmp_path: Path, what: str) -> None:
    train_one, test_one = populated.samples[0], populated.samples[6]
    assert (train_one.split, test_one.split) == ("train", "test")
    if what == "group":
        for place in (0, 6):
            populated.samples[place] = replace(populated.samples[place], group="film 1")
    else:
        populated.add("twin", "calm", "test", content=train_one.content)
    shared = "group 'film 1'" if what == "group" else "the file's content"
    with pytest.raises(DataError, match=rf"1 samples of split train .* s00 shares {shared} .* train\.overlap"):
        train(populated, settings({}), tmp_path)
    train(populated, settings({}, overlap="leave_out"), tmp_path / "out")
    populated.samples[0] = replace(populated.samples[0], labels=())  # known to be apart: not trained on
    train(populated, settings({}), tmp_path / "unlabelled")
    one, other = answers(tmp_path / "out"), answers(tmp_path / "unlabelled")
    np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_a_group_in_train_and_val_is_refused_where_val_chooses(populated: Any, tmp_path: Path) -> None:
    for place in (0, 4):
        populated.samples[place] = replace(populated.samples[place], group="film 1")
    assert populated.samples[4].split == "val"
    train(populated, settings({}), tmp_path)
    with pytest.raises(DataError, match="group 'film 1' with s04 of split val"):
        train(populated, settings(GRID), tmp_path)


def test_features_that_are_no_number_go_to_the_ledger(populated: Any, tmp_path: Path) -> None:
    for spec, key, rows in populated.waiting:
        if key == item_key(populated.samples[6].content) and spec.level == "global":
            rows[0, 2] = np.nan
    ledger = Ledger("train")
    run(populated.inputs(), settings({}), tmp_path, ledger)
    assert ledger.entries["s06"] == ("no_number", "a feature is NaN or infinite; extract or import it again")
    assert len(ledger) == 1
    found = answers(tmp_path)
    assert len(found) == 39
    assert np.isfinite(found.probabilities).all()


def test_scores_by_hand() -> None:
    odds = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    targets = np.array([0, 1, 1, 2])
    loss = -np.log([0.7, 0.8, 0.3, 0.5]).mean()
    focal = LossSettings(kind="focal")  # whatever it was trained with, plain cross entropy is compared

    def of(score: str) -> tuple[float, float]:
        return judge(score, odds, targets, np.log(odds), focal)

    assert of("accuracy") == pytest.approx((0.75, loss))
    assert of("balanced_accuracy")[0] == pytest.approx((1 + 0.5 + 1) / 3)
    assert of("macro_f1")[0] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert of("loss") == pytest.approx((loss, loss))
    assert np.isnan(judge("accuracy", odds * np.nan, targets, odds, focal)).all()
    few = judge("balanced_accuracy", odds[:2], targets[:2] * 0, odds, focal)  # class 1 is answered and not there
    assert few[0] == 0.5


def test_scores_of_several_labels_by_hand() -> None:
    """The loss is the head's own: that of `kl` does not see what is added to all logits."""
    several, logits = np.array([[1, 0], [1, 1], [0, 1.0]]), np.array([[2, -2], [-1.5, 1.5], [-0.5, 1]])
    odds = 1 / (1 + np.exp(-logits))
    value, _ = judge("mean average precision", odds, several, logits, LossSettings(kind="kl"))
    assert value == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    log_q = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = several / several.sum(1, keepdims=True)
    kl = (wanted * (np.log(np.maximum(wanted, 1e-300)) - log_q)).sum(1).mean()
    for shift in (0, 3):
        assert judge("loss", odds, several, logits + shift, LossSettings(kind="kl")) == pytest.approx((kl, kl))
    binary = -(several * np.log(odds) + (1 - several) * np.log(1 - odds)).mean()
    assert judge("loss", odds, several, logits, LossSettings(kind="multi_label"))[1] == pytest.approx(binary)


def test_losses_of_several_labels_are_not_compared_with_each_other() -> None:
    choose = ChooseSettings(score="loss")
    assert score_name("h", choose, True, {"kl"}) == "loss"
    assert score_name("h", choose, False, {"focal", "cross_entropy"}) == "loss"
    with pytest.raises(SettingError, match=r"score is loss, and train\.heads\.h\.grid tries kl and multi_label"):
        score_name("h", choose, True, {"kl", "multi_label"})
    with pytest.raises(SettingError, match=r"score is macro_f1, and train\.heads\.h has a grid .* use auto or loss"):
        score_name("h", ChooseSettings(score="macro_f1"), True, {"kl"})
    both = [Tried({}, [0.5], [2.0]), Tried({}, [0.5], [1.0])]
    assert best_of("h", both, "mean average precision") == 1
    assert best_of("h", both, "mean average precision", by_loss=False) == 0


def test_ties_go_to_the_lower_loss_then_to_the_first() -> None:
    def tried(score: float, loss: float) -> Tried:
        return Tried({}, [score], [loss])

    assert best_of("h", [tried(0.5, 1.0), tried(0.9, 1.0), tried(0.9, 0.5), tried(0.9, 0.5)], "accuracy") == 2
    assert best_of("h", [tried(0.5, 0.5), tried(0.4, 0.4)], "loss") == 1
    assert choosing.Tried({}, [0.5, 0.7]).deviation == pytest.approx(np.std([0.5, 0.7], ddof=1))


def test_a_table_of_candidates_says_what_was_chosen(populated: Any, tmp_path: Path) -> None:
    [one, _] = train(populated, settings(GRID), tmp_path)
    [(name, chosen)] = choosing.read_all(tmp_path / "candidates" / "heads").items()
    assert one.choice is not None
    best = {key: str(value) for key, value in one.choice.tried[one.choice.best].values.items()}
    assert (name, chosen.candidates, chosen.by, chosen.n) == ("h", 4, "accuracy on split val", 10)
    assert chosen.values == best
    (tmp_path / "candidates" / "heads" / "h.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"h\.csv is no table of candidates .*kuleshov train"):
        choosing.read_all(tmp_path / "candidates" / "heads")
