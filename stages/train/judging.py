"""Score and loss by which the candidates of a grid are compared; see `ChooseSettings.score`."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score, recall_score

from stages.heads.loss_settings import LossSettings
from stages.heads.losses import loss_of


def judge(
    score: str, answers: np.ndarray, targets: np.ndarray, logits: np.ndarray, loss: LossSettings
) -> tuple[float, float]:
    """Score and loss of answers; NaN where one is no number.

    Args:
        score: of `choosing.score_name`.
        answers: float64 (n, K) probabilities, or scores in [0, 1] of several labels.
        targets: (n,) int64 classes, or (n, K) 0 and 1.
        logits: float64 (n, K), those of the plain view.
        loss: what the head was trained with, which is taken of the logits where samples have several labels.
    """
    if not np.isfinite(answers).all():
        return math.nan, math.nan
    if targets.ndim == 2:
        own = loss_of(loss)
        assert own is not None  # noqa: S101 - only plain cross entropy has none, which is of one label
        value = float(own(torch.from_numpy(logits), torch.from_numpy(targets).double()).mean())
        held = np.flatnonzero(targets.any(0))
        found = [average_precision_score(targets[:, k], answers[:, k]) for k in held]
        return (value if score == "loss" else float(np.mean(found))), value
    value = float(-np.log(np.clip(answers[np.arange(len(targets)), targets], 1e-12, None)).mean())
    predicted, there = answers.argmax(1), np.unique(targets)
    if score == "loss":
        return value, value
    if score == "balanced_accuracy":  # of the classes that occur: a fold need not have all
        return float(recall_score(targets, predicted, average="macro", labels=there)), value
    if score == "macro_f1":
        return float(f1_score(targets, predicted, average="macro", labels=there)), value
    return float((predicted == targets).mean()), value
