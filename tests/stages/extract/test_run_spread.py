"""The stage in parts: the same result, whoever computes and however often."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import RangeError
from cache.keys import BlockSpec
from cache.store import Store
from stages.backbones import registry
from stages.blocks import BlockRow, Counts
from stages.errors import MissingInputError, SettingError, WeightsError
from stages.extract import run as stage
from stages.extract.engine import Forward
from stages.extract.plan import RolePlan, plan_role
from stages.extract.run import run
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.ledger import Ledger

KEY = "0" * 64
SETTINGS = ExtractSettings(
    backbones={
        "identity": BackboneSettings(backbone="resnet29", taps=("embedding",)),
        "scene": BackboneSettings(backbone="effnet_lite0", taps=("pooled",)),
    },
    device="cpu",
    batch_size=4,
)
Go = Callable[..., tuple[list[BlockRow], Counts, Ledger]]
InTurn = Callable[..., Any]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    stage._networks.clear()
    monkeypatch.setattr(stage, "PART_ITEMS", 1)


@pytest.fixture
def plan(weights_folder: Path) -> RolePlan:
    return plan_role("identity", SETTINGS, weights_folder, KEY, "found")


@pytest.fixture
def go(place: Any, weights_folder: Path) -> Go:
    def run_it(plan: RolePlan, spread: object, store: Store | None = None) -> tuple[list[BlockRow], Counts, Ledger]:
        ledger = Ledger(f"extract/{plan.role}")
        found = run(
            place.manifest,
            place.root,
            store or place.store,
            place.detections,
            [plan],
            SETTINGS,
            weights_folder,
            {plan.role: ledger},
            spread,  # pyright: ignore[reportArgumentType]
        )
        return found[plan.role].rows, found[plan.role].counts, ledger

    return run_it


@pytest.fixture
def twin(place: Any, tmp_path: Path) -> Store:
    """Another store with the same crops."""
    shutil.copytree(place.store.root, tmp_path / "twin")
    return Store(tmp_path / "twin")


def bits(store: Store, spec: BlockSpec) -> tuple[bytes, ...]:
    block = store.open(spec)
    rows, offsets = block.rows(block.keys)
    return rows.tobytes(), offsets.tobytes(), block.keys.tobytes()


def means(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """128 times the row's mean."""
    return {"embedding": np.repeat(pixels.reshape(len(pixels), -1).mean(1, dtype=np.float32)[:, None], 128, axis=1)}


def use(monkeypatch: pytest.MonkeyPatch, forward: Forward) -> list[str]:
    """Take this for the network; returns the list of its loadings."""
    loaded: list[str] = []

    def load(name: str, *_: object) -> Forward:
        loaded.append(name)
        return forward

    monkeypatch.setattr(stage, "load_forward", load)
    return loaded


def test_faces_are_the_same_bits_as_in_one_process(
    place: Any, twin: Store, plan: RolePlan, go: Go, in_turn: InTurn
) -> None:
    alone = go(plan, None)
    spread = in_turn()
    assert go(plan, spread, twin) == alone
    assert [(part.size, part.first) for part in spread.seen] == [(1, "d.png"), (1, "b.png"), (1, "a.png")]
    assert bits(twin, plan.blocks["embedding"]) == bits(place.store, plan.blocks["embedding"])
    again = in_turn()
    assert go(plan, again, twin)[1] == Counts(total=3, computed=0, failed=0)
    assert again.seen == []


def test_photos_are_the_same_bits_and_failures_the_same_lines(
    place: Any, twin: Store, weights_folder: Path, go: Go, in_turn: InTurn
) -> None:
    (place.root / "b.png").unlink()
    plan = plan_role("scene", SETTINGS, weights_folder, KEY, "found")
    rows, counts, ledger = go(plan, None)
    assert go(plan, in_turn(), twin) == (rows, counts, ledger)
    assert ledger.entries == {"b.png": ("missing", "b.png is not there any more")}
    assert counts == Counts(total=4, computed=3, failed=1)
    assert bits(twin, plan.blocks["pooled"]) == bits(place.store, plan.blocks["pooled"])


def test_a_worker_keeps_the_network_and_does_not_compute_twice(
    plan: RolePlan, go: Go, in_turn: InTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def counting(pixels: np.ndarray) -> dict[str, np.ndarray]:
        batches.append(len(pixels))
        return means(pixels)

    loaded = use(monkeypatch, counting)
    assert go(plan, in_turn(times=2))[1] == Counts(total=3, computed=3, failed=0)
    assert loaded == ["resnet29"]
    assert batches == [4, 4, 4], "a part that is tried again finds its rows"


def test_values_that_are_not_finite_and_crops_that_are_not_there(
    place: Any, twin: Store, plan: RolePlan, go: Go, in_turn: InTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan.crops is not None
    for store in (place.store, twin):
        crops = store.open(plan.crops)
        kept = [(place.key(name), crops.item(place.key(name))[0].copy()) for name in ("a.png", "d.png")]
        shutil.rmtree(store.place(plan.crops))
        with store.writer(plan.crops) as writer:
            for key, rows in kept:
                writer.add(key, rows)
    bad = kept[1][1].reshape(3, -1).mean(1, dtype=np.float32)

    def nan(pixels: np.ndarray) -> dict[str, np.ndarray]:
        rows = means(pixels)["embedding"]
        rows[np.isclose(rows[:, :1], bad).any(1), 5] = np.nan
        return {"embedding": rows}

    use(monkeypatch, nan)
    alone = go(plan, None)
    assert go(plan, in_turn(), twin) == alone
    assert alone[1] == Counts(total=3, computed=1, failed=2)
    assert {name: reason for name, (reason, _) in alone[2].entries.items()} == {
        "b.png": "missing_crops",
        "d.png": "non_finite",
    }


def test_crops_may_lie_in_a_shared_store(
    place: Any, plan: RolePlan, go: Go, in_turn: InTurn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, means)
    own = Store(tmp_path / "own", [place.store.root])
    assert go(plan, in_turn(), own)[1] == Counts(total=3, computed=3, failed=0)
    assert len(Store(own.root).open(plan.blocks["embedding"])) == 3
    assert len(place.store.open(plan.blocks["embedding"])) == 0


def test_without_any_crops_align_is_asked_for(place: Any, plan: RolePlan, go: Go, in_turn: InTurn) -> None:
    assert plan.crops is not None
    shutil.rmtree(place.store.place(plan.crops))
    with pytest.raises(MissingInputError, match="identity: no dlib150 crops of these faces; run kuleshov align"):
        go(plan, in_turn())


def test_a_refused_value_is_the_stores_own_error(
    plan: RolePlan, go: Go, in_turn: InTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda pixels: {"embedding": np.full((len(pixels), 128), 70000.0, np.float32)})
    with pytest.raises(RangeError, match="70000 does not fit float16"):
        go(plan, in_turn())


def test_a_worker_of_another_version_or_with_other_weights_is_refused(
    place: Any, plan: RolePlan, go: Go, in_turn: InTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(plan, blocks={tap: replace(s, weights={"resnet29": "f" * 64}) for tap, s in plan.blocks.items()})
    with pytest.raises(WeightsError, match=r"resnet29: .* of worker .* has weights of sha256 \w+, wanted are f{12};"):
        go(other, in_turn())
    newer = replace(registry.get_spec("resnet29"), extractor_version=99)
    with pytest.raises(SettingError, match=r"resnet29: worker .* has another version of kuleshov"):
        go(plan, in_turn(before=lambda: monkeypatch.setattr(registry, "get_spec", lambda name: newer)))
    assert len(place.store.open(plan.blocks["embedding"])) == 0
