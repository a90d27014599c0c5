"""CK+: its sequences and labels, what is wrong with people's copies, and its stand-in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets.ckplus import CLASSES, read
from stages.index.raw import Source
from stages.index.run import IndexSettings, run
from stages.index.standins.ckplus import PICTURE_SIZE, Sizes, write
from stages.ledger import Ledger

Plant = Callable[..., Path]
IMAGES = "cohn-kanade-images"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "ckplus"
    write(folder, Sizes(subjects=3, sequences=5, photos=3), 3)
    return folder


def sequence(name: str, photos: int, label: object = None) -> dict[str, bytes | int]:
    """The files of one: sequence("S005_001", 11, 3) is of disgust."""
    subject, number = name.split("_")
    seed = 1000 * int(subject[1:]) + 100 * int(number)
    files: dict[str, bytes | int] = {
        f"{IMAGES}/{subject}/{number}/{name}_{k:08}.png": seed + k for k in range(1, photos + 1)
    }
    if label is not None:
        text = f"   {label:.7e}\n" if isinstance(label, int) else str(label)
        files[f"Emotion/{subject}/{number}/{name}_{photos:08}_emotion.txt"] = text.encode()
    return files


def shown(root: Path, ledger: Ledger, **options: object) -> list[tuple[Any, ...]]:
    corpus = read(Source(root, options=options), ledger)
    return [(s.path.rpartition("/")[2].removesuffix(".png"), *s.labels) for s in corpus.samples]


def test_the_stand_in(drawn: Path, tmp_path: Path, ledger: Ledger) -> None:
    corpus = read(Source(drawn, options={"neutral": True, "last": 1}), ledger)
    assert not len(ledger)
    assert corpus.notes == ("3 of 15 sequence(s) have no label",)
    assert Counter(s.labels[0] for s in corpus.samples if s.labels != ("neutral",)) == Counter(
        [CLASSES[k % 7] for k in range(12)]
    )
    assert sum(s.labels == ("neutral",) for s in corpus.samples) == 15
    assert {s.group for s in corpus.samples} == {"S001", "S002", "S003"}
    photos = drawn / IMAGES / "S001/001"
    first, middle, last = (np.asarray(Image.open(photos / f"S001_001_{k:08}.png"), float) for k in (1, 2, 3))
    assert first.shape == PICTURE_SIZE[::-1]
    assert abs(last - first).mean() > abs(middle - first).mean() + 0.1, "the expression grows"
    write(tmp_path / "again", Sizes(subjects=1, sequences=5, photos=3), 3)
    for path in (tmp_path / "again").rglob("*.*"):
        assert path.read_bytes() == (drawn / path.relative_to(tmp_path / "again")).read_bytes()


def test_which_photos_are_read(plant: Plant, ledger: Ledger) -> None:
    files = {**sequence("S005_001", 11, 3), **sequence("S010_002", 2, 7), **sequence("S010_003", 4)}
    root = plant({**files, f"{IMAGES}/S005/001/.DS_Store": b"x", "Emotion/S010/003/.DS_Store": b"x"})
    assert read(Source(root), ledger).notes == ("1 of 3 sequence(s) have no label",), "hidden files are none"
    peaks = [("S010_002_00000001", "surprise"), ("S010_002_00000002", "surprise")]
    assert shown(root, ledger) == [*((f"S005_001_{k:08}", "disgust") for k in (9, 10, 11)), *peaks]
    assert shown(root, ledger, last=1, neutral=True) == [
        ("S005_001_00000001", "neutral"),
        ("S005_001_00000011", "disgust"),
        ("S010_002_00000001", "neutral"),
        ("S010_002_00000002", "surprise"),
        ("S010_003_00000001", "neutral"),
    ]
    both = shown(root, ledger, last=4, neutral=True, unlabelled=True)
    assert len({name for name, *_ in both}) == len(both), "no photo twice, with two labels"
    assert [row for row in both if row[0].startswith("S010")] == [
        ("S010_002_00000001", "neutral"),
        ("S010_002_00000002", "surprise"),
        ("S010_003_00000001", "neutral"),
        *((f"S010_003_{k:08}",) for k in (2, 3, 4)),
    ]
    assert not len(ledger)
    with pytest.raises(SettingError, match=r"data\.options\.last is 0: "):
        shown(root, ledger, last=0)


def test_a_sequence_without_its_first_photo_has_no_neutral(plant: Plant, ledger: Ledger) -> None:
    """What is left may be far from neutral; nor is a photo that has a label."""
    files = {**sequence("S005_001", 4, 3), **sequence("S006_001", 1, 1), **sequence("S007_001", 2, 5)}
    del files[f"{IMAGES}/S005/001/S005_001_00000001.png"]
    root = plant(files)
    assert shown(root, ledger, last=1, neutral=True) == [
        ("S005_001_00000004", "disgust"),
        ("S006_001_00000001", "anger"),
        ("S007_001_00000001", "neutral"),
        ("S007_001_00000002", "happy"),
    ]
    notes = read(Source(root, options={"neutral": True}), ledger).notes
    assert notes == ("1 sequence(s) lack their first photo: none of theirs is neutral",)


def test_every_number_has_its_class(plant: Plant, ledger: Ledger) -> None:
    files: dict[str, bytes | int] = {}
    for k in range(1, 8):
        files |= sequence(f"S{k:03}_001", 1, k)
    told = [label for _, label in shown(plant(files), ledger)]
    assert told == ["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]


@pytest.mark.parametrize("text", ["", "8", "0.0", "2.5", "anger", "nan", "1 2"])
def test_labels_that_are_none(text: str, plant: Plant, ledger: Ledger) -> None:
    root = plant({**sequence("S005_001", 2, text), **sequence("S006_001", 2, 1)})
    assert [name for name, _ in shown(root, ledger, last=1)] == ["S006_001_00000002"]
    assert ledger.entries["S005/001"] == (
        "bad_label",
        f"Emotion/S005/001/S005_001_00000002_emotion.txt holds {text!r}, not a number from 1 to 7",
    )


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf   3.0000000e+00\r\n", "3\n".encode("utf-16"), b"3"])
def test_labels_as_other_programs_write_them(data: bytes, plant: Plant, ledger: Ledger) -> None:
    root = plant({**sequence("S005_001", 1), "Emotion/S005/001/S005_001_00000001_emotion.txt": data})
    assert shown(root, ledger) == [("S005_001_00000001", "disgust")]


def test_two_labels_of_one_sequence(plant: Plant, ledger: Ledger) -> None:
    more = {"Emotion/S005/001/S005_001_00000002_emotion.txt": b"4"}
    root = plant({**sequence("S005_001", 3, 3), **more, **sequence("S006_001", 1, 1)})
    assert shown(root, ledger) == [("S006_001_00000001", "anger")]
    assert ledger.entries["S005/001"][0] == "contradictory"
    (root / "Emotion/S005/001/S005_001_00000002_emotion.txt").write_text("3")
    assert len(shown(root, Ledger("index"))) == 4, "the same label twice is one"


def test_labels_of_photos_that_are_not_there(plant: Plant, ledger: Ledger, contents: ContentIndex) -> None:
    """The peak is lost, a whole sequence is lost, and photos after the peak are not of the label."""
    files = {**sequence("S005_001", 4, 3), **sequence("S006_001", 2, 1), **sequence("S007_001", 2, 1)}
    gone = [f"{IMAGES}/S005/001/S005_001_00000004.png", *(f"{IMAGES}/S006/001/S006_001_{k:08}.png" for k in (1, 2))]
    more: dict[str, bytes | int] = {f"{IMAGES}/S007/001/S007_001_00000003.png": 9, f"{IMAGES}/S007/001/x.png": 8}
    root = plant({name: data for name, data in files.items() if name not in gone} | more)
    manifest, summary, total = run(IndexSettings("ckplus", root), contents=contents, ledger=ledger)
    assert total == 6
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {gone[0]: "missing", gone[2]: "missing"}
    assert [(s.sample_id[-12:-4], s.group, s.labels) for s in manifest] == [
        ("00000002", "S005", ("disgust",)),
        ("00000003", "S005", ("disgust",)),
        ("00000001", "S007", ("anger",)),
        ("00000002", "S007", ("anger",)),
    ]
    said = "data: 1 file(s) in the folders of sequences are no photo or label by their names: passed over"
    assert said in summary.warnings


def test_subjects_stay_on_one_side(drawn: Path, ledger: Ledger, contents: ContentIndex) -> None:
    manifest, _, _ = run(IndexSettings("ckplus", drawn, val=0.3, test=0.3), contents=contents, ledger=ledger)
    sides = {s.group: {t.split for t in manifest if t.group == s.group} for s in manifest}
    assert sorted(map(sorted, sides.values())) == [["test"], ["train"], ["val"]]


def test_other_names_of_the_folders(plant: Plant, ledger: Ledger) -> None:
    files = {**sequence("S005_001", 3, 3)}
    moved = {
        name.replace("Emotion/", "Emotion_labels/Emotion/").replace(IMAGES, f"extended-{IMAGES}/{IMAGES}"): data
        for name, data in files.items()
    }
    root = plant(moved)
    corpus = read(Source(root), ledger)
    assert [s.sample_id for s in corpus.samples] == [name for name in moved if name.endswith(".png")]
    assert all((root / s.path).is_file() for s in corpus.samples)


def test_roots_that_are_not_ck_s(plant: Plant, ledger: Ledger) -> None:
    root = plant({"images/a.png": 1}, "other")
    said = f"data.root {root} is not laid out as CK+: expected cohn-kanade-images (photos by subject and sequence), Emo"
    with pytest.raises(DataError, match=re.escape(said) + ".*; found there: images/$"):
        shown(root, ledger)
    root = plant({f"{IMAGES}/S005/001/S005_001_00000001.png": 1}, "half")
    with pytest.raises(
        DataError, match=r"expected Emotion \(labels by subject and sequence\); found there: cohn-kanade"
    ):
        shown(root, ledger)
    root = plant({f"{IMAGES}/readme.txt": b"x", "Emotion/S005/001/S005_001_00000001_emotion.txt": b"3"}, "lost")
    with pytest.raises(
        DataError, match=r"none of the 1 photo\(s\) .*; looked for cohn-kanade-images/S005/001/S005_001"
    ):
        shown(root, ledger)
    with pytest.raises(SettingError, match="for the csv adapter"):
        read(Source(root, columns={"path": "file"}), ledger)
