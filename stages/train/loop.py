"""The training loop over cached features: one head, one seed, SGD with a step schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stages.train.features import Features


@dataclass(frozen=True)
class Schedule:
    """How a head is trained: SGD, learning rate times `gamma` every `step` epochs."""

    epochs: int
    batch_size: int
    learning_rate: float
    step: int
    gamma: float
    momentum: float
    weight_decay: float


def fit(
    head: nn.Module, features: Features, labels: np.ndarray, rows: np.ndarray, plan: Schedule, seed: int
) -> list[float]:
    """Train `head` in place on the samples at `rows`.

    Args:
        features: already standardized where wanted.
        labels: (n,) int64 class of every sample of `features`.
        rows: positions of the training samples, at least 2.
        seed: of the shuffles and dropout masks.

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
    for _ in range(plan.epochs):
        total = 0.0
        for picked in batches(order.permutation(rows), plan.batch_size):
            logits = head(features.batch(picked)).logits
            loss = nn.functional.cross_entropy(logits, targets[picked])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.item() * len(picked)
        scheduler.step()
        losses.append(total / len(rows))
    head.eval()
    return losses


def batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut `rows` into batches of `size`; a last batch of one joins the one before, as batch norm needs two."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def infer(head: nn.Module, features: Features, size: int = 256) -> tuple[np.ndarray, list[np.ndarray]]:
    """Class probabilities (n, K) float64 of all samples, and the attention of each one's faces."""
    probabilities, attention = [], []
    with torch.inference_mode():
        for start in range(0, len(features), size):
            rows = np.arange(start, min(start + size, len(features)))
            output = head(features.batch(rows))
            probabilities.append(torch.softmax(output.logits.double(), -1).numpy())
            counts = np.diff(features.offsets)[rows]
            attention += [w[:count].numpy() for w, count in zip(output.attention, counts, strict=True)]
    return np.concatenate(probabilities), attention
