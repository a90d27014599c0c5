"""A fine-tuned network as a member beside heads and ensembles: what `fuse`, `evaluate` and `report` read of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stages.finetune import seen
from stages.finetune.answers import Answers
from stages.predictions import Predictions

if TYPE_CHECKING:
    from stages.finetune.run import Result


def seen_of(result: Result, answers: Answers) -> np.ndarray:
    """Which of the answers' samples the weights have seen, (n,) bool.

    Args:
        answers: of the result, in one of its ways.
    """
    return seen.mask(result.seen, answers.samples)


def member(name: str, seed: int, answers: Answers, classes: Sequence[str], has_seen: np.ndarray) -> Predictions:
    """The answers as predictions; samples without one are left out.

    Args:
        name: of the fine-tune, with its way to answer; see `FinetuneSettings.members`.
        has_seen: (n,) bool, of the answers' samples.
    """
    rows = np.flatnonzero(answers.answered)
    samples = [answers.samples[row] for row in rows]
    return Predictions(
        name=f"{name}-s{seed}",
        kind="finetuned",
        head=name,
        seed=seed,
        sample_ids=tuple(s.sample_id for s in samples),
        splits=tuple(s.split for s in samples),
        labels=tuple(s.labels for s in samples),
        classes=tuple(classes),
        probabilities=answers.probabilities[rows],
        seen=has_seen[rows],
    )


def accuracy(answers: Answers, classes: Sequence[str], has_seen: np.ndarray) -> dict[str, tuple[float, int]]:
    """Split -> share of right answers among its samples of one label that were answered unseen, and how many."""
    hits: dict[str, list[bool]] = {}
    for sample, probabilities, counts in zip(
        answers.samples, answers.probabilities, answers.answered & ~has_seen, strict=True
    ):
        if counts and len(sample.labels) == 1:
            hits.setdefault(sample.split, []).append(classes[int(probabilities.argmax())] == sample.labels[0])
    return {split: (float(np.mean(some)), len(some)) for split, some in sorted(hits.items())}
