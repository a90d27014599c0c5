"""The learning rate as a function of the iteration alone, so that a resumed training needs no scheduler's state."""

from __future__ import annotations

import math
from fractions import Fraction

from stages.finetune.settings import ScheduleSettings


def factor(schedule: ScheduleSettings, iteration: int, per_epoch: int, total: int) -> float:
    """What the learning rates are multiplied by, in (0, 1].

    `steps`: gamma to the power of the steps passed. A step that falls between two iterations counts from the later.

    `restarts` (Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5), T being
    the iterations of a period and t those since its start:

        floor + (1 - floor) (1 + cos(pi t / T)) / 2

    Args:
        iteration: from 0; steps of the optimiser that are done.
        per_epoch: iterations of an epoch, at least 1.
        total: iterations of the whole training.
    """
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "restarts":
        return _cosine(schedule, iteration, per_epoch)
    unit = per_epoch if schedule.unit == "epoch" else 1
    if schedule.every is not None:
        return schedule.gamma ** (iteration // (schedule.every * unit))
    # exact: 0.9 of 200 iterations is 180, and not a float a little above it
    places = (Fraction(str(value)) * (total if value < 1 else unit) for value in schedule.at)
    return schedule.gamma ** sum(iteration >= place for place in places)


def _cosine(schedule: ScheduleSettings, iteration: int, per_epoch: int) -> float:
    length, since = schedule.first * per_epoch, iteration
    if schedule.multiply == 1:
        since %= length
    while since >= length:
        since -= length
        length *= schedule.multiply
    return schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * since / length)) / 2
