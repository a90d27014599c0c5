"""Backbones of whole photos over persons, and over photos with a person masked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.keys import key_list, view_key
from cache.store import Store
from stages.align.run import crops_block
from stages.align.run import run as align
from stages.backbones import weights
from stages.backbones.fetching import fetch
from stages.backbones.registry import get_spec
from stages.detect.detections import Detections
from stages.errors import MissingInputError, SettingError
from stages.extract.forward import load_forward
from stages.extract.items import keys_of
from stages.extract.plan import RolePlan, plan_role, template_of, together
from stages.extract.run import RoleResult, run
from stages.extract.settings import ExtractSettings
from stages.index.manifest import Box, Manifest, Sample
from stages.ledger import Ledger

KEY, DIGEST = "0" * 64, "d" * 64
KEYS_WITHOUT_REGION = {
    "identity": "2789fa25873ba5668b2ce6be78c13100cf79a2a06aabc74b00ee1409ac26da39",
    "scene": "5603be798aea4dac00b484901f7f14e575e0752d9e06e53d20b9e77f70736334",
}
"""Of rows that people have: another key would compute them again."""

ROLES = {
    "identity": {"backbone": "resnet29", "taps": ["embedding"]},
    "scene": {"backbone": "effnet_lite0", "taps": ["pooled"]},
    "body": {"backbone": "effnet_lite0", "taps": ["pooled"], "region": "person"},
    "around": {"backbone": "effnet_lite0", "taps": ["pooled"], "region": "context"},
}


def settings(**more: object) -> ExtractSettings:
    values = {"backbones": ROLES, "device": "cpu", "engine": "torch", "dtype": "float32", "batch_size": 4, **more}
    return ExtractSettings.model_validate(values)


def planned(role: str, chosen: ExtractSettings) -> RolePlan:
    return plan_role(role, chosen, Path("nowhere"), KEY, "found", digest=DIGEST)


def test_a_role_without_a_region_keeps_its_key() -> None:
    chosen = settings(dtype="float16")
    found = {role: planned(role, chosen) for role in KEYS_WITHOUT_REGION}
    assert {role: next(iter(plan.blocks.values())).key for role, plan in found.items()} == KEYS_WITHOUT_REGION
    assert (found["identity"].level, found["scene"].level) == ("face", "frame")
    assert (found["identity"].template, found["scene"].template) == ("dlib150", None)


def test_a_region_is_in_the_key_by_the_crops() -> None:
    plans = {role: planned(role, settings()) for role in ROLES}
    for role, template in (("body", "person224"), ("around", "context224")):
        plan, block = plans[role], plans[role].blocks["pooled"]
        assert plan.crops is not None
        assert plan.crops == crops_block(template, KEY, "found")
        assert (plan.level, plan.template) == ("person", template)
        assert (block.name, block.level, block.shape) == ("effnet_lite0/pooled", "person", (1280,))
        assert block.inputs == {"crops": plan.crops.key}
        assert block.preprocessing["template"] == template
        assert not {"resize", "resize_to", "interpolation"} & block.preprocessing.keys(), "of whole photos"
    assert len({plan.blocks[tap].key for plan in plans.values() for tap in plan.blocks}) == 4
    assert [[plan.role for plan in some] for some in together(list(plans.values()))] == [[role] for role in ROLES]
    other = plan_role("body", settings(), Path("nowhere"), "1" * 64, "given", digest=DIGEST)
    assert other.blocks == plans["body"].blocks, "a person is known by its box, whoever found it"


def test_a_backbone_of_faces_has_no_region() -> None:
    roles = {"identity": {**ROLES["identity"], "region": "person"}}
    with pytest.raises(
        SettingError, match=r"backbones\.identity\.region is 'person', but resnet29 sees crops of faces"
    ):
        planned("identity", settings(backbones=roles))


def test_templates_follow_the_size_of_the_backbone() -> None:
    spec, chosen = get_spec("effnet_lite0"), settings()
    assert template_of("around", chosen, replace(spec, input_size=(192, 192))) == "context192"
    with pytest.raises(
        SettingError, match=r"region is 'person', but effnet_lite0 sees 192x160 px; .* squares of 32 to"
    ):
        template_of("body", chosen, replace(spec, input_size=(192, 160)))


def test_an_unknown_region_is_named() -> None:
    with pytest.raises(ValueError, match=r"region\n.*'person' or 'context'"):
        settings(backbones={"body": {**ROLES["body"], "region": "dog"}})


@pytest.fixture(scope="module")
def folder() -> Path:
    place = weights.weights_dir()
    fetch("effnet_lite0", place)
    return place


BOXES = {"one": Box(10, 10, 60, 110, "person"), "other": Box(80, 20, 150, 118, "person"), "nobody": None}


class Place:
    """Two samples of one photo, each another person, and a photo without a person; crops are cut."""

    def __init__(self, root: Path) -> None:
        (root / "photos").mkdir()
        samples: list[Sample] = []
        for sample_id, box in BOXES.items():
            name = "empty.png" if box is None else "photo.png"
            path = root / "photos" / name
            pixels = np.random.default_rng(ord(name[0])).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(path)
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            boxes = () if box is None else (box,)
            samples.append(Sample(sample_id, name, "image", (), "train", "", "", boxes, content))
        self.photos, self.store, self.manifest = root / "photos", Store(root / "store"), Manifest(tuple(samples))
        items = {sample.sample_id: [] for sample in samples}
        self.detections = Detections(items, dict.fromkeys(items, (160, 120)), {}, KEY)

    def align(self) -> None:
        names = ["person224", "context224"]
        align(self.manifest, self.photos, self.store, self.detections, names, "found", Ledger("align"))

    def extract(self, roles: list[str], chosen: ExtractSettings, folder: Path) -> tuple[dict[str, RoleResult], Ledger]:
        plans = [plan_role(role, chosen, folder, KEY, "found") for role in roles]
        ledger = Ledger("extract")
        ledgers = dict.fromkeys(roles, ledger)
        result = run(self.manifest, self.photos, self.store, self.detections, plans, chosen, folder, ledgers)
        return result, ledger


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def rows_of(place: Place, plan: RolePlan, keys: list[bytes]) -> np.ndarray:
    rows, offsets = place.store.open(plan.blocks["pooled"]).rows(keys)
    assert np.array_equal(offsets, np.arange(len(keys) + 1))
    return rows


def test_each_person_has_the_row_that_the_network_gives_for_its_crop(place: Place, folder: Path) -> None:
    place.align()
    chosen = settings()
    results, ledger = place.extract(["body", "around", "scene"], chosen, folder)
    assert not len(ledger)
    assert [(result.counts.total, result.counts.computed) for result in results.values()] == [(2, 2), (2, 2), (2, 2)]
    keys, owner = keys_of(place.manifest.samples, place.detections, "person")
    assert [place.manifest.samples[i].sample_id for i in owner.tolist()] == ["one", "other"], "nobody has no row"
    found: dict[str, np.ndarray] = {}
    for role in ("body", "around"):
        plan = plan_role(role, chosen, folder, KEY, "found")
        assert plan.crops is not None
        crops = np.zeros((4, 224, 224, 3), np.uint8)
        crops[:2] = place.store.open(plan.crops).rows(key_list(keys))[0]
        forward = load_forward("effnet_lite0", folder, plan.engine, ["pooled"])
        found[role] = rows_of(place, plan, key_list(keys))
        assert np.array_equal(found[role], forward(crops)["pooled"][:2])
    assert len({row.tobytes() for rows in found.values() for row in rows}) == 4, "no two are the same"
    assert results["body"].rows[0].block != results["around"].rows[0].block
    again, _ = place.extract(["body", "around", "scene"], chosen, folder)
    assert [result.counts.computed for result in again.values()] == [0, 0, 0]
    assert {role: one.rows for role, one in again.items()} == {role: one.rows for role, one in results.items()}


def test_persons_have_views(place: Place, folder: Path) -> None:
    place.align()
    chosen = settings(views={"flip": True})
    results, _ = place.extract(["body"], chosen, folder)
    assert results["body"].counts.computed == 4
    plan = plan_role("body", chosen, folder, KEY, "found")
    keys = key_list(keys_of(place.manifest.samples, place.detections, "person")[0])
    assert plan.crops is not None
    crops = place.store.open(plan.crops).rows(keys)[0]
    forward = load_forward("effnet_lite0", folder, plan.engine, ["pooled"])
    wanted = forward(np.concatenate([crops, crops[:, :, ::-1]]))["pooled"][2:]
    assert np.allclose(rows_of(place, plan, [view_key(key, "flip") for key in keys]), wanted, atol=1e-4)


def test_without_crops_it_says_what_to_run(place: Place, folder: Path) -> None:
    with pytest.raises(MissingInputError, match="body: no person224 crops of these persons; run kuleshov align"):
        place.extract(["body"], settings(), folder)


def test_nobody_anywhere_is_nothing_to_do(place: Place, folder: Path) -> None:
    place.manifest = Manifest((place.manifest.by_id["nobody"],))
    place.align()
    results, ledger = place.extract(["body"], settings(), folder)
    assert (results["body"].rows, results["body"].counts.total, len(ledger)) == ([], 0, 0)


def test_a_corrected_box_is_extracted_alone(place: Place, folder: Path) -> None:
    place.align()
    place.extract(["body"], settings(), folder)
    one = place.manifest.by_id["one"]
    moved = replace(one, boxes=(replace(one.boxes[0], x1=11),))
    place.manifest = Manifest((moved, place.manifest.by_id["other"]))
    place.align()
    results, _ = place.extract(["body"], settings(), folder)
    assert (results["body"].counts.total, results["body"].counts.computed) == (2, 1)
