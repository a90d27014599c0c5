"""Populations: many heads of one shape trained at once over the same features.

Each head is one member (`members.Member`) with its own learning rate, schedule, seed, weight decay, training rows and
early stopping. What a member becomes does not depend on the others, but for rounding: its shuffles, views and dropout
masks are functions of its seed (`draws.py`), its batch norm sees its own samples, and it leaves when it is through.

    outcomes = train_population(members, features, labels, Plan(batch_size=32))

Members are trained a few at a time, so that what they compute with stays in the cache: see `together`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import nn

from stages.train.answering import one_thread
from stages.train.features import Features
from stages.train.population.block import Block
from stages.train.population.members import Member, Outcome, Plan, check
from stages.train.population.minibatch import Held, Source, source_of, trained_at_once
from stages.train.population.processes import Processes
from stages.train.population.stack import load

_PARAMETERS = 3 << 19
"""Of all heads that are trained at once on a CPU: with more, their gradients and moments leave the cache."""
_MOST, _LEAST = 64, 4


def train_population(
    members: Sequence[Member],
    features: Features | Source,
    labels: np.ndarray,
    plan: Plan,
    processes: Processes | None = None,
) -> list[Outcome]:
    """Train the heads of all members in place; they are left in eval mode.

    On a CPU every process computes on one thread.

    Args:
        members: with heads of one shape.
        features: of n samples, already standardized where wanted; in memory, or read for each minibatch.
        labels: (n,) int64 classes, or (n, K) float32 targets for a loss that takes these.
        plan: what the members have in common.
        processes: that share the work with this one, where features are in memory and the device is a CPU; features
            that are read for each minibatch are trained on in this process alone.

    Returns:
        For each member what became of it.

    Raises:
        SettingError: heads of different shapes, or numbers that make no sense; see `members.check`.
        DataError: rows that no sample has, or too few; labels that are no class.
        TrainingProcessError: one of the processes died.
    """
    check(members, len(labels))
    source = source_of(features, plan.device)
    number = processes.number if processes is not None and isinstance(source, Held) and plan.device == "cpu" else 1
    blocks = _blocks(members, plan, number, source)
    with one_thread():
        if processes is not None and isinstance(source, Held) and number > 1 and len(blocks) > 1:
            found = processes.run([[members[i] for i in block] for block in blocks], source, labels, plan)
        else:
            found = [Block([members[i] for i in block], source, labels, plan).run() for block in blocks]
    outcomes: dict[int, Outcome] = {}
    for block, results in zip(blocks, found, strict=True):
        for i, (outcome, state) in zip(block, results, strict=True):
            load(members[i].head, state)
            members[i].head.eval()
            outcomes[i] = outcome
    return [outcomes[i] for i in range(len(members))]


def together(head: nn.Module, device: str) -> int:
    """How many heads are trained at once, measured on one core with 1 MB of second-level cache (docs/performance.md).

    On a CPU 64 small heads, fewer large ones, at least 4; on a GPU 256.
    """
    if device != "cpu":
        return 256
    size = sum(parameter.numel() for parameter in head.parameters())
    return int(np.clip(_PARAMETERS // max(size, 1), _LEAST, _MOST))


def _blocks(members: Sequence[Member], plan: Plan, processes: int, source: Source | None = None) -> list[list[int]]:
    """Numbers of the members that are trained at once, in blocks of about the same work.

    Members of the same rows and epochs go together: their minibatches are of one size, and they end together.
    """
    if not members:
        return []
    size = 1 if plan.alone else plan.together or together(members[0].head, plan.device)
    size = size if source is None else trained_at_once(source, plan.batch_size, size)
    order = sorted(range(len(members)), key=lambda i: (members[i].epochs, len(members[i].rows)))
    number = -(-len(members) // size)
    if plan.together is None:
        number = min(-(-number // processes) * processes, len(members))
    edges = [len(members) * i // number for i in range(number + 1)]
    return [order[start:end] for start, end in pairwise(edges)]
