"""Heads that leave out a subset of the training split, beside heads that do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import predictions
from stages.errors import DataError, SettingError
from stages.ledger import Ledger
from stages.train.run import LEFT_OUT, TrainedHead, run
from stages.train.settings import HeadSettings, TrainSettings

Make = Callable[..., TrainSettings]


def of_subset(world: Any, name: str, which: Callable[[int], bool]) -> None:
    """Give training samples a subset, and features that would move means and deviations."""
    world.samples[:] = [
        replace(one, subset=name) if one.split == "train" and which(i) else one for i, one in enumerate(world.samples)
    ]


def train(world: Any, settings: TrainSettings, out: Path) -> dict[str, TrainedHead]:
    return {one.head: one for one in run(world.inputs(), settings, out, Ledger("train"))}


def both(settings: TrainSettings, **more: Any) -> TrainSettings:
    """The head of the settings, and beside it `less`, which leaves out subset `extra`."""
    [head] = settings.heads.values()
    return settings.model_copy(
        update={"heads": {"all": head, "less": head.model_copy(update={"leave_out": ("extra",)})} | more}
    )


@pytest.fixture
def extra(populated: Any) -> Any:
    """Ten more training samples, of subset `extra`, far from the others and labelled the other way round."""
    for i in range(10):
        populated.add(f"x{i}", ("glad", "calm")[i % 2], "train", shift=(-4.0, 9.0)[i % 2])
    of_subset(populated, "extra", lambda i: i >= 40)
    return populated


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_weights": "balanced", "sampling": "balanced"},
        {"standardize": False, "views": "plain", "patience": 1},
    ],
    ids=["plain", "balanced", "patience"],
)
def test_it_is_as_if_the_samples_were_not_there(
    extra: Any, train_settings: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = both(train_settings(("attention_b",), (0, 3), **changes))
    found = train(extra, settings, tmp_path / "with")
    before = extra.samples[40:]
    extra.samples[:] = [replace(s, split="test") if s.subset else s for s in extra.samples]
    alone = settings.model_copy(update={"heads": {"less": settings.heads["all"]}})
    train(extra, alone, tmp_path / "without")
    for seed in (0, 3):
        one, other = (
            predictions.read(tmp_path / place / "predictions" / "heads" / f"less-s{seed}.csv")
            for place in ("with", "without")
        )
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        every = predictions.read(tmp_path / "with" / "predictions" / "heads" / f"all-s{seed}.csv")
        assert np.abs(every.probabilities - one.probabilities).max() > 1e-3
        assert not one.seen.any(), "what a head alone was trained on is no matter of notes"
    rows = [i for i, s in enumerate(sorted(extra.samples, key=lambda s: s.sample_id)) if s.subset]
    assert len(before) == len(rows) == 10
    mine = predictions.read(tmp_path / "with" / "predictions" / "heads" / "less-s3.csv")
    right = [mine.classes[mine.probabilities[i].argmax()] == mine.labels[i][0] for i in rows]
    assert found["less"].accuracy[LEFT_OUT] == pytest.approx(np.mean(right)), "they are held out"
    assert LEFT_OUT not in found["all"].accuracy
    assert set(found["less"].accuracy) == {"train", "val", "test", LEFT_OUT}


def test_folds_and_grids_are_of_what_it_trains_on(extra: Any, train_settings: Make, tmp_path: Path) -> None:
    tried = {"learning_rate": (0.001, 0.05)}
    settings = both(train_settings(("attention_b",)))
    heads = {name: head.model_copy(update={"grid": tried}) for name, head in settings.heads.items()}
    settings = settings.model_copy(
        update={"heads": heads, "folds": 2, "choose": settings.choose.model_copy(update={"by": "folds", "folds": 2})}
    )
    found = train(extra, settings, tmp_path)
    lines = (tmp_path / "predictions" / "folds" / "folds.csv").read_text().splitlines()
    names = {head: {line.split(",")[1] for line in lines if line.startswith(f"{head},")} for head in ("all", "less")}
    assert names["all"] - names["less"] == {f"x{i}" for i in range(10)}
    answered = predictions.read(tmp_path / "predictions" / "folds" / "less-s0.csv", "head")
    assert set(answered.sample_ids) == names["less"]
    [less, every] = (found[name].choice for name in ("less", "all"))
    assert less is not None
    assert every is not None
    assert (less.n, every.n) == (len(names["less"]), len(names["all"]))


def test_samples_that_overlap_matter_to_who_trains_on_them(extra: Any, train_settings: Make, tmp_path: Path) -> None:
    twin = next(s for s in extra.samples if s.split == "test")
    extra.samples[40] = replace(extra.samples[40], group="film")
    extra.samples[extra.samples.index(twin)] = replace(twin, group="film")
    settings = both(train_settings(("attention_b",)))
    with pytest.raises(DataError, match="1 samples of split train are not apart"):
        train(extra, settings, tmp_path)
    alone = settings.model_copy(update={"heads": {"less": settings.heads["less"]}})
    assert set(train(extra, alone, tmp_path)) == {"less"}


def test_the_accuracy_of_what_is_left_out_is_of_samples_apart_from_the_training(
    extra: Any, train_settings: Make, tmp_path: Path
) -> None:
    """Two of the ten share a group or a file with a sample that the head is trained on."""
    trained = [i for i, s in enumerate(extra.samples) if s.split == "train" and not s.subset]
    extra.samples[trained[0]] = replace(extra.samples[trained[0]], group="film")
    extra.samples[40] = replace(extra.samples[40], group="film", labels=("calm",))
    twin = extra.samples[trained[1]]
    extra.samples[41] = replace(extra.samples[41], content=twin.content, labels=twin.labels)
    settings = both(train_settings(("attention_b",)))
    found = train(extra, settings.model_copy(update={"heads": {"less": settings.heads["less"]}}), tmp_path)["less"]
    answers = predictions.read(tmp_path / "predictions" / "heads" / "less-s0.csv")
    assert answers.sample_ids[40:] == tuple(f"x{i}" for i in range(10))
    right = np.array([answers.classes[p.argmax()] for p in answers.probabilities]) == [one for (one,) in answers.labels]
    assert right[42:].mean() not in (right[40:].mean(), right[41:].mean(), np.delete(right[40:], 1).mean())
    assert found.accuracy[LEFT_OUT] == pytest.approx(right[42:].mean())
    assert found.accuracy["train"] == pytest.approx(right[trained].mean())


def test_what_cannot_be_left_out(extra: Any, train_settings: Make, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"train\.heads\.attention_c\.leave_out has 'mine', and no training.*: there are extra$"
    ):
        train(extra, train_settings(leave_out=["mine"]), tmp_path)
    of_subset(extra, "rest", lambda i: i < 40)
    with pytest.raises(DataError, match=r"train\.heads\.attention_c\.leave_out leaves out all 30 training samples"):
        train(extra, train_settings(leave_out=["extra", "rest"]), tmp_path)
    of_subset(extra, "glad", lambda i: "glad" in extra.samples[i].labels)
    with pytest.raises(DataError, match=r"features of fewer than two classes \(calm\)"):
        train(extra, train_settings(leave_out=["glad"]), tmp_path)
    head = {"kind": "gupta2018:average", "grid": {"leave_out": [["extra"], []]}}
    with pytest.raises(ValueError, match=r"grid\.leave_out: there is no such setting to try"):
        HeadSettings.model_validate(head)
