"""The training loop over cached features: one head, one seed, SGD with a step schedule.

Everything here runs on one thread. A sum shared by more threads rounds differently, so that results would depend on
the number of cores; and a head's matrices are so small that sharing them takes longer than computing them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from stages.finetune.batch import cut
from stages.train.features import Features


@dataclass(frozen=True)
class Schedule:
    """How a head is trained: SGD, learning rate times `gamma` every `step` epochs. See `HeadSettings`."""

    epochs: int
    batch_size: int
    learning_rate: float
    step: int
    gamma: float
    momentum: float
    weight_decay: float


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and give the threads back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit(
    head: nn.Module, features: Features, labels: np.ndarray, rows: np.ndarray, plan: Schedule, seed: int
) -> list[float]:
    """Train `head` in place on the samples at `rows`, by cross entropy; it is left in eval mode.

    Args:
        head: maps a HeadBatch to a HeadOutput.
        features: already standardized where wanted. Of several views one is drawn for each sample and epoch.
        labels: (n,) int64 class of every sample of `features`; only those at `rows` are read.
        rows: positions of the training samples, at least 2.
        plan: the schedule.
        seed: of the shuffles, the drawn views and the dropout masks.

    Returns:
        The mean training loss of each epoch.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    optimiser = torch.optim.SGD(
        head.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, plan.step, plan.gamma)
    targets = torch.from_numpy(labels)
    losses = []
    head.train()
    with one_thread():
        for _ in range(plan.epochs):
            total = 0.0
            for picked in cut(order.permutation(rows), plan.batch_size):
                drawn = order.integers(features.views, size=len(picked)) if features.views > 1 else None
                logits = head(features.batch(picked, drawn)).logits
                loss = nn.functional.cross_entropy(logits, targets[picked])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += loss.item() * len(picked)
            scheduler.step()
            losses.append(total / len(rows))
    head.eval()
    return losses


def infer(head: nn.Module, features: Features, size: int = 256) -> tuple[np.ndarray, list[np.ndarray]]:
    """Answers for all samples, in batches of `size`.

    Args:
        head: in eval mode.
        features: of at least one sample.

    Returns:
        Class probabilities (n, K) float64, and for each sample the weights of its faces, (faces,) float32.
    """
    # Filled in place: small results kept between a batch's large arrays would keep those from being given back.
    probabilities, weights = np.empty((0, 0)), np.empty(int(features.offsets[-1]), np.float32)
    with one_thread(), torch.inference_mode():
        for start in range(0, len(features), size):
            rows = np.arange(start, min(start + size, len(features)))
            batch = features.batch(rows)
            output = head(batch)
            if not start:
                probabilities = np.empty((len(features), output.logits.shape[1]))
            probabilities[rows] = torch.softmax(output.logits.double(), -1).numpy()
            faces = slice(int(features.offsets[start]), int(features.offsets[rows[-1] + 1]))
            weights[faces] = output.attention[batch.face_mask].numpy()  # one sample after another
    return probabilities, [weights[first:last] for first, last in pairwise(features.offsets.tolist())]
