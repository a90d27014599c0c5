"""The stage: what is computed, kept and recorded, with real and with foreseeable networks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import RangeError
from cache.keys import BlockSpec, item_key
from cache.store import BlockWriter
from stages.backbones.preprocess import fit
from stages.backbones.spec import BackboneSpec, Tap
from stages.blocks import Counts
from stages.errors import MissingInputError, WeightsError
from stages.extract import inputs
from stages.extract import run as stage
from stages.extract.forward import Forward, load_forward
from stages.extract.plan import RolePlan, plan_role
from stages.extract.run import run
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.index.samples import open_sample
from stages.ledger import Ledger

KEY = "0" * 64
SETTINGS = ExtractSettings(
    backbones={"identity": BackboneSettings(backbone="resnet29", taps=("embedding",))}, device="cpu", batch_size=4
)


@pytest.fixture
def plan(weights_folder: Path) -> RolePlan:
    return plan_role("identity", SETTINGS, weights_folder, KEY, "found")


@pytest.fixture
def go(place: Any, weights_folder: Path) -> Callable[..., tuple[list, Counts, Ledger]]:
    def run_it(plan: RolePlan) -> tuple[list, Counts, Ledger]:
        ledger = Ledger("extract/identity")
        found = run(
            place.manifest, place.root, place.store, place.detections, [plan], SETTINGS, weights_folder,
            {plan.role: ledger},
        )  # fmt: skip
        return found[plan.role].rows, found[plan.role].counts, ledger

    return run_it


def use(monkeypatch: pytest.MonkeyPatch, forward: Forward | None) -> None:
    """Take this for the network; None: loading it or opening a photo is an error."""

    def load(*_: object) -> Forward:
        assert forward is not None, "weights were loaded"
        return forward

    monkeypatch.setattr(stage, "load_forward", load)
    if forward is None:
        monkeypatch.setattr(inputs, "decoded", None)


def means(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """128 times the row's mean."""
    return {"embedding": np.repeat(pixels.reshape(len(pixels), -1).mean(1, dtype=np.float32)[:, None], 128, axis=1)}


def test_rows_are_the_networks_and_a_second_run_computes_nothing(
    place: Any,
    plan: RolePlan,
    go: Callable[..., tuple[list, Counts, Ledger]],
    weights_folder: Path,
    pixels: Callable[[int, int], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, counts, ledger = go(plan)
    assert counts == Counts(total=3, computed=3, failed=0)  # twin.png is a.png, c.png has no face
    assert not ledger.entries
    block = place.store.open(plan.blocks["embedding"])
    forward = load_forward("resnet29", weights_folder, plan.engine)
    for seed, (name, count) in enumerate({"a.png": 2, "b.png": 1, "c.png": 0, "d.png": 3}.items()):
        if count:
            padded = np.concatenate([pixels(seed, count), np.zeros((4 - count, 150, 150, 3), np.uint8)])
            wanted = forward(padded)["embedding"][:count].astype(np.float16)
            assert np.array_equal(block.item(place.key(name))[0], wanted)
    assert sorted(row.rows for row in rows) == [1, 2, 3]
    use(monkeypatch, None)
    again, counts, ledger = go(plan)
    assert again == rows
    assert counts == Counts(total=3, computed=0, failed=0)
    assert not ledger.entries


def test_values_that_are_not_finite_are_recorded_and_neighbours_kept(
    place: Any,
    plan: RolePlan,
    go: Callable[..., tuple[list, Counts, Ledger]],
    monkeypatch: pytest.MonkeyPatch,
    pixels: Callable[[int, int], np.ndarray],
) -> None:
    bad = pixels(0, 2)[1].mean(dtype=np.float32)

    def nan(batch: np.ndarray) -> dict[str, np.ndarray]:
        rows = means(batch)["embedding"]
        rows[np.isclose(rows[:, 0], bad), 5] = np.nan
        return {"embedding": rows}

    use(monkeypatch, nan)
    rows, counts, ledger = go(plan)
    reason = ("non_finite", "resnet29 returned NaN or inf at embedding")
    assert ledger.entries == {"a.png": reason, "twin.png": reason}
    assert counts == Counts(total=3, computed=2, failed=1)
    assert sorted((row.status, row.rows) for row in rows) == [("non_finite", 0), ("ok", 1), ("ok", 3)]
    use(monkeypatch, None)
    again, counts, ledger_again = go(plan)
    assert (again, ledger_again.entries) == (rows, ledger.entries)
    assert counts == Counts(total=3, computed=0, failed=1)


def test_without_any_crops_align_is_asked_for(
    place: Any, plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]]
) -> None:
    shutil.rmtree(place.store.place(plan.crops))
    with pytest.raises(MissingInputError, match="identity: no dlib150 crops of these faces; run kuleshov align"):
        go(plan)


def test_single_missing_crops_are_recorded_in_every_run(
    place: Any, plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = place.store.open(plan.crops)
    kept = [(place.key(name), crops.item(place.key(name))[0].copy()) for name in ("b.png", "d.png")]
    shutil.rmtree(place.store.place(plan.crops))
    with place.store.writer(plan.crops) as writer:
        for key, rows in kept:
            writer.add(key, rows)
    use(monkeypatch, means)
    rows, counts, ledger = go(plan)
    reason = ("missing_crops", "no dlib150 crops; run kuleshov align")
    assert ledger.entries == {"a.png": reason, "twin.png": reason}
    assert len(rows) == 2
    assert counts == Counts(total=3, computed=2, failed=1)
    use(monkeypatch, None)  # all that is left to do cannot be done: nothing is loaded, and it is no new error
    again, counts, ledger_again = go(plan)
    assert (again, ledger_again.entries) == (rows, ledger.entries)
    assert counts == Counts(total=3, computed=0, failed=1)


def test_a_value_beyond_float16_is_refused(
    plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda pixels: {"embedding": np.full((len(pixels), 128), 70000.0, np.float32)})
    with pytest.raises(RangeError, match=r"70000 does not fit float16; set extract\.dtype to float32") as caught:
        go(plan)
    assert "\n" not in str(caught.value)
    wide = {tap: replace(spec, numerics={**spec.numerics, "dtype": "float32"}) for tap, spec in plan.blocks.items()}
    assert go(replace(plan, blocks=wide))[1].computed == 3


def test_an_interrupted_run_keeps_what_was_done(
    plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def interrupted(pixels: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return means(pixels)

    use(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(plan)
    use(monkeypatch, means)
    assert go(plan)[1] == Counts(total=3, computed=1, failed=0)


def _two_taps(plan: RolePlan) -> RolePlan:
    other = replace(plan.blocks["embedding"], tap="other", shape=(1,))
    return replace(plan, blocks={**plan.blocks, "other": other})


def test_a_new_tap_leaves_the_old_one_as_it_is(
    place: Any, plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, means)
    old, _, _ = go(plan)

    def both(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {**means(pixels), "other": np.full((len(pixels), 1), np.inf, np.float32)}

    use(monkeypatch, both)
    rows, counts, ledger = go(_two_taps(plan))
    assert set(old) < set(rows)
    assert {row.status for row in rows if row not in old} == {"non_finite"}
    assert ledger.entries["b.png"] == ("non_finite", "resnet29 returned NaN or inf at other")
    assert counts == Counts(total=3, computed=0, failed=3)
    assert {info.spec.tap: info.items for info in place.store.blocks()} == {"embedding": 3, "other": 3, "pixels": 3}


def test_weights_that_are_gone_are_an_error(
    place: Any, plan: RolePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    gone = replace(plan.spec, name="inception_resnet_v1:vggface2")
    with pytest.raises(WeightsError, match="weights fetch"):
        run(
            place.manifest, place.root, place.store, place.detections, [replace(plan, spec=gone)], SETTINGS, tmp_path,
            {plan.role: Ledger("x")},
        )  # fmt: skip


@pytest.fixture
def photo_plan() -> RolePlan:
    """A role that sees whole photos, 8 x 8 px."""
    spec = BackboneSpec(
        name="wide", family="wide", weights="wide", licence="", paper="", input="image", template=None,
        input_size=(8, 8), colour="RGB", mean=(0, 0, 0), std=(1, 1, 1), taps=(Tap("embedding", "global", (128,)),),
    )  # fmt: skip
    block = BlockSpec("wide", "embedding", "global", (128,), 1, numerics={"dtype": "float32"})
    return RolePlan("place", spec, None, {"embedding": block}, None)


def test_whole_photos_are_decoded_in_order_and_failures_recorded_for_each_name(
    place: Any, photo_plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "twin.png"):
        (place.root / name).write_bytes(b"another photo")
    use(monkeypatch, means)
    rows, counts, ledger = go(photo_plan)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"a.png": "changed", "twin.png": "changed"}
    assert counts == Counts(total=4, computed=3, failed=1)
    assert len(rows) == 3
    block = place.store.open(photo_plan.blocks["embedding"])
    for name in ("b.png", "c.png", "d.png"):
        sample = place.manifest.by_id[name]
        wanted = means(fit(open_sample(sample, place.root), photo_plan.spec)[None])["embedding"]
        assert np.array_equal(block.item(item_key(sample.content))[0], wanted)


def test_a_photo_is_read_under_its_other_name(
    place: Any, photo_plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.root / "a.png").unlink()
    use(monkeypatch, means)
    _, counts, ledger = go(photo_plan)
    assert not ledger.entries
    assert counts == Counts(total=4, computed=4, failed=0)


def test_photos_that_detection_could_not_read_are_left_out(
    place: Any, plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    del place.detections.items["d.png"]
    use(monkeypatch, means)
    rows, counts, ledger = go(plan)
    assert (len(rows), counts.total, len(ledger)) == (2, 2, 0)


def test_the_writer_is_flushed_when_the_store_refuses_a_row(
    place: Any, plan: RolePlan, go: Callable[..., tuple[list, Counts, Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[bytes] = []
    add = BlockWriter.add_many

    def refusing(self: BlockWriter, keys: Sequence[bytes], counts: Sequence[int], rows: np.ndarray) -> None:
        if added:
            raise RangeError("no")
        added.extend(keys)
        add(self, keys, counts, rows)

    use(monkeypatch, means)
    with monkeypatch.context() as patch:
        patch.setattr(BlockWriter, "add_many", refusing)
        with pytest.raises(RangeError):
            go(plan)
    assert added
    assert place.store.open(plan.blocks["embedding"]).has(added).all()
