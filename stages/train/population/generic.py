"""Any head, stacked by torch.func: its forward pass is mapped over the members, and autograd goes back through it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from stages.errors import SettingError
from stages.heads.batch import HeadBatch
from stages.train.population.masks import BatchMasks
from stages.train.population.stack import Stack


class Answer(NamedTuple):
    """What P heads say of B samples each, as `HeadOutput` has it, with P in front of each shape."""

    logits: Tensor
    penalty: Tensor | None = None
    answers: Tensor | None = None
    shares: Tensor | None = None


class Generic:
    """P heads of any kind.

    Args:
        head: one of them, for its layers; it is not changed.
        alone: P is 1, and the head need not be such that torch.func can map it.

    Raises:
        SettingError: it has a random layer other than nn.Dropout.
    """

    def __init__(self, head: nn.Module, alone: bool = False) -> None:
        self._head, self._alone = copy.deepcopy(head), alone
        self._tape = _Tape()
        for name, layer in [*self._head.named_modules(remove_duplicate=False)]:
            if type(layer) is nn.Dropout:
                _replace(self._head, name, _Given(self._tape, layer.p))
            elif isinstance(layer, nn.modules.dropout._DropoutNd):
                raise SettingError(f"{name} of the head is a {type(layer).__name__}; populations take nn.Dropout only")
        self._shapes: dict[tuple[int, ...], list[_Asked]] = {}
        self._found: list[str] | None = None

    def answer(self, stack: Stack, batch: HeadBatch, masks: BatchMasks | None) -> tuple[Answer, list[Tensor]]:
        """What the heads say, and the parameters that autograd can go back to, in the order of `stack.parameters`.

        Args:
            stack: parameters and buffers; running statistics are moved in training.
            batch: with (P, B, ...) tensors.
            masks: of dropout; None: not in training.
        """
        self._head.train(masks is not None)
        names, tensors = tuple(batch.parts()), tuple(batch.parts().values())
        training = masks is not None
        leaves = {name: value.detach().requires_grad_(training) for name, value in stack.parameters.items()}

        def one(
            state: dict[str, Tensor], parts: Sequence[Tensor], given: Sequence[Tensor] | BatchMasks
        ) -> dict[str, Tensor]:
            self._tape.play(given)
            whole = HeadBatch.of_parts(dict(zip(names, parts, strict=True)))
            said = functional_call(self._head, state, (whole,))
            return {name: value for name in Answer._fields if (value := getattr(said, name)) is not None}

        given: tuple[Tensor, ...] = ()
        if masks is not None and not self._alone:
            shapes = self._dropouts(stack, batch)
            real = {"": None, "face": masks.counts}
            real |= {level: mask.sum(2).cpu().numpy() for level, mask in batch.masks.items()}
            given = tuple(
                masks.padded(layer, shape, rate, real[level])
                if rate
                else batch.faces.new_ones(stack.size, *(1 for _ in shape))
                for layer, ((shape, rate), level) in enumerate(zip(shapes, self._levels(stack, batch), strict=True))
            )
        with torch.set_grad_enabled(training):
            state = {**leaves, **stack.buffers}
            if self._alone:
                first = {name: tensor[0] for name, tensor in state.items()}
                found = one(first, [tensor[0] for tensor in tensors], masks or ())
                found = {name: tensor.unsqueeze(0) for name, tensor in found.items()}
            else:
                found = vmap(one)(state, tensors, given)
        return Answer(**found), list(leaves.values())

    def _dropouts(self, stack: Stack, batch: HeadBatch) -> list[_Asked]:
        """Shape and rate of each call of dropout in a forward pass over one member's batch of these shapes."""
        key = tuple(size for tensor in batch.parts().values() for size in tensor.shape[1:])
        if key not in self._shapes:
            self._shapes[key] = self._record(stack, batch)
        return self._shapes[key]

    def _levels(self, stack: Stack, batch: HeadBatch) -> list[str]:
        """Of each call of dropout, what the rows of its tensor are, (B, N, ...): `face`, `frame` or `person`; empty:
        none of these. Told by which tensors grow when there is more padding."""
        if self._found is None:
            widths = {"face": batch.face_mask.shape[2], **{level: m.shape[2] for level, m in batch.masks.items()}}
            wider = self._record(stack, _wider(batch))
            self._found = [
                next((level for level, more in _MORE.items() if _is_of(shape, other, widths.get(level), more)), "")
                for (shape, _), (other, _) in zip(self._dropouts(stack, batch), wider, strict=True)
            ]
        return self._found

    def _record(self, stack: Stack, batch: HeadBatch) -> list[_Asked]:
        """What dropout is asked for in a forward pass of the first member."""
        state = {n: t[0].clone() for n, t in (*stack.parameters.items(), *stack.buffers.items())}
        whole = HeadBatch.of_parts({name: tensor[0] for name, tensor in batch.parts().items()})
        self._tape.record()
        with torch.no_grad():
            functional_call(self._head, state, (whole,))
        return self._tape.recorded


_Asked = tuple[tuple[int, ...], float]
_MORE = {"face": 1, "frame": 2, "person": 3}


def _is_of(shape: tuple[int, ...], wider: tuple[int, ...], width: int | None, more: int) -> bool:
    """Whether a tensor's rows are those of a level of this width, from how it grew when the level had `more`."""
    return len(shape) > 2 and shape[1] == width and wider[1] == shape[1] + more


def _wider(batch: HeadBatch) -> HeadBatch:
    """A batch (P, B, N, ...) with more padding, of each level by another number. A head reads inputs of one level."""
    parts = batch.parts()
    levels = dict.fromkeys(("faces", "face_mask", "boxes"), "face") | {f"masks.{level}": level for level in batch.masks}
    levels |= {f"inputs.{name}": level for name in batch.inputs for level in batch.masks}
    for name, level in levels.items():
        rows = parts[name]
        none = rows.new_zeros(*rows.shape[:2], _MORE[level], *rows.shape[3:])
        parts[name] = torch.cat([rows, none], dim=2)
    return HeadBatch.of_parts(parts)


class _Tape:
    """What the calls of dropout of one forward pass are given, in their order; or what they ask for."""

    def __init__(self) -> None:
        self.recorded: list[_Asked] = []
        self._given: Iterator[Tensor] | None = None
        self._masks: BatchMasks | None = None
        self._layer = 0

    def record(self) -> None:
        self.recorded, self._given, self._masks = [], None, None

    def play(self, given: Sequence[Tensor] | BatchMasks) -> None:
        """Masks; or where they come from, for one head, whose tensors may have any shape."""
        self._masks = given if isinstance(given, BatchMasks) else None
        self._given, self._layer = None if isinstance(given, BatchMasks) else iter(given), 0

    def next(self, x: Tensor, rate: float) -> Tensor:
        if self._given is not None:
            return x * next(self._given)
        layer, shape = self._layer, tuple(x.shape)
        self._layer += 1
        if self._masks is not None:
            return x * self._masks.padded(layer, shape, rate)[0] if rate else x
        self.recorded.append((shape, rate))
        return x


class _Given(nn.Module):
    """Dropout by a mask that is given."""

    def __init__(self, tape: _Tape, rate: float) -> None:
        super().__init__()
        self._tape, self._rate = tape, rate

    def forward(self, x: Tensor) -> Tensor:
        return self._tape.next(x, self._rate) if self.training else x


def _replace(head: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(head.get_submodule(parent), last, layer)
