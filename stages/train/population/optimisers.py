"""SGD with momentum and Adam over the flat parameters of a stack, each member with its own rate and weight decay."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stages.loops import installed
from stages.train.population.members import Plan
from stages.train.population.stack import Stack

_CHUNK = 1 << 18  # parameters that torch's operations pass over at once: they stay in the cache from one to the next


class Optimiser(Protocol):
    """Moves the parameters of a stack; keeps what it needs from one step to the next."""

    def step(self, stack: Stack, rates: np.ndarray, decays: np.ndarray) -> None:
        """Move the parameters against `stack.gradient`, which may be written over.

        Args:
            rates, decays: (P,) float32 learning rate and weight decay of each member.
        """
        ...

    def pick(self, stack: Stack, members: Tensor) -> None:
        """Go on with some of the members of the stack, int64 (k,), only."""
        ...


class Sgd:
    """Velocity v = momentum v + gradient + decay p; p = p - rate v. As torch.optim.SGD without dampening."""

    def __init__(self, stack: Stack, momentum: float) -> None:
        self.momentum, self.velocity = momentum, torch.zeros_like(stack.flat)

    def step(self, stack: Stack, rates: np.ndarray, decays: np.ndarray) -> None:
        """See `Optimiser`."""
        if loops := _loops(stack.flat):
            arrays = (_array(t) for t in (stack.flat, stack.gradient, self.velocity))
            loops.sgd(*arrays, stack.starts, rates, decays, np.float32(self.momentum))
            return
        _decay(stack, decays)
        self.velocity.mul_(self.momentum).add_(stack.gradient)
        _move(stack, self.velocity, rates, 1.0)

    def pick(self, stack: Stack, members: Tensor) -> None:
        """See `Optimiser`."""
        self.velocity = stack.moved(self.velocity, members)


class Adam:
    """Kingma & Ba 2015, algorithm 1, with weight decay in the gradient; as torch.optim.Adam."""

    betas = (0.9, 0.999)
    epsilon = 1e-8

    def __init__(self, stack: Stack) -> None:
        self.mean, self.square = torch.zeros_like(stack.flat), torch.zeros_like(stack.flat)
        self.steps = 0

    def step(self, stack: Stack, rates: np.ndarray, decays: np.ndarray) -> None:
        """See `Optimiser`."""
        self.steps += 1
        one, two = self.betas
        first, second = 1 - one**self.steps, (1 - two**self.steps) ** 0.5
        if loops := _loops(stack.flat):
            arrays = (_array(t) for t in (stack.flat, stack.gradient, self.mean, self.square))
            numbers = np.array([one, two, 1 - one, 1 - two, first, second, self.epsilon], np.float32)
            loops.adam(*arrays, stack.starts, rates, decays, numbers)
            return
        _decay(stack, decays)
        flats = (flat.split(_CHUNK) for flat in (stack.gradient, self.mean, self.square))
        for gradient, mean, square in zip(*flats, strict=True):
            mean.lerp_(gradient, 1 - one)
            square.mul_(two).addcmul_(gradient, gradient, value=1 - two)
            root = torch.sqrt(square, out=gradient).div_(second).add_(self.epsilon)
            torch.div(mean, root, out=gradient)
        _move(stack, stack.gradient, rates, 1 / first)

    def pick(self, stack: Stack, members: Tensor) -> None:
        """See `Optimiser`."""
        self.mean, self.square = stack.moved(self.mean, members), stack.moved(self.square, members)


def make(stack: Stack, plan: Plan) -> Optimiser:
    """The optimiser that the plan names."""
    return Adam(stack) if plan.optimiser == "adam" else Sgd(stack, plan.momentum)


def _decay(stack: Stack, decays: np.ndarray) -> None:
    if decays.any():
        numbers = torch.from_numpy(decays).to(stack.flat.device)
        for value, gradient in zip(stack.parameters.values(), stack.gradients.values(), strict=True):
            gradient.addcmul_(value, _along(numbers, value))


def _move(stack: Stack, by: Tensor, rates: np.ndarray, times: float) -> None:
    numbers = torch.from_numpy(rates).to(stack.flat.device)
    for value, step in zip(stack.parameters.values(), stack.views(by).values(), strict=True):
        value.addcmul_(step, _along(numbers, value), value=-times)


def _along(numbers: Tensor, like: Tensor) -> Tensor:
    """(P,) as (P, 1, ...)."""
    return numbers.view(-1, *(1 for _ in like.shape[1:]))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _loops(flat: Tensor) -> Any:
    """The compiled steps, where they can be used: always or never, so that a seed gives the same bits."""
    if flat.device.type != "cpu" or not installed():
        return None
    return importlib.import_module("stages.train.population.compiled")
