"""What stacked forms of heads are written with: the layers of P heads at once, and their gradients by hand.

A form is the head's forward pass again, over minibatches without padding (`minibatch.py`):

    def stacked(net: Net) -> Value:
        faces = net.dropout(net.linear("face", net.faces), 0.5)    # (P, R, D) to (P, R, W)
        photo = net.dropout(net.linear("global_", net.global_), 0.5)   # (P, B, G) to (P, B, W)
        weights = net.softmax(net.linear("score", faces))    # (P, R, 1)
        return net.linear("classify", net.join(net.norm("norm", net.pool(weights, faces)), photo))

Layers are named as the head's own. Each notes how gradients go back through it; `backward` plays the notes in reverse.
That is what autograd does, and half as expensive: gradients of parameters are written where the optimiser reads them,
and nothing else is kept. Rows of faces after a member's last mean nothing; only `softmax` and `pool` go from faces to
samples, and they leave them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from stages.errors import SettingError
from stages.train.population.minibatch import Minibatch
from stages.train.population.segments import segments_of
from stages.train.population.stack import Stack

Masks = Callable[[int, bool, int, float], Tensor]
"""(layer, of faces, width W, rate) -> (P, R or B, W) float32 mask of dropout: 0, or 1 / (1 - rate)."""


class Value:
    """A tensor on its way through the net.

    Attributes:
        data: (P, R, W) of faces or (P, B, W) of samples.
        of_faces: which of the two.
        wanted: whether its gradient is needed: not that of a feature.
        gradient: what came back so far.
        kept: whether the data are needed as they are: by the way back, or by a layer that has seen them.
    """

    __slots__ = ("data", "gradient", "kept", "of_faces", "spent", "wanted")

    def __init__(self, data: Tensor, of_faces: bool, wanted: bool = True, kept: bool = False) -> None:
        self.data, self.of_faces, self.wanted, self.kept = data, of_faces, wanted, kept
        self.gradient: Tensor | None = None
        self.spent = False

    def read(self) -> Tensor:
        """The data, for a layer."""
        if self.spent:
            raise RuntimeError("a stacked form uses a value that dropout wrote over: use what dropout gave")
        self.kept = True
        return self.data

    def take(self) -> Tensor | None:
        """The data, to be written over; None where they are needed as they are."""
        if self.kept or self.spent:
            return None
        self.spent = True
        return self.data

    def add(self, gradient: Tensor) -> None:
        """Take in a gradient, which is the value's own from now on."""
        if self.wanted:
            self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)


class Net:
    """One pass of P heads over a minibatch, without autograd.

    Args:
        stack: parameters and buffers; running statistics are moved in training.
        head: one of the heads, for the settings of its layers.
        batch: what it sees.
        masks: of dropout; None: not in training, nothing is dropped and batch norm uses its running statistics.
    """

    def __init__(self, stack: Stack, head: nn.Module, batch: Minibatch, masks: Masks | None) -> None:
        self._stack, self._head, self._batch, self._masks = stack, head, batch, masks
        self._segments = segments_of(batch)
        self._notes: list[tuple[Value, Callable[[Tensor], None]]] = []
        self._written: set[str] = set()
        self._dropouts = 0

    @property
    def faces(self) -> Value:
        """(P, R, D) features of faces."""
        return Value(self._batch.faces, of_faces=True, wanted=False, kept=True)

    @property
    def global_(self) -> Value:
        """(P, B, G) features of whole photos."""
        return Value(self._batch.global_, of_faces=False, wanted=False, kept=True)

    def backward(self, value: Value, gradient: Tensor) -> None:
        """Gradients of all parameters into `stack.gradient`, from that of a value."""
        value.add(gradient)
        for out, note in reversed(self._notes):
            if out.gradient is not None:
                note(out.gradient)
                out.gradient = None

    def linear(self, name: str, x: Value) -> Value:
        """nn.Linear, with or without bias: (..., W) to (..., V)."""
        weight, bias, data = self._parameter(f"{name}.weight"), self._parameter(f"{name}.bias"), x.read()
        if weight is None:
            raise SettingError(f"{name}: a stacked form names a layer that {type(self._head).__name__} does not have")
        turned = weight.transpose(1, 2)
        out = torch.bmm(data, turned) if bias is None else torch.baddbmm(bias[:, None], data, turned)

        def back(gradient: Tensor) -> None:
            self._into(f"{name}.weight", lambda place: torch.bmm(gradient.transpose(1, 2), data, out=place))
            if bias is not None:
                self._into(f"{name}.bias", lambda place: torch.sum(gradient, 1, out=place))
            if x.wanted:
                x.add(torch.bmm(gradient, weight))

        return self._noted(Value(out, x.of_faces), back)

    def tanh(self, x: Value) -> Value:
        """(..., W) to (..., W)."""
        out = torch.tanh(x.read())
        return self._noted(Value(out, x.of_faces, kept=True), lambda g: x.add(torch.ops.aten.tanh_backward(g, out)))

    def relu(self, x: Value) -> Value:
        """(..., W) to (..., W)."""
        out = torch.relu(x.read())
        return self._noted(
            Value(out, x.of_faces, kept=True), lambda g: x.add(torch.ops.aten.threshold_backward(g, out, 0))
        )

    def sigmoid(self, x: Value) -> Value:
        """(..., W) to (..., W)."""
        out = torch.sigmoid(x.read())
        return self._noted(Value(out, x.of_faces, kept=True), lambda g: x.add(torch.ops.aten.sigmoid_backward(g, out)))

    def product(self, x: Value, y: Value) -> Value:
        """x * y, entry by entry, both of faces or both of samples."""
        one, other = x.read(), y.read()

        def back(gradient: Tensor) -> None:
            y.add(gradient * one)
            x.add(gradient.mul_(other))

        return self._noted(Value(one * other, x.of_faces), back)

    def dropout(self, x: Value, rate: float) -> Value:
        """Entries of `x` set to 0 with probability `rate`, the others divided by 1 - rate; in training only.

        Calls are numbered in their order: the layers of `Draws`. Where nothing has used `x` yet it is written over, and
        nothing may use it any more.
        """
        layer, self._dropouts = self._dropouts, self._dropouts + 1
        if self._masks is None or rate == 0:
            return x
        mask = self._masks(layer, x.of_faces, x.data.shape[2], rate)
        free = x.take()
        out = x.read() * mask if free is None else free.mul_(mask)
        return self._noted(Value(out, x.of_faces), lambda g: x.add(g.mul_(mask)))

    def join(self, x: Value, y: Value) -> Value:
        """Side by side: (..., W) and (..., V) to (..., W + V)."""
        width = x.data.shape[2]

        def back(gradient: Tensor) -> None:
            x.add(gradient[..., :width])
            y.add(gradient[..., width:])

        return self._noted(Value(torch.cat([x.read(), y.read()], 2), x.of_faces), back)

    def add(self, x: Value, y: Value) -> Value:
        """x + y of faces and samples: each face has its sample's y added where y is of samples and x of faces."""
        if x.of_faces and not y.of_faces:

            def spread_back(gradient: Tensor) -> None:
                if y.wanted:
                    y.add(self._segments.pooled(gradient, None))
                x.add(gradient)

            return self._noted(Value(self._segments.plus(x.read(), y.read()), True), spread_back)

        def back(gradient: Tensor) -> None:
            y.add(gradient.clone())
            x.add(gradient)

        return self._noted(Value(x.read() + y.read(), x.of_faces), back)

    def dot(self, x: Value, query: Value) -> Value:
        """(P, R, 1): the product of each face's vector with the one (P, B, W) of its sample."""
        data, asked = x.read(), query.read()

        def back(gradient: Tensor) -> None:
            if query.wanted:
                query.add(self._segments.pooled(data, gradient))
            if x.wanted:
                x.add(self._segments.spread(asked, gradient))

        return self._noted(Value(self._segments.dots(data, asked), True), back)

    def softmax(self, scores: Value) -> Value:
        """(P, R, 1) weights from scores: those of a sample's faces sum to 1."""
        out = self._segments.softmax(scores.read())
        return self._noted(
            Value(out, True, kept=True), lambda gradient: scores.add(self._segments.softmax_back(out, gradient))
        )

    def mean_weights(self) -> Value:
        """(P, R, 1): every face of a sample counts the same."""
        return Value(self._batch.share, of_faces=True, wanted=False, kept=True)

    def pool(self, weights: Value, x: Value) -> Value:
        """(P, B, W): the sum of each sample's faces (P, R, W) with weights (P, R, 1); 0 without a face."""
        data, shares = x.read(), weights.read()

        def back(gradient: Tensor) -> None:
            if x.wanted:
                x.add(self._segments.spread(gradient, shares))
            if weights.wanted:
                weights.add(self._segments.dots(data, gradient))

        return self._noted(Value(self._segments.pooled(data, shares), False), back)

    def norm(self, name: str, x: Value) -> Value:
        """nn.BatchNorm1d over each member's samples (P, B, W), with or without affine parameters."""
        layer, data = cast(nn.BatchNorm1d, self._head.get_submodule(name)), x.read()
        if x.of_faces or layer.momentum is None or not layer.track_running_stats:
            raise SettingError(
                f"{name}: a stacked form's batch norm is over samples, with momentum and running statistics"
            )
        size = data.shape[1]
        if self._masks is None:
            mean, variance = (self._stack.buffers[f"{name}.running_{what}"][:, None] for what in ("mean", "var"))
            return self._affine(name, Value((data - mean) * (variance + layer.eps).rsqrt(), False))
        mean = data.mean(1, keepdim=True)
        out = data - mean
        variance = (out * out).mean(1, keepdim=True)
        self._stack.buffers[f"{name}.running_mean"].lerp_(mean[:, 0], layer.momentum)
        self._stack.buffers[f"{name}.running_var"].lerp_(variance[:, 0] * (size / (size - 1)), layer.momentum)
        self._stack.buffers[f"{name}.num_batches_tracked"].add_(1)
        scale = (variance + layer.eps).rsqrt_()
        out.mul_(scale)

        def back(gradient: Tensor) -> None:
            along = (gradient * out).mean(1, keepdim=True)
            x.add((gradient - gradient.mean(1, keepdim=True)).addcmul_(out, along, value=-1).mul_(scale))

        return self._affine(name, self._noted(Value(out, False, kept=True), back))

    def _affine(self, name: str, x: Value) -> Value:
        weight, bias = (self._parameter(f"{name}.{what}") for what in ("weight", "bias"))
        if weight is None or bias is None:
            return x
        data = x.read()

        def back(gradient: Tensor) -> None:
            self._into(f"{name}.weight", lambda place: torch.sum(gradient * data, 1, out=place))
            self._into(f"{name}.bias", lambda place: torch.sum(gradient, 1, out=place))
            x.add(gradient * weight[:, None])

        return self._noted(Value(torch.addcmul(bias[:, None], data, weight[:, None]), False), back)

    def _noted(self, out: Value, back: Callable[[Tensor], None]) -> Value:
        if self._masks is not None:
            self._notes.append((out, back))
        return out

    def _parameter(self, name: str) -> Tensor | None:
        """(P, ...), trained or frozen; None where the layer has none."""
        found = self._stack.parameters.get(name)
        return self._stack.buffers.get(name) if found is None else found

    def _into(self, name: str, write: Callable[[Tensor], object]) -> None:
        """Let a gradient be written to its place; a parameter that is used twice has the sum of both."""
        place = self._stack.gradients.get(name)
        if place is None:  # frozen
            return
        if name not in self._written:
            self._written.add(name)
            write(place)
            return
        other = torch.empty_like(place)
        write(other)
        place.add_(other)
