"""Losses that heads are trained with, and what they are trained on.

Of logits z of K classes, with q = softmax(z) and c the sample's class:

    cross_entropy   -(1 - e) log q_c - e / K sum_k log q_k,  e the smoothing (Szegedy et al. 2016, section 7)
    focal           -(1 - q_c)^gamma log q_c  (Lin et al. 2017, equation 4; there of two classes)
    kl              sum_k t_k (log t_k - log q_k),  t the targets divided by their sum
    soft            -sum_k p_k log q_k,  p the annotators' shares of each class (`heads.shares`)
    multi_label     mean over k of -(t_k log s_k + (1 - t_k) log(1 - s_k)),  s = sigmoid(z)

Cross entropy, focal and soft take samples of one label, the others those of any number. DAG-Net trains with `kl`: a
sample of three labels wants a third of the softmax for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import DataError
from stages.heads.loss_settings import LossSettings

GAMMA = 2.0
"""Of `focal`, where the settings leave it open: what Lin et al. take."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (..., K), and targets (...) int64 or (..., K) float32, to losses (...); as `population.members.Loss`."""


class Said(Protocol):
    """What of a head's answer training is about, as `HeadOutput` has it."""

    @property
    def logits(self) -> Tensor:
        """(..., K)."""
        ...

    @property
    def penalty(self) -> Tensor | None:
        """(...)."""
        ...

    @property
    def answers(self) -> Tensor | None:
        """(..., M, K)."""
        ...

    @property
    def shares(self) -> Tensor | None:
        """(..., M)."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of int64 classes.

    Attributes:
        smoothing: the share of the label that is spread evenly over all classes, in [0, 1).
    """

    smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (...) of logits (..., K) and classes (...) int64 in [0, K)."""
        odds = torch.log_softmax(logits, -1)
        own = odds.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return -own if not self.smoothing else -torch.lerp(own, odds.mean(-1), self.smoothing)


@dataclass(frozen=True)
class Focal:
    """Focal loss of int64 classes.

    Attributes:
        gamma: 0 or more; 0 is cross entropy.
    """

    gamma: float = GAMMA

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (...) of logits (..., K), K at least 2, and classes (...) int64 in [0, K).

        log(1 - q_c) is the log of the sum of the others: 1 - q_c itself is 0 where q_c is rounded to 1, and has there,
        to a power below 1, an infinite slope.
        """
        odds, at = torch.log_softmax(logits, -1), targets.unsqueeze(-1)
        own = odds.gather(-1, at).squeeze(-1)
        others = torch.logsumexp(odds.scatter(-1, at, -torch.inf), -1)
        return -torch.exp(self.gamma * others) * own


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence of the softmax from targets that are divided by their sum: 0 where they are equal."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (...) of logits (..., K) and targets (..., K), none negative. That of a row of zeros is 0."""
        wanted = targets / targets.sum(-1, keepdim=True).clamp(min=torch.finfo(targets.dtype).tiny)
        return (torch.special.xlogy(wanted, wanted) - wanted * torch.log_softmax(logits, -1)).sum(-1)


@dataclass(frozen=True)
class Soft:
    """Cross entropy of shares: that of a class, where one class has all of them."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (...) of logits (..., K) and shares (..., K) that sum to 1."""
        return -(targets * torch.log_softmax(logits, -1)).sum(-1)


@dataclass(frozen=True)
class MultiLabel:
    """A binary cross entropy for each class, averaged over the classes."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (...) of logits (..., K) and targets (..., K) in [0, 1]."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def learnt(loss: Loss, said: Said, targets: Tensor) -> Tensor:
    """What training makes small: the loss of each sample, with the head's penalty; see `HeadOutput`.

    Args:
        said: of samples (...): a head's answer, or those of several heads.
        targets: (...) or (..., K).

    Returns:
        (...).
    """
    if said.answers is None or said.shares is None:
        losses = loss(said.logits, targets)
    else:
        before = said.shares.dim() - 1
        each = targets.unsqueeze(before).expand(*said.shares.shape, *targets.shape[before:])
        losses = (loss(said.answers, each) * said.shares).sum(-1)
    return losses if said.penalty is None else losses + said.penalty


def loss_of(settings: LossSettings) -> Loss | None:
    """The loss that the settings name; None: plain cross entropy, which training has a quicker way for."""
    if settings.kind == "focal":
        return Focal(GAMMA if settings.gamma is None else settings.gamma)
    if settings.kind == "kl":
        return Divergence()
    if settings.kind == "soft":
        return Soft()
    if settings.kind == "multi_label":
        return MultiLabel()
    return CrossEntropy(settings.smoothing) if settings.smoothing else None


def targets_of(labels: Sequence[tuple[str, ...]], classes: Sequence[str], settings: LossSettings) -> np.ndarray:
    """What samples are trained on, and with `soft` which class they count as: see `shares.share_targets`.

    Args:
        labels: of n samples.
        classes: K names.

    Returns:
        (n,) int64 classes, -1 for a sample without a label or with several; for a loss of several labels (n, K)
        float32, 1 at each label and 0 elsewhere, a row of 0 for a sample without one. Neither is to be trained on.

    Raises:
        DataError: a label that is no class.
    """
    index = {name: place for place, name in enumerate(classes)}
    unknown = sorted({label for some in labels for label in some} - set(index))
    if unknown:
        raise DataError(
            f"label {unknown[0]!r} is none of the classes {', '.join(classes)} ({len(unknown)} such labels); run "
            "kuleshov index again, or map it to one of them"
        )
    if not settings.several:
        return np.array([index[some[0]] if len(some) == 1 else -1 for some in labels], np.int64)
    targets = np.zeros((len(labels), len(classes)), np.float32)
    for row, some in zip(targets, labels, strict=True):
        row[[index[label] for label in some]] = 1
    return targets


def sample_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """What each sample counts where all classes are to count the same: n / (K n_c), their mean over the n samples 1.

    Args:
        labels: (n,) int64 classes of the training samples; -1 counts 0 and is not among n.
        classes: how many there are; K is the number of those that occur.

    Returns:
        (n,) float32.
    """
    chance = chances(labels, classes)
    return (chance * (labels >= 0).sum()).astype(np.float32)


def chances(labels: np.ndarray, classes: int) -> np.ndarray:
    """How probably each sample is drawn where all classes that occur are to be drawn as often: 1 / (K n_c).

    Args:
        labels, classes: as for `sample_weights`.

    Returns:
        (n,) float64 that sums to 1; 0 where the label is -1.

    Raises:
        DataError: no sample has a label, or one has a label that is no class.
    """
    if labels.max(initial=-1) < 0 or labels.max() >= classes or labels.min() < -1:
        raise DataError(
            f"labels to balance by run from {labels.min(initial=-1)} to {labels.max(initial=-1)}, of {classes} "
            "classes; label more samples of the training split, or leave class_weights and sampling out"
        )
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    share = 1 / (np.maximum(counts, 1) * np.count_nonzero(counts))
    return np.where(labels >= 0, share[labels], 0.0)
