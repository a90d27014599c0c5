"""Pixel sets over a real store and real files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.keys import FACES, frame_key, item_key
from stages.align.run import crops_spec
from stages.align.templates import find
from stages.backbones.preprocess import fit, preprocess
from stages.backbones.registry import get_spec
from stages.errors import DataError, MissingInputError, SettingError
from stages.finetune.augment import Views, Who
from stages.finetune.batch import Draw, PixelBatch, PixelSet, cut
from stages.finetune.crops import choose
from stages.finetune.pixels import (
    UNKNOWN,
    Pixels,
    Source,
    face_pixels,
    joint_pixels,
    photo_pixels,
    require_all_classes,
)
from stages.finetune.settings import AugmentSettings
from stages.index.clips import read_frames
from stages.index.manifest import Sample
from stages.index.media import open_image
from stages.ledger import Ledger

FACE = get_spec("vgg19_44:emotion")
ALIGNED = get_spec("sphereface:20")
SCENE = replace(get_spec("torchvision:resnet18"), input_size=(40, 32), resize_to=48)  # quicker
PLAIN = AugmentSettings()
DRAWN = AugmentSettings(flip=True, crop="random")
DRAW = Draw(7, 2)


def all_of(pixels: Pixels, size: int = 3, draw: Draw | None = None) -> list[PixelBatch]:
    return list(pixels.batches(np.arange(len(pixels)), size, draw))


def by_row(batches: Sequence[PixelBatch]) -> dict[int, tuple[bytes, bytes, int]]:
    """Row -> its faces' and its photo's bytes, and its class."""
    found = {}
    for batch in batches:
        for i, row in enumerate(batch.rows.tolist()):
            photo = batch.photos[i].numpy().tobytes() if len(batch.photos) else b""
            found[row] = (batch.faces[batch.owner == i].numpy().tobytes(), photo, int(batch.labels[i]))
    return found


def crops_of(corpus: Any, sample: Sample, template: str, time_us: int | None = None) -> np.ndarray:
    block = corpus.store.open(crops_spec(find(template), corpus.detections.key, "found"))
    return block.item(frame_key(sample.content, time_us, region=FACES))[0]


def test_a_batch_is_cut_and_one_alone_joins_the_others() -> None:
    assert [part.tolist() for part in cut(np.arange(5), 2)] == [[0, 1], [2, 3, 4]]
    assert [part.tolist() for part in cut(np.arange(4), 2)] == [[0, 1], [2, 3]]
    assert [part.tolist() for part in cut(np.arange(1), 2)] == [[0]]
    assert cut(np.arange(0), 2) == []


def test_faces_alone_are_samples_with_their_photos_label(corpus: Any) -> None:
    source = corpus.source()
    pixels = face_pixels(source, corpus.photos, FACE, PLAIN, unit="face")
    as_protocol: PixelSet = pixels
    assert len(as_protocol) == 3 + 1 + 4 + 2 + 1 + 3
    assert [s.sample_id for s in pixels.samples] == ["a.png", "b.png", "d.png", "e.png", "f.png", "twin.png"]
    assert [s.sample_id for s in pixels.faceless] == ["c.png"]
    assert pixels.sample_of.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 4, 5, 5, 5]
    assert pixels.labels.tolist() == [1, 1, 1, 0, 2, 2, 2, 2, 0, 0, 1, 2, 2, 2]
    seen = torch.cat([batch.faces for batch in all_of(pixels)])
    expected = np.concatenate([crops_of(corpus, sample, "box48") for sample in pixels.samples])
    assert np.array_equal(seen.numpy(), expected[:, 2:46, 2:46])
    assert torch.equal(preprocess(seen, FACE), preprocess(torch.from_numpy(expected), FACE))  # as extraction does
    for batch in all_of(pixels):
        assert batch.owner.tolist() == list(range(len(batch)))
        assert batch.faces.dtype == torch.uint8
        assert batch.photos.shape[0] == 0
        assert all(tensor.dtype == torch.int64 for tensor in (batch.owner, batch.labels, batch.rows))
        assert np.array_equal(batch.labels.numpy(), pixels.labels[batch.rows.numpy()])
    assert not source.ledger.entries


def test_faces_of_a_photo_are_together_and_the_largest_are_kept(corpus: Any) -> None:
    pixels = face_pixels(corpus.source(), corpus.photos, ALIGNED, PLAIN, unit="faces", max_faces=2)
    assert len(pixels) == 6
    [batch] = all_of(pixels, 10)
    assert batch.owner.tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 5, 5]
    assert batch.labels.tolist() == [1, 0, 2, 0, 1, 2]
    for row, sample in enumerate(pixels.samples):
        crops = crops_of(corpus, sample, "sphere112x96")
        boxes = corpus.detections.faces(sample.sample_id).boxes
        sides = boxes[:, 2] - boxes[:, 0]
        largest = np.sort(np.argsort(-sides)[:2])
        assert np.array_equal(batch.faces[batch.owner == row].numpy(), crops[largest])


def test_an_order_is_followed_and_batches_may_be_left_out(corpus: Any) -> None:
    pixels = face_pixels(corpus.source(), corpus.photos, FACE, DRAWN, unit="face")
    order = np.random.default_rng(0).permutation(len(pixels))
    order.flags.writeable = False
    batches = list(pixels.batches(order, 4, DRAW))
    assert np.array_equal(torch.cat([batch.rows for batch in batches]).numpy(), order)
    rest = list(pixels.batches(order, 4, DRAW, skip=2))
    assert by_row(rest) == by_row(batches[2:])
    assert list(pixels.batches(order, 4, DRAW, skip=99)) == []
    assert list(pixels.batches(order[:0], 4, DRAW)) == []


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10_000), size=st.integers(1, 8), skip=st.integers(0, 3))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("unit", ["face", "faces"])
def test_views_of_faces_follow_from_the_draw_alone(
    corpus: Any, unit: Any, seed: int, epoch: int, size: int, skip: int
) -> None:
    augment = AugmentSettings(flip=True, crop="resized", jitter=0.3)
    pixels = face_pixels(corpus.source(), corpus.manifest.samples, FACE, augment, unit=unit, frames=None)
    rng = np.random.default_rng(seed)
    draw = Draw(seed, epoch)
    one = by_row(list(pixels.batches(np.arange(len(pixels)), 5, draw)))
    order = rng.permutation(len(pixels))
    other = by_row(list(pixels.batches(order, size, draw, skip)))
    assert set(other) == set(np.concatenate([np.empty(0, int), *cut(order, size)[skip:]]).tolist())
    assert all(one[row] == found for row, found in other.items())


def test_views_differ_between_epochs_seeds_and_twins(corpus: Any) -> None:
    augment = AugmentSettings(crop="resized")
    pixels = face_pixels(corpus.source(), corpus.photos, FACE, augment, unit="faces")
    one, epoch, seed = (by_row(all_of(pixels, 6, draw)) for draw in (DRAW, Draw(7, 3), Draw(8, 2)))
    for row in range(len(pixels)):
        assert len({one[row][0], epoch[row][0], seed[row][0]}) == 3
    assert one[0][0] != one[5][0]  # a.png and twin.png have the same content


def test_a_limit_of_faces_leaves_their_views(corpus: Any) -> None:
    augment = AugmentSettings(flip=True, crop="resized")
    some, all_ = (
        face_pixels(corpus.source(), corpus.photos, FACE, augment, unit="faces", max_faces=most) for most in (1, None)
    )
    [few], [many] = all_of(some, 9, DRAW), all_of(all_, 9, DRAW)
    for row in range(len(some)):
        [face] = few.faces[few.owner == row]
        assert any(torch.equal(face, other) for other in many.faces[many.owner == row])


def test_photos_without_a_draw_are_as_extraction_sees_them(corpus: Any) -> None:
    pixels = photo_pixels(corpus.source(), corpus.photos, SCENE, DRAWN)
    batches = all_of(pixels, 3)
    assert [len(batch) for batch in batches] == [3, 4]
    photos = torch.cat([batch.photos for batch in batches]).numpy()
    for sample, seen in zip(pixels.samples, photos, strict=True):
        assert np.array_equal(seen, fit(open_image(corpus.root / sample.path), SCENE))
    assert pixels.labels.tolist() == [1, 0, 2, 2, 0, 1, 2]
    assert all(batch.faces.shape[0] == 0 and batch.owner.shape == (0,) for batch in batches)


def test_photos_with_a_draw_are_made_in_decoding_processes(corpus: Any) -> None:
    augment = AugmentSettings(flip=True, crop="random", short_side=56, jitter=0.2)
    pixels = photo_pixels(corpus.source(), corpus.photos, SCENE, augment)
    [batch] = all_of(pixels, 10, DRAW)
    for sample, seen in zip(pixels.samples, batch.photos.numpy(), strict=True):
        image = open_image(corpus.root / sample.path)
        assert np.array_equal(seen, Views.of(augment).of_photo(image, SCENE, Who(*DRAW, sample.sample_id, -1)))


@pytest.mark.parametrize("processes", ["1", "3"])
def test_the_number_of_decoding_processes_changes_nothing(
    corpus: Any, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    pixels = photo_pixels(corpus.source(), corpus.manifest.samples, SCENE, DRAWN)
    expected = by_row(all_of(pixels, 8, DRAW))
    monkeypatch.setenv("KULESHOV_DECODERS", processes)
    order = np.array([5, 0, 7, 2, 3, 6, 1, 4])
    assert by_row(list(pixels.batches(order, 3, DRAW))) == expected
    rest = by_row(list(pixels.batches(order, 3, DRAW, skip=1)))
    assert rest == {row: expected[row] for row in order[3:].tolist()}


def test_a_caller_may_stop_in_the_middle(corpus: Any) -> None:
    pixels = photo_pixels(corpus.source(), corpus.photos, SCENE, DRAWN)
    batches = pixels.batches(np.arange(len(pixels)), 2, DRAW)
    first = next(batches)
    batches.close()
    assert by_row([first]).items() <= by_row(all_of(pixels, 2, DRAW)).items()


def test_a_clips_faces_are_those_of_all_its_frames(corpus: Any) -> None:
    pixels = face_pixels(corpus.source(), [corpus.clip], FACE, PLAIN, unit="faces")
    [batch] = all_of(pixels)
    times = corpus.detections.times["clip.mp4"][[0, 2, 3, 4, 5]].tolist()
    expected = np.concatenate([crops_of(corpus, corpus.clip, "box48", time_us) for time_us in times])
    assert len(expected) == 8
    assert np.array_equal(batch.faces.numpy(), expected[:, 2:46, 2:46])
    limited = face_pixels(corpus.source(), [corpus.clip], FACE, PLAIN, unit="faces", max_faces=1)
    assert len(all_of(limited)[0].faces) == 5  # one of each frame that has some


def test_frames_of_a_clip_are_drawn_each_epoch(corpus: Any) -> None:
    source = corpus.source()
    all_ = face_pixels(source, [corpus.clip], FACE, PLAIN, unit="faces")
    pixels = face_pixels(source, [corpus.clip], FACE, PLAIN, unit="faces", frames=2)
    crops = all_.faces.crops  # pyright: ignore[reportOptionalMemberAccess]
    every = all_of(all_)[0].faces
    shown = set()
    for epoch in range(40):
        faces = crops.of(0, 2, Who(7, epoch, "clip.mp4", -1))
        assert np.array_equal(all_of(pixels, 3, Draw(7, epoch))[0].faces, every[faces])
        assert (np.diff(crops.frame[faces]) >= 0).all()
        [first, second] = sorted(set(crops.frame[faces].tolist()))
        assert len(faces) == sum((1, 0, 2, 1, 3, 1)[frame] for frame in (first, second))
        shown.add((first, second))
    assert len(shown) == 10  # all pairs of the five frames that have a face
    plain = [
        torch.equal(all_of(pixels)[0].faces, every[crops.of(0, 2, None)]),
        sorted(set(crops.frame[crops.of(0, 2, None)])),
    ]
    assert plain == [True, [2, 4]]
    many = face_pixels(source, [corpus.clip], FACE, PLAIN, unit="faces", frames=16)
    assert torch.equal(all_of(many, 3, DRAW)[0].faces, every)


def test_of_a_clip_one_whole_frame_is_seen(corpus: Any) -> None:
    pixels = photo_pixels(corpus.source(), [corpus.clip, corpus.photos[0]], SCENE, PLAIN)
    times = corpus.detections.times["clip.mp4"]
    frames = [fit(image, SCENE) for image in read_frames(corpus.root / "clip.mp4", times.tolist())]
    assert np.array_equal(all_of(pixels)[0].photos[0], frames[3])
    shown = set()
    for epoch in range(5):
        photo = all_of(pixels, 2, Draw(0, epoch))[0].photos[0].numpy()
        [number] = [i for i, frame in enumerate(frames) if np.array_equal(frame, photo)]
        assert number == choose(np.arange(6), 1, Who(0, epoch, "clip.mp4", -1))[0]
        shown.add(number)
    assert len(shown) > 1


def test_faces_and_photo_together(corpus: Any) -> None:
    source = corpus.source()
    pixels = joint_pixels(source, corpus.manifest.samples, (FACE, DRAWN), (SCENE, DRAWN), max_faces=3)
    faces = face_pixels(source, corpus.manifest.samples, FACE, DRAWN, unit="faces", max_faces=3)
    photos = photo_pixels(source, corpus.manifest.samples, SCENE, DRAWN)
    assert len(pixels) == len(photos) == 8
    for draw in (DRAW, None):
        both, alone, whole = (by_row(all_of(one, 3, draw)) for one in (pixels, faces, photos))
        by_id = {sample.sample_id: alone[row] for row, sample in enumerate(faces.samples)}
        for row, sample in enumerate(pixels.samples):
            assert both[row][0] == by_id.get(sample.sample_id, (b"",))[0]
            assert both[row][1:] == whole[row][1:]
    assert both[pixels.ids(np.arange(8)).index("c.png")][0] == b""


def test_boxes_are_relative_and_are_mirrored_with_their_photo(corpus: Any) -> None:
    source, samples = corpus.source(), corpus.manifest.samples
    flipped = AugmentSettings(flip=True)
    both = joint_pixels(source, samples, (FACE, PLAIN), (SCENE, flipped))
    faces = face_pixels(source, samples, FACE, flipped, unit="faces")
    [plain], [shown] = (both.batches(np.arange(8), 8, draw) for draw in (None, DRAW))
    names = both.ids(plain.rows[plain.owner].numpy())
    sizes = np.array([corpus.detections.sizes[name] for name in names], np.float32)
    boxes = np.concatenate([corpus.detections.faces(sample.sample_id).boxes for sample in both.samples])
    assert np.allclose(plain.boxes.numpy() * np.tile(sizes, 2), boxes, atol=1e-3)
    turned = np.array([not torch.equal(shown.photos[i], plain.photos[i]) for i in range(8)])[plain.owner.numpy()]
    assert 0 < turned.sum() < len(turned)
    expected = plain.boxes.numpy().copy()
    expected[turned] = 1 - expected[turned][:, [2, 1, 0, 3]]
    expected[turned, 1::2] = plain.boxes.numpy()[turned, 1::2]
    assert np.allclose(shown.boxes.numpy(), expected)
    [alone] = faces.batches(np.arange(len(faces)), 8, DRAW)
    assert torch.equal(alone.boxes, plain.boxes), "crops are mirrored one by one, where they are"
    empty = all_of(photo_pixels(source, samples, SCENE, flipped), 8)[0].boxes
    assert (empty.shape, empty.dtype) == ((0, 4), torch.float32)


def test_samples_without_one_label_do_not_train(corpus: Any) -> None:
    samples = corpus.with_labels({"a.png": (), "b.png": ("calm", "sad")})
    for make in (
        lambda **how: face_pixels(corpus.source(), samples, FACE, PLAIN, unit="faces", **how),
        lambda **how: photo_pixels(corpus.source(), samples, SCENE, PLAIN, **how),
        lambda **how: joint_pixels(corpus.source(), samples, (FACE, PLAIN), (SCENE, PLAIN), **how),
    ):
        pixels = make()
        assert [s.sample_id for s in pixels.unlabelled] == ["a.png", "b.png"]
        assert {"a.png", "b.png"}.isdisjoint(s.sample_id for s in pixels.samples)
        assert (pixels.labels != UNKNOWN).all()
        kept = make(labelled=False)
        assert kept.unlabelled == ()
        assert kept.labels[:2].tolist() == [UNKNOWN, UNKNOWN]
        assert [s.sample_id for s in kept.samples][:2] == ["a.png", "b.png"]


def test_a_label_that_is_no_class_is_named(corpus: Any) -> None:
    samples = corpus.with_labels({"b.png": ("angry",)})
    with pytest.raises(DataError, match=r"b.png has the label 'angry'.*calm"):
        photo_pixels(corpus.source(), samples, SCENE, PLAIN)
    assert photo_pixels(corpus.source(), samples, SCENE, PLAIN, labelled=False).labels[1] == UNKNOWN


def test_a_set_of_nothing_says_why(corpus: Any) -> None:
    samples = [replace(corpus.manifest.by_id["a.png"], labels=()), corpus.manifest.by_id["c.png"]]
    failing = replace(corpus.manifest.by_id["b.png"], sample_id="new.png")
    with pytest.raises(DataError, match=r"none of 3 samples.*1 have no label.*1 have no face, 1 cannot be read"):
        face_pixels(corpus.source(), [*samples, failing], FACE, PLAIN, unit="faces")
    empty = face_pixels(corpus.source(), samples[1:], FACE, PLAIN, unit="faces", labelled=False)
    assert (len(empty), all_of(empty), len(empty.faceless)) == (0, [], 1)


def test_what_could_not_be_read_before_is_recorded_and_left_out(corpus: Any) -> None:
    known = corpus.detections
    detections = replace(
        known,
        items={name: items for name, items in known.items.items() if name not in ("a.png", "b.png")},
        failed={"a.png": ("truncated", "the PNG data end too soon")},
    )
    source = corpus.source(detections=detections)
    pixels = photo_pixels(source, corpus.photos, SCENE, PLAIN)
    assert [s.sample_id for s in pixels.samples] == ["c.png", "d.png", "e.png", "f.png", "twin.png"]
    assert source.ledger.entries["a.png"] == ("truncated", "the PNG data end too soon")
    assert source.ledger.entries["b.png"][0] == "undetected"
    assert "kuleshov detect" in source.ledger.entries["b.png"][1]


def test_missing_crops_name_the_command(corpus: Any) -> None:
    with pytest.raises(MissingInputError, match=r"resnet29: no dlib150 crops of these faces; run kuleshov align"):
        face_pixels(corpus.source(), corpus.photos, get_spec("resnet29"), PLAIN, unit="face")


def test_a_sample_without_crops_is_recorded_and_left_out(corpus: Any) -> None:
    items = dict(corpus.detections.items)
    [item] = items["b.png"]
    items["b.png"] = [replace(item, key=item_key("f" * 64, region=FACES))]
    for make in (
        lambda source: face_pixels(source, corpus.photos, FACE, PLAIN, unit="face"),
        lambda source: joint_pixels(source, corpus.photos, (FACE, PLAIN), (SCENE, PLAIN)),
    ):
        source = corpus.source(detections=replace(corpus.detections, items=items))
        pixels = make(source)
        assert source.ledger.entries == {"b.png": ("missing_crops", "no box48 crops; run kuleshov align")}
        assert "b.png" not in [s.sample_id for s in pixels.samples]
        by_id = dict(zip(pixels.ids(np.arange(len(pixels))), pixels.labels.tolist(), strict=True))
        assert by_id["d.png"] == 2
        assert by_id["e.png"] == 0
        [batch] = all_of(pixels, 99)
        faces = batch.faces[
            torch.from_numpy(
                np.isin(batch.owner, [i for i, s in enumerate(pixels.ids(batch.rows.numpy())) if s == "d.png"])
            )
        ]
        assert np.array_equal(faces, crops_of(corpus, corpus.manifest.by_id["d.png"], "box48")[:, 2:46, 2:46])


def test_crops_of_other_detections_are_refused(corpus: Any) -> None:
    items = dict(corpus.detections.items)
    [item] = items["a.png"]
    items["a.png"] = [replace(item, faces=item.faces.part(0, 2, item.faces.size))]
    source = corpus.source(detections=replace(corpus.detections, items=items))
    with pytest.raises(DataError, match=r"box48/pixels: 3 rows for 2 faces.*kuleshov align"):
        face_pixels(source, corpus.photos, FACE, PLAIN, unit="face")


def test_a_crop_size_that_does_not_fit_is_refused(corpus: Any) -> None:
    wrong = replace(ALIGNED, template="box48")
    with pytest.raises(SettingError, match=r"sphereface:20 sees crops of 112x96, but template box48 cuts 48x48"):
        face_pixels(corpus.source(), corpus.photos, wrong, PLAIN, unit="face")
    with pytest.raises(SettingError, match=r"vgg19_44:emotion sees crops of 44x44, but template box48 cuts 48x48"):
        face_pixels(corpus.source(), corpus.photos, replace(FACE, crop_size=None), PLAIN, unit="face")


def test_units_and_views_that_do_not_fit_are_refused(corpus: Any) -> None:
    source, photos = corpus.source(), corpus.photos
    with pytest.raises(SettingError, match=r"resnet18 sees whole photos.*unit photo"):
        face_pixels(source, photos, SCENE, PLAIN, unit="face")
    with pytest.raises(SettingError, match=r"vgg19_44:emotion sees crops of faces.*face or faces"):
        photo_pixels(source, photos, FACE, PLAIN)
    with pytest.raises(SettingError, match=r"augment.crop is 'random'.*sphereface:20"):
        face_pixels(source, photos, ALIGNED, DRAWN, unit="face")
    with pytest.raises(SettingError, match=r"augment.crop is 'random'.*sphereface:20"):
        joint_pixels(source, photos, (ALIGNED, DRAWN), (SCENE, PLAIN))
    with pytest.raises(SettingError, match=r"augment.short_side is 20"):
        photo_pixels(source, photos, SCENE, AugmentSettings(crop="random", short_side=20))
    with pytest.raises(SettingError, match=r"frames is 4 and unit is 'face'"):
        face_pixels(source, photos, FACE, PLAIN, unit="face", frames=4)


def test_a_class_absent_from_training_is_named() -> None:
    require_all_classes(np.array([0, 2, 1]), ("calm", "glad", "sad"))
    with pytest.raises(DataError, match=r"has the class calm, sad: label some"):
        require_all_classes(np.array([1, 1]), ("calm", "glad", "sad"))


def test_photos_that_vanish_are_recorded_and_left_out(new_corpus: Callable[[], Any]) -> None:
    corpus = new_corpus()
    (corpus.root / "b.png").unlink()
    (corpus.root / "d.png").write_bytes((corpus.root / "e.png").read_bytes())
    source: Source = corpus.source()
    for make in (
        lambda: photo_pixels(source, corpus.photos, SCENE, DRAWN),
        lambda: joint_pixels(source, corpus.photos, (FACE, DRAWN), (SCENE, DRAWN)),
    ):
        source.ledger.entries.clear()
        pixels = make()
        batches = all_of(pixels, 4, DRAW)
        ids = [pixels.ids(batch.rows.numpy()) for batch in batches]
        assert ids == [["a.png", "c.png"], ["e.png", "f.png", "twin.png"]]
        assert [batch.photos.shape[0] for batch in batches] == [2, 3]
        assert [batch.labels.tolist() for batch in batches] == [[1, 2], [0, 1, 2]]
        assert {name: reason for name, (reason, _) in source.ledger.entries.items()} == {
            "b.png": "missing",
            "d.png": "changed",
        }
    (corpus.root / "a.png").unlink()  # its twin is still there
    assert len(all_of(pixels, 4, DRAW)[0]) == 2
    (corpus.root / "twin.png").unlink()
    with pytest.raises(DataError, match=r"3 of the 4 photos of a batch cannot be read.*a.png is not there"):
        all_of(pixels, 4, DRAW)
    assert [pixels.ids(batch.rows.numpy()) for batch in all_of(pixels, 2)] == [["c.png"], ["e.png", "f.png"]]


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """More crops than may count as memory are read; the store's pages are handed back."""
    from cache.store import Store
    from stages.detect.detections import Detections
    from stages.detect.faces import FaceItem, Faces

    store = Store(tmp_path / "store")
    rng = np.random.default_rng(0)
    samples, items = [], {}
    with store.writer(crops_spec(find("box256"), "0" * 64, "found")) as writer:
        for i in range(40):
            content = hashlib.sha256(str(i).encode()).hexdigest()
            name = f"{i:02d}.png"
            samples.append(Sample(name, name, "image", ("glad",), "train", "", "", (), content))
            rows = np.ones((16, 15), np.float32)
            items[name] = [FaceItem(item_key(content, region=FACES), Faces.from_rows(rows, (300, 300)))]
            writer.add(items[name][0].key, rng.integers(0, 256, (16, 256, 256, 3), dtype=np.uint8))
    detections = Detections(items, dict.fromkeys(items, (300, 300)), {}, "0" * 64)
    source = Source(tmp_path, store, detections, "found", ("glad",), Ledger("finetune"))
    pixels = face_pixels(source, samples, get_spec("vgg_face"), AugmentSettings(flip=True), unit="face")
    assert len(pixels) * 256 * 256 * 3 >= 120 << 20
    peak = before = resident()
    for _ in pixels.batches(rng.permutation(len(pixels)), 16, DRAW):
        peak = max(peak, resident())
    assert peak - before < 100 << 20


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
