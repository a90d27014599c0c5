"""The stage: what is computed, kept, recorded and read back."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.keys import FACES, item_key
from cache.store import Store
from stages.blocks import Counts
from stages.detect import looking, mtcnn
from stages.detect import run as stage
from stages.detect.run import Detections, boxes_spec, read, run
from stages.detect.settings import DetectSettings
from stages.detect.table import COLUMNS, write_table
from stages.errors import MissingInputError, SettingError, WeightsError
from stages.index.manifest import Box, Manifest, Sample
from stages.ledger import Ledger

SampleOf = Callable[..., Sample]
Noise = Callable[[int], Image.Image]


def same(a: Detections, b: Detections) -> bool:
    """Whether two detections agree to the bit."""
    rows = [[(i.key, i.faces.to_rows().tobytes()) for items in d.items.values() for i in items] for d in (a, b)]
    return list(a.items) == list(b.items) and rows[0] == rows[1] and (a.sizes, a.failed) == (b.sizes, b.failed)


@pytest.fixture
def photos(tmp_path: Path, noise: Noise) -> Path:
    """Three small photos without faces: a.png, b.png, c.png."""
    root = tmp_path / "photos"
    root.mkdir()
    for seed, name in enumerate("abc"):
        noise(seed).save(root / f"{name}.png")
    return root


@pytest.fixture
def manifest(photos: Path, sample_of: SampleOf) -> Manifest:
    return Manifest(tuple(sample_of(photos, f"{name}.png") for name in "abc"))


def test_a_first_run(detected: Any) -> None:
    assert detected.counts == Counts(total=4, computed=4, failed=0)
    assert len(detected.ledger) == 0
    detections = detected.detections
    assert list(detections.items) == ["scene1.png", "scene11.png", "scene2.png", "wall.png"]
    assert detections.sizes["wall.png"] == (200, 150)
    assert len(detections.faces("wall.png")) == 0
    faces = {row.rows for row in detected.rows if row.status == "ok" and row.block.startswith("mtcnn/boxes@")}
    assert faces == {len(scene.faces) for scene in detected.scenes.values()}
    assert [row.rows for row in detected.rows if row.status == "no_face"] == [0]
    assert sum(row.block.startswith("media/size@") for row in detected.rows) == 4


@pytest.mark.usefixtures("no_detector")
def test_a_second_run_detects_nothing_and_says_the_same(detected: Any, settings: DetectSettings) -> None:
    ledger = Ledger("detect")
    nowhere = detected.root / "not there"
    detections, rows, counts = run(detected.manifest, nowhere, detected.store, settings, ledger)
    assert same(detections, detected.detections)
    assert rows == detected.rows
    assert counts == Counts(total=4, computed=0, failed=0)
    assert counts.cached == 4
    assert same(read(detected.manifest, detected.store, settings), detections)


@pytest.mark.usefixtures("no_detector")
def test_one_detection_serves_every_face_source(detected: Any, settings: DetectSettings) -> None:
    truth = [face.truth.box for face in detected.scenes["scene11.png"].faces]
    boxes = tuple(Box(*map(float, box[:4]), kind="face") for box in truth)
    given = replace(detected.manifest.by_id["scene11.png"], boxes=boxes)
    choose = settings.model_copy(update={"faces": "given"})
    detections = run(Manifest((given,)), detected.root, detected.store, choose, Ledger("detect"))[0]
    faces = detections.faces("scene11.png")
    assert faces.boxes == pytest.approx(np.array(truth), abs=1e-3)
    assert np.isfinite(faces.landmarks).all()
    whole = settings.model_copy(update={"faces": "whole"})
    detections = run(detected.manifest, detected.root, detected.store, whole, Ledger("detect"))[0]
    assert detections.faces("wall.png").boxes.tolist() == [[0, 0, 200, 150]]
    assert np.isnan(detections.faces("wall.png").landmarks).all()
    assert np.isfinite(detections.faces("scene1.png").landmarks).all()


def test_broken_photos_are_recorded_and_not_opened_again(
    photos: Path, sample_of: SampleOf, store: Store, settings: DetectSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (photos / "a.png").read_bytes()
    broken = {"cut.png": whole[: len(whole) // 2], "none.png": b"", "text.png": b"not a photo", "twin.png": b""}
    for name, content in broken.items():
        (photos / name).write_bytes(content)
    manifest = Manifest(tuple(sample_of(photos, path.name) for path in photos.iterdir()))
    ledger = Ledger("detect")
    detections, rows, counts = run(manifest, photos, store, settings, ledger)
    reasons = {"cut.png": "truncated", "none.png": "empty", "text.png": "not_an_image", "twin.png": "empty"}
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == reasons
    assert ledger.entries["twin.png"] == ledger.entries["none.png"] == ("empty", "the file has 0 bytes")
    assert not any(str(photos) in detail for _, detail in ledger.entries.values())
    assert sorted(detections.items) == ["a.png", "b.png", "c.png"]
    assert counts == Counts(total=7, computed=3, failed=4)
    assert sorted(r.status for r in rows if r.block.startswith("mtcnn/boxes@")) == (
        ["empty", "no_face", "no_face", "no_face", "not_an_image", "truncated"]
    )
    shutil.rmtree(photos)
    monkeypatch.setattr(mtcnn, "load", None)
    again = Ledger("detect")
    detections_again, rows_again, counts_again = run(manifest, photos, store, settings, again)
    assert again.entries == ledger.entries
    assert same(detections, detections_again)
    assert rows_again == rows
    assert counts_again == Counts(total=7, computed=0, failed=4)


def test_changed_and_missing_photos_are_not_kept(
    photos: Path, manifest: Manifest, store: Store, settings: DetectSettings, noise: Noise
) -> None:
    noise(77).save(photos / "a.png")
    (photos / "b.png").unlink()
    ledger = Ledger("detect")
    detections, rows, counts = run(manifest, photos, store, settings, ledger)
    assert ledger.entries == {
        "a.png": ("changed", "a.png changed since it was indexed; run kuleshov index"),
        "b.png": ("missing", "b.png is not there any more"),
    }
    assert list(detections.items) == ["c.png"]
    assert detections.failed == ledger.entries
    assert counts == Counts(total=3, computed=1, failed=2)
    assert {row.item for row in rows} == {
        item_key(manifest.by_id["c.png"].content, region=FACES).hex(),
        item_key(manifest.by_id["c.png"].content).hex(),
    }
    later = read(manifest, store, settings)
    assert later.items.keys() == {"c.png"}
    assert {reason for reason, _ in later.failed.values()} == {"not_detected"}
    for seed, name in enumerate("ab"):
        noise(seed).save(photos / f"{name}.png")
    mended = Ledger("detect")
    assert run(manifest, photos, store, settings, mended)[2] == Counts(total=3, computed=2, failed=0)
    assert not mended.entries


def test_a_missing_clip_is_recorded_and_not_kept(photos: Path, store: Store, settings: DetectSettings) -> None:
    clip = Sample("clip", "clip.mp4", "video", (), "train", "", "", (), "cd" * 32)
    ledger = Ledger("detect")
    _, rows, _ = run(Manifest((clip,)), photos, store, settings, ledger)
    assert ledger.reasons() == {"missing": 1}
    assert rows == []


def test_two_names_of_one_photo_cost_one_detection(
    photos: Path, sample_of: SampleOf, store: Store, settings: DetectSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(photos / "a.png", photos / "z.png")
    manifest = Manifest((sample_of(photos, "a.png"), sample_of(photos, "z.png")))
    calls: list[tuple[int, int]] = []
    detect = mtcnn.Mtcnn.detect
    monkeypatch.setattr(mtcnn.Mtcnn, "detect", lambda self, image: calls.append(image.size) or detect(self, image))
    (photos / "a.png").unlink()  # the other file has the same bytes
    ledger = Ledger("detect")
    detections, rows, counts = run(manifest, photos, store, settings, ledger)
    assert len(calls) == 1
    assert list(detections.items) == ["a.png", "z.png"]
    assert len(rows) == 2
    assert counts == Counts(total=2, computed=1, failed=0)
    assert counts.cached == 1


def test_a_failure_of_a_shared_photo_is_reported_for_both(
    photos: Path, sample_of: SampleOf, store: Store, settings: DetectSettings
) -> None:
    shutil.copy(photos / "a.png", photos / "z.png")
    manifest = Manifest((sample_of(photos, "a.png"), sample_of(photos, "z.png")))
    shutil.rmtree(photos)
    ledger = Ledger("detect")
    detections, _, counts = run(manifest, photos, store, settings, ledger)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"a.png": "missing", "z.png": "missing"}
    assert counts == Counts(total=2, computed=0, failed=2)
    assert detections.failed.keys() == {"a.png", "z.png"}


def test_a_detector_that_fails_on_one_photo_goes_on(
    photos: Path, manifest: Manifest, store: Store, settings: DetectSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Image.open(photos / "b.png").tobytes()
    detect = mtcnn.Mtcnn.detect_many

    def failing(self: mtcnn.Mtcnn, images: Sequence[Image.Image]) -> object:
        if any(image.tobytes() == bad for image in images):
            raise RuntimeError("expected a non-empty list\nof Tensors")
        return detect(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(mtcnn.Mtcnn, "detect_many", failing)
        ledger = Ledger("detect")
        detections, rows, counts = run(manifest, photos, store, settings, ledger)
    assert ledger.entries == {"b.png": ("detector_error", "RuntimeError: expected a non-empty list of Tensors")}
    assert list(detections.items) == ["a.png", "c.png"]
    assert len(rows) == 4
    assert counts == Counts(total=3, computed=2, failed=1)
    again = Ledger("detect")  # it may have been the machine's fault: tried again
    assert run(manifest, photos, store, settings, again)[2] == Counts(total=3, computed=1, failed=0)
    assert not again.entries


@pytest.mark.parametrize("error", [WeightsError("none"), KeyboardInterrupt()])
def test_what_is_not_the_photos_fault_ends_the_run_and_keeps_what_was_done(
    photos: Path,
    manifest: Manifest,
    store: Store,
    settings: DetectSettings,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    bad = Image.open(photos / "c.png").tobytes()
    detect = mtcnn.Mtcnn.detect

    def failing(self: mtcnn.Mtcnn, image: Image.Image) -> object:
        if image.tobytes() == bad:
            raise error
        return detect(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(looking, "GROUP_FRAMES", {"cpu": 1})
        patch.setattr(mtcnn.Mtcnn, "detect", failing)
        with pytest.raises(type(error)):
            run(manifest, photos, store, settings, Ledger("detect"))
    assert run(manifest, photos, store, settings, Ledger("detect"))[2] == Counts(total=3, computed=1, failed=0)


def test_boxes_without_their_size_are_detected_again(
    photos: Path, manifest: Manifest, store: Store, settings: DetectSettings
) -> None:
    with store.writer(boxes_spec(settings)) as writer:  # as a run that was killed between two shards leaves it
        for sample in manifest.samples:
            writer.add(item_key(sample.content, region=FACES), None, status="no_face")
    with pytest.raises(MissingInputError, match="run kuleshov detect, then align and extract"):
        read(manifest, store, settings)
    detections, _, counts = run(manifest, photos, store, settings, Ledger("detect"))
    assert counts.computed == 3
    assert set(detections.sizes.values()) == {(24, 24)}


def test_another_detectors_sizes_are_not_written_again(
    photos: Path, manifest: Manifest, store: Store, settings: DetectSettings
) -> None:
    run(manifest, photos, store, settings, Ledger("detect"))
    other = settings.model_copy(update={"min_face_size": 22})
    assert run(manifest, photos, store, other, Ledger("detect"))[2].computed == 3
    assert [info.items for info in store.blocks() if info.spec == stage.SIZE_SPEC] == [3]


def test_reading_before_running(manifest: Manifest, photos: Path, store: Store, settings: DetectSettings) -> None:
    twins = Manifest((*manifest.samples, replace(manifest.samples[0], sample_id="z")))
    with pytest.raises(MissingInputError, match=r"no detections with these settings in .*; run kuleshov detect"):
        read(twins, store, settings)
    run(twins, photos, store, settings, Ledger("detect"))
    with pytest.raises(MissingInputError):
        read(twins, store, settings.model_copy(update={"max_side": 0}))
    assert read(Manifest(()), store, settings).items == {}


def test_a_gpu_that_is_not_there(
    photos: Path, manifest: Manifest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingError, match=r"detect\.device is cuda, but torch .* finds no CUDA device here"):
        run(manifest, photos, store, DetectSettings(device="cuda"), Ledger("detect"))


def test_the_table(detected: Any, tmp_path: Path) -> None:
    write_table(tmp_path / "out" / "detections.csv", detected.detections)
    text = (tmp_path / "out" / "detections.csv").read_bytes()
    assert b"\r" not in text
    rows = list(csv.DictReader(text.decode().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [(r["sample_id"], r["face"]) for r in rows] == sorted(
        (name, str(i)) for name, scene in detected.scenes.items() for i in range(len(scene.faces))
    )
    faces = detected.detections.faces("scene1.png")
    first = rows[0]
    assert (first["frame"], first["x1"]) == ("0", f"{faces.boxes[0, 0]:.2f}")
    assert first["score"] == f"{faces.scores[0]:.6f}"
    assert first["mouth_right_y"] == f"{faces.landmarks[0, 4, 1]:.2f}"


def test_the_table_leaves_cells_without_landmarks_empty(
    detected: Any, settings: DetectSettings, tmp_path: Path
) -> None:
    whole = read(detected.manifest, detected.store, settings.model_copy(update={"faces": "whole"}))
    write_table(tmp_path / "detections.csv", whole)
    last = list(csv.reader((tmp_path / "detections.csv").read_text().splitlines()))[-1]
    assert last == ["wall.png", "0", "", "0", "", "0.00", "0.00", "200.00", "150.00", *[""] * 11]
