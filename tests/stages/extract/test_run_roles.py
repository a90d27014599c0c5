"""Several roles in one pass: the same as one after the other, and each photo decoded and each crop read once."""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.block import Block
from cache.keys import BlockSpec, frame_key, item_key, key_list
from cache.store import Store
from stages.backbones import registry, weights
from stages.backbones.preprocess import fit
from stages.backbones.spec import BackboneSpec, Tap
from stages.blocks import Counts
from stages.decoding import pool
from stages.errors import MissingInputError
from stages.extract import inputs, passes
from stages.extract import run as stage
from stages.extract.items import keys_of
from stages.extract.plan import RolePlan, plan_role
from stages.extract.run import RoleResult
from stages.extract.settings import BackboneSettings, ExtractSettings, ViewSettings
from stages.index.clips import probe, read_frames
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.timing import Timings

KEY = "0" * 64
SETTINGS = ExtractSettings(
    backbones={"identity": BackboneSettings(backbone="resnet29", taps=("embedding",))}, device="cpu", batch_size=4
)
VIEWS = SETTINGS.model_copy(update={"views": ViewSettings(flip=True, crops=1)})
Go = Callable[..., dict[str, RoleResult]]


def means(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """128 times the row's mean."""
    return {"embedding": np.repeat(pixels.reshape(len(pixels), -1).mean(1, dtype=np.float32)[:, None], 128, axis=1)}


def photo_plan(role: str, side: int) -> RolePlan:
    """A role that sees whole photos, `side` px wide and high."""
    spec = BackboneSpec(
        name=role, family=role, weights=role, licence="", paper="", input="image", template=None,
        input_size=(side, side), colour="RGB", mean=(0, 0, 0), std=(1, 1, 1),
        taps=(Tap("embedding", "global", (128,)),),
    )  # fmt: skip
    block = BlockSpec(role, "embedding", "global", (128,), 1, weights={role: KEY}, numerics={"dtype": "float32"})
    return RolePlan(role, spec, None, {"embedding": block}, None)


@pytest.fixture
def plans(weights_folder: Path) -> list[RolePlan]:
    """Two face roles of one template, and three of whole photos, of which two see the same pixels."""
    face = plan_role("identity", SETTINGS, weights_folder, KEY, "found")
    other = {"embedding": replace(face.blocks["embedding"], source="other")}
    return [
        photo_plan("wide", 8),
        face,
        photo_plan("alike", 8),
        replace(face, role="other", blocks=other),
        photo_plan("small", 5),
    ]


@pytest.fixture
def worker(plans: list[RolePlan], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a worker asks for: it knows the backbones of these plans, and has their weights."""
    specs = {plan.spec.name: plan.spec for plan in plans}
    digests = {plan.spec.weights: plan.blocks["embedding"].weights[plan.spec.weights] for plan in plans}
    monkeypatch.setattr(registry, "get_spec", specs.__getitem__)
    monkeypatch.setattr(weights, "sha256", lambda file, folder: digests[file])
    stage._networks.clear()
    yield
    stage._networks.clear()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every network is foreseeable; the names of those that were loaded."""
    names: list[str] = []

    def load(name: str, *_: object) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        names.append(name)
        return means

    monkeypatch.setattr(stage, "load_forward", load)
    return names


@pytest.fixture
def go(place: Any, weights_folder: Path) -> Go:
    def run_them(
        plans: Sequence[RolePlan],
        store: Store | None = None,
        *,
        settings: ExtractSettings = SETTINGS,
        ledgers: dict[str, Ledger] | None = None,
        spread: object = None,
        timings: Timings | None = None,
    ) -> dict[str, RoleResult]:
        return stage.run(
            place.manifest,
            place.root,
            store or place.store,
            place.detections,
            plans,
            settings,
            weights_folder,
            ledgers or {plan.role: Ledger(f"extract/{plan.role}") for plan in plans},
            spread,  # pyright: ignore[reportArgumentType]
            timings,
        )

    return run_them


@pytest.fixture
def twin(place: Any, tmp_path: Path) -> Store:
    """Another store with the same crops."""
    shutil.copytree(place.store.root, tmp_path / "twin")
    return Store(tmp_path / "twin")


def bits(store: Store, plan: RolePlan) -> tuple[bytes, ...]:
    block = store.open(plan.blocks["embedding"])
    rows, offsets = block.rows(block.keys)
    return rows.tobytes(), offsets.tobytes(), block.keys.tobytes()


@pytest.mark.parametrize("settings", [SETTINGS, VIEWS])
def test_together_is_one_after_the_other(
    plans: list[RolePlan], place: Any, twin: Store, go: Go, loaded: list[str], settings: ExtractSettings
) -> None:
    (place.root / "b.png").unlink()
    alone, ledgers = {}, {plan.role: Ledger("x") for plan in plans}
    for plan in plans:
        alone |= go([plan], settings=settings, ledgers=ledgers)
    again = {plan.role: Ledger("x") for plan in plans}
    together = go(plans, twin, settings=settings, ledgers=again)
    assert together == alone
    assert list(together) == [plan.role for plan in plans]
    assert again == ledgers
    assert set(ledgers["wide"].entries) == {"b.png"}
    assert not ledgers["identity"].entries
    assert together["wide"].counts.computed == (9 if settings is VIEWS else 3)
    for plan in plans:
        assert bits(twin, plan) == bits(place.store, plan)


def test_each_photo_is_decoded_once_and_each_crop_read_once(
    plans: list[RolePlan], go: Go, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    item_at = Block.item_at

    def counting(self: Block, position: int) -> np.ndarray:
        read.append(position)
        return item_at(self, position)

    monkeypatch.setattr(Block, "item_at", counting)
    timings = Timings()
    found = go(plans, settings=VIEWS, timings=timings)
    assert [result.counts.computed for result in found.values()] == [12, 9, 12, 9, 12]
    assert timings.spent["decode"].items == 4, "c.png has no face, twin.png is a.png"
    assert len(read) == 3, "c.png has no crops"
    assert {kind: spent.items for kind, spent in timings.spent.items() if kind.startswith("forward/")} == {
        "forward/wide": 12, "forward/alike": 12, "forward/small": 12, "forward/identity": 18, "forward/other": 18,
    }  # fmt: skip
    assert {"load", "write", "wait"} <= timings.spent.keys()
    assert sorted(loaded) == ["alike", "resnet29", "resnet29", "small", "wide"]


def test_a_role_that_lacks_nothing_takes_no_part(
    plans: list[RolePlan], place: Any, go: Go, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, face, alike, *_ = plans
    go([wide, face])
    (place.root / "b.png").unlink()
    loaded.clear()
    ledgers = {"wide": Ledger("x"), "alike": Ledger("x"), "identity": Ledger("x")}
    found = go([wide, alike, face], ledgers=ledgers)
    assert loaded == ["alike"]
    assert found["wide"].counts == Counts(total=4, computed=0, failed=0)
    assert found["alike"].counts == Counts(total=4, computed=3, failed=1)
    assert {role: list(ledger.entries) for role, ledger in ledgers.items()} == {
        "wide": [], "alike": ["b.png"], "identity": [],
    }  # fmt: skip
    monkeypatch.setattr(inputs, "decoded", None)  # opening a photo would be an error
    timings = Timings()
    assert go([wide, face], timings=timings)["wide"].counts == Counts(total=4, computed=0, failed=0)
    assert timings == Timings()


def test_two_roles_of_one_block_compute_it_once(plans: list[RolePlan], go: Go, loaded: list[str]) -> None:
    wide, face, *_ = plans
    found = go([wide, face, replace(wide, role="same"), replace(face, role="mirror")])
    assert [result.counts for result in found.values()] == [
        Counts(4, 4, 0), Counts(3, 3, 0), Counts(4, 0, 0), Counts(3, 0, 0),
    ]  # fmt: skip
    assert found["same"].rows == found["wide"].rows
    assert sorted(loaded) == ["resnet29", "wide"]


def test_without_crops_nothing_is_computed_first(plans: list[RolePlan], place: Any, go: Go, loaded: list[str]) -> None:
    assert plans[1].crops is not None
    shutil.rmtree(place.store.place(plans[1].crops))
    with pytest.raises(MissingInputError, match="identity, other: no dlib150 crops of these faces; run kuleshov align"):
        go(plans)
    assert loaded == []
    assert len(place.store.open(plans[0].blocks["embedding"])) == 0


def test_parts_carry_all_roles(
    plans: list[RolePlan],
    place: Any,
    twin: Store,
    go: Go,
    loaded: list[str],
    worker: None,
    in_turn: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage, "PART_ITEMS", 1)
    (place.root / "b.png").unlink()
    ledgers = {plan.role: Ledger("x") for plan in plans}
    alone = go(plans, ledgers=ledgers)
    loaded.clear()
    again, timings, spread = {plan.role: Ledger("x") for plan in plans}, Timings(), in_turn()
    assert go(plans, twin, ledgers=again, spread=spread, timings=timings) == alone
    assert again == ledgers
    assert len(spread.seen) == 4 + 3, "a part for each photo and for each group of faces, whatever the roles"
    assert sorted(loaded) == ["alike", "resnet29", "small", "wide"], "networks stay from part to part"
    assert timings.spent["decode"].items == 3
    assert timings.spent["forward/identity"].items == 6
    for plan in plans:
        assert bits(twin, plan) == bits(place.store, plan)


DEADLY = """
import os, signal
from pathlib import Path
from stages.extract.pictures import Look

class Deadly(Look):
    def __call__(self, media):
        for sample in media.samples:
            mark = self.images_root / (sample.sample_id + ".deadly")
            if mark.exists():
                if mark.read_text() == "once":
                    mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        yield from super().__call__(media)
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoding processes that are killed at the photos beside which a file NAME.deadly lies."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "deadly_look.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    pool.close()
    monkeypatch.setattr(passes, "Look", importlib.import_module("deadly_look").Deadly)
    yield
    pool.close()


def test_a_killed_decoding_process_does_not_end_the_run(
    plans: list[RolePlan], place: Any, go: Go, loaded: list[str], deadly: None
) -> None:
    (place.root / "a.png.deadly").write_text("once")
    (place.root / "b.png.deadly").write_text("always")
    ledgers = {"wide": Ledger("x"), "small": Ledger("x")}
    found = go([plans[0], plans[4]], ledgers=ledgers)
    assert found["wide"].counts == Counts(total=4, computed=3, failed=1)
    reason = ("decoder_crash", "the decoding process ended with signal 9 (SIGKILL)")
    assert ledgers["wide"].entries == ledgers["small"].entries == {"b.png": reason}
    (place.root / "b.png.deadly").unlink()
    assert go([plans[0]])["wide"].counts == Counts(total=4, computed=1, failed=0), "it is tried again"


def test_few_photos_are_on_their_way_at_once(
    plans: list[RolePlan], place: Any, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded and not forwarded is bounded by the processes and the batch, however many photos there are."""
    sample, forwarded, waiting = place.manifest.by_id["b.png"], 0, [0]
    names = [f"many{i}.png" for i in range(150)]
    for number, name in enumerate(names):
        Path(place.root / name).write_bytes((place.root / "b.png").read_bytes() + bytes([number]))
    contents = {name: _digest(place.root / name) for name in names}
    samples = [replace(sample, sample_id=name, path=name, content=contents[name]) for name in names]
    many = replace(place, manifest=Manifest(tuple(samples)))
    items = {name: [] for name in names}
    found = replace(many.detections, items=items, sizes=dict.fromkeys(names, (150, 150)))

    def decoded(function: Callable[[Any], Iterable[Any]], jobs: Iterable[Any]) -> Iterator[Any]:
        def counted() -> Iterator[Any]:
            for number, job in enumerate(jobs, 1):
                waiting.append(number - forwarded)
                yield job

        return pool.decoded(function, counted())

    def forward(pixels: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal forwarded
        forwarded += len(pixels)
        return means(pixels)

    monkeypatch.setenv("KULESHOV_DECODERS", "1")
    monkeypatch.setattr(inputs, "decoded", decoded)
    monkeypatch.setattr(stage, "load_forward", lambda *_: forward)
    result = stage.run(
        many.manifest, many.root, many.store, found, [plans[0]], SETTINGS, Path(), {"wide": Ledger("x")}
    )  # fmt: skip
    assert result["wide"].counts == Counts(150, 150, 0)
    assert max(waiting) <= 10 + 2 * 4  # batches of 4


@pytest.mark.parametrize("spread", [False, True])
def test_the_frames_of_a_clip_are_items_and_come_from_one_decode(
    plans: list[RolePlan], place: Any, loaded: list[str], worker: None, in_turn: Any, spread: bool
) -> None:
    write_clip(place.root / "clip.mp4", plan_clip(0, 0))
    content = _digest(place.root / "clip.mp4")
    times = probe(place.root / "clip.mp4").times_us[[2, 5, 9]]
    lost = np.append(times, 3_600_000_000)  # no such frame: the clip was cut since
    clip = Sample("clip.mp4", "clip.mp4", "video", (), "train", "", "", (), content)
    place.detections.items["clip.mp4"] = []
    place = replace(
        place,
        manifest=Manifest((*place.manifest.samples, clip)),
        detections=replace(place.detections, times={"clip.mp4": lost}),
    )
    timings, ledger = Timings(), Ledger("x")
    ledgers = {"wide": ledger, "small": Ledger("y")}
    found = stage.run(
        place.manifest, place.root, place.store, place.detections, [plans[0], plans[4]], SETTINGS, Path(), ledgers,
        in_turn() if spread else None, timings,
    )  # fmt: skip
    assert found["wide"].counts == Counts(total=4 + 4, computed=4 + 3, failed=1)
    assert timings.spent["decode"].items == 4 + 3
    assert list(ledger.entries) == ["clip.mp4"]
    assert ledgers["small"].entries == ledger.entries
    for plan in (plans[0], plans[4]):
        block = place.store.open(plan.blocks["embedding"])
        for time_us, image in zip(times.tolist(), read_frames(place.root / "clip.mp4", times.tolist()), strict=True):
            wanted = means(fit(image, plan.spec)[None])["embedding"]
            assert np.array_equal(block.item(frame_key(content, time_us))[0], wanted)
    names = ["b.png", "clip.mp4", "d.png"]
    keys, owner = keys_of([place.manifest.by_id[name] for name in names], place.detections, "global")
    assert owner.tolist() == [0, 1, 1, 1, 1, 2]
    photos = [item_key(place.manifest.by_id[name].content) for name in ("b.png", "d.png")]
    assert key_list(keys) == [photos[0], *(frame_key(content, time_us) for time_us in lost.tolist()), photos[1]]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
