"""What a population is made of: its members, what they have in common, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor, nn

from stages.errors import DataError, SettingError
from stages.finetune.settings import ScheduleSettings

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (..., K) and targets (...) or (..., K) to the loss of each, (...). To be trained in
other processes it must be a function at the top level of a module."""


@dataclass(frozen=True)
class Member:
    """One head and how it is trained.

    Attributes:
        head: maps a HeadBatch to a HeadOutput; its parameters are where training starts, and it is trained in place.
        seed: of its shuffles, drawn views and dropout masks, 0 or more.
        learning_rate: at the start.
        rows: int64, positions of its training samples, at least 2.
        epochs: passes over `rows`, at least 1.
        schedule: how the learning rate falls, iteration by iteration.
        weight_decay: times the parameters is added to their gradients.
        judged: positions of samples that are not trained on. Where there are any, the loss on them is taken after each
            epoch, and the parameters of the epoch where it was least are what the head has in the end.
        patience: training ends after so many epochs without a new least loss on `judged`; None: it does not.
        weights: float32 (n,), what the loss of each of the n samples is multiplied by; None: by 1. Losses on `judged`
            are not.
        chances: float64, one for each of `rows`: an epoch draws as many samples as there are rows, each with this
            probability, so that some are seen twice and others not; None: it sees each once.
    """

    head: nn.Module
    seed: int
    learning_rate: float
    rows: np.ndarray
    epochs: int = 1
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    weight_decay: float = 0.0
    judged: np.ndarray | None = None
    patience: int | None = None
    weights: np.ndarray | None = None
    chances: np.ndarray | None = None


@dataclass(frozen=True)
class Plan:
    """What all members of a population have in common.

    Attributes:
        batch_size: samples of a minibatch; a last one of a single sample joins the one before (`cut`).
        optimiser: `sgd`, or `adam` (Kingma & Ba 2015) with beta 0.9 and 0.999 and epsilon 1e-8.
        momentum: of `sgd`.
        loss: None: cross entropy of the class (int64 targets).
        device: of torch.
        together: members that are trained at once, whatever the number of processes, so that results do not depend on
            it; None: by the size of a head and the number of processes, see `engine.together`.
        generic: stack every head by `torch.func`, also those that have a stacked form: to compare.
        alone: the heads cannot be stacked, so one is trained after the other.
    """

    batch_size: int = 32
    optimiser: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    loss: Loss | None = None
    device: str = "cpu"
    together: int | None = None
    generic: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a member.

    Attributes:
        losses: mean training loss of each epoch. Training ends after an epoch whose loss is not finite.
        judged: loss on `Member.judged` after each epoch.
        best: the epoch (from 0) whose parameters the head has; the last one where nothing was judged.
    """

    losses: list[float]
    judged: list[float]
    best: int


def check(members: Sequence[Member], samples: int) -> None:
    """Refuse what cannot be trained together.

    Raises:
        SettingError: heads of different shapes, or a number that makes no sense.
        DataError: fewer than two training samples, or a position that no sample has.
    """
    if not members:
        return
    first = _shapes(members[0].head)
    for number, member in enumerate(members):
        shapes = _shapes(member.head)
        if shapes != first or type(member.head) is not type(members[0].head):
            raise SettingError(
                f"population: head {number} has other parameters than head 0; train heads of one shape together"
            )
        if member.epochs < 1 or member.seed < 0 or (member.patience is not None and member.patience < 1):
            raise SettingError(
                f"population: head {number} has epochs {member.epochs}, seed {member.seed}, patience "
                f"{member.patience}; use at least 1 epoch, a seed of 0 or more, and patience of 1 or more"
            )
        if member.weights is not None and len(member.weights) != samples:
            raise SettingError(f"population: head {number} has {len(member.weights)} weights of {samples} samples")
        if member.chances is not None and len(member.chances) != len(member.rows):
            raise SettingError(
                f"population: head {number} has {len(member.chances)} chances of {len(member.rows)} training samples"
            )
        if member.patience is not None and member.judged is None:
            raise SettingError(f"population: head {number} has patience and nothing to judge it by; give judged rows")
        if len(member.rows) < 2:
            raise DataError(f"population: head {number} has {len(member.rows)} training samples; give at least 2")
        _in_range(number, "rows", member.rows, samples)
        if member.judged is not None:
            _in_range(number, "judged", member.judged, samples)


def _in_range(number: int, what: str, rows: np.ndarray, samples: int) -> None:
    if not len(rows):
        raise DataError(f"population: head {number} has no {what}; leave it out or give some")
    if rows.min() < 0 or rows.max() >= samples:
        wrong = rows.max() if rows.max() >= samples else rows.min()
        raise DataError(f"population: {what} of head {number} has position {wrong} of {samples} samples")


def _shapes(head: nn.Module) -> list[tuple[str, tuple[int, ...], bool]]:
    parameters = [(name, tuple(p.shape), p.requires_grad) for name, p in head.named_parameters()]
    return parameters + [(name, tuple(b.shape), False) for name, b in head.named_buffers()]
