"""Persons through align: which crops are written, shared, and told as impossible."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.keys import box_region, frame_key, item_key, key_list
from cache.store import Store
from stages.align.person_cut import PersonCutter
from stages.align.persons import find_person
from stages.align.run import crops_block, run
from stages.align.templates import find_any
from stages.align.warp import crop_matrix, warp
from stages.blocks import Counts
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem, Faces
from stages.detect.persons import find_persons
from stages.index.clips import probe, read_frames
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.drawn.scenes import Scene
from stages.index.manifest import Box, Manifest
from stages.ledger import Ledger
from stages.timing import Timings

DetectionsOf = Callable[..., Detections]
TEMPLATES = ("person64", "context64")
FIRST, SECOND = (10.0, 12.0, 70.0, 110.0), (80.0, 20.0, 130.5, 118.0)


def person(corners: tuple[float, ...]) -> Box:
    x1, y1, x2, y2 = corners
    return Box(x1, y1, x2, y2, "person")


@pytest.fixture
def two(manifest: Manifest) -> Manifest:
    """Three samples of one photo: one person, another one, and both."""
    a = manifest.by_id["a.png"]
    samples = {"one": (FIRST,), "other": (SECOND,), "both": (SECOND, FIRST)}
    return Manifest(tuple(replace(a, sample_id=name, boxes=tuple(map(person, of))) for name, of in samples.items()))


def crop_of(store: Store, name: str, content: str, box: tuple[float, ...]) -> np.ndarray:
    x1, y1, x2, y2 = box
    block = store.open(crops_block(name, "0" * 64, "found"))
    [crop] = block.item(item_key(content, region=box_region(x1, y1, x2, y2)))[0]
    return crop


def test_two_persons_of_one_photo_have_a_row_each_and_share_one_decoding(
    two: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, opened: list[list[str]], scene: Scene
) -> None:
    ledger = Ledger("align")
    rows, counts = run(two, photos, store, detections_of(two), TEMPLATES, "found", ledger)
    assert opened == [["both", "one", "other"]]
    assert (counts, len(ledger)) == (Counts(total=3, computed=1, failed=0), 0)
    assert [row.rows for row in rows] == [1] * 4, "two persons, two templates; the shared ones once"
    cutter = PersonCutter(scene.image)
    for name in TEMPLATES:
        template = find_person(name)
        assert template is not None
        for box in (FIRST, SECOND):
            crop = crop_of(store, name, two.samples[0].content, box)
            assert np.array_equal(crop, cutter.cut(np.array(box), template))
    opened.clear()
    again, _ = run(two, photos / "gone", store, detections_of(two), TEMPLATES, "found", Ledger("align"))
    assert (again, opened) == (rows, [])


def test_a_corrected_box_costs_its_own_row_and_another_detector_none(
    two: Manifest, photos: Path, store: Store, detections_of: DetectionsOf
) -> None:
    rows, _ = run(two, photos, store, detections_of(two), TEMPLATES, "found", Ledger("align"))
    moved = replace(two.by_id["one"], boxes=(person((11.0, *FIRST[1:])),))
    corrected = Manifest((moved, two.by_id["other"]))
    detections = replace(detections_of(corrected), key="1" * 64)
    timings = Timings()
    after, counts = run(corrected, photos, store, detections, TEMPLATES, "given", Ledger("align"), timings)
    assert (counts.computed, timings.spent["align"].items) == (1, 2)
    assert len({*rows} & {*after}) == 2
    assert [info.items for info in store.blocks()] == [3, 3]


def test_without_given_persons_they_are_around_the_faces(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, truth: Faces, scene: Scene
) -> None:
    detections = detections_of(manifest, empty=("b.png",))
    rows, _ = run(manifest, photos, store, detections, ["context64"], "found", Ledger("align"))
    [template] = [find_person("context64")]
    assert template is not None
    persons = find_persons([manifest.by_id["a.png"]], detections)
    assert len(persons) == len(truth) == len(rows), "a.png and c.png are one photo, b.png has no face"
    block, cutter = store.open(crops_block("context64", "", "found")), PersonCutter(scene.image)
    for key, box in zip(key_list(persons.keys), persons.boxes, strict=True):
        assert np.array_equal(block.item(key)[0][0], cutter.cut(box, template))


def test_faces_and_persons_of_the_same_box_are_kept_apart(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, scene: Scene
) -> None:
    both = replace(manifest.by_id["a.png"], boxes=(Box(*FIRST, "face"), person(FIRST)))
    one = Manifest((both,))
    detections = detections_of(one, "given")
    run(one, photos, store, detections, ["box48", "person64"], "given", Ledger("align"))
    [item] = detections.items["a.png"]
    template = find_any("box48")
    face = store.open(crops_block("box48", detections.key, "given")).item(item.key)[0][0]
    assert not hasattr(template, "region")
    matrix = crop_matrix(item.faces.boxes[0], item.faces.landmarks[0], template)  # pyright: ignore[reportArgumentType]
    assert np.array_equal(face, warp(scene.image, matrix, (48, 48)))
    assert crop_of(store, "person64", both.content, FIRST).shape == (64, 64, 3)


def test_a_box_out_of_the_photo_is_recorded_and_the_others_are_cut(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf
) -> None:
    a = manifest.by_id["a.png"]
    outside = person((9000, 10, 9100, 90))
    bad = Manifest((replace(a, boxes=(outside, person(FIRST))), replace(a, sample_id="only", boxes=(outside,))))
    for _ in range(2):  # it is told again when all the rest is there
        ledger = Ledger("align")
        rows, _ = run(bad, photos, store, detections_of(bad), TEMPLATES, "found", ledger)
        assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
            "a.png": "box_outside",
            "only": "box_outside",
        }
        assert "9000, 10, 9100, 90 lies in the photo of" in ledger.entries["only"][1]
        assert len(rows) == 2
    ledger = Ledger("align")
    run(bad, photos, store, detections_of(bad), ["box48"], "found", ledger)
    assert not len(ledger), "nobody asked for persons"


def test_nobody_there_is_no_row_and_no_error(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, opened: list[list[str]]
) -> None:
    ledger = Ledger("align")
    detections = detections_of(manifest, empty=tuple(sample.sample_id for sample in manifest))
    rows, counts = run(manifest, photos, store, detections, TEMPLATES, "found", ledger)
    assert (rows, opened, len(ledger)) == ([], [], 0)
    assert counts == Counts(total=3, computed=0, failed=0)


def test_a_photo_that_is_gone_is_recorded(
    two: Manifest, photos: Path, store: Store, detections_of: DetectionsOf
) -> None:
    (photos / "a.png").unlink()
    ledger = Ledger("align")
    _, counts = run(two, photos, store, detections_of(two), TEMPLATES, "found", ledger)
    assert {reason for reason, _ in ledger.entries.values()} == {"missing"}
    assert counts == Counts(total=3, computed=0, failed=3)


def test_clips_have_persons_in_each_frame(manifest: Manifest, tmp_path: Path, store: Store) -> None:
    write_clip(tmp_path / "clip.mp4", plan_clip(0, 0))
    times = probe(tmp_path / "clip.mp4").times_us[[0, 4, 9]]
    content = hashlib.sha256((tmp_path / "clip.mp4").read_bytes()).hexdigest()
    sample = replace(manifest.samples[0], sample_id="clip", path="clip.mp4", media="video", content=content)
    given = replace(sample, sample_id="given", boxes=(person(FIRST),))
    boxes = [[[100, 40, 120, 70]], [], [[20, 40, 40, 70], [200, 40, 220, 70]]]
    items = [
        FaceItem(frame_key(sample.content, time_us), _faces(some))
        for time_us, some in zip(times.tolist(), boxes, strict=True)
    ]
    both = {"clip": items, "given": items}
    detections = Detections(both, dict.fromkeys(both, (320, 240)), {}, "0" * 64, dict.fromkeys(both, times))
    ledger = Ledger("align")
    rows, _ = run(Manifest((sample, given)), tmp_path, store, detections, ["person64"], "found", ledger)
    assert (len(rows), len(ledger)) == (3 + 3, 0)
    persons = find_persons([sample, given], detections)
    frames = list(read_frames(tmp_path / "clip.mp4", times.tolist()))
    template, block = find_person("person64"), store.open(crops_block("person64", "", "found"))
    assert template is not None
    for key, frame, box in zip(key_list(persons.keys), persons.frame.tolist(), persons.boxes, strict=True):
        assert np.array_equal(block.item(key)[0][0], PersonCutter(frames[frame]).cut(box, template))


def _faces(boxes: list[list[int]]) -> Faces:
    rows = np.zeros((len(boxes), 15), np.float32)
    rows[:, :4] = np.array(boxes, np.float32).reshape(-1, 4)
    return Faces.from_rows(rows, (320, 240))
