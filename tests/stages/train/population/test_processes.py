"""Several processes: the same heads, features that all of them map, and errors that come back."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.errors import DataError, SettingError
from stages.heads import registry
from stages.heads.gupta2018 import GuptaHead
from stages.train.features import Features
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Plan
from stages.train.population.minibatch import Streamed, source_of
from stages.train.population.processes import Processes, TrainingProcessError

LABELS = np.random.default_rng(1).integers(0, 3, 60)


def members(number: int) -> list[Member]:
    made = []
    for i in range(number):
        torch.manual_seed(i)
        made.append(Member(GuptaHead("attention_c", 8, 6, 3), i, 1e-3, np.arange(30 + i), epochs=2))
    return made


@pytest.fixture(scope="module")
def three() -> Iterator[Processes]:
    with Processes(3) as processes:
        processes.start()
        yield processes


def test_three_processes_make_the_same_heads(three: Processes, drawn: Callable[..., Features]) -> None:
    """To the bit: the blocks are the same."""
    source = source_of(drawn(60, views=2))
    alone, shared = members(6), members(6)
    plan = Plan(8, together=2)
    expected = train_population(alone, source, LABELS, plan)
    others = three.others
    found = train_population(shared, source, LABELS, plan, three)
    assert three.others == others
    assert len({os.getpid(), *others}) == 3
    for one, same in zip(alone, shared, strict=True):
        expected_state = one.head.state_dict()
        assert all(torch.equal(value, expected_state[name]) for name, value in same.head.state_dict().items())
        assert not same.head.training
    assert found == expected


def test_another_process_has_the_inputs_too(three: Processes, drawn: Callable[..., Features]) -> None:
    """Of a head of frames; also after another source was shared."""
    shape, plan = (9, 2, 3), Plan(8, together=2)
    sources = [source_of(drawn(60, (0, 0), inputs={"frames": ("frame", shape)}, seed=seed)) for seed in (0, 1)]
    for source in sources:
        heads = []
        for seed in range(4):
            torch.manual_seed(seed)
            heads.append(
                registry.build("aminbeidokhti2019:attention", registry.Shapes(inputs={"frames": shape}), 3, 0.5)
            )
        alone = [Member(one, seed, 1e-2, np.arange(30), 2) for seed, one in enumerate(heads)]
        shared = copy.deepcopy(alone)
        assert train_population(shared, source, LABELS, plan, three) == train_population(alone, source, LABELS, plan)
        for one, same in zip(alone, shared, strict=True):
            state = one.head.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in same.head.state_dict().items())


def test_features_are_written_once(three: Processes, drawn: Callable[..., Features]) -> None:
    source = source_of(drawn(60))
    train_population(members(3), source, LABELS, Plan(8, together=1), three)
    assert three._shared is not None
    folder = Path(three._shared[2].name)
    names = ("faces", "offsets", "boxes", "global", "labels")
    assert {path.name for path in folder.iterdir()} == {f"{name}.npy" for name in names}
    train_population(members(3), source, LABELS, Plan(8, together=1), three)
    assert Path(three._shared[2].name) == folder
    train_population(members(2), source_of(drawn(60, seed=5)), LABELS, Plan(8, together=1), three)
    assert Path(three._shared[2].name) != folder
    assert not folder.exists()


def test_an_error_and_a_death_of_the_other_process_are_told(drawn: Callable[..., Features]) -> None:
    features, labels = drawn(60), LABELS.copy()
    some = members(2)  # only the second one sees sample 30; and it is trained in the other process
    before = copy.deepcopy(some[0].head.state_dict())
    labels[30] = 3
    with Processes(2) as processes:
        with pytest.raises(DataError, match="the label 3 of 3 classes") as caught:
            train_population(some, features, labels, Plan(8, together=1), processes)
        assert "In a training process:" in caught.value.__notes__[0]
        assert processes.others == []
        processes.start()
        os.kill(processes.others[0], signal.SIGKILL)
        with pytest.raises(TrainingProcessError, match=r"ended with signal 9 \(SIGKILL\); train in fewer"):
            train_population(some, features, LABELS, Plan(8, together=1), processes)
        assert processes.others == []
    assert all(torch.equal(value, before[name]) for name, value in some[0].head.state_dict().items())


def test_features_that_are_read_stay_in_one_process(drawn: Callable[..., Features]) -> None:
    features = drawn(60)
    streamed, some = Streamed(features.batch, np.diff(features.offsets)), members(2)
    with Processes(2) as processes:
        train_population(some, streamed, LABELS, Plan(8, together=1), processes)
        assert processes.others == []
    alone = members(2)
    train_population(alone, features, LABELS, Plan(8, together=1))
    for one, same in zip(alone, some, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.head.parameters(), same.head.parameters(), strict=True))


def test_at_least_one() -> None:
    with pytest.raises(SettingError, match="0 processes; use 1 or more"):
        Processes(0)


def test_one_process_starts_no_other(drawn: Callable[..., Features]) -> None:
    with Processes(1) as processes:
        train_population(members(2), drawn(60), LABELS, Plan(8, together=1), processes)
        assert processes.others == []
