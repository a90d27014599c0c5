"""Every head in a population: as a plain loop trains it, in its stacked form and by torch.func."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from stages.errors import SettingError
from stages.finetune.settings import ScheduleSettings
from stages.heads import registry
from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.gupta2018 import GuptaHead
from stages.train.features import Features
from stages.train.inputs import LevelName
from stages.train.population.engine import train_population
from stages.train.population.forms import form_of
from stages.train.population.generic import Generic
from stages.train.population.members import Member, Plan
from stages.train.population.net import Net, Value

KINDS = [kind for kind in registry.names() if not registry.alone(kind) and registry.fitter(kind) is None]
WITH_FORM = (
    *("gupta2018:average", "gupta2018:attention_a", "gupta2018:attention_b", "gupta2018:attention_c"),
    *("gupta2018:faces", "ours:gated", "tan2017:global"),
)
CASES = [(kind, True) for kind in KINDS] + [(kind, False) for kind in WITH_FORM]


def build(kind: str, seed: int, dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(seed)
    shapes = {name: shape for name, (_, shape) in inputs(kind).items()}
    return registry.build(kind, registry.Shapes(*widths(kind), shapes), 3, dropout)


def inputs(kind: str) -> dict[str, tuple[LevelName, tuple[int, ...]]]:
    """Levels and shapes of the rows of frames or persons that a head reads."""
    return {
        name: (told.level, (9,) if told.kind == "vector" else (9, 2, 3))
        for name, told in registry.inputs_of(kind).items()
    }


def widths(kind: str) -> tuple[int, int]:
    """Of the features of faces and photos; 0 of what the head does not read."""
    module, variant = registry.find(kind)
    return (8 if "face" in module.NEEDS[variant] else 0, 6 if "global" in module.NEEDS[variant] else 0)


@pytest.mark.parametrize(("kind", "generic"), CASES, ids=[f"{k}-{'torch.func' if g else 'stacked'}" for k, g in CASES])
def test_a_member_is_what_a_plain_loop_makes_of_it(
    kind: str,
    generic: bool,
    drawn: Callable[..., Features],
    loop: Callable[..., None],
) -> None:
    """SGD with momentum; two epochs, the second at a tenth of the rate; two views, dropout and batch norm on."""
    features = drawn(60, widths(kind), views=2, inputs=inputs(kind))
    labels = np.random.default_rng(1).integers(0, 3, 60)
    rows = np.random.default_rng(2).permutation(60)[:33]
    dropout = 0.25 if generic else 0.5
    schedule = ScheduleSettings(kind="steps", every=1)
    members = [
        Member(build(kind, seed, dropout), seed + 5, rate, rows, 2, schedule, weight_decay=seed * 1e-3)
        for seed, rate in enumerate((1e-4, 1e-3, 5e-4))
    ]
    train_population(members, features, labels, Plan(batch_size=8, generic=generic))
    for seed, member in enumerate(members):
        plain = build(kind, seed, dropout)
        rates = [member.learning_rate, member.learning_rate / 10]
        loop(plain, features, labels, rows, seed=seed + 5, rates=rates, size=8, decay=seed * 1e-3, adam=False)
        expected = plain.state_dict()
        for name, value in member.head.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5, msg=lambda s, n=name: f"{n}: {s}")
        assert not member.head.training


def test_which_heads_have_a_stacked_form() -> None:
    assert tuple(kind for kind in KINDS if form_of(build(kind, 0)) is not None) == WITH_FORM


def test_a_class_with_another_forward_has_no_form() -> None:
    class Own(nn.Module):
        def stacked(self, net: Net) -> Value:
            return net.global_

    class Same(Own):
        pass

    class Other(Own):
        def forward(self, batch: HeadBatch) -> HeadOutput:
            raise NotImplementedError

    class Derived(GuptaHead):
        pass

    assert form_of(Own()) is form_of(Same()) is Own.stacked
    assert form_of(Other()) is None
    assert form_of(Derived("average", 8, 6, 3)) is None
    assert form_of(nn.Linear(1, 1)) is None


def test_layers_that_torch_func_cannot_be_given_masks_for() -> None:
    with pytest.raises(SettingError, match=r"1 of the head is a AlphaDropout; populations take nn\.Dropout only"):
        Generic(nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout(0.5)))
