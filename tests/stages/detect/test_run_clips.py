"""Clips through detection: chosen frames, tracks, what is kept and what is recorded. Real MP4 files, real MTCNN."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cache.keys import FACES, BlockSpec, frame_key
from cache.store import Store
from stages.blocks import Counts
from stages.detect.clips import TIMES_SPEC
from stages.detect.corpus import SIZE_SPEC
from stages.detect.run import boxes_spec, read, run
from stages.detect.settings import DetectSettings
from stages.detect.table import write_table
from stages.errors import MissingInputError
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.frames import ClipSettings
from stages.index.manifest import Box, Manifest, Sample
from stages.ledger import Ledger

SampleOf = Callable[..., Sample]
FOUR = ClipSettings(count=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for index in (0, 1):
        write_clip(root / f"clip{index}.mp4", plan_clip(0, index))
    whole = (root / "clip1.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (root / "text.mp4").write_text("no clip at all, only some words\n" * 30)
    return root


@pytest.fixture(scope="module")
def settings() -> DetectSettings:
    return DetectSettings(device="cpu", min_face_size=40, clips=FOUR)


@pytest.fixture(scope="module")
def clip_of(sample_of: SampleOf) -> SampleOf:
    def make(root: Path, name: str, **more: Any) -> Sample:
        return replace(sample_of(root, name, **more), media="video")

    return make


@pytest.fixture(scope="module")
def manifest(folder: Path, clip_of: SampleOf) -> Manifest:
    return Manifest(tuple(clip_of(folder, name) for name in ("clip0.mp4", "clip1.mp4")))


@pytest.fixture(scope="module")
def first(folder: Path, manifest: Manifest, settings: DetectSettings, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A first run over two clips: store, ledger, and what `run` returned."""
    store, ledger = Store(tmp_path_factory.mktemp("store")), Ledger("detect")
    return store, ledger, run(manifest, folder, store, settings, ledger)


def test_the_chosen_frames_are_detected(first: Any, manifest: Manifest) -> None:
    _, ledger, (detections, rows, counts) = first
    assert (counts, len(ledger)) == (Counts(total=2, computed=2, failed=0), 0)
    assert {name: len(times) for name, times in detections.times.items()} == {"clip0.mp4": 4, "clip1.mp4": 4}
    for sample in manifest:
        times, items = detections.times[sample.sample_id], detections.items[sample.sample_id]
        assert (np.diff(times) > 0).all()
        assert [item.key for item in items] == [frame_key(sample.content, t, region=FACES) for t in times.tolist()]
        assert [len(item.faces) for item in items] == [1, 1, 1, 1], "the drawn person is in every frame"
        assert detections.sizes[sample.sample_id] == (320, 240)
        assert detections.places(sample.sample_id).tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
        assert detections.tracks(sample.sample_id).tolist() == [0, 0, 0, 0]
    assert sum(row.block.startswith("media/times@") for row in rows) == 2
    assert sum(row.block.startswith("mtcnn/boxes@") for row in rows) == 8


@pytest.mark.usefixtures("no_detector")
def test_a_second_run_opens_nothing(first: Any, manifest: Manifest, settings: DetectSettings) -> None:
    store, _, (detections, rows, _) = first
    again, rows_again, counts = run(manifest, Path("not there"), store, settings, Ledger("detect"))
    assert (rows_again, counts.cached) == (rows, 2)
    assert list(again.items) == list(detections.items)
    found = read(manifest, store, settings)
    assert all(np.array_equal(found.times[name], times) for name, times in detections.times.items())
    assert found.places("clip0.mp4").tolist() == detections.places("clip0.mp4").tolist()


def test_more_frames_cost_only_those(
    folder: Path, manifest: Manifest, settings: DetectSettings, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    random = settings.model_copy(update={"clips": ClipSettings(frames="random", count=2)})
    more = settings.model_copy(update={"clips": ClipSettings(frames="random", count=3)})
    run(manifest, folder, store, random, Ledger("detect"))
    assert len(store.open(boxes_spec(settings))) == 4
    with pytest.raises(MissingInputError, match="run kuleshov detect"):
        read(manifest, store, more)
    detections, _, counts = run(manifest, folder, store, more, Ledger("detect"))
    assert (counts.computed, len(store.open(boxes_spec(settings)))) == (2, 6)
    assert [len(times) for times in detections.times.values()] == [3, 3]


def test_frames_are_what_a_photo_of_them_gives(first: Any, folder: Path, settings: DetectSettings) -> None:
    from stages.detect import mtcnn
    from stages.index.clips import read_frames

    _, _, (detections, _, _) = first
    times = detections.times["clip0.mp4"].tolist()
    detector = mtcnn.load(settings, "cpu")
    for item, image in zip(detections.items["clip0.mp4"], read_frames(folder / "clip0.mp4", times), strict=True):
        assert item.faces.to_rows().tobytes() == detector.detect(image).to_rows().tobytes()


def test_broken_clips_are_recorded_and_not_opened_again(
    folder: Path, clip_of: SampleOf, sample_of: SampleOf, settings: DetectSettings, tmp_path: Path
) -> None:
    store, ledger = Store(tmp_path / "store"), Ledger("detect")
    names = ("clip0.mp4", "cut.mp4", "text.mp4")
    samples = [clip_of(folder, name) for name in names]
    gone = Sample("gone.mp4", "gone.mp4", "video", (), "train", "", "", (), "cd" * 32)
    manifest = Manifest((*samples, gone))
    detections, rows, counts = run(manifest, folder, store, settings, ledger)
    assert counts == Counts(total=4, computed=1, failed=3)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
        "cut.mp4": "truncated",
        "gone.mp4": "missing",
        "text.mp4": "not_a_clip",
    }
    assert list(detections.items) == ["clip0.mp4"]
    assert len(store.open(TIMES_SPEC)) == 3, "what is missing may come back, what is broken is remembered"
    again = Ledger("detect")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run(manifest, elsewhere, store, settings, again)[1] == rows
    assert again.entries == ledger.entries


def test_photos_and_clips_together(
    folder: Path, clip_of: SampleOf, sample_of: SampleOf, settings: DetectSettings, tmp_path: Path, noise: Any
) -> None:
    noise(1).save(tmp_path / "a.png")
    (tmp_path / "z.mp4").write_bytes((folder / "clip0.mp4").read_bytes())
    manifest = Manifest((sample_of(tmp_path, "a.png"), clip_of(tmp_path, "z.mp4")))
    detections, _, counts = run(manifest, tmp_path, Store(tmp_path / "store"), settings, Ledger("detect"))
    assert counts == Counts(total=2, computed=2, failed=0)
    times, owner = detections.frames(manifest.samples)
    assert owner.tolist() == [0, 1, 1, 1, 1]
    assert times[1:].tolist() == detections.times["z.mp4"].tolist()
    assert detections.tracks("a.png").tolist() == []


@pytest.mark.parametrize("source", ["whole", "given"])
def test_faces_that_are_not_looked_for(
    source: str, folder: Path, clip_of: SampleOf, settings: DetectSettings, first: Any
) -> None:
    box = Box(160, 80, 235, 180, "face")
    manifest = Manifest((clip_of(folder, "clip0.mp4", boxes=(box,)),))
    store, _, (found, _, _) = first
    detections = read(manifest, store, settings.model_copy(update={"faces": source}))
    items = detections.items["clip0.mp4"]
    assert len({item.key for item in items}) == len(items) == 4
    corners = (0, 0, 320, 240) if source == "whole" else (160, 80, 235, 180)
    assert all(tuple(item.faces.boxes[0].tolist()) == corners for item in items)
    for item, seen in zip(items, found.items["clip0.mp4"], strict=True):
        assert np.array_equal(item.faces.landmarks, seen.faces.landmarks)
    assert detections.tracks("clip0.mp4").tolist() == [0, 0, 0, 0]


def test_the_table_tells_time_and_track(first: Any, tmp_path: Path) -> None:
    _, _, (detections, _, _) = first
    write_table(tmp_path / "detections.csv", detections)
    rows = list(csv.DictReader((tmp_path / "detections.csv").read_text().splitlines()))
    assert [(r["sample_id"], r["frame"], r["face"], r["track"]) for r in rows] == [
        (name, str(frame), "0", "0") for name in ("clip0.mp4", "clip1.mp4") for frame in range(4)
    ]
    assert [r["time_s"] for r in rows[:4]] == [f"{t / 1e6:.6f}" for t in detections.times["clip0.mp4"].tolist()]


def test_spread_is_the_same(
    folder: Path, manifest: Manifest, settings: DetectSettings, first: Any, tmp_path: Path, in_turn: Any
) -> None:
    store = Store(tmp_path / "store")
    detections, rows, counts = run(manifest, folder, store, settings, Ledger("detect"), in_turn())
    assert (rows, counts) == first[2][1:]
    for name in detections.items:
        assert detections.faces(name).to_rows().tobytes() == first[2][0].faces(name).to_rows().tobytes()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A clip of 600 frames, a keyframe every 25; the packet of frame 303 is damaged."""
    path = tmp_path / "damaged.mp4"
    with av.open(str(path), "w") as container:
        options = {"g": "25", "sc_threshold": "0", "bf": "0"}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        draw = np.random.default_rng(0)  # noise: of smooth frames there is too little to damage
        for _ in range(600):
            frame = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 600, 25))
    data = bytearray(path.read_bytes())
    at, size = packets[303].pos or 0, packets[303].size
    data[at + 5 : at + size] = bytes(255 - value for value in data[at + 5 : at + size])
    path.write_bytes(data)
    return path


def test_damage_costs_only_the_frames_that_need_it(
    damaged: Path, clip_of: SampleOf, settings: DetectSettings, tmp_path: Path
) -> None:
    """Whatever was asked for before: `every` and then four frames, and only these."""
    manifest = Manifest((clip_of(tmp_path, damaged.name),))
    every = settings.model_copy(update={"clips": ClipSettings(frames="every")})
    used, fresh = Store(tmp_path / "used"), Store(tmp_path / "fresh")
    detections, _, counts = run(manifest, tmp_path, used, every, Ledger("detect"))
    assert (counts, detections.failed["damaged.mp4"][0]) == (Counts(1, 0, 1), "decode_error")
    content = manifest.samples[0].content
    keys = [frame_key(content, 40_000 * i, region=FACES) for i in range(600)]
    statuses = list(used.open(boxes_spec(settings)).statuses(keys))
    assert [i for i, status in enumerate(statuses) if status == "decode_error"] == list(range(303, 325))
    assert set(statuses[:303] + statuses[325:]) <= {"ok", "no_face"}
    found = [run(manifest, tmp_path, store, settings, Ledger("detect")) for store in (used, fresh)]
    assert [len(one[0].times["damaged.mp4"]) for one in found] == [4, 4]
    assert found[0][1] == found[1][1]
    assert found[0][0].faces("damaged.mp4").to_rows().tobytes() == found[1][0].faces("damaged.mp4").to_rows().tobytes()
    assert [one[2] for one in found] == [Counts(1, 0, 0), Counts(1, 1, 0)]


def test_counts_are_the_same_spread(
    damaged: Path, folder: Path, clip_of: SampleOf, settings: DetectSettings, tmp_path: Path, in_turn: Any
) -> None:
    """Also of a clip that has failed frames from an earlier run and gets a sound one now."""
    (tmp_path / "clip0.mp4").write_bytes((folder / "clip0.mp4").read_bytes())
    manifest = Manifest((clip_of(tmp_path, damaged.name), clip_of(tmp_path, "clip0.mp4")))
    few = settings.model_copy(update={"clips": ClipSettings(frames="random", count=100, seed=1)})
    more = settings.model_copy(update={"clips": ClipSettings(frames="random", count=101, seed=1)})
    counts = []
    for name, spread in (("alone", None), ("spread", in_turn())):
        store = Store(tmp_path / name)
        first = run(manifest, tmp_path, store, few, Ledger("detect"), spread)[2]
        counts.append((first, run(manifest, tmp_path, store, more, Ledger("detect"), spread)[2]))
    assert counts[0] == counts[1] == (Counts(total=2, computed=1, failed=1), Counts(total=2, computed=0, failed=1))


@pytest.mark.parametrize("lost", [SIZE_SPEC, TIMES_SPEC])
def test_times_and_sizes_go_together(
    lost: BlockSpec,
    first: Any,
    folder: Path,
    manifest: Manifest,
    clip_of: SampleOf,
    settings: DetectSettings,
    tmp_path: Path,
) -> None:
    """A run that was killed between them, or `cache gc --block`, leaves one without the other."""
    shutil.copytree(first[0].root, tmp_path / "store")
    store = Store(tmp_path / "store")
    shutil.rmtree(store.place(lost))
    cut = clip_of(folder, "cut.mp4")
    ledger = Ledger("detect")
    detections, _, counts = run(Manifest((*manifest, cut)), folder, store, settings, ledger)
    assert counts == Counts(total=3, computed=0, failed=1)
    assert detections.sizes["clip0.mp4"] == (320, 240)
    assert run(manifest, Path("not there"), store, settings, Ledger("detect"))[1] == first[2][1]
    shutil.rmtree(store.place(lost))
    away = Ledger("detect")
    run(manifest, tmp_path, store, settings, away)
    assert {reason for reason, _ in away.entries.values()} == {"missing"}, "it may come back"


@pytest.mark.parametrize("names", [("a.jpg", "b.mp4"), ("b.jpg", "a.mp4")])
def test_a_clip_that_is_also_named_as_a_photo(
    names: tuple[str, str],
    folder: Path,
    clip_of: SampleOf,
    sample_of: SampleOf,
    settings: DetectSettings,
    tmp_path: Path,
) -> None:
    """It is a clip for both, in whatever order they come, and after a run that knew the photo's name alone."""
    photo, clip = names
    for name in names:
        (tmp_path / name).write_bytes((folder / "clip0.mp4").read_bytes())
    store, ledger = Store(tmp_path / "store"), Ledger("detect")
    run(Manifest((sample_of(tmp_path, photo),)), tmp_path, store, settings, ledger)
    assert ledger.entries[photo][0] == "clip"
    manifest = Manifest((sample_of(tmp_path, photo), clip_of(tmp_path, clip)))
    detections, _, counts = run(manifest, tmp_path, store, settings, Ledger("detect"))
    assert counts == Counts(total=2, computed=1, failed=0)
    assert {name: len(times) for name, times in detections.times.items()} == {photo: 4, clip: 4}
    assert detections.sizes[photo] == detections.sizes[clip] == (320, 240)
