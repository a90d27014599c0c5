"""How long training will take is said soon, and whatever the labels are."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.ledger import Ledger
from stages.train import timing
from stages.train.run import run
from stages.train.settings import TrainSettings
from stages.train.timing import expected, number_of_processes, seconds
from stages.train.training import Job, kinds

BLOCKS = {"faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled"]}
FRAMES = {"inputs": {"frames": ["resnet29/grid"]}}


def jobs_of(world: Any, tmp_path: Path, heads: dict[str, Any]) -> list[Job]:
    """What `run` would train."""
    found: list[Job] = []

    class Stopped(Exception):
        pass

    def stop(jobs: list[Job], *_: Any) -> float:
        found.extend(jobs)
        raise Stopped

    settings = TrainSettings.model_validate({"seeds": [0], "heads": heads})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.train.run.expected", stop)
        with pytest.raises(Stopped):
            run(world.inputs(), settings, tmp_path, Ledger("train"))
    return found


KINDS: list[dict[str, Any]] = [
    {"kind": "gupta2018:attention_c", **BLOCKS, "class_weights": "balanced"},
    {"kind": "gupta2018:average", **BLOCKS, "sampling": "balanced", "patience": 2},
    {"kind": "baselines:logistic", **BLOCKS, "class_weights": "balanced"},
    {"kind": "baselines:svm", **BLOCKS},
    {"kind": "tan2017:all", "faces": BLOCKS["faces"], "loss": {"kind": "focal"}},
    {"kind": "tan2017:all", "faces": BLOCKS["faces"], "loss": {"kind": "kl"}},
    {"kind": "aminbeidokhti2019:attention", **FRAMES},
]


@pytest.mark.parametrize("head", KINDS, ids=lambda head: f"{head['kind']}-{len(head)}")
def test_labels_in_order_can_be_timed(
    populated: Any, tmp_path: Path, head: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first samples are all of one class."""
    for i, sample in enumerate(populated.samples):
        populated.samples[i] = replace(sample, labels=("calm",) if i < 20 else ("glad",))
    monkeypatch.setattr(timing, "PROBED", 1)
    batch = {} if head["kind"].startswith("baselines") else {"batch_size": 4}
    jobs = jobs_of(populated, tmp_path, {"h": {**head, **batch}})
    took = seconds(jobs, ("calm", "glad"), "cpu")
    assert 0 < took < 600


def test_it_grows_with_epochs_and_heads(populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"kind": "gupta2018:average", **BLOCKS, "epochs": 10, "batch_size": 4}
    jobs = jobs_of(populated, tmp_path, {"h": head})
    longer = replace(jobs[0], settings=jobs[0].settings.model_copy(update={"epochs": 1000}))
    short, long = seconds(jobs, ("calm", "glad"), "cpu"), seconds([longer], ("calm", "glad"), "cpu")
    assert 10 < long / short < 1000  # 100, were it not for noise


def test_thousands_of_kinds_are_timed_in_seconds(
    populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid over settings that cannot be trained together; after a while the others are taken to be alike."""
    monkeypatch.setattr(timing, "PROBE_SECONDS", 0.3)
    head = {"kind": "gupta2018:average", **BLOCKS, "epochs": 2, "batch_size": 4}
    grid = {"optimiser": ["sgd", "adam"], "batch_size": list(range(2, 502))}
    jobs = jobs_of(populated, tmp_path, {"h": {**head, "grid": grid}})
    assert len(kinds(jobs)) == 1000
    start = time.monotonic()
    assert seconds(jobs, ("calm", "glad"), "cpu") > 0
    assert time.monotonic() - start < 5


def test_the_order_of_populations_is_that_of_the_jobs(
    populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that of where their features lie in memory."""
    heads = {f"h{i}": {"kind": "gupta2018:average", **BLOCKS, "max_faces": i + 1} for i in range(6)}
    jobs = jobs_of(populated, tmp_path, heads)
    assert [some[0].head for some in kinds(jobs)] == [f"h{i}" for i in range(6)]
    assert [some[0].head for some in kinds(jobs[::-1])] == [f"h{i}" for i in range(5, -1, -1)]


def test_few_samples_are_trained_in_one_process_unless_they_are_large(
    populated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {f"h{i}": {"kind": "gupta2018:average", **BLOCKS} for i in range(2)}
    jobs = jobs_of(populated, tmp_path, small)
    large = jobs_of(populated, tmp_path, {f"h{i}": {"kind": "aminbeidokhti2019:attention", **FRAMES} for i in range(2)})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(timing, "seconds", lambda *_: 100.0)
    assert expected(jobs, ("calm", "glad"), "cpu", 500) is None
    assert expected(jobs, ("calm", "glad"), "cpu", 2) == 100
    assert expected(large, ("calm", "glad"), "cpu", 500) == 100
    assert number_of_processes(2, "cpu", None, None) == 1
    assert number_of_processes(2, "cpu", None, 100.0) == 4
    assert number_of_processes(1, "cpu", None, 100.0) == 1
    assert number_of_processes(2, "cpu", None, 1.0) == 1
    assert number_of_processes(2, "cpu", 3, 1.0) == 3
    assert number_of_processes(2, "cuda", None, 100.0) == 1
