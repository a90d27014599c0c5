"""AFEW: its folders and splits, what is wrong with people's copies, clips that cannot be read, and its stand-in."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import av
import pytest

from cache.store import Store
from stages.detect.run import run as detect
from stages.detect.settings import DetectSettings
from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets.afew import CLASSES, read
from stages.index.frames import ClipSettings
from stages.index.raw import Source
from stages.index.run import IndexSettings, run
from stages.index.standins.afew import CLIP_SIZE, Sizes, write
from stages.ledger import Ledger

Plant = Callable[..., Path]
FOLDERS = tuple(label.capitalize() for label in CLASSES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "afew"
    write(folder, Sizes(train=7, val=1, test=1), 3)
    return folder


def whole(**more: bytes) -> dict[str, bytes]:
    """A clip of each class in Train_AFEW and Val_AFEW: bytes that no two share."""
    parts = ("Train_AFEW", "Val_AFEW")
    return {
        f"{part}/{name}/{k}.avi": f"{part}{name}".encode() for k, part in enumerate(parts) for name in FOLDERS
    } | more


def shown(root: Path, ledger: Ledger, **options: object) -> dict[str, tuple[Any, ...]]:
    corpus = read(Source(root, options=options), ledger)
    return {s.sample_id: (s.labels, s.split, s.subset) for s in corpus.samples}


def test_the_stand_in(drawn: Path, tmp_path: Path, ledger: Ledger) -> None:
    corpus = read(Source(drawn), ledger)
    assert not len(ledger)
    assert corpus.images == drawn
    assert corpus.notes == ("Val_AFEW has no folder Disgust, Fear, Happy, Neutral, Sad, Surprise",)
    assert Counter((s.labels, s.split) for s in corpus.samples) == Counter(
        [*(((label,), "train") for label in CLASSES), (("angry",), "val"), ((), "test")]
    )
    assert {s.media for s in corpus.samples} == {"video"}
    assert all(s.path.split("/")[1] == s.labels[0].capitalize() for s in corpus.samples if s.labels)
    with av.open(str(drawn / corpus.samples[0].path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, container.format.name) == (CLIP_SIZE, CLIP_SIZE, "avi")
        frames = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]
    assert 10 <= len(frames) <= 20
    assert max(abs(frame - frames[0]).mean() for frame in frames) > 1, "the face moves"
    write(tmp_path / "again", Sizes(train=2, val=1, test=0), 3)
    for path in (tmp_path / "again/Train_AFEW").rglob("*.avi"):
        assert path.read_bytes() == (drawn / path.relative_to(tmp_path / "again")).read_bytes()


def test_val_may_be_what_is_reported_on(plant: Plant, ledger: Ledger) -> None:
    root = plant({**whole(), "Test_AFEW/a.avi": b"a", "Test_AFEW/deep/b.AVI": b"b", "Test_AFEW/notes.txt": b"x"})
    own = shown(root, ledger)
    assert own["Val_AFEW/Sad/1.avi"] == (("sad",), "val", "Val")
    assert own["Train_AFEW/Sad/0.avi"] == (("sad",), "train", "")
    assert own["Test_AFEW/deep/b.AVI"] == own["Test_AFEW/a.avi"] == ((), "test", "Test")
    reported = shown(root, ledger, evaluate_on_val=True)
    assert reported["Val_AFEW/Sad/1.avi"] == (("sad",), "test", "Val")
    assert Counter(split for _, split, _ in reported.values()) == {"train": 7, "test": 9}
    without = shown(root, ledger, test=False)
    assert own.keys() - without.keys() == {"Test_AFEW/a.avi", "Test_AFEW/deep/b.AVI"}
    with pytest.raises(SettingError, match=r"data\.options\.report is 'val': .*options here: evaluate_on_val, test"):
        shown(root, ledger, report="val")
    with pytest.raises(SettingError, match=r"evaluate_on_val is true, and data\.use puts every clip into one split"):
        read(Source(root, splits=False, options={"evaluate_on_val": True}), ledger)


def test_folders_may_be_spelled_otherwise(plant: Plant, ledger: Ledger) -> None:
    root = plant({"train/angry/a.avi": b"a", "Validation/HAPPY/b.mp4": b"b"})
    assert shown(root, ledger) == {
        "train/angry/a.avi": (("angry",), "train", ""),
        "Validation/HAPPY/b.mp4": (("happy",), "val", "Val"),
    }
    (root / "Train_AFEW").mkdir()
    with pytest.raises(DataError, match="has Train_AFEW and train, which both mean train: keep one"):
        shown(root, ledger)
    twice = plant({"train/angry/a.avi": b"a", "train/Angry/c.avi": b"c"}, "twice")
    with pytest.raises(DataError, match="has train/Angry and train/angry, which both mean angry: keep one"):
        shown(twice, ledger)


def test_what_lies_beside_the_clips(plant: Plant, ledger: Ledger) -> None:
    more = {
        "Train_AFEW/AlignedFaces_LBPTOP_Points/Faces/a.avi": b"1",
        "Train_AFEW/loose.avi": b"2",
        "Train_AFEW/Angry/._0.avi": b"3",
        "Train_AFEW/Angry/new\nline.avi": b"4",
        "Train_AFEW/Angry/notes.txt": b"5",
    }
    root = plant(whole(**more))
    corpus = read(Source(root), ledger)
    assert len(corpus.samples) == 14
    assert corpus.notes == ("Train_AFEW: passed over AlignedFaces_LBPTOP_Points, which is no class",)
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
        "Train_AFEW/loose.avi": "no_label",
        "Train_AFEW/Angry/new\\nline.avi": "bad_name",
    }


def test_a_folder_that_cannot_be_listed(
    plant: Plant, ledger: Ledger, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    root = plant(whole())
    (root / "Val_AFEW/Fear").chmod(0)
    try:
        with without_rights():
            assert len(shown(root, ledger)) == 13
    finally:
        (root / "Val_AFEW/Fear").chmod(0o755)
    assert ledger.entries["Val_AFEW/Fear"][0] == "permission"


def test_half_of_it(plant: Plant, ledger: Ledger) -> None:
    root = plant(whole())
    shutil.rmtree(root / "Train_AFEW/Fear")
    shutil.rmtree(root / "Train_AFEW/Sad")
    assert read(Source(root), ledger).notes == ("Train_AFEW has no folder Fear, Sad",)
    shutil.rmtree(root / "Val_AFEW")
    assert read(Source(root), ledger).notes[1:] == ("Val_AFEW is not there",)
    with pytest.raises(DataError, match=r"has no Val_AFEW, and data\.options\.evaluate_on_val reports on it: unpack"):
        shown(root, ledger, evaluate_on_val=True)


def test_roots_that_are_not_afew_s(plant: Plant, ledger: Ledger) -> None:
    root = plant({"Angry/a.avi": b"a"}, "classes")
    said = f"data.root {root} is not laid out as AFEW: expected Train_AFEW (train, a folder for each class), Val_AFEW"
    with pytest.raises(DataError, match=re.escape(said) + ".*; found there: Angry/$"):
        shown(root, ledger)
    root = plant({"Train_AFEW/a.avi": b"a"}, "flat")
    with pytest.raises(DataError, match=r"expected Train_AFEW/Angry \(clips of .*; found in Train_AFEW/: a\.avi"):
        shown(root, ledger)
    root = plant({f"Train_AFEW/{name}": b"a" for name in ("Angry", "Disgust", "Fear")}, "files")
    with pytest.raises(DataError, match=r"expected Train_AFEW/Angry \(clips of .*; found in Train_AFEW/: Angry, Disg"):
        shown(root, ledger)
    root = plant({"Train_AFEW/Angry/a.txt": b"a"}, "empty")
    with pytest.raises(DataError, match=r"no clip in Train_AFEW \(\.avi, "):
        shown(root, ledger)
    with pytest.raises(DataError, match="is not a folder"):
        shown(root / "nowhere", ledger)
    with pytest.raises(SettingError, match="for the csv adapter"):
        read(Source(root, columns={"path": "file"}), ledger)


def test_indexed_with_empty_and_equal_clips(plant: Plant, ledger: Ledger, contents: ContentIndex) -> None:
    equal = {"Val_AFEW/Sad/x.avi": b"Train_AFEWAngry", "Val_AFEW/Sad/empty.avi": b""}
    settings = IndexSettings("afew", plant(whole(**equal)), options={"evaluate_on_val": True})
    manifest, summary, total = run(settings, contents=contents, ledger=ledger)
    assert (len(manifest), total, summary.duplicates) == (15, 16, 1)
    assert Counter(s.split for s in manifest) == {"train": 7, "test": 8}
    assert ledger.entries["Val_AFEW/Sad/empty.avi"][0] == "empty"
    assert "1 file(s) in more than one split" in summary.warnings[0]


def test_clips_that_cannot_be_read_are_recorded_by_detect(
    drawn: Path, tmp_path: Path, ledger: Ledger, contents: ContentIndex
) -> None:
    """Cut off after the header, cut off in the middle, no clip at all: what cannot be read is recorded, the rest is."""
    root = tmp_path / "afew"
    folder = root / "Train_AFEW/Angry"
    shutil.copytree(drawn / "Train_AFEW/Angry", folder)
    good = next(folder.iterdir())
    data = good.read_bytes()
    for name, part in (("header", data[:300]), ("half", data[: len(data) // 2]), ("text", b"no clip")):
        (folder / f"{name}.avi").write_bytes(part)
    manifest, _, _ = run(IndexSettings("afew", root), contents=contents, ledger=ledger)
    assert len(manifest) == 4
    assert not len(ledger)
    settings = DetectSettings(device="cpu", faces="whole", clips=ClipSettings(count=2), engine="torch")
    failed = Ledger("detect")
    found, _, _ = detect(manifest, root, Store(tmp_path / "store"), settings, failed)
    names = {name.rpartition("/")[2]: reason for name, (reason, _) in failed.entries.items()}
    assert {"header.avi", "text.avi"} <= names.keys() <= {"header.avi", "text.avi", "half.avi"}
    assert f"Train_AFEW/Angry/{good.name}" in {*found.items}
