from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks import heads
from stages.heads.batch import HeadBatch
from stages.train.population.draws import Draws
from stages.train.population.engine import train_population
from stages.train.population.forms import form_of
from stages.train.population.members import Member, Plan
from stages.train.population.minibatch import Held

ROOT = Path(__file__).parent.parent.parent
RATIOS = [
    *("population_small", "population_small_one", "population_small_wall", "dataloader_small", "dataloader_small_flat"),
    *("population_large", "population_large_one", "population_large_wall", "dataloader_large", "dataloader_large_flat"),
    *("population_gupta", "population_gupta_one", "population_gupta_wall"),
]


def test_the_benchmark_prints_its_ratios() -> None:
    """Of few heads and steps: that it runs with two processes, not how fast it is."""
    options = ["--steps", "2", "--heads", "2", "--rounds", "1", "--samples", "100"]
    command = [sys.executable, "-m", "benchmarks.heads", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found = re.findall(r"^ratio: (\w+) (\d+\.\d\d)$", done.stdout, re.MULTILINE)
    assert [name for name, _ in found] == RATIOS
    assert all(float(ratio) >= 0 for _, ratio in found)
    assert "small: 8,387 parameters, 2 heads" in done.stdout
    assert "large: 98,947 parameters, 2 heads" in done.stdout


def test_all_ways_see_the_same_samples(tmp_path: Path) -> None:
    data = heads.draw(20, 4)
    for grouped in (True, False):
        items = heads.FileItems(tmp_path / f"{grouped}.h5", data, 20, grouped)
        faces, mask, global_, labels = next(iter(DataLoader(items, 20)))
        assert torch.equal(faces, data.padded)
        assert torch.equal(mask, data.mask)
        assert np.array_equal(global_, data.global_)
        assert np.array_equal(labels, data.labels)
    held = Held(data.rows, data.offsets, np.zeros((len(data.rows), 4), np.float32), data.global_)
    batch = held.padded(np.arange(20)[None], None)
    assert torch.equal(batch.faces[0], data.padded)
    assert torch.equal(batch.face_mask[0], data.mask)


def test_the_stacked_form_and_the_loop_train_alike() -> None:
    """The loop's steps in the population's order: 1e-5 on parameters after an epoch."""
    data = heads.draw(200, 64)
    source = Held(data.rows, data.offsets, np.zeros((len(data.rows), 4), np.float32), data.global_)
    members = [Member(heads.make("small", seed), seed, 1e-3, np.arange(160)) for seed in range(3)]
    assert form_of(members[0].head) is not None
    train_population(members, source, data.labels, Plan(optimiser="adam"))
    for seed, member in enumerate(members):
        order = Draws().order(seed, 0, np.arange(160))
        tensors = (data.padded, data.mask, torch.from_numpy(data.global_), torch.from_numpy(data.labels))
        plain = heads.make("small", seed)
        heads.train(plain, ((*(t[part] for t in tensors),) for part in torch.from_numpy(order).split(32)))  # pyright: ignore
        expected = plain.state_dict()
        for name, value in member.head.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)


def test_a_head_answers_alike_with_more_padding() -> None:
    data, head = heads.draw(20, 64), heads.make("small", 0)
    boxes, global_ = torch.zeros(20, 6, 4), torch.from_numpy(data.global_)
    wide = [widened(t) for t in (data.padded, data.mask)]
    one = head(HeadBatch(data.padded, data.mask, boxes, global_)).logits
    torch.testing.assert_close(head(HeadBatch(wide[0], wide[1], boxes, global_)).logits, one)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, torch.zeros_like(tensor)], 1)
