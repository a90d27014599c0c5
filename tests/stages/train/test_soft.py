"""Heads that are trained on annotators' shares."""

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
from stages.train.estimator import HeadClassifier
from stages.train.run import TrainedHead, run
from stages.train.settings import HeadSettings, TrainSettings

Make = Callable[..., TrainSettings]
SOFT = {"kind": "soft"}


def train(world: Any, settings: TrainSettings, out: Path) -> list[TrainedHead]:
    return run(world.inputs(), settings, out, Ledger("train"))


def answers(out: Path, name: str = "attention_b-s0") -> predictions.Predictions:
    return predictions.read(out / "predictions" / "heads" / f"{name}.csv")


def give(world: Any, shares: Callable[[Any], tuple[tuple[str, float], ...]]) -> None:
    world.samples[:] = [replace(one, shares=shares(one)) for one in world.samples]


def test_shares_that_are_the_labels_train_as_cross_entropy(
    populated: Any, train_settings: Make, tmp_path: Path
) -> None:
    give(populated, lambda s: ((s.labels[0], 1.0),))
    [plain] = train(populated, train_settings(("attention_b",)), tmp_path / "plain")
    [soft] = train(populated, train_settings(("attention_b",), loss=SOFT), tmp_path / "soft")
    np.testing.assert_allclose(
        answers(tmp_path / "soft").probabilities, answers(tmp_path / "plain").probabilities, atol=1e-5
    )
    assert soft.loss == pytest.approx(plain.loss, abs=1e-5)
    assert soft.accuracy == plain.accuracy


def test_answers_go_to_the_shares(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    """Of samples whose annotators did not agree the answer is as unsure; the label alone makes it sure."""
    give(populated, lambda s: (("calm", 0.7), ("glad", 0.3)) if s.labels == ("calm",) else ())
    settings = {"epochs": 80, "learning_rate": 0.003, "dropout": 0.0, "step": 100}
    train(populated, train_settings(("attention_b",), loss=SOFT, **settings), tmp_path / "soft")
    train(populated, train_settings(("attention_b",), **settings), tmp_path / "plain")
    soft, plain = answers(tmp_path / "soft"), answers(tmp_path / "plain")
    rows = [i for i, split in enumerate(soft.splits) if split == "train" and soft.labels[i] == ("calm",)]
    assert soft.probabilities[rows, 0].mean() == pytest.approx(0.7, abs=0.05)
    assert plain.probabilities[rows, 0].mean() > 0.9
    others = [i for i, split in enumerate(soft.splits) if split == "train" and soft.labels[i] == ("glad",)]
    assert soft.probabilities[others, 1].mean() > 0.9, "without shares the label counts"
    assert not soft.several
    assert soft.probabilities.sum(1) == pytest.approx(1, abs=1e-6)


def test_shares_of_no_class_are_left_out(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    give(populated, lambda s: (("awe", 0.5), ("calm", 0.35), ("glad", 0.15)) if s.labels == ("calm",) else ())
    train(populated, train_settings(("attention_b",), loss=SOFT), tmp_path / "awe")
    give(populated, lambda s: (("calm", 0.7), ("glad", 0.3)) if s.labels == ("calm",) else ())
    train(populated, train_settings(("attention_b",), loss=SOFT), tmp_path / "without")
    assert answers(tmp_path / "awe").classes == ("calm", "glad")
    one, other = (answers(tmp_path / name).probabilities for name in ("awe", "without"))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_grid_compares_it_with_other_losses(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    """By the labels; and samples count by their class, and patience looks at shares as training does."""
    give(populated, lambda s: (("calm", 0.8), ("glad", 0.2)) if s.labels == ("calm",) else (("glad", 1.0),))
    grid = {"loss.kind": ["soft", "cross_entropy", "focal"]}
    settings = train_settings(("attention_b",), grid=grid, patience=1, class_weights="balanced", sampling="balanced")
    [one] = train(populated, settings, tmp_path)
    assert one.choice is not None
    assert len(one.choice.tried) == 3
    assert all(np.isfinite(tried.score) and 0 <= tried.score <= 1 for tried in one.choice.tried)
    assert settings.heads["attention_b"].trained_on_shares


def test_what_is_refused(populated: Any, train_settings: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.heads\.attention_b\.loss\.kind is soft, and no training sample has"):
        train(populated, train_settings(("attention_b",), loss=SOFT), tmp_path)
    with pytest.raises(ValueError, match=r"smoothing is 0\.1 and kind is soft, which has none"):
        HeadSettings.model_validate({"kind": "gupta2018:faces", "loss": SOFT | {"smoothing": 0.1}})
    with pytest.raises(SettingError, match=r"loss\.kind is soft, which is for samples with annotators' shares"):
        HeadClassifier("tan2017:global", loss=SOFT).fit(np.eye(4), [0, 1, 0, 1])
    plain = HeadSettings.model_validate({"kind": "gupta2018:faces", "grid": {"loss": [SOFT, {"kind": "focal"}]}})
    assert plain.trained_on_shares
    assert not HeadSettings.model_validate({"kind": "gupta2018:faces"}).trained_on_shares
