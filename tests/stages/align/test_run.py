"""The stage: which crops are cut, kept and left alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.keys import FACES, item_key
from cache.store import Store
from stages.align import run as stage
from stages.align.cut import Cutter, Media
from stages.align.run import crops_spec, run
from stages.align.templates import find
from stages.align.warp import crop_matrix, warp
from stages.blocks import Counts
from stages.decoding.pool import Crash, Decoded
from stages.detect.faces import Faces
from stages.detect.run import Detections
from stages.errors import SettingError
from stages.index.drawn.scenes import Scene
from stages.index.manifest import Box, Manifest
from stages.ledger import Ledger
from stages.timing import Timings

DetectionsOf = Callable[..., Detections]
TEMPLATES = ("dlib150", "box48")


def test_crops_are_what_warp_cuts_and_every_photo_is_decoded_once(
    manifest: Manifest,
    photos: Path,
    store: Store,
    detections_of: DetectionsOf,
    opened: list[list[str]],
    truth: Faces,
    scene: Scene,
) -> None:
    ledger = Ledger("align")
    detections = detections_of(manifest)
    rows, counts = run(manifest, photos, store, detections, TEMPLATES, "found", ledger)
    assert opened == [["a.png", "c.png"], ["b.png"]]
    assert counts == Counts(total=3, computed=2, failed=0)
    assert not ledger.entries
    assert len(rows) == 4  # two templates of two photos
    assert {row.rows for row in rows} == {len(truth)}
    key = item_key(manifest.by_id["a.png"].content, region=FACES)
    for name in TEMPLATES:
        template = find(name)
        crops = store.open(crops_spec(template, detections.key, "found")).item(key)[0]
        assert crops.shape == (len(truth), *template.size, 3)
        for crop, box, landmarks in zip(crops, truth.boxes, truth.landmarks, strict=True):
            assert np.array_equal(crop, warp(scene.image, crop_matrix(box, landmarks, template), template.size))


def test_cached_crops_cost_nothing(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, opened: list[list[str]]
) -> None:
    detections = detections_of(manifest)
    rows, _ = run(manifest, photos, store, detections, TEMPLATES, "found", Ledger("align"))
    opened.clear()
    again, counts = run(manifest, photos / "gone", store, detections, TEMPLATES, "found", Ledger("align"))
    assert opened == []
    assert again == rows
    assert counts == Counts(total=3, computed=0, failed=0)
    run(manifest, photos, store, detections, (*TEMPLATES, "box64"), "found", Ledger("align"))
    assert len(opened) == 2
    sizes = {info.spec.source: info.items for info in store.blocks()}
    assert sizes == {"dlib150": 2, "box48": 2, "box64": 2}  # nothing twice


def test_photos_without_a_face_have_no_item(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, opened: list[list[str]]
) -> None:
    detections = detections_of(manifest, empty=("a.png", "c.png"))
    rows, counts = run(manifest, photos, store, detections, ["box48"], "found", Ledger("align"))
    assert opened == [["b.png"]]
    assert len(rows) == 1
    assert counts == Counts(total=3, computed=1, failed=0)
    assert run(Manifest(()), photos, store, detections_of(Manifest(())), ["box48"], "found", Ledger("align"))[0] == []
    assert run(manifest, photos, store, detections, [], "found", Ledger("align"))[0] == []


def test_a_corrected_box_cuts_itself_again(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf
) -> None:
    first, second, corrected = Box(5, 5, 60, 60, "face"), Box(80, 20, 130, 90, "face"), Box(6, 5, 60, 60, "face")

    def with_boxes(*boxes: Box) -> Manifest:
        return Manifest((replace(manifest.by_id["a.png"], boxes=boxes),))

    before, after = with_boxes(first, second, first), with_boxes(corrected, second)
    rows, _ = run(before, photos, store, detections_of(before, "given"), ["box48"], "given", Ledger("align"))
    assert len(rows) == 2  # a box that is given twice is one item
    again, _ = run(after, photos, store, detections_of(after, "given"), ["box48"], "given", Ledger("align"))
    assert len(set(rows) & set(again)) == 1
    assert [info.items for info in store.blocks()] == [3]


def test_whole_photos_are_cut_exactly(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, scene: Scene
) -> None:
    detections = detections_of(manifest, "whole")
    run(manifest, photos, store, detections, ["box48"], "whole", Ledger("align"))
    [item] = detections.items["a.png"]
    [crop] = store.open(crops_spec(find("box48"), detections.key, "whole")).item(item.key)[0]
    wanted = scene.image.resize((48, 48), Image.Resampling.BILINEAR)
    assert np.abs(crop.astype(float) - np.asarray(wanted)).mean() < 3


def test_a_photo_that_cannot_be_read_is_recorded_for_every_sample_that_shares_it(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, scene: Scene
) -> None:
    (photos / "a.png").unlink()
    scene.image.rotate(90).save(photos / "c.png")
    ledger = Ledger("align")
    rows, counts = run(manifest, photos, store, detections_of(manifest), ["box48"], "found", ledger)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"a.png": "missing", "c.png": "missing"}
    assert len(rows) == 1
    assert counts == Counts(total=3, computed=1, failed=2)


def test_a_photo_that_ends_decoding_processes_is_recorded_and_tried_again(
    manifest: Manifest,
    photos: Path,
    store: Store,
    detections_of: DetectionsOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = stage.decoded

    def crashing(cutter: Cutter, jobs: Iterable[Media]) -> Generator[Decoded[Media, Any], None, None]:
        for answer in real(cutter, jobs):
            is_bad = answer.job.samples[0].sample_id == "a.png"
            yield answer._replace(value=Crash("the decoding process ended with signal 11")) if is_bad else answer

    ledger = Ledger("align")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "decoded", crashing)
        rows, counts = run(manifest, photos, store, detections_of(manifest), ["box48"], "found", ledger)
    failure = ("decoder_crash", "the decoding process ended with signal 11")
    assert ledger.entries == {"a.png": failure, "c.png": failure}
    assert (len(rows), counts) == (1, Counts(total=3, computed=1, failed=2))
    again = Ledger("align")
    rows, counts = run(manifest, photos, store, detections_of(manifest), ["box48"], "found", again)
    assert not again.entries
    assert (len(rows), counts) == (2, Counts(total=3, computed=1, failed=0))


def test_where_the_time_goes(
    manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf, truth: Faces
) -> None:
    timings = Timings()
    run(manifest, photos, store, detections_of(manifest), TEMPLATES, "found", Ledger("align"), timings)
    assert timings.spent["decode"].items == 2
    assert timings.spent["align"].items == 2 * 2 * len(truth)  # photos, templates
    assert set(timings.spent) == {"decode", "align", "write", "wait"}
    assert all(spent.seconds > 0 for spent in timings.spent.values())
    idle = Timings()
    run(manifest, photos, store, detections_of(manifest), TEMPLATES, "found", Ledger("align"), idle)
    assert not idle.spent


def test_an_interrupted_run_keeps_what_it_cut(
    manifest: Manifest,
    photos: Path,
    store: Store,
    detections_of: DetectionsOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = stage.decoded

    def interrupted(cutter: Cutter, jobs: Iterable[Media]) -> Generator[Decoded[Media, Any], None, None]:
        for answer in real(cutter, jobs):
            if answer.job.samples[0].sample_id == "b.png":
                raise KeyboardInterrupt
            yield answer

    with monkeypatch.context() as patch:
        patch.setattr(stage, "decoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(manifest, photos, store, detections_of(manifest), ["box48"], "found", Ledger("align"))
    _, counts = run(manifest, photos, store, detections_of(manifest), ["box48"], "found", Ledger("align"))
    assert counts == Counts(total=3, computed=1, failed=0)


def test_the_key_follows_template_detections_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        crops_spec(find(name), detections, source).key
        for name in TEMPLATES
        for detections in ("0", "1")
        for source in ("found", "given", "whole")
    }
    assert len(keys) == 12
    changed = replace(find("box48"), margin=0.2)
    assert crops_spec(changed, "0", "found").key not in keys
    monkeypatch.setattr(stage, "VERSION", 99)
    assert crops_spec(find("box48"), "0", "found").key not in keys


def test_an_unknown_template(manifest: Manifest, photos: Path, store: Store, detections_of: DetectionsOf) -> None:
    with pytest.raises(SettingError, match="'mug': use one of"):
        run(manifest, photos, store, detections_of(manifest), ["mug"], "found", Ledger("align"))
