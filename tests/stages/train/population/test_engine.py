"""Populations: members do not disturb each other, end when they should, and keep what was best."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.errors import DataError, SettingError
from stages.finetune.settings import ScheduleSettings
from stages.heads.gupta2018 import GuptaHead
from stages.ledger import Ledger
from stages.train.answering import infer
from stages.train.features import Features, gather
from stages.train.population import block, engine, segments
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Outcome, Plan
from stages.train.population.minibatch import Held, Streamed, source_of

LABELS = np.random.default_rng(1).integers(0, 3, 60)


def head(seed: int, variant: str = "attention_c", dropout: float = 0.5) -> GuptaHead:
    torch.manual_seed(seed)
    return GuptaHead(variant, 8, 6, 3, dropout)


def close(one: nn.Module, other: nn.Module, atol: float = 1e-5) -> None:
    for (name, value), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, atol=atol, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}")


def varied(number: int, **changes: Any) -> list[Member]:
    """Members that differ in everything that they may differ in."""
    noise = np.random.default_rng(3)
    schedules = [
        ScheduleSettings(),
        ScheduleSettings(kind="steps", at=(0.4, 0.8)),
        ScheduleSettings(kind="restarts", first=1),
    ]
    members = []
    for i in range(number):
        rows = noise.permutation(50)[: 24 + i % 5]
        fields = {"epochs": 1 + i % 3, "schedule": schedules[i % 3], "weight_decay": 1e-3 * (i % 2)} | changes
        members.append(Member(head(i), i % 7, 1e-3 / (1 + i % 4), rows, **fields))
    return members


@pytest.mark.parametrize("generic", [False, True], ids=["stacked", "torch.func"])
def test_alone_as_among_others(drawn: Callable[..., Features], generic: bool) -> None:
    """Of 64 members with folds of five sizes, one to three epochs, and four that are judged and may stop."""
    features = drawn(60)
    number = 12 if generic else 64
    plan = Plan(8, generic=generic, together=64)
    members = varied(number)
    for i in range(0, number, 3):
        given = {"judged": np.arange(50, 60 - i % 4), "patience": 1}
        members[i] = Member(**{**vars(members[i]), **given})
    alone = copy.deepcopy(members)
    together = train_population(members, features, LABELS, plan)
    for i in [0, 1, 2, 6, number - 1]:
        [outcome] = train_population([alone[i]], features, LABELS, plan)
        close(alone[i].head, members[i].head)
        assert outcome.best == together[i].best
        np.testing.assert_allclose(outcome.losses, together[i].losses, rtol=1e-5)
        np.testing.assert_allclose(outcome.judged, together[i].judged, rtol=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_blocks_and_their_order_do_not_matter(
    drawn: Callable[..., Features], optimiser: Literal["sgd", "adam"]
) -> None:
    """What heads answer, with Adam: it makes steps of the rounding of a gradient that is 0, as a score's bias has."""
    features, members = drawn(60), varied(9)
    other = copy.deepcopy(members)
    train_population(members, features, LABELS, Plan(8, optimiser, together=4))
    outcomes = train_population(other[::-1], features, LABELS, Plan(8, optimiser, together=9))
    assert [len(one.losses) for one in outcomes[::-1]] == [member.epochs for member in members]
    for one, same in zip(members, other, strict=True):
        if optimiser == "sgd":
            close(one.head, same.head)
        np.testing.assert_allclose(infer(one.head, features)[0], infer(same.head, features)[0], atol=1e-4)


def test_features_that_are_read_give_the_same(drawn: Callable[..., Features]) -> None:
    features = drawn(60, views=2)
    streamed = Streamed(features.batch, np.diff(features.offsets), 2)
    for generic in (False, True):
        members = varied(3)
        other = copy.deepcopy(members)
        plan = Plan(8, generic=generic)
        train_population(members, features, LABELS, plan)
        train_population(other, streamed, LABELS, plan)
        for one, same in zip(members, other, strict=True):
            close(one.head, same.head, atol=1e-6)


def from_store(world: Any, held: int) -> Features:
    """Features of the drawn project's store, in memory where they take no more than `held` bytes."""
    inputs = world.inputs()
    faces, global_ = inputs.plans["resnet29"].blocks["embedding"], inputs.plans["effnet_lite0"].blocks["pooled"]
    return gather(
        world.samples,
        world.store,
        world.detections,
        [faces],
        [global_],
        max_faces=15,
        ledger=Ledger("train"),
        held_bytes=held,
    )


def test_features_that_stay_in_the_store_give_the_same(populated: Any) -> None:
    held, stored = from_store(populated, 1 << 20), from_store(populated, 0)
    assert isinstance(source_of(held), Held)
    assert isinstance(source_of(stored), Streamed)
    heads: list[GuptaHead] = []
    for features in (held, stored):
        torch.manual_seed(0)
        heads.append(GuptaHead("attention_b", features.faces.shape[1], features.global_.shape[1], 3))
        train_population([Member(heads[-1], 0, 1e-3, np.arange(30))], features, LABELS[:40], Plan(8))
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_without_numba(
    drawn: Callable[..., Features], monkeypatch: pytest.MonkeyPatch, optimiser: Literal["sgd", "adam"]
) -> None:
    """torch's own operations come to the same; with Adam in what heads answer, see above."""
    pytest.importorskip("numba")
    features, members = drawn(60), varied(6)
    other = copy.deepcopy(members)
    train_population(members, features, LABELS, Plan(8, optimiser))
    for module in (block.optimisers, segments):
        monkeypatch.setattr(module, "installed", lambda: False)
    train_population(other, features, LABELS, Plan(8, optimiser))
    for one, same in zip(members, other, strict=True):
        if optimiser == "sgd":
            close(one.head, same.head)
        np.testing.assert_allclose(infer(one.head, features)[0], infer(same.head, features)[0], atol=1e-4)


def test_the_caller_keeps_its_threads_and_random_numbers(drawn: Callable[..., Features]) -> None:
    members = varied(2)
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    train_population(members, drawn(60), LABELS, Plan(8))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


def rates_seen(monkeypatch: pytest.MonkeyPatch, member: Member, features: Features) -> list[float]:
    seen: list[float] = []
    step = block.optimisers.Sgd.step

    def watched(self: Any, stack: Any, rates: np.ndarray, decays: np.ndarray) -> None:
        seen.append(float(rates[0]))
        step(self, stack, rates, decays)

    monkeypatch.setattr(block.optimisers.Sgd, "step", watched)
    train_population([member], features, LABELS, Plan(8))
    return seen


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0] * 12),
        ({"kind": "steps", "every": 2}, [1.0] * 6 + [0.1] * 6),
        ({"kind": "steps", "at": (0.25, 0.75), "gamma": 0.5}, [1.0] * 3 + [0.5] * 6 + [0.25] * 3),
        (
            {"kind": "restarts", "first": 1, "multiply": 2},
            [1, 0.75, 0.25, 1, 0.93301, 0.75, 0.5, 0.25, 0.06699, 1, 0.98296, 0.93301],
        ),
    ],
    ids=["constant", "steps", "share", "restarts"],
)
def test_learning_rates(
    monkeypatch: pytest.MonkeyPatch, drawn: Callable[..., Features], settings: dict[str, Any], expected: list[float]
) -> None:
    """Four epochs of three steps: 25 samples in batches of 8, the last of 9."""
    member = Member(head(0), 0, 1e-3, np.arange(25), 4, ScheduleSettings(**settings))
    np.testing.assert_allclose(rates_seen(monkeypatch, member, drawn(60)), 1e-3 * np.array(expected), rtol=1e-4)


def judge(member: Member, features: Features) -> float:
    """Mean cross entropy of the member's head on what it is judged by."""
    assert member.judged is not None
    with torch.no_grad():
        logits = member.head(features.batch(member.judged)).logits
        return float(nn.functional.cross_entropy(logits, torch.from_numpy(LABELS[member.judged])))


def test_the_best_epoch_is_kept_and_patience_ends_training(drawn: Callable[..., Features]) -> None:
    """At a high rate on noise the loss on other samples rises soon."""
    features = drawn(60)
    fields = {"rows": np.arange(40), "epochs": 30, "judged": np.arange(40, 60)}
    members = [
        Member(head(0), 0, 0.02, **fields, patience=3),
        Member(head(0), 0, 0.02, **fields),
        Member(head(0), 0, 1e-6, **{**fields, "epochs": 2}, patience=3),
    ]
    stopped, whole, slow = train_population(members, features, LABELS, Plan(8))
    assert len(stopped.losses) == len(stopped.judged) == stopped.best + 4 < 30
    assert stopped.best == int(np.argmin(stopped.judged))
    assert len(whole.judged) == 30
    assert whole.best == int(np.argmin(whole.judged))
    np.testing.assert_allclose(whole.judged[: len(stopped.judged)], stopped.judged, rtol=1e-4)
    for member, outcome in zip(members, (stopped, whole, slow), strict=True):
        assert judge(member, features) == pytest.approx(min(outcome.judged), rel=1e-4)
    assert len(slow.judged) == 2


def test_a_member_that_diverges_ends_and_leaves_the_others_alone(drawn: Callable[..., Features]) -> None:
    features, members = drawn(60), varied(3, epochs=4)
    other = copy.deepcopy(members)
    members[1] = Member(head(1), 1, 1e30, members[1].rows, epochs=4)
    outcomes = train_population(members, features, LABELS, Plan(8))
    train_population([other[0], other[2]], features, LABELS, Plan(8))
    assert not np.isfinite(outcomes[1].losses[-1])
    assert len(outcomes[1].losses) < 4
    assert np.isfinite(outcomes[1].losses[:-1]).all()
    close(members[0].head, other[0].head)
    close(members[2].head, other[2].head)


def soft(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy against distributions."""
    return -(targets * torch.log_softmax(logits, -1)).sum(-1)


@pytest.mark.parametrize("generic", [False, True], ids=["stacked", "torch.func"])
def test_another_loss(drawn: Callable[..., Features], generic: bool) -> None:
    """With sure targets the same as the default; with others not."""
    features, members = drawn(60), varied(3)
    sure, even = copy.deepcopy(members), copy.deepcopy(members)
    plan = Plan(8, loss=soft, generic=generic)
    targets = np.eye(3, dtype=np.float32)[LABELS]
    expected = train_population(members, features, LABELS, Plan(8, generic=generic))
    found = train_population(sure, features, targets, plan)
    train_population(even, features, np.full_like(targets, 1 / 3), plan)
    for i in range(3):
        close(sure[i].head, members[i].head)
        np.testing.assert_allclose(found[i].losses, expected[i].losses, rtol=1e-5)
    assert not torch.equal(even[0].head.classify.weight, members[0].head.classify.weight)  # pyright: ignore


def test_it_learns(drawn: Callable[..., Features]) -> None:
    features = drawn(60)
    labels = (np.asarray(features.global_)[:, 0] > 0).astype(np.int64)
    members = [Member(head(i, dropout=0.1), i, 2e-3, np.arange(60), 30) for i in range(3)]
    outcomes = train_population(members, features, labels, Plan(8))
    for member, outcome in zip(members, outcomes, strict=True):
        assert outcome.losses[-1] < 0.5 * outcome.losses[0]
        assert (infer(member.head, features)[0].argmax(1) == labels).mean() > 0.95


def test_no_members(drawn: Callable[..., Features]) -> None:
    assert train_population([], drawn(5), LABELS[:5], Plan()) == []


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("which", ["rows", "judged"])
@pytest.mark.parametrize("generic", [False, True], ids=["stacked", "torch.func"])
def test_labels_that_are_no_class(drawn: Callable[..., Features], wrong: int, which: str, generic: bool) -> None:
    """Refused before the first step; what is neither trained on nor judged may have any label."""
    labels = LABELS.copy()
    labels[[20, 55]] = wrong
    fields: dict[str, Any] = {"rows": np.arange(20), "judged": np.arange(40, 50)}
    fine = Member(head(0), 0, 1e-3, **fields)
    train_population([fine], drawn(60), labels, Plan(8, generic=generic))
    other = Member(head(1), 0, 1e-3, **{**fields, which: np.arange(50, 60)})
    with pytest.raises(DataError, match=f"the label {wrong} of 3 classes"):
        train_population([fine, other], drawn(60), labels, Plan(8, generic=generic))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"head": GuptaHead("attention_c", 8, 6, 4)}, SettingError, "head 1 has other parameters than head 0"),
        ({"head": GuptaHead("average", 8, 6, 3)}, SettingError, "head 1 has other parameters than head 0"),
        ({"rows": np.array([1])}, DataError, "head 1 has 1 training samples; give at least 2"),
        ({"rows": np.array([1, 60])}, DataError, "rows of head 1 has position 60 of 60 samples"),
        ({"rows": np.array([-1, 3])}, DataError, "rows of head 1 has position -1 of 60 samples"),
        ({"judged": np.array([60])}, DataError, "judged of head 1 has position 60 of 60 samples"),
        ({"judged": np.empty(0, np.int64)}, DataError, "head 1 has no judged; leave it out or give some"),
        ({"patience": 2}, SettingError, "head 1 has patience and nothing to judge it by"),
        ({"epochs": 0}, SettingError, "head 1 has epochs 0"),
        ({"seed": -1}, SettingError, "seed -1"),
    ],
)
def test_what_is_refused(
    drawn: Callable[..., Features], change: dict[str, Any], error: type[Exception], said: str
) -> None:
    fields = {"head": head(1), "seed": 0, "learning_rate": 1e-3, "rows": np.arange(9)}
    members = [Member(head(0), 0, 1e-3, np.arange(9)), Member(**{**fields, **change})]
    before = copy.deepcopy(members[0].head)
    with pytest.raises(error, match=said):
        train_population(members, drawn(60), LABELS, Plan(8))
    close(members[0].head, before, atol=0)


def test_heads_at_once_by_their_size() -> None:
    sizes = [engine.together(nn.Linear(width, width), "cpu") for width in (8, 91, 316, 2000)]
    assert sizes == [64, 64, 15, 4]
    assert engine.together(nn.Linear(2000, 2000), "cuda") == 256


@pytest.mark.parametrize(("number", "processes", "expected"), [(64, 2, [32, 32]), (100, 1, [50, 50]), (3, 2, [1, 2])])
def test_blocks_are_of_about_one_size(number: int, processes: int, expected: list[int]) -> None:
    found = engine._blocks(varied(number), Plan(), processes)
    assert [len(part) for part in found] == expected
    assert sorted(i for part in found for i in part) == list(range(number))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("generic", [False, True], ids=["stacked", "torch.func"])
def test_on_a_gpu(drawn: Callable[..., Features], generic: bool) -> None:
    """As on a CPU, but for TF32-free rounding."""
    features, members = drawn(60), varied(6)
    other = copy.deepcopy(members)
    train_population(members, features, LABELS, Plan(8, generic=generic))
    found: list[Outcome] = train_population(other, features, LABELS, Plan(8, generic=generic, device="cuda"))
    assert all(np.isfinite(one.losses).all() for one in found)
    for one, same in zip(members, other, strict=True):
        close(one.head, same.head, atol=1e-4)
