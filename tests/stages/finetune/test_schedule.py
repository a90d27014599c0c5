"""The learning rate as a function of the iteration."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from stages.finetune.schedule import factor
from stages.finetune.settings import ScheduleSettings


def rates(per_epoch: int, total: int, **said: Any) -> list[float]:
    schedule = ScheduleSettings.model_validate(said)
    return [factor(schedule, iteration, per_epoch, total) for iteration in range(total)]


def test_constant() -> None:
    assert set(rates(3, 12)) == {1.0}


@pytest.mark.parametrize(
    ("said", "steps"),
    [
        ({"every": 2}, [20, 40]),  # of 10 iterations an epoch
        ({"every": 7, "unit": "iteration"}, [7, 14, 21, 28, 35, 42, 49]),
        ({"at": (1, 4)}, [10, 40]),
        ({"at": (12, 18), "unit": "iteration"}, [12, 18]),
        ({"at": (0.5, 0.75, 0.9)}, [25, 38, 45]),  # 37.5: the step counts from the iteration after
        ({"at": (0.5, 0.75, 0.9), "unit": "iteration"}, [25, 38, 45]),
    ],
)
def test_steps(said: dict[str, Any], steps: list[int]) -> None:
    got = rates(10, 50, kind="steps", gamma=0.5, **said)
    assert got == [0.5 ** sum(iteration >= step for step in steps) for iteration in range(50)]


@given(st.integers(1, 200), st.integers(1, 99))
@example(1, 7)
@example(1, 29)
def test_shares_are_exact(hundreds: int, hundredths: int) -> None:
    """A float product would put 0.07 of 100 a little above 7, and 0.29 of 100 a little below 29."""
    total, place = 100 * hundreds, hundreds * hundredths
    schedule = ScheduleSettings(kind="steps", at=(hundredths / 100,))
    assert factor(schedule, place - 1, 1, total) == 1.0
    assert factor(schedule, place, 1, total) == 0.1


@pytest.mark.parametrize(("first", "multiply"), [(2, 1), (1, 2), (3, 3)])
def test_restarts_are_torchs(first: int, multiply: int) -> None:
    """torch counts in epochs and fractions of them, as the authors' code does."""
    per_epoch, total, start, floor = 4, 60, 0.3, 0.25
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=start)
    known = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, first, multiply, eta_min=start * floor)
    got = rates(per_epoch, total, kind="restarts", first=first, multiply=multiply, floor=floor)
    for iteration, share in enumerate(got):
        optimiser.step()
        known.step(iteration / per_epoch)  # pyright: ignore[reportArgumentType]
        assert start * share == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)


def test_restarts_begin_at_one_and_fall_within_a_period() -> None:
    got = rates(5, 35, kind="restarts", first=1, multiply=2)
    assert [i for i, share in enumerate(got) if share == 1.0] == [0, 5, 15]
    assert got[1] == pytest.approx((1 + math.cos(math.pi / 5)) / 2)
    assert all(later < earlier for earlier, later in pairwise(got[15:]))
