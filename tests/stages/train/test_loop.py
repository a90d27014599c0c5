"""The loop: the same numbers as a plain loop written here, batches, schedule, determinism, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stages.finetune.batch import cut
from stages.heads.gupta2018 import FACE_DIMS, GuptaHead
from stages.index.manifest import Sample
from stages.train.features import Features
from stages.train.loop import Schedule, fit, infer, one_thread


def plan(**changes: Any) -> Schedule:
    fields = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "step": 1, "gamma": 0.1}
    return Schedule(**{**fields, "momentum": 0.9, "weight_decay": 1e-3, **changes})


def synthetic(n: int, gap: float, seed: int = 0) -> tuple[Features, np.ndarray]:
    """n samples of three classes, 0 to 3 faces each, means `gap` apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    counts = rng.integers(0, 4, n)
    centres = np.eye(3, 8) * gap
    faces = centres[np.repeat(labels, counts)] + rng.normal(size=(counts.sum(), 8))
    samples = tuple(Sample(f"{i:04d}", "x", "image", (), "train", "", "", (), "0" * 64) for i in range(n))
    features = Features(
        samples=samples,
        faces=faces.astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        face_index=np.concatenate([np.arange(c) for c in counts]),
        places=np.zeros((counts.sum(), 2), np.int64),
        boxes=np.zeros((counts.sum(), 4), np.float32),
        global_=(centres[labels] + rng.normal(size=(n, 8))).astype(np.float32),
    )
    return features, labels


def head_of(variant: str = "attention_c", dropout: float = 0.5) -> GuptaHead:
    torch.manual_seed(11)
    return GuptaHead(variant, 8, 8, 3, dropout)


def plain_loop(head: nn.Module, features: Features, labels: np.ndarray, rows: np.ndarray, seed: int) -> None:
    """SGD with momentum and weight decay written out, two epochs, learning rate 0.01 then 0.001, batches of 8."""
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    velocity: dict[str, Tensor] = {}
    head.train()
    for rate in (0.01, 0.001):
        shuffled = order.permutation(rows)
        starts = list(range(0, len(shuffled), 8))
        if len(shuffled) - starts[-1] == 1:
            starts.pop()
        for start, stop in zip(starts, [*starts[1:], len(shuffled)], strict=True):
            picked = shuffled[start:stop]
            log_odds = torch.log_softmax(head(features.batch(picked)).logits, dim=1)
            loss = -log_odds[torch.arange(len(picked)), torch.from_numpy(labels[picked])].mean()
            head.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, parameter in head.named_parameters():
                    assert parameter.grad is not None
                    gradient = parameter.grad + 1e-3 * parameter
                    velocity[name] = gradient + 0.9 * velocity[name] if name in velocity else gradient
                    parameter -= rate * velocity[name]


@pytest.mark.parametrize("variant", FACE_DIMS)
@pytest.mark.parametrize("n", [32, 33])
def test_the_same_parameters_as_a_plain_loop(variant: str, n: int) -> None:
    features, labels = synthetic(50, 1.0)
    rows = np.arange(3, 3 + n)
    ours, plain = head_of(variant), head_of(variant)
    fit(ours, features, labels, rows, plan(), seed=5)
    plain_loop(plain, features, labels, rows, seed=5)
    expected = plain.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4, msg=lambda said, name=name: name + said)


@given(n=st.integers(2, 200), size=st.integers(2, 40))
def test_batches_cover_the_rows_and_are_never_of_one(n: int, size: int) -> None:
    parts = cut(np.arange(n), size)
    assert np.concatenate(parts).tolist() == list(range(n))
    assert all(2 <= len(part) <= size + 1 for part in parts)
    assert all(len(part) == size for part in parts[:-1])


def test_learning_rates_epoch_by_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's: divided by 10 every 9 of 27 epochs."""
    seen: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, closure: Any = None) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    features, labels = synthetic(6, 1.0)
    fit(head_of(), features, labels, np.arange(6), plan(epochs=27, step=9, learning_rate=0.001), seed=0)
    np.testing.assert_allclose(seen, [1e-3] * 9 + [1e-4] * 9 + [1e-5] * 9)


def test_a_seed_decides_everything() -> None:
    features, labels = synthetic(40, 1.0)
    results = []
    for seed in (1, 1, 2):
        head = head_of()
        losses = fit(head, features, labels, np.arange(30), plan(), seed)
        results.append((losses, infer(head, features)[0]))
    assert results[0][0] == results[1][0]
    assert np.array_equal(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]
    assert len(results[0][0]) == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_it_computes_on_one_thread_and_gives_the_others_back(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with one_thread():
            assert torch.get_num_threads() == 1
        features, labels = synthetic(20, 1.0)
        fit(head_of(), features, labels, np.arange(20), plan(), 0)
        infer(head_of(), features)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_rows_that_are_not_trained_on_do_not_matter() -> None:
    features, labels = synthetic(40, 1.0)
    heads = [head_of(), head_of()]
    fit(heads[0], features, labels, np.arange(20), plan(), 0)
    assert isinstance(features.global_, np.ndarray)
    features.global_[20:] += 9
    labels[20:] = -1
    fit(heads[1], features, labels, np.arange(20), plan(), 0)
    other = heads[1].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in heads[0].state_dict().items())


@pytest.mark.parametrize("variant", FACE_DIMS)
def test_it_learns_what_is_easy(variant: str) -> None:
    features, labels = synthetic(300, 6.0)
    head = head_of(variant)
    losses = fit(head, features, labels, np.arange(200), plan(epochs=8, step=6), 0)
    assert losses[-1] < losses[0] / 2
    probabilities, _ = infer(head, features)
    assert (probabilities.argmax(1) == labels)[200:].mean() > 0.95


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 30))
def test_answers_do_not_depend_on_the_batch(size: int) -> None:
    features, _ = synthetic(23, 1.0)
    head = head_of().eval()
    whole, weights = infer(head, features)
    parts, some = infer(head, features, size=size)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-12)
    assert whole.dtype == np.float64
    assert [len(w) for w in weights] == np.diff(features.offsets).tolist()
    for one, other in zip(weights, some, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert one.sum() == pytest.approx(1.0 if len(one) else 0.0, abs=1e-6)
