"""Training and answering: batches, determinism, threads, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stages.finetune.batch import cut
from stages.finetune.settings import ScheduleSettings
from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.gupta2018 import FACE_DIMS, GuptaHead
from stages.index.manifest import Sample
from stages.train.answering import answer, infer, one_thread
from stages.train.attention import read_looks, write_looks
from stages.train.features import Features
from stages.train.inputs import InputRows, Level
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Plan


def fit(
    head: nn.Module, features: Features, labels: np.ndarray, rows: np.ndarray, seed: int, epochs: int = 2
) -> list[float]:
    """Train a head by itself; its losses."""
    schedule = ScheduleSettings(kind="steps", every=max(epochs - 1, 1))
    member = Member(head, seed, 0.01, rows, epochs, schedule, weight_decay=1e-3)
    [outcome] = train_population([member], features, labels, Plan(batch_size=8))
    return outcome.losses


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


@given(n=st.integers(2, 200), size=st.integers(2, 40))
def test_batches_cover_the_rows_and_are_never_of_one(n: int, size: int) -> None:
    parts = cut(np.arange(n), size)
    assert np.concatenate(parts).tolist() == list(range(n))
    assert all(2 <= len(part) <= size + 1 for part in parts)
    assert all(len(part) == size for part in parts[:-1])


def test_a_seed_decides_everything() -> None:
    features, labels = synthetic(40, 1.0)
    results = []
    for seed in (1, 1, 2):
        head = head_of()
        losses = fit(head, features, labels, np.arange(30), seed)
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
        fit(head_of(), features, labels, np.arange(20), 0)
        infer(head_of(), features)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_rows_that_are_not_trained_on_do_not_matter() -> None:
    features, labels = synthetic(40, 1.0)
    heads = [head_of(), head_of()]
    fit(heads[0], features, labels, np.arange(20), 0)
    assert isinstance(features.global_, np.ndarray)
    features.global_[20:] += 9
    labels[20:] = -1
    fit(heads[1], features, labels, np.arange(20), 0)
    other = heads[1].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in heads[0].state_dict().items())


@pytest.mark.parametrize("variant", FACE_DIMS)
def test_it_learns_what_is_easy(variant: str) -> None:
    features, labels = synthetic(300, 6.0)
    head = head_of(variant)
    losses = fit(head, features, labels, np.arange(200), 0, epochs=8)
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


class Looking(nn.Module):
    """Looks at frames by what is in them."""

    def forward(self, batch: HeadBatch) -> HeadOutput:
        rows, mask = batch.inputs["rows"], batch.masks["frame"]
        self.largest = max(getattr(self, "largest", 0), len(batch))
        logits = torch.stack([(rows[..., 0] * mask).sum(1), mask.sum(1).float()], 1)
        return HeadOutput(logits, batch.face_mask.float(), {"rows": rows[..., 0] * mask})


def clips(counts: list[int], width: int = 1, answer: int | None = None) -> Features:
    """Clips of so many frames with a face, whose vectors begin with 100 times the sample plus the frame."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(counts)), counts)
    places = np.stack([2 * (np.arange(ends[-1]) - ends[owner]), owner % 3], axis=1)  # each other frame; face 0, 1 or 2
    rows = np.zeros((ends[-1], width), np.float32)
    rows[:, 0] = 100 * owner + places[:, 0]
    few, _ = synthetic(len(counts), 1.0)
    return replace(few, inputs={"rows": InputRows("frame", rows)}, levels={"frame": Level(ends, places, answer=answer)})


@pytest.mark.parametrize("size", [1, 2, None])
@pytest.mark.parametrize("most", [None, 2])
def test_what_a_head_looks_at_says_where(tmp_path: Path, size: int | None, most: int | None) -> None:
    """Also where an answer is made of some of the frames."""
    counts = [3, 0, 5, 1]
    features = clips(counts, answer=most)
    looks = answer(Looking(), features, size=size).looks
    assert looks is not None
    write_looks(tmp_path / "a.safetensors", ["a", "b", "c", "d"], looks)
    ids, again = read_looks(tmp_path / "a.safetensors")
    assert ids == ("a", "b", "c", "d")
    assert again.level == "frame"
    assert again.places.dtype == np.int64
    assert np.diff(again.offsets).tolist() == [min(count, most or count) for count in counts]
    owner = np.repeat(np.arange(4), np.diff(again.offsets))
    np.testing.assert_array_equal(again.values["rows"], 100 * owner + again.places[:, 0])
    np.testing.assert_array_equal(again.places[:, 1], owner % 3)
    if most:
        assert again.places[:, 0].tolist() == [0, 4, 2, 6, 0]
    with pytest.raises(ValueError, match="'places'"):
        write_looks(tmp_path / "b.safetensors", ids, replace(again, values={"places": again.values["rows"]}))


def test_batches_fit_in_memory_whichever_sample_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first clips have no frame, so that their batch would take nothing."""
    monkeypatch.setattr("stages.train.answering.BATCH_BYTES", 4 * 4 * 1000 * 3)
    features, head = clips([0] * 5 + [4] * 20, width=1000), Looking()
    assert answer(head, features).logits[:, 1].tolist() == [0] * 5 + [4] * 20
    assert head.largest == 3
    limited, head = clips([0] * 5 + [4] * 20, width=1000, answer=1), Looking()
    answer(head, limited)
    assert head.largest == 12
