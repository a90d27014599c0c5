"""Steps over the flat parameters of a stack: those of torch.optim, one optimiser a member."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from stages.train.population import optimisers
from stages.train.population.members import Plan
from stages.train.population.stack import Stack, load

MEMBERS = 3


def head(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 1, bias=False))


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(optimisers, "installed", lambda: False)
        monkeypatch.setattr(optimisers, "_CHUNK", 16)
    else:
        pytest.importorskip("numba")
        assert optimisers._loops(torch.zeros(1)) is not None
    return request.param


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("decays", [[0.0, 0.0, 0.0], [0.0, 0.1, 1e-3]])
def test_as_torch(way: str, kind: Literal["sgd", "adam"], decays: list[float]) -> None:
    """With other rates at each step, and one member less after five."""
    heads = [head(seed) for seed in range(MEMBERS)]
    stack = Stack(heads)
    ours = optimisers.make(stack, Plan(optimiser=kind, momentum=0.9))
    theirs: list[torch.optim.Optimizer] = []
    for one, decay in zip(heads, decays, strict=True):
        sgd: dict[str, Any] = {"momentum": 0.9} if kind == "sgd" else {}
        make = torch.optim.SGD if kind == "sgd" else torch.optim.Adam
        theirs.append(make(one.parameters(), weight_decay=decay, **sgd))
    noise = torch.Generator().manual_seed(0)
    members = list(range(MEMBERS))
    for step in range(10):
        if step == 5:
            members = [0, 2]
            which = torch.tensor([0, 2])
            ours.pick(stack, which)
            stack = stack.picked(which)
        rates = np.array([0.01 * (1 + i) / (1 + step) for i in range(len(members))], np.float32)
        for name, gradient in stack.gradients.items():
            gradient.copy_(torch.randn(gradient.shape, generator=noise))
            for p, i in enumerate(members):
                heads[i].get_parameter(name).grad = gradient[p].clone()
        ours.step(stack, rates, np.array([decays[i] for i in members], np.float32))
        for p, i in enumerate(members):
            theirs[i].param_groups[0]["lr"] = float(rates[p])
            theirs[i].step()
            for name, parameter in heads[i].named_parameters():
                torch.testing.assert_close(stack.parameters[name][p], parameter.detach(), atol=1e-6, rtol=1e-5)


def test_a_stack_gives_back_what_it_was_given() -> None:
    heads = [head(seed) for seed in range(MEMBERS)]
    heads[1][1].running_mean.fill_(7)  # pyright: ignore
    stack = Stack(heads)
    assert stack.flat.numel() == MEMBERS * sum(p.numel() for p in heads[0].parameters())
    assert all(view.is_contiguous() for view in stack.parameters.values())
    for picked, members in ((stack, [0, 1, 2]), (stack.picked(torch.tensor([2, 1])), [2, 1])):
        for p, i in enumerate(members):
            other = head(9)
            load(other, picked.state(p))
            expected = heads[i].state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


def test_a_picked_stack_is_a_copy_and_can_be_taken_back() -> None:
    stack = Stack([head(seed) for seed in range(MEMBERS)])
    stack.gradient.fill_(1)
    which = torch.tensor([2, 0])
    picked = stack.picked(which)
    picked.flat.zero_()
    assert stack.flat.any()
    picked.gradients["0.weight"][0] = 5
    picked.gradients["0.weight"][1] = 6
    picked.buffers["1.running_mean"][0] = 8
    stack.take_back(picked, which)
    assert [float(g.mean()) for g in stack.gradients["0.weight"]] == [6, 1, 5]
    assert [float(b.mean()) for b in stack.buffers["1.running_mean"]] == [0, 0, 8]
