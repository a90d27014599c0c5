"""Parameters and buffers of P heads of one shape, stacked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


class Stack:
    """Trained parameters of P heads in one flat float32 tensor, and their gradients in another.

    They lie one parameter after another, each as a contiguous (P, ...) array: a product of stacked matrices can write
    a gradient where it belongs, without a copy.

    Args:
        heads: of one shape, at least one. They are copied.
        device: of torch.

    Attributes:
        size: P.
        flat, gradient: (P * n,) float32.
        starts: int64, where each parameter begins in `flat`, and its end at last.
        parameters, gradients: name -> (P, ...), views of `flat` and `gradient`.
        buffers: name -> (P, ...): the buffers, and parameters that are not trained.
    """

    def __init__(self, heads: Sequence[nn.Module], device: str = "cpu") -> None:
        trained = {name: p for name, p in heads[0].named_parameters() if p.requires_grad}
        shapes = {name: tuple(p.shape) for name, p in trained.items()}
        self._lay_out(len(heads), shapes, device)
        states = [_tensors(head) for head in heads]
        with torch.no_grad():
            for name, place in self.parameters.items():
                place.copy_(torch.stack([state[name].detach() for state in states]))
        kept = [name for name in states[0] if name not in trained]
        self.buffers = {name: torch.stack([state[name].detach() for state in states]).to(device) for name in kept}

    def _lay_out(self, size: int, shapes: dict[str, tuple[int, ...]], device: str) -> None:
        self.size, self._shapes, self._device = size, shapes, device
        lengths = [size * int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()]
        self.starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.flat = torch.zeros(int(self.starts[-1]), device=device)
        self.gradient = torch.zeros_like(self.flat)
        self.parameters, self.gradients = self.views(self.flat), self.views(self.gradient)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name -> (P, ...) view of a tensor that lies as `flat` does."""
        places = zip(self._shapes.items(), pairwise(self.starts.tolist()), strict=True)
        return {name: flat[start:end].view(self.size, *shape) for (name, shape), (start, end) in places}

    def moved(self, flat: Tensor, members: Tensor) -> Tensor:
        """What a tensor that lies as `flat` does has for some members, int64 (k,), as a stack of these has it."""
        parts = (view.index_select(0, members).view(-1) for view in self.views(flat).values())
        return torch.cat(list(parts))

    def picked(self, members: Tensor) -> Stack:
        """A stack of some of the members, int64 (k,), copied."""
        new = Stack.__new__(Stack)
        new._lay_out(len(members), self._shapes, self._device)
        new.flat.copy_(self.moved(self.flat, members))
        new.buffers = {name: buffer.index_select(0, members) for name, buffer in self.buffers.items()}
        return new

    def take_back(self, other: Stack, members: Tensor) -> None:
        """Gradients and buffers of `picked(members)`, after a step of these members."""
        for name, gradient in other.gradients.items():
            self.gradients[name].index_copy_(0, members, gradient)
        for name, buffer in other.buffers.items():
            self.buffers[name].index_copy_(0, members, buffer)

    def state(self, member: int) -> dict[str, Tensor]:
        """Parameters and buffers of one member, copied to the CPU."""
        stacked = {**self.parameters, **self.buffers}
        return {name: tensor[member].detach().cpu().clone() for name, tensor in stacked.items()}


def load(head: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a head the parameters and buffers of `Stack.state`."""
    with torch.no_grad():
        for name, tensor in _tensors(head).items():
            tensor.copy_(state[name])


def _tensors(head: nn.Module) -> dict[str, Tensor]:
    return dict([*head.named_parameters(), *head.named_buffers()])
