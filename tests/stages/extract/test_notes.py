"""What a fine-tune has seen goes into its features' blocks, before their rows and also to blocks of before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from cache.store import Store
from stages.backbones import about, registry
from stages.backbones.weights import hash_file
from stages.errors import DataError, MissingInputError
from stages.extract.notes import SEEN, carry_seen, seen_file
from stages.extract.plan import RolePlan, plan_role
from stages.extract.run import run
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.ledger import Ledger

KEY = "0" * 64
SETTINGS = ExtractSettings(
    backbones={
        "tuned": BackboneSettings(backbone="resnet29", finetuned="local", taps=("embedding",)),
        "plain": BackboneSettings(backbone="resnet29", taps=("embedding",)),
    },
    device="cpu",
    batch_size=4,
)


@pytest.fixture
def plan(tmp_path: Path, weights_folder: Path) -> RolePlan:
    """A role of a fine-tune: resnet29 with slightly other weights, and a file that says what it has seen."""
    file = tmp_path / "finetune" / "local" / "backbone.safetensors"
    file.parent.mkdir(parents=True)
    state = registry.load("resnet29", weights_dir=weights_folder).state_dict()
    changed = {name: value * 1.001 if value.ndim == 4 else value.clone() for name, value in state.items()}
    save_file(changed, file, {about.KEY: json.dumps({"backbone": "resnet29"})})
    seen_file(file).write_text(json.dumps({"weights": hash_file(file), "trained": ["a"]}))
    return plan_role("tuned", SETTINGS, weights_folder, KEY, "found", tmp_path / "finetune")


@pytest.fixture
def go(place: Any, weights_folder: Path) -> Callable[..., int]:
    """Runs the stage for these roles, and gives how many items were computed for the first."""

    def run_it(*plans: RolePlan) -> int:
        ledgers = {plan.role: Ledger(f"extract/{plan.role}") for plan in plans}
        found = run(
            place.manifest, place.root, place.store, place.detections, plans, SETTINGS, weights_folder, ledgers
        )  # fmt: skip
        return found[plans[0].role].counts.computed

    return run_it


def file_of(plan: RolePlan) -> Path:
    assert plan.file is not None
    return seen_file(plan.file)


def note_of(store: Store, plan: RolePlan) -> bytes | None:
    return store.open(plan.blocks["embedding"]).note(SEEN)


def test_a_fine_tuned_role_has_its_fine_tunes_file_in_its_block(
    plan: RolePlan, go: Callable[..., int], place: Any, weights_folder: Path
) -> None:
    plain = plan_role("plain", SETTINGS, weights_folder, KEY, "found")
    assert (plan.finetuned, plain.finetuned) == ("local", None)
    assert go(plan, plain) == 3
    assert note_of(place.store, plan) == file_of(plan).read_bytes()
    assert note_of(place.store, plain) is None


def test_a_block_of_before_gets_it_though_everything_is_cached(
    plan: RolePlan, go: Callable[..., int], place: Any
) -> None:
    go(plan)
    (place.store.place(plan.blocks["embedding"]) / SEEN).unlink()
    assert go(plan) == 0
    assert note_of(place.store, plan) == file_of(plan).read_bytes()
    file_of(plan).unlink()
    assert go(plan) == 0  # what is in the store needs no file


def test_a_missing_file_is_an_error_before_anything_is_computed(
    plan: RolePlan, go: Callable[..., int], place: Any
) -> None:
    file_of(plan).unlink()
    with pytest.raises(MissingInputError, match=r"backbone\.seen\.json is not there .*run kuleshov finetune local$"):
        go(plan)
    elsewhere = replace(plan, finetuned="folder:../other/artifacts/finetune/local.fold1")
    with pytest.raises(MissingInputError, match=r"kuleshov finetune local --folds K in the project that it is of$"):
        go(elsewhere)
    assert not place.store.place(plan.blocks["embedding"]).exists()


@pytest.mark.parametrize("content", [json.dumps({"weights": "f" * 64}), "{}", "[1]", "not JSON", ""])
def test_a_file_of_other_weights_is_an_error(plan: RolePlan, place: Any, content: str) -> None:
    file_of(plan).write_text(content)
    with pytest.raises(
        DataError, match=r"tells of other weights than backbone\.safetensors: .* kuleshov finetune local"
    ):
        carry_seen(place.store, plan)
    assert not place.store.place(plan.blocks["embedding"]).exists()


def test_rows_of_a_shared_store_without_the_note_get_it_in_the_own(
    plan: RolePlan, go: Callable[..., int], place: Any, tmp_path: Path
) -> None:
    go(plan)
    shared = place.store.place(plan.blocks["embedding"])
    store = Store(tmp_path / "own", [place.store.root])
    carry_seen(store, plan)
    assert not (store.place(plan.blocks["embedding"])).exists(), "the shared note serves"
    (shared / SEEN).unlink()
    carry_seen(store, plan)
    assert note_of(store, plan) == file_of(plan).read_bytes()
    assert len(store.open(plan.blocks["embedding"])) == 3
    assert not (shared / SEEN).exists()
    shutil.rmtree(store.root)
