"""L-Softmax and A-Softmax: the angle function, the blend, gradients, and what a resumed training goes on with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import SettingError
from stages.heads import registry
from stages.heads.margin_settings import Kind, LambdaSchedule, MarginSettings
from stages.heads.margins import ASoftmax, LSoftmax, MarginClassifier, Softmax, classifier, psi

MARGINS = (1, 2, 3, 4)
WITH_MARGIN: tuple[Kind, ...] = ("l_softmax", "a_softmax")
KINDS: tuple[Kind, ...] = ("softmax", *WITH_MARGIN)
DIM, CLASSES, BATCH = 6, 4, 9
PURE = LambdaSchedule(base=0, floor=0)

every_margin = pytest.mark.parametrize("margin", MARGINS)
every_kind = pytest.mark.parametrize("kind", WITH_MARGIN)


def make(kind: Kind, margin: int = 4, schedule: LambdaSchedule = PURE, seed: int = 0) -> MarginClassifier:
    torch.manual_seed(seed)
    made = classifier(kind, DIM, CLASSES, margin, schedule)
    assert isinstance(made, MarginClassifier)
    return made


def batch(seed: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (BATCH,), generator=noise)
    return torch.randn(BATCH, DIM, generator=noise, dtype=dtype), labels


def by_definition(angle: np.ndarray, margin: int) -> np.ndarray:
    """psi as the papers write it, by the angle."""
    k = np.minimum(np.floor(angle * margin / np.pi), margin - 1)
    return (-1) ** k * np.cos(margin * angle) - 2 * k


def psi_of(angle: np.ndarray, margin: int) -> np.ndarray:
    return psi(torch.from_numpy(np.cos(angle)), margin).numpy()


# The angle function


@every_margin
def test_psi_is_what_the_papers_define(margin: int) -> None:
    angle = np.linspace(0, np.pi, 100_001)
    np.testing.assert_allclose(psi_of(angle, margin), by_definition(angle, margin), rtol=0, atol=1e-9)


@every_margin
def test_psi_falls_all_the_way(margin: int) -> None:
    angle = np.linspace(0, np.pi, 1_000_001)
    values = psi_of(angle, margin)
    assert values[0] == 1
    np.testing.assert_allclose(values[-1], 1 - 2 * margin, rtol=0, atol=1e-12)
    assert np.diff(values).max() <= 1e-13  # it is flat at the joints, where the last digit is rounding
    assert (np.diff(values[::1000]) < 0).all()


@every_margin
def test_psi_meets_at_its_joints_with_slope_0(margin: int) -> None:
    for joint in range(1, margin):
        for step in (1e-3, 1e-6, 1e-9):
            left, right = psi_of(joint * math.pi / margin + np.array([-step, step]), margin)
            assert left == pytest.approx(1 - 2 * joint, abs=(margin * step) ** 2 + 1e-12)
            assert right == pytest.approx(1 - 2 * joint, abs=(margin * step) ** 2 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(one=st.floats(0, math.pi), other=st.floats(0, math.pi), margin=st.sampled_from(MARGINS))
def test_psi_is_monotone_continuous_and_never_above_cos(one: float, other: float, margin: int) -> None:
    less, more = sorted((one, other))
    higher, lower = psi_of(np.array([less, more]), margin)
    assert lower <= higher + 1e-12
    assert higher - lower <= margin * (more - less) + 1e-9  # its slope is that of cos(m theta)
    assert higher <= math.cos(less) + 1e-12


@every_margin
@pytest.mark.parametrize("cosine", [-1.0000002, -1.0, 1.0, 1.0000002])
def test_psi_has_a_finite_slope_where_acos_has_none(margin: int, cosine: float) -> None:
    at = torch.tensor(cosine, dtype=torch.float64, requires_grad=True)
    psi(at, margin).backward()
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(margin**2, rel=1e-5)  # |d cos(m theta) / d cos(theta)| at 0 and at pi


# Margin 1, and the blend


@pytest.mark.parametrize("schedule", [PURE, LambdaSchedule()], ids=["pure", "blended"])
def test_l_softmax_with_margin_1_is_softmax_without_bias(schedule: LambdaSchedule) -> None:
    def plain(features: Tensor, weight: Tensor) -> Tensor:
        return F.linear(features, weight)

    _assert_same_loss(make("l_softmax", 1, schedule), plain)


@pytest.mark.parametrize("schedule", [PURE, LambdaSchedule()], ids=["pure", "blended"])
def test_a_softmax_with_margin_1_is_softmax_over_directions(schedule: LambdaSchedule) -> None:
    def directions(features: Tensor, weight: Tensor) -> Tensor:
        return F.linear(features, weight / weight.norm(dim=1, keepdim=True))

    _assert_same_loss(make("a_softmax", 1, schedule), directions)


def _assert_same_loss(layer: MarginClassifier, plain: Callable[[Tensor, Tensor], Tensor]) -> None:
    features, labels = batch()
    features.requires_grad_()
    other, weight = features.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    loss = F.cross_entropy(layer(features, labels), labels)
    expected = F.cross_entropy(plain(other, weight), labels)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(features.grad, other.grad, atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.weight.grad, weight.grad, atol=1e-6, rtol=0)


@every_kind
@every_margin
@pytest.mark.parametrize("blend", [0.0, 1.0, 5.0, 1000.0])
def test_logits_are_the_formula(kind: Kind, margin: int, blend: float) -> None:
    """Worked out again with angles, in numpy."""
    layer = make(kind, margin, LambdaSchedule(base=blend, gamma=0, floor=0)).double()
    features, labels = batch(dtype=torch.float64)
    x, w = features.numpy(), layer.weight.detach().numpy()
    if kind == "a_softmax":
        w = w / np.linalg.norm(w, axis=1, keepdims=True)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)
    expected = x @ w.T
    rows, own = np.arange(BATCH), labels.numpy()
    angle = np.arccos((expected / lengths)[rows, own])
    target = lengths[rows, own] * (blend * np.cos(angle) + by_definition(angle, margin)) / (1 + blend)
    np.testing.assert_allclose(layer(features).detach().numpy(), expected, atol=1e-12)
    expected[rows, own] = target
    np.testing.assert_allclose(layer(features, labels).detach().numpy(), expected, atol=1e-12)


@every_kind
@pytest.mark.parametrize("margin", [2, 3, 4])
def test_a_margin_lowers_the_own_class_only(kind: Kind, margin: int) -> None:
    layer, (features, labels) = make(kind, margin, LambdaSchedule()), batch()
    lower = layer(features) - layer(features, labels)
    own = F.one_hot(labels, CLASSES).bool()
    assert (lower[own] > 0).all()
    assert not lower[~own].any()


# Gradients


@every_kind
@every_margin
def test_gradients_are_right(kind: Kind, margin: int) -> None:
    layer = make(kind, margin, LambdaSchedule(base=0.5, gamma=0, floor=0)).double()
    features, labels = batch(dtype=torch.float64)

    def logits(features: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer.eval(), {"weight": weight}, (features, labels))

    assert torch.autograd.gradcheck(logits, (features.requires_grad_(), layer.weight))


@every_kind
@every_margin
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["on its weight", "opposite to it"])
def test_a_sample_in_line_with_its_weight_has_the_gradient_of_its_neighbours(
    kind: Kind, margin: int, sign: float
) -> None:
    layer = make(kind, margin)
    labels = torch.arange(CLASSES)
    for aside in (0.0, 1e-3):
        features = sign * 3 * layer.weight.detach() + aside * torch.randn(CLASSES, DIM)
        features.requires_grad_()
        layer(features, labels)[labels, labels].sum().backward()
        assert features.grad is not None
        assert torch.isfinite(features.grad).all()
        # Both cos and psi are stationary in theta there, so only the length counts: psi(0) = 1, psi(pi) = 1 - 2m.
        lengths = layer.weight.detach().norm(dim=1, keepdim=True)
        along = layer.weight.detach() / (lengths if kind == "a_softmax" else 1)
        torch.testing.assert_close(features.grad, along * (1 if sign > 0 else 2 * margin - 1), atol=0.1, rtol=0)


@every_kind
@every_margin
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-13, 1e-8, 1e8])
def test_no_length_is_no_nan(kind: Kind, margin: int, scale: float) -> None:
    layer, (features, labels) = make(kind, margin), batch()
    features[::2] *= scale
    with torch.no_grad():
        layer.weight[1] *= scale
    features.requires_grad_()
    logits = layer(features, labels)
    F.cross_entropy(logits, labels).backward()
    assert features.grad is not None
    assert layer.weight.grad is not None
    for values in (logits, layer(features), features.grad, layer.weight.grad):
        assert torch.isfinite(values).all()


@every_kind
def test_a_zero_vector_has_logits_0(kind: Kind) -> None:
    layer = make(kind)
    assert not layer(torch.zeros(CLASSES, DIM), torch.arange(CLASSES)).any()
    with torch.no_grad():
        layer.weight[2] = 0
    features, _ = batch()
    assert not layer(features, torch.full((BATCH,), 2))[:, 2].any()


# Precision, shapes, devices


@every_kind
@pytest.mark.parametrize("labelled", [True, False])
def test_autocast_does_not_reach_inside(kind: Kind, labelled: bool) -> None:
    layer, (features, labels) = make(kind).eval(), batch()
    features = features.bfloat16()
    arguments = (labels,) if labelled else ()
    expected = layer(features.float(), *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(features, layer.weight).dtype == torch.bfloat16
        logits = layer(features, *arguments)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)
    assert torch.equal(layer(features, *arguments), expected)


@every_kind
def test_weights_in_half_precision_are_computed_with_in_float32(kind: Kind) -> None:
    layer, (features, labels) = make(kind).bfloat16(), batch()
    assert layer.iteration.dtype == torch.int64
    assert layer(features.bfloat16(), labels).dtype == torch.float32


@every_kind
def test_faces_of_photos_may_keep_their_shape(kind: Kind) -> None:
    layer, (features, labels) = make(kind), batch()
    nested = layer(features.view(3, 3, DIM), labels.view(3, 3))
    torch.testing.assert_close(nested.view(BATCH, CLASSES), layer(features, labels), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_built_without_memory(kind: Kind) -> None:
    with torch.device("meta"):
        layer = classifier(kind, 512, 10_572)
        assert layer(torch.empty(2, 512), torch.empty(2, dtype=torch.int64)).shape == (2, 10_572)


# The schedule and the counter


def test_the_schedule_is_spherefaces() -> None:
    lambdas = LambdaSchedule().at(torch.tensor([0, 1, 60, 1000, 1658, 1659, 10**9]))
    expected = [1000, 1000 / 1.12, 1000 / 8.2, 1000 / 121, 1000 / 199.96, 5, 5]
    torch.testing.assert_close(lambdas, torch.tensor(expected, dtype=torch.float64))
    of_mnist = LambdaSchedule(gamma=0.000025, power=35, floor=0)
    assert of_mnist.at(torch.tensor(10_000)).item() == pytest.approx(1000 * 1.25**-35)


@settings(max_examples=100, deadline=None)
@given(
    values=st.tuples(*[st.floats(0, 1e6, allow_subnormal=False)] * 2, st.floats(0, 100), st.floats(0, 1e6)),
    iterations=st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)),
)
def test_lambda_never_rises_and_never_leaves_its_floor(
    values: tuple[float, float, float, float], iterations: tuple[int, int]
) -> None:
    base, gamma, power, floor = values
    early, late = LambdaSchedule(base=base, gamma=gamma, power=power, floor=floor).at(torch.tensor(sorted(iterations)))
    assert late <= early <= max(base, floor)
    assert late >= floor


@every_kind
def test_the_counter_counts_training_calls(kind: Kind) -> None:
    layer, (features, labels) = make(kind, 4, LambdaSchedule()), batch()
    layer(features)
    layer.eval()(features, labels)
    assert layer.iteration.item() == 0
    for iteration in (1, 2, 3):
        logits = layer.train()(features, labels)
        assert layer.iteration.item() == iteration
        assert layer.blend == pytest.approx(1000 / (1 + 0.12 * iteration))
    assert torch.equal(layer.eval()(features, labels), logits)  # a validation loss has the lambda of training


@every_kind
def test_a_resumed_training_ends_with_the_same_weights(kind: Kind) -> None:
    fading = LambdaSchedule(base=10, gamma=0.5, floor=0)

    def train(layer: MarginClassifier, steps: range) -> None:
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        for step in steps:
            features, labels = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(layer(features, labels), labels).backward()
            optimizer.step()

    whole, first, second = (make(kind, 4, fading, seed) for seed in (0, 0, 7))
    train(whole, range(20))
    train(first, range(8))
    second.load_state_dict(first.state_dict())
    train(second, range(8, 20))
    assert set(second.state_dict()) == {"weight", "iteration"}
    assert second.iteration.item() == 20
    assert torch.equal(second.weight, whole.weight)
    second.iteration.fill_(0)
    features, labels = batch()
    assert not torch.equal(second(features, labels), whole(features, labels))


@every_kind
def test_reset_draws_again_and_counts_anew(kind: Kind) -> None:
    layer, (features, labels) = make(kind), batch()
    layer(features, labels)
    before = layer.weight.detach().clone()
    torch.manual_seed(0)
    layer.reset_parameters()
    assert layer.iteration.item() == 0
    assert torch.equal(layer.weight, before)  # the seed `make` used


# The factory, the settings, and where the file lies


def test_the_factory_makes_each_kind() -> None:
    features, labels = batch()
    made = [classifier(kind, DIM, CLASSES) for kind in KINDS]
    assert [type(layer) for layer in made] == [Softmax, LSoftmax, ASoftmax]
    for layer in made:
        assert layer(features).shape == layer(features, labels).shape == (BATCH, CLASSES)
    softmax = made[0]
    assert isinstance(softmax, nn.Linear)
    assert torch.equal(softmax(features, labels), F.linear(features, softmax.weight, softmax.bias))
    for layer in made[1:]:
        assert isinstance(layer, MarginClassifier)
        assert (layer.margin, layer.schedule) == (4, LambdaSchedule())
        assert "margin=4" in repr(layer)


def test_bad_arguments_are_named() -> None:
    for kind in WITH_MARGIN:
        for margin in (0, 5, -1):
            with pytest.raises(SettingError, match=f"^margin is {margin}: use a whole number from 1 to 4$"):
                classifier(kind, DIM, CLASSES, margin)
    with pytest.raises(SettingError, match=r"^kind is 'arcface': use softmax, l_softmax or a_softmax$"):
        classifier(cast("Kind", "arcface"), DIM, CLASSES)
    with pytest.raises(SettingError, match=r"^margin is 4 and .* softmax has neither"):
        classifier("softmax", DIM, CLASSES, 4)
    with pytest.raises(SettingError, match=r"^margin is None and schedule is .*base=1000.* softmax has neither"):
        classifier("softmax", DIM, CLASSES, None, LambdaSchedule())
    for kind in KINDS:
        for in_features, classes in ((0, 3), (8, 1)):
            with pytest.raises(SettingError, match=f"^{classes} classes of {in_features} features"):
                classifier(kind, in_features, classes)


def test_settings_build_what_they_say() -> None:
    assert MarginSettings() == MarginSettings(kind="softmax", margin=None, schedule=None)
    read = MarginSettings.model_validate({"kind": "a_softmax", "margin": 2, "schedule": {"floor": 0}})
    made = classifier(read.kind, DIM, CLASSES, read.margin, read.schedule)
    assert isinstance(made, ASoftmax)
    assert (made.margin, made.schedule) == (2, LambdaSchedule(floor=0))


@pytest.mark.parametrize(
    ("values", "place", "said"),
    [
        ({"kind": "arcface"}, ("kind",), "'softmax', 'l_softmax' or 'a_softmax'"),
        ({"kind": "l_softmax", "margin": 0}, ("margin",), "greater than or equal to 1"),
        ({"kind": "l_softmax", "margin": 5}, ("margin",), "less than or equal to 4"),
        ({"kind": "l_softmax", "margin": 1.5}, ("margin",), "integer"),
        ({"margin": 4}, (), "margin is 4, and softmax has none: leave it out, or use l_softmax or a_softmax"),
        ({"schedule": {"floor": 1}}, (), "floor=1.0), and softmax has none: leave it out"),
        ({"kind": "a_softmax", "m": 4}, ("m",), "Extra inputs"),
        *(
            ({"kind": "a_softmax", "schedule": {name: value}}, ("schedule", name), said)
            for name in ("base", "gamma", "power", "floor")
            for value, said in ((-0.1, "greater than or equal to 0"), (math.inf, "finite"), (math.nan, "finite"))
        ),
        ({"kind": "a_softmax", "schedule": {"minimum": 5}}, ("schedule", "minimum"), "Extra inputs"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], place: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        MarginSettings.model_validate(values)
    errors = raised.value.errors()
    assert len(errors) == 1
    assert errors[0]["loc"] == place
    assert said in errors[0]["msg"]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MarginSettings().__setattr__("margin", 2)


def test_the_file_of_losses_is_no_head() -> None:
    assert not [name for name in registry.names() if name.startswith("margins")]
    with pytest.raises(SettingError, match=r"^head kind 'margins:l_softmax': use one of"):
        registry.find("margins:l_softmax")
