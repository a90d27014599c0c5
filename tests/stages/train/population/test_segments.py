"""Sums over each sample's faces: loops and products agree with what is written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.train.population.minibatch import Held, take
from stages.train.population.segments import Looped, Multiplied, segments_of

pytest.importorskip("numba")

counts_of_samples = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=3)


@given(counts=counts_of_samples, width=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None)
def test_both_ways(counts: list[list[int]], width: int, seed: int) -> None:
    flat = np.array(counts).reshape(-1)
    offsets = np.concatenate([[0], np.cumsum(flat)])
    none = np.zeros((int(offsets[-1]), 1), np.float32)
    source = Held(none, offsets, np.zeros((len(none), 4), np.float32), np.zeros((len(flat), 1), np.float32))
    batch = take(source, np.arange(len(flat)).reshape(-1, 3))
    noise = torch.Generator().manual_seed(seed)
    members, most = len(counts), batch.width
    rows, weights = torch.randn(members, most, width, generator=noise), torch.rand(members, most, 1, generator=noise)
    samples = torch.randn(members, 3, 2 * width, generator=noise)[..., ::2]  # not contiguous
    expected = written_out(counts, rows, weights, samples)
    real = torch.zeros(members, most, 1)
    for p, one in enumerate(counts):
        real[p, : sum(one)] = 1
    for way in (Looped(batch), Multiplied(batch)):
        found = {
            "pooled": way.pooled(rows, weights),
            "summed": way.pooled(rows, None),
            "spread": way.spread(samples, weights),
            "plus": way.plus(rows, samples) * real,
            "dots": way.dots(rows, samples),
            "softmax": way.softmax(rows[..., :1]),
            "back": way.softmax_back(way.softmax(rows[..., :1]), weights),
        }
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], msg=lambda said, n=name: f"{n}: {said}")


def written_out(counts: list[list[int]], rows: Tensor, weights: Tensor, samples: Tensor) -> dict[str, Tensor]:
    """Sample by sample; the gradient by autograd."""
    out = {name: torch.zeros_like(rows) for name in ("spread", "plus")}
    out |= {name: torch.zeros_like(samples).contiguous() for name in ("pooled", "summed")}
    out |= {name: torch.zeros_like(weights) for name in ("dots", "softmax", "back")}
    for p, member in enumerate(counts):
        start = 0
        for b, count in enumerate(member):
            mine = slice(start, start + count)
            out["pooled"][p, b] = (rows[p, mine] * weights[p, mine]).sum(0)
            out["summed"][p, b] = rows[p, mine].sum(0)
            out["spread"][p, mine] = samples[p, b] * weights[p, mine]
            out["plus"][p, mine] = samples[p, b] + rows[p, mine]
            out["dots"][p, mine, 0] = rows[p, mine] @ samples[p, b]
            scores = rows[p, mine, 0].clone().requires_grad_()
            share = torch.softmax(scores, 0)
            out["softmax"][p, mine, 0] = share.detach()
            (out["back"][p, mine, 0],) = torch.autograd.grad(share, [scores], weights[p, mine, 0])
            start += count
    return out


def test_which_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Held(
        np.ones((2, 1), np.float32), np.array([0, 2]), np.ones((2, 4), np.float32), np.ones((1, 1), np.float32)
    )
    batch = take(source, np.array([[0]]))
    assert isinstance(segments_of(batch), Looped)
    monkeypatch.setattr("stages.train.population.segments.installed", lambda: False)
    assert isinstance(segments_of(batch), Multiplied)
