from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks import margins


def test_the_benchmark_prints_every_seed_and_its_differences(capsys: pytest.CaptureFixture[str]) -> None:
    """After a few steps: that it runs, not how far classes lie apart."""
    found = margins.compare("apart", 2, steps=3)
    said = capsys.readouterr().out
    names = [loss.name for loss in margins.LOSSES]
    assert list(found) == names
    seeds = re.findall(
        r"^apart (seed \d|mean)\s+(\w+(?: m=\d)?(?: fading)?)  +between .* accuracy \d\.\d+$", said, re.M
    )
    assert seeds == [(which, name) for which in ("seed 0", "seed 1", "mean") for name in names]
    differences = re.findall(
        r"^difference: apart: (.+) less (.+): [+-]\d.* of 2 seeds; trained [+-]\d.* of 2 seeds$", said, re.M
    )
    assert ("l_softmax m=4", "softmax") in differences
    assert ("a_softmax m=4", "a_softmax m=1") in differences
    assert len(differences) == 10


def test_all_losses_start_alike_and_a_seed_gives_the_same_bits() -> None:
    starts = [margins.measure(loss, 3.0, 0, steps=0) for loss in margins.LOSSES]
    assert all((one.between, one.within) == (starts[0].between, starts[0].within) for one in starts)
    assert margins.measure(margins.LOSSES[2], 3.0, 1, 5) == margins.measure(margins.LOSSES[2], 3.0, 1, 5)
    assert margins.measure(margins.LOSSES[2], 3.0, 1, 5) != margins.measure(margins.LOSSES[2], 3.0, 2, 5)


def test_angles_are_means_over_pairs() -> None:
    turns = torch.tensor([0.0, 30, 100, 160]) * math.pi / 180
    features = torch.stack([turns.cos(), turns.sin()], dim=1) * torch.tensor([[1.0], [2], [3], [4]])
    between, within = margins.angles(features, torch.tensor([0, 0, 1, 1]))
    assert between == pytest.approx((100 + 160 + 70 + 130) / 4, abs=1e-4)
    assert within == pytest.approx((30 + 60) / 2, abs=1e-4)


def test_the_interval_is_students() -> None:
    noise = np.random.default_rng(0)
    one, other = noise.normal(1, 1, 10), noise.normal(0, 1, 10)
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    by, half = margins.interval(pairs)
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert (by - half, by + half) == pytest.approx((expected.low, expected.high))
    assert margins.difference(pairs).endswith(f"above 0 in {(one > other).sum()} of 10 seeds")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_margins_push_classes_apart() -> None:
    """Seeds 0 to 9, all counted. SphereFace's schedule, which ends with a sixth of the margin, is not judged."""
    found = margins.compare("apart", 10)
    for kind in ("l_softmax", "a_softmax"):
        for other in ("softmax", f"{kind} m=1"):
            for angle in ("gap", "trained"):
                pairs = zip(found[f"{kind} m=4 fading"], found[other], strict=True)
                by, half = margins.interval([(getattr(one, angle), getattr(plain, angle)) for one, plain in pairs])
                assert by - half > 0, (kind, other, angle)
