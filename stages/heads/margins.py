"""Last layers whose loss asks for an angle between classes: L-Softmax and A-Softmax, and plain softmax beside them.

L-Softmax: Liu et al. 2016, "Large-Margin Softmax Loss for Convolutional Neural Networks", arXiv:1612.02295.
A-Softmax: Liu et al. 2017, "SphereFace: Deep Hypersphere Embedding for Face Recognition", arXiv:1704.08063.

The logit of a sample's own class, |w||x|cos(theta), becomes |w||x|psi(theta), where psi falls faster than cos:

    psi(theta) = (-1)^k cos(m theta) - 2k  for theta in [k pi / m, (k + 1) pi / m], k = 0 ... m - 1

Blended with the plain logit, so that training may begin as softmax does:

    (lambda |w||x|cos(theta) + |w||x|psi(theta)) / (1 + lambda),  lambda = max(floor, base (1 + gamma iteration)^-power)

In A-Softmax every w is divided by its length. What comes out goes to cross entropy.

cos(m theta) is a polynomial in cos(theta), and k follows from comparing cos(theta) with cos(j pi / m): no angle is
computed, because the derivative of acos is infinite where a sample lies on its class's weight. Gradients are those of
the formula; SphereFace's Caffe layer rescales those of a sample's own class, and has no margin in those of weights.

The papers on groups: Gupta et al. 2018 use L-Softmax, with margin 4 in their code (which then returns the plain logits,
so that it trains a softmax without bias); Tan et al. 2017 use L-Softmax and a SphereFace trained with A-Softmax, and
name no margin. Neither names a schedule.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from stages.errors import SettingError
from stages.heads.margin_settings import DEFAULT_MARGIN, MAX_MARGIN, REMEDY, Kind, LambdaSchedule

SHORTEST = 1e-12
"""A length, or a product of two, that is not above this gives no direction: cosine 0, with gradient 0."""


class Softmax(nn.Linear):
    """The plain last layer, with bias, that is called as the others are."""

    def __init__(self, in_features: int, classes: int) -> None:
        super().__init__(in_features, classes)

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (..., K) of (..., D) features; the labels change nothing."""
        return super().forward(input)


class MarginClassifier(nn.Module):
    """What L-Softmax and A-Softmax share. Weights start Kaiming normal, as in L-Softmax's code.

    Args:
        in_features: D.
        classes: K, at least 2.
        margin: m, 1 to 4.
        schedule: of lambda.

    Attributes:
        weight: (K, D).
        iteration: int64 buffer of one number: how often it was called with labels in training mode. The first such call
            is iteration 1, as in the authors' layers. It is saved with the weights, so a resumed training goes on with
            the same lambda. A batch that is split to accumulate gradients counts once for each part.

    Raises:
        SettingError: a number is out of range.
    """

    iteration: Tensor

    def __init__(self, in_features: int, classes: int, margin: int, schedule: LambdaSchedule) -> None:
        super().__init__()
        _check(in_features, classes)
        if not 1 <= margin <= MAX_MARGIN:
            raise SettingError(f"margin is {margin}: use a whole number from 1 to {MAX_MARGIN}")
        self.margin, self.schedule = margin, schedule
        self.weight = nn.Parameter(torch.empty(classes, in_features))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again, and count from the first iteration."""
        nn.init.kaiming_normal_(self.weight)
        self.iteration.zero_()

    @property
    def blend(self) -> float:
        """Lambda at the present iteration, for logs. Waits for the device."""
        return float(self.schedule.at(self.iteration))

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (..., K) of (..., D) features: plain ones for inference, with the margin where labels are given.

        Args:
            input: (..., D).
            labels: (...) int64 in [0, K), one for each feature vector; None: plain logits.

        Returns:
            float32, or float64 where features or weights are. Autocast is turned off inside: between cos and psi lie
            up to 2m - 2 times the length of x, and bfloat16 has three digits.
        """
        with _full_precision(input.device.type):
            dtype = torch.promote_types(torch.promote_types(input.dtype, self.weight.dtype), torch.float32)
            input, weight = input.to(dtype), self.weight.to(dtype)
            plain, lengths = self._plain(input, weight)  # (..., K), (K,)
            if labels is None:
                return plain
            if self.training:
                self.iteration += 1
            own = labels.unsqueeze(-1) == torch.arange(len(weight), device=labels.device)  # (..., K)
            length = torch.linalg.vector_norm(input, dim=-1) * torch.where(own, lengths, 0).sum(-1)  # (...)
            cosine = _ratio(torch.where(own, plain, 0).sum(-1), length)  # (...)
            # (lambda f + g) / (1 + lambda) = f + (g - f) / (1 + lambda): nothing is rounded away at a large lambda.
            further = length * (psi(cosine, self.margin) - cosine) / (1 + self.schedule.at(self.iteration)).to(dtype)
            return plain + torch.where(own, further.unsqueeze(-1), 0)

    def extra_repr(self) -> str:
        """Sizes and margin, for print."""
        classes, in_features = self.weight.shape
        return f"in_features={in_features}, classes={classes}, margin={self.margin}, schedule=({self.schedule})"

    def _plain(self, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., K), and the lengths (K,) that the classes' weights count with."""
        raise NotImplementedError


class LSoftmax(MarginClassifier):
    """L-Softmax: plain logits are x W^T."""

    def _plain(self, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return features @ weight.T, torch.linalg.vector_norm(weight, dim=-1)


class ASoftmax(MarginClassifier):
    """A-Softmax: plain logits are |x| cos(theta). A weight of length 0 gives logit 0 and no gradient."""

    def _plain(self, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        lengths = torch.linalg.vector_norm(weight, dim=-1)
        directions = _ratio(weight, lengths.unsqueeze(-1))
        return features @ directions.T, (lengths > SHORTEST).to(weight.dtype)


Classifier = Softmax | LSoftmax | ASoftmax


def classifier(
    kind: Kind, in_features: int, classes: int, margin: int | None = None, schedule: LambdaSchedule | None = None
) -> Classifier:
    """A last layer; all kinds are called alike, with features and, in training, labels.

    Args:
        kind, margin, schedule: see `MarginSettings`.
        in_features: D, at least 1.
        classes: K, at least 2.

    Raises:
        SettingError: there is no such kind, a number is out of range, or softmax is given a margin or a schedule.
    """
    if kind == "softmax":
        _check(in_features, classes)
        if margin is not None or schedule is not None:
            raise SettingError(f"margin is {margin} and schedule is ({schedule}), and softmax has neither: {REMEDY}")
        return Softmax(in_features, classes)
    made = {"l_softmax": LSoftmax, "a_softmax": ASoftmax}.get(kind)
    if made is None:
        raise SettingError(f"kind is {kind!r}: use softmax, l_softmax or a_softmax")
    return made(in_features, classes, DEFAULT_MARGIN if margin is None else margin, schedule or LambdaSchedule())


def psi(cosine: Tensor, margin: int) -> Tensor:
    """psi(theta) of cos(theta): equals cos(theta) for margin 1, falls from 1 at theta = 0 to 1 - 2m at pi.

    Smooth in theta at the joints k pi / m too: both sides have value 1 - 2k and slope 0 there. A cosine that rounding
    put outside [-1, 1] is fine.

    Args:
        cosine: cos(theta), any shape.
        margin: m, at least 1.
    """
    passed = torch.zeros_like(cosine)  # k: how many joints the angle lies beyond
    for joint in range(1, margin):
        passed = passed + (cosine < math.cos(joint * math.pi / margin))
    before, multiple = torch.ones_like(cosine), cosine  # cos(0), cos(theta)
    for _ in range(1, margin):  # cos((n + 1) theta) = 2 cos(theta) cos(n theta) - cos((n - 1) theta)
        before, multiple = multiple, 2 * cosine * multiple - before
    return (1 - 2 * (passed % 2)) * multiple - 2 * passed


def _ratio(above: Tensor, length: Tensor) -> Tensor:
    """above / length; 0 with gradient 0 where the length is not above `SHORTEST`."""
    there = length > SHORTEST
    return torch.where(there, above / torch.where(there, length, 1), 0)


def _full_precision(device: str) -> torch.autocast | nullcontext[None]:
    """Autocast turned off, on devices that know it (`meta` does not)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check(in_features: int, classes: int) -> None:
    if in_features < 1 or classes < 2:
        raise SettingError(f"{classes} classes of {in_features} features: a classifier needs at least 2 and 1")
