"""Heads of frames in a population: frames drawn for each member, read once, and clips that are learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.heads import registry
from stages.heads.batch import HeadBatch, HeadOutput
from stages.train.answering import infer
from stages.train.features import Features
from stages.train.inputs import InputRows
from stages.train.population import minibatch
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Plan
from stages.train.population.minibatch import Streamed, judged_at_once, source_of, trained_at_once

SHAPE = (9, 2, 3)
LABELS = np.random.default_rng(1).integers(0, 3, 60)


def head(seed: int, variant: str = "attention", dropout: float = 0.25, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    torch.manual_seed(seed)
    shapes = registry.Shapes(inputs={"frames": shape})
    return registry.build(f"aminbeidokhti2019:{variant}", shapes, 3, dropout)


def members(number: int) -> list[Member]:
    return [
        Member(head(i), i % 3, 1e-2 / (i + 1), np.arange(24 + i % 2), 1 + i % 2, judged=np.arange(50, 60))
        for i in range(number)
    ]


def clips(drawn: Callable[..., Features], **given: object) -> Features:
    return drawn(60, (0, 0), 0, inputs={"frames": ("frame", SHAPE)}, **given)


def streamed(features: Features) -> Streamed:
    """The same, read for each minibatch."""
    others = features.inputs, features.levels
    return Streamed(replace(features, inputs={}, levels={}).batch, np.diff(features.offsets), 1, "cpu", *others)


def close(one: nn.Module, other: nn.Module, atol: float = 1e-5) -> None:
    for value, expected in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, atol=atol, rtol=1e-5)


def test_alone_as_among_others_and_read_as_held(drawn: Callable[..., Features]) -> None:
    """With dropout over frames, of which a minibatch of others has more."""
    features = clips(drawn)
    among, read = members(5), members(5)
    outcomes = train_population(among, features, LABELS, Plan(8))
    assert train_population(read, streamed(features), LABELS, Plan(8)) == outcomes
    for one, same in zip(among, read, strict=True):
        close(one.head, same.head, atol=0)
    for i in (0, 3):
        [alone] = members(5)[i : i + 1]
        [outcome] = train_population([alone], features, LABELS, Plan(8))
        close(alone.head, among[i].head)
        np.testing.assert_allclose(outcome.losses, outcomes[i].losses, rtol=1e-5)
        np.testing.assert_allclose(outcome.judged, outcomes[i].judged, rtol=1e-5)


@pytest.mark.parametrize("frames", [(None, None), (None, 2), (9, None)])
def test_training_may_see_every_frame(
    drawn: Callable[..., Features], loop: Callable[..., None], frames: tuple[int | None, int | None]
) -> None:
    """However many are answered with."""
    features = clips(drawn, frames=frames)
    plain, member = head(4, "temporal", 0.5), Member(head(4, "temporal", 0.5), 7, 1e-2, np.arange(20))
    train_population([member], features, LABELS, Plan(8))
    loop(plain, features, LABELS, np.arange(20), seed=7, rates=[1e-2], size=8, decay=0.0, adam=False)
    close(member.head, plain)


def test_members_are_judged_by_the_frames_that_answer(drawn: Callable[..., Features]) -> None:
    features = clips(drawn, frames=(2, 1))
    member = Member(head(0), 0, 1e-2, np.arange(20), judged=np.arange(40, 60))
    [outcome] = train_population([member], features, LABELS, Plan(8))
    with torch.inference_mode():
        batch = features.batch(np.arange(40, 60))
        loss = nn.functional.cross_entropy(member.head(batch).logits, torch.from_numpy(LABELS[40:60])).item()
    assert batch.inputs["frames"].shape[1] == 1
    assert outcome.judged == pytest.approx([loss])


def test_a_row_is_read_once_a_step(drawn: Callable[..., Features]) -> None:
    features = clips(drawn)
    asked: list[np.ndarray] = []

    class Counted(np.ndarray):
        def __getitem__(self, index: np.ndarray) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
            asked.append(np.asarray(index))
            return np.asarray(self)[index]

    rows = np.asarray(features.inputs["frames"].rows)
    source = streamed(replace(features, inputs={"frames": InputRows("frame", rows.view(Counted))}))
    [five, six] = np.flatnonzero(features.levels["frame"].counts >= 5)[:2]
    first = features.levels["frame"].offsets[[five, six]]
    choice = np.array([[[0, 1, 2], [0, 3, -1]], [[2, 4, -1], [1, 2, 4]]])
    batch = source.padded(np.array([[five, six], [five, five]]), None, choice)
    [index] = asked
    assert index.tolist() == [*(first[0] + [0, 1, 2, 4]), *(first[1] + [0, 3])]
    assert np.array_equal(batch.inputs["frames"][1, 1].numpy(), rows[first[0] + [1, 2, 4]])


def test_how_many_fit(drawn: Callable[..., Features], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip has six frames, training sees three, and a row takes 216 bytes; the result stays the same."""
    features = clips(drawn)
    source, row = source_of(features), 4 * 9 * 2 * 3
    monkeypatch.setattr(minibatch, "JUDGED_BYTES", row * 6 * 2 * 5)
    assert [judged_at_once(source, number, 64) for number in (1, 2, 10, 99)] == [10, 5, 1, 1]
    monkeypatch.setattr(minibatch, "STEP_BYTES", row * 3 * 8 * 2)
    assert [trained_at_once(source, size, 64) for size in (4, 8, 16, 99)] == [4, 2, 1, 1]
    assert judged_at_once(source_of(drawn(5)), 3, 64) == trained_at_once(source_of(drawn(5)), 8, 64) == 64
    some, all_ = members(5), members(5)
    train_population(some, features, LABELS, Plan(8))
    monkeypatch.undo()
    train_population(all_, features, LABELS, Plan(8))
    for one, same in zip(some, all_, strict=True):
        close(one.head, same.head)


class Real(nn.Module):
    """A head that goes by which frames are real, as those that are trained one at a time may."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.classify = nn.Linear(9, 5), nn.Linear(5, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        mask = batch.masks["frame"]
        rows = self.classify(self.dropout(torch.relu(self.first(self.dropout(batch.inputs["frames"][mask])))))
        owner = torch.arange(len(mask))[:, None].expand(mask.shape)[mask]
        logits = torch.zeros(len(mask), 3).index_add(0, owner, rows)
        return HeadOutput(logits, torch.zeros_like(batch.face_mask, dtype=logits.dtype))


def test_heads_that_are_trained_one_at_a_time(drawn: Callable[..., Features], loop: Callable[..., None]) -> None:
    """Their dropout may run over the real frames alone: another number of them in every minibatch of one shape."""
    features = drawn(60, (0, 0), 0, inputs={"frames": ("frame", (9,))})
    some = [Member(Real(seed), seed, 1e-2, np.arange(30)) for seed in range(2)]
    train_population(some, features, LABELS, Plan(8, alone=True))
    for seed, member in enumerate(some):
        plain = Real(seed)
        loop(plain, features, LABELS, np.arange(30), seed=seed, rates=[1e-2], size=8, decay=0.0, adam=False)
        close(member.head, plain)


@pytest.mark.parametrize("variant", ["temporal", "independent", "lstm", "attention", "shift"])
def test_clips_are_learned(drawn: Callable[..., Features], variant: str) -> None:
    """The class is told by one place of every frame's map. Of samples that are not trained on, those with a frame."""
    features = clips(drawn)
    level, rows = features.levels["frame"], np.asarray(features.inputs["frames"].rows)
    classes = np.repeat(LABELS, level.counts)
    rows *= 0.3
    rows[np.arange(len(rows)), classes, 1, 2] += 3
    rate = {"temporal": 0.1, "independent": 0.1, "lstm": 0.3, "shift": 1.0}.get(variant, 0.03)
    member = Member(head(0, variant, 0.1), 0, rate, np.arange(40), 40)
    [outcome] = train_population([member], features, LABELS, Plan(8))
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]
    others = np.flatnonzero(level.counts > 0)
    others = others[others >= 40]
    assert (infer(member.head, features)[0].argmax(1) == LABELS)[others].mean() > 0.9
