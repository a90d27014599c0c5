"""Baselines: scikit-learn's linear classifiers over pooled features. A head that does not beat them is seen at once.

    logits = W [mean of the faces' vectors, the photo's vector] + b

- logistic: W and b of multinomial logistic regression (`sklearn.linear_model.LogisticRegression`), so that the softmax
  of the logits is its probabilities
- svm: of a linear support vector machine for each class against the others (`sklearn.svm.LinearSVC`, squared hinge), so
  that the largest logit is its answer; their softmax is no calibrated probability

`logistic_faces`, `logistic_photo`, `svm_faces`, `svm_photo` read one of the two parts. The mean of no faces is 0.

They are solved as a whole by `fit`, not trained by steps: epochs, learning rate, optimiser, dropout and what else
belongs to steps has no part in it. What is solved is written into a linear layer, and kept as every head is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from stages.errors import DataError, SettingError
from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.heads.registry import Level, Shapes
from stages.settings import Settings

NEEDS: dict[str, tuple[Level, ...]] = {
    f"{kind}{part}": levels
    for kind in ("logistic", "svm")
    for part, levels in {"": ("face", "global"), "_faces": ("face",), "_photo": ("global",)}.items()
}
VARIANTS = tuple(NEEDS)

SCHEDULES = {variant: {"epochs": 1, "step": 1} for variant in VARIANTS}
"""They are solved at once."""

SOURCES = {
    variant: f"ours; scikit-learn's {'LogisticRegression' if variant.startswith('logistic') else 'LinearSVC'}"
    for variant in VARIANTS
}

ABSENT = -1e4
"""The bias of a class that no training sample has, with weights of 0: its probability is 0 in float32."""


class LogisticOptions(Settings):
    """Of logistic regression.

    Attributes:
        C: 1 / C is the strength of the penalty: the loss is C times the sum of cross entropies plus ||W||^2 / 2.
        max_iter: of L-BFGS.
    """

    C: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_iter: int = Field(default=1000, ge=1)


class SvmOptions(Settings):
    """Of the support vector machine.

    Attributes:
        C: the loss is C times the sum of squared hinges plus (||W||^2 + b^2) / 2, of each class.
        max_iter: of the solver.
    """

    C: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_iter: int = Field(default=10_000, ge=1)


OPTIONS: dict[str, type[Settings]] = {
    variant: LogisticOptions if variant.startswith("logistic") else SvmOptions for variant in VARIANTS
}


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """`LinearHead`; it has no dropout."""
    return LinearHead(shapes.faces, shapes.global_, classes)


class LinearHead(nn.Module):
    """A linear layer of the mean of the faces' vectors and the photo's vector, joined.

    Args:
        face_dim: D of the batch's faces; 0: they are not read.
        global_dim: G of the batch's global features; 0: they are not read.
        classes: K.
    """

    def __init__(self, face_dim: int, global_dim: int, classes: int) -> None:
        super().__init__()
        self.reads_faces, self.reads_photo = face_dim > 0, global_dim > 0
        self.classify = nn.Linear(face_dim + global_dim, classes)

    def pooled(self, batch: HeadBatch) -> tuple[Tensor, Tensor]:
        """What is classified, (B, D + G), and the faces' weights (B, N): 1 / n each, or 0 where faces are not read."""
        weights = torch.zeros_like(batch.face_mask, dtype=self.classify.weight.dtype)
        parts = []
        if self.reads_faces:
            weights = masked_softmax(weights, batch.face_mask)
            parts.append(torch.einsum("bn,bnd->bd", weights, batch.faces))
        if self.reads_photo:
            parts.append(batch.global_)
        return torch.cat(parts, dim=-1), weights

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), and the faces' weights (B, N)."""
        pooled, weights = self.pooled(batch)
        return HeadOutput(self.classify(pooled), weights)


def fit(
    head: nn.Module,
    batches: Iterable[HeadBatch],
    labels: Tensor,
    weights: Tensor | None,
    options: Settings,
    seed: int,
) -> float:
    """Solve a `LinearHead` in place; see `registry.Fitter`.

    Of two classes scikit-learn has one row of weights, w; here they have -w/2 and w/2, whose softmax is the same
    probability. A class that no sample has gets weights of 0 and the bias `ABSENT`. On one thread, so that the answer
    does not depend on how many cores there are.

    Args:
        options: `LogisticOptions` or `SvmOptions`, which say what is solved.

    Raises:
        DataError: fewer than two classes among the labels, one that is no class, or a feature that is not finite.
        SettingError: the solver did not come to an end in `max_iter` iterations.
    """
    from threadpoolctl import threadpool_limits

    head = cast(LinearHead, head)
    with torch.no_grad():
        pooled = torch.cat([head.pooled(batch)[0] for batch in batches])
    x = pooled.double().numpy()
    y, counts = labels.numpy(), np.ones(len(labels)) if weights is None else weights.double().numpy()
    counted = counts > 0  # liblinear prints a line for a class whose samples all count 0
    if (y < 0).any():
        raise DataError("baselines: a training sample has no label, or several: use loss.kind cross_entropy")
    if len(np.unique(y[counted])) < 2:
        raise DataError("baselines: the training samples are of fewer than two classes: label more samples")
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise DataError(
            f"baselines: training sample {row} has a feature that is not finite; extract or import it again"
        )
    with threadpool_limits(1):
        found = _solve(x[counted], y[counted], counts[counted], options, seed)
    rows, biases = found.coef_, found.intercept_
    if len(found.classes_) == 2:
        rows, biases = np.concatenate([-rows, rows]) / 2, np.concatenate([-biases, biases]) / 2
    with torch.no_grad():
        head.classify.weight.zero_()
        head.classify.bias.fill_(ABSENT)
        head.classify.weight[found.classes_] = torch.from_numpy(rows).to(head.classify.weight.dtype)
        head.classify.bias[found.classes_] = torch.from_numpy(biases).to(head.classify.bias.dtype)
        losses = nn.functional.cross_entropy(head.classify(pooled).double(), labels, reduction="none")
    head.eval()
    return float(np.average(losses.numpy(), weights=counts))


def _solve(x: np.ndarray, y: np.ndarray, counts: np.ndarray, options: Settings, seed: int) -> Any:
    """scikit-learn's classifier, fitted.

    Args:
        x: (n, F) float64.
        y: (n,) int64.
        counts: (n,) float64, what each sample counts.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if isinstance(options, SvmOptions):
        solver = LinearSVC(C=options.C, max_iter=options.max_iter, dual="auto", random_state=seed % 2**32)
    else:
        options = cast(LogisticOptions, options)
        solver = LogisticRegression(C=options.C, max_iter=options.max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return solver.fit(x, y, sample_weight=counts)
        except ConvergenceWarning:
            raise SettingError(
                f"baselines: not solved in {options.max_iter} iterations (C is {options.C:g}); raise options.max_iter, "
                "lower options.C, or use standardize: true"
            ) from None
