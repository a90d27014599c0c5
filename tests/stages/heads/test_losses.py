"""Losses against torch's own, at their limits, and what is trained on."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.nn import functional as F

from stages.errors import DataError
from stages.heads.loss_settings import LossSettings
from stages.heads.losses import (
    CrossEntropy,
    Divergence,
    Focal,
    Loss,
    MultiLabel,
    Soft,
    chances,
    loss_of,
    sample_weights,
    targets_of,
)

SHAPE, CLASSES = (2, 3, 4), 5
LOSSES: dict[str, Loss] = {
    "plain": CrossEntropy(),
    "smooth": CrossEntropy(0.1),
    "focal": Focal(),
    "focal half": Focal(0.5),
    "focal none": Focal(0.0),
    "kl": Divergence(),
    "multi_label": MultiLabel(),
    "soft": Soft(),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def inputs(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 4, 5), and targets as the loss takes them, no row without a label."""
    noise = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*SHAPE, CLASSES, generator=noise, dtype=dtype)
    classes = torch.randint(CLASSES, SHAPE, generator=noise)
    if name not in ("kl", "multi_label", "soft"):
        return logits, classes
    several = torch.randint(2, (*SHAPE, CLASSES), generator=noise).to(dtype).scatter(-1, classes[..., None], 1.0)
    return logits, several / several.sum(-1, keepdim=True) if name == "soft" else several


def by_torch(name: str, logits: Tensor, targets: Tensor) -> Tensor:
    """The same by torch's own functions, or word by word as the papers write it."""
    flat = logits.flatten(0, -2)
    if name == "kl":
        wanted = targets / targets.sum(-1, keepdim=True)
        return F.kl_div(logits.log_softmax(-1), wanted, reduction="none").sum(-1)
    if name == "multi_label":
        p = torch.sigmoid(logits)
        return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean(-1)
    if name == "soft":
        return F.cross_entropy(flat, targets.flatten(0, -2), reduction="none").view(targets.shape[:-1])
    smoothing = 0.1 if name == "smooth" else 0.0
    found = F.cross_entropy(flat, targets.flatten(), reduction="none", label_smoothing=smoothing).view(targets.shape)
    if name in ("focal", "focal half"):
        own = logits.softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
        return (1 - own) ** (2.0 if name == "focal" else 0.5) * found
    return found


@every_loss
def test_values_and_gradients_are_torchs(name: str) -> None:
    logits, targets = inputs(name)
    mine, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = LOSSES[name](mine, targets), by_torch(name, other, targets)
    assert found.shape == SHAPE
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), mine), torch.autograd.grad(expected.sum(), other), rtol=1e-9, atol=1e-12
    )


@every_loss
@pytest.mark.parametrize("scale", [1e2, 1e6, 1e30])
def test_values_and_gradients_are_finite_for_extreme_logits(name: str, scale: float) -> None:
    logits, targets = inputs(name, torch.float32)
    for extreme in (logits * scale, torch.zeros_like(logits), torch.full_like(logits, scale)):
        leaf = extreme.clone().requires_grad_()
        losses = LOSSES[name](leaf, targets)
        [gradient] = torch.autograd.grad(losses.sum(), [leaf])
        assert losses.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 10


@every_loss
def test_any_leading_dimensions_and_vmap(name: str) -> None:
    logits, targets = inputs(name)
    loss = LOSSES[name]
    whole = loss(logits, targets)
    torch.testing.assert_close(torch.vmap(loss)(logits, targets), whole)
    torch.testing.assert_close(torch.vmap(torch.vmap(loss))(logits, targets), whole)
    torch.testing.assert_close(loss(logits[0, 0, 0], targets[0, 0, 0]), whole[0, 0, 0])
    gradients = torch.func.vmap(torch.func.grad(lambda z, t: loss(z, t).sum()))(logits, targets)
    leaf = logits.clone().requires_grad_()
    torch.testing.assert_close(gradients, *torch.autograd.grad(loss(leaf, targets).sum(), [leaf]))


@every_loss
def test_a_process_can_be_sent_one(name: str) -> None:
    logits, targets = inputs(name)
    other = pickle.loads(pickle.dumps(LOSSES[name]))  # noqa: S301 - our own bytes
    assert torch.equal(other(logits, targets), LOSSES[name](logits, targets))


every_row = arrays.arrays(np.float64, CLASSES, elements=st.floats(-30, 30))


@given(every_row, st.integers(0, CLASSES - 1), st.floats(0, 5))
@settings(max_examples=50, deadline=None)
def test_focal_is_below_cross_entropy_and_falls_with_gamma(row: np.ndarray, target: int, gamma: float) -> None:
    logits, at = torch.from_numpy(row), torch.tensor(target)
    plain, focal, more = (loss(logits, at).item() for loss in (CrossEntropy(), Focal(gamma), Focal(gamma + 1)))
    assert -1e-9 <= more <= focal + 1e-9
    assert focal <= plain + 1e-9
    assert Focal(0.0)(logits, at).item() == plain


@given(every_row, arrays.arrays(np.float64, CLASSES, elements=st.floats(0, 10)))
@settings(max_examples=50, deadline=None)
def test_the_divergence_is_least_at_the_targets(row: np.ndarray, targets: np.ndarray) -> None:
    targets[0] += 1e-3
    loss, wanted = Divergence(), torch.from_numpy(targets)
    assert loss(torch.from_numpy(row), wanted).item() >= -1e-9
    assert loss(torch.from_numpy(row), wanted).item() == pytest.approx(loss(torch.from_numpy(row), 7 * wanted).item())
    optimum = torch.log(wanted).clamp(min=-700).requires_grad_()
    found = loss(optimum, wanted)
    [gradient] = torch.autograd.grad(found, [optimum])
    assert found.item() == pytest.approx(0, abs=1e-9)
    assert gradient.abs().max().item() < 1e-9


def test_three_labels_want_a_third_each() -> None:
    targets = torch.tensor([1.0, 1, 0, 1])
    assert Divergence()(torch.tensor([5.0, 5, -300, 5]), targets).item() == pytest.approx(0, abs=1e-6)
    assert Divergence()(torch.zeros(4), targets).item() == pytest.approx(math.log(4 / 3))
    assert Divergence()(torch.tensor([9.0, 1, 2, 3]), torch.zeros(4)).item() == 0  # a row without a label


def test_which_loss_the_settings_name() -> None:
    assert loss_of(LossSettings()) is None
    assert loss_of(LossSettings(smoothing=0.2)) == CrossEntropy(0.2)
    assert loss_of(LossSettings(kind="focal")) == Focal(2.0)
    assert loss_of(LossSettings(kind="focal", gamma=0)) == Focal(0.0)
    assert loss_of(LossSettings(kind="kl")) == Divergence()
    assert loss_of(LossSettings(kind="multi_label")) == MultiLabel()
    assert loss_of(LossSettings(kind="soft")) == Soft()


LABELS = [("b",), (), ("a", "c"), ("c",)]


def test_what_is_trained_on() -> None:
    one = targets_of(LABELS, "abc", LossSettings())
    assert (one.dtype, one.tolist()) == (np.int64, [1, -1, -1, 2])
    for kind in ("kl", "multi_label"):
        several = targets_of(LABELS, "abc", LossSettings(kind=kind))
        assert several.dtype == np.float32
        assert several.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]
        assert targets_of([], "abc", LossSettings(kind=kind)).shape == (0, 3)
    assert targets_of([], "abc", LossSettings()).dtype == np.int64
    with pytest.raises(DataError, match="label 'c' is none of the classes a, b"):
        targets_of(LABELS, "ab", LossSettings())


@given(arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(-1, 3)))
def test_balanced_classes_count_and_are_drawn_the_same(labels: np.ndarray) -> None:
    if labels.max() < 0:
        with pytest.raises(DataError, match="run from -1 to -1, of 5 classes"):
            chances(labels, 5)
        return
    weights, chance = sample_weights(labels, 5), chances(labels, 5)
    assert (weights.dtype, chance.dtype) == (np.float32, np.float64)
    there = np.unique(labels[labels >= 0])
    assert (weights[labels < 0] == 0).all()
    assert (chance[labels < 0] == 0).all()
    assert weights[labels >= 0].mean() == pytest.approx(1, rel=1e-5)
    assert chance.sum() == pytest.approx(1)
    np.testing.assert_allclose([chance[labels == c].sum() for c in there], 1 / len(there))
    counts = np.bincount(labels[labels >= 0], minlength=5)
    by_hand = (labels >= 0).sum() / (len(there) * counts[labels])[labels >= 0]
    np.testing.assert_allclose(weights[labels >= 0], by_hand, rtol=1e-6)


def test_a_label_that_is_no_class_is_not_balanced() -> None:
    for labels in ([0, 3], [0, -2]):
        with pytest.raises(DataError, match="of 3 classes"):
            sample_weights(np.array(labels), 3)
