from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.manifest import Sample
from stages.index.run import IndexSettings, images_root, run
from stages.ledger import Ledger

Plant = Callable[..., Path]


def test_folder_with_splits(
    plant: Plant, photo: Callable[..., bytes], contents: ContentIndex, ledger: Ledger, tmp_path: Path
) -> None:
    root = plant({"train/sad/a.png": 1, "train/happy/b.png": 2, "test/sad/c.png": 3, "test/sad/d.png": 4})
    manifest, summary, total = run(IndexSettings("folder", root), contents=contents, ledger=ledger)
    content = hashlib.sha256(photo(3)).hexdigest()
    assert manifest.samples[0] == Sample(
        "test/sad/c.png", "test/sad/c.png", "image", ("sad",), "test", "", "", (), content
    )
    assert [sample.sample_id for sample in manifest] == [
        "test/sad/c.png",
        "test/sad/d.png",
        "train/happy/b.png",
        "train/sad/a.png",
    ]
    assert all(sample.located(images_root(IndexSettings("folder", root))).is_file() for sample in manifest)
    assert (total, summary.samples, summary.unlabelled, summary.duplicates, summary.merged_rows) == (4, 4, 0, 0, 0)
    assert summary.splits == {"train": 2, "val": 0, "test": 2}  # no val is taken where none is given
    assert summary.classes == {
        "happy": {"train": 1, "val": 0, "test": 0},
        "sad": {"train": 1, "val": 0, "test": 2},
    }
    assert summary.warnings == []
    assert len(ledger) == 0


def test_two_runs_write_equal_bytes(plant: Plant, contents: ContentIndex, tmp_path: Path) -> None:
    root = plant({f"{label}/{i}.png": i for label in ("a", "b") for i in range(10)})
    written = []
    for name in ("one", "two"):
        manifest, summary, _ = run(IndexSettings("folder", root, seed=4), contents=contents, ledger=Ledger("index"))
        manifest.write(tmp_path / name)
        written.append((tmp_path / name).read_bytes())
        assert summary.splits == {"train": 14, "val": 3, "test": 3}
    assert written[0] == written[1]


@pytest.mark.parametrize("names", [("a.jpg", "b.mp4"), ("b.jpg", "a.mp4")])
def test_one_content_is_a_photo_or_a_clip_by_its_bytes(
    names: tuple[str, str], plant: Plant, film: Callable[..., Path], contents: ContentIndex, ledger: Ledger
) -> None:
    clip = film("a.mp4").read_bytes()
    for content, media in ((clip, "video"), (5, "image"), (b"neither", "video")):
        root = plant(
            {f"{label}/{name}": content for label in ("x", "y") for name in names}, root=media + str(content)[:9]
        )
        manifest, _, _ = run(IndexSettings("folder", root), contents=contents, ledger=ledger)
        assert [sample.media for sample in manifest] == [media] * 4


def test_files_that_cannot_be_used_are_in_the_ledger(plant: Plant, contents: ContentIndex, ledger: Ledger) -> None:
    root = plant({"sad/a.png": 1, "happy/b.png": 2, "sad/empty.png": b"", "x.txt": b"x"})
    (root / "happy" / "gone.png").symlink_to("nowhere.png")
    manifest, _, total = run(IndexSettings("folder", root), contents=contents, ledger=ledger)
    assert [sample.sample_id for sample in manifest] == ["happy/b.png", "sad/a.png"]
    assert {name: entry[0] for name, entry in ledger.entries.items()} == {
        "sad/empty.png": "empty",
        "happy/gone.png": "missing",
    }
    assert total == 4


def test_csv(plant: Plant, contents: ContentIndex, ledger: Ledger, tmp_path: Path) -> None:
    images = plant({"a.png": 1, "b.png": 2, "c.png": 3, "folder.png/d.png": 4})
    table = tmp_path / "labels.csv"
    table.write_text(
        "image,emotion,split,who\n"
        "a.png,sad,train,p1\n"
        "a.png,sad,train,p1\n"
        f"{images / 'b.png'},happy,train,p2\n"
        "c.png,sad,test,p1\n"
        "none.png,sad,test,\n"
        "folder.png,sad,test,\n"
        "folder.png/d.png,sad,,\n"
        "e.png,sad,soon,\n"
    )
    settings = IndexSettings("csv", table, images, {"path": "image", "label": "emotion", "group": "who"})
    manifest, summary, total = run(settings, contents=contents, ledger=ledger)
    assert {sample.sample_id: sample.split for sample in manifest} == {
        "a.png": "train",
        str(images / "b.png"): "train",
        "c.png": "test",
    }
    assert {name: entry[0] for name, entry in ledger.entries.items()} == {
        "none.png": "missing",
        "folder.png": "not_a_file",
        "folder.png/d.png": "missing_split",
        "e.png": "bad_split",
    }
    assert total == 7
    assert summary.merged_rows == 1
    assert summary.warnings == [
        "1 group(s) on more than one side, such as 'p1' in train and test: scores may be too good"
    ]
    assert images_root(settings) == images
    assert images_root(IndexSettings("csv", table)) == tmp_path


def test_duplicates_and_what_they_spoil(plant: Plant, contents: ContentIndex, ledger: Ledger) -> None:
    root = plant({"train/sad/a.png": 1, "train/happy/a.png": 1, "test/sad/a.png": 1, "test/happy/b.png": 2})
    _, summary, _ = run(IndexSettings("folder", root), contents=contents, ledger=ledger)
    assert summary.duplicates == 2
    assert summary.warnings == [
        "1 file(s) in more than one split, such as 'test/sad/a.png' in test and 'train/happy/a.png' in train: "
        "scores may be too good",
        "1 file(s) with more than one label, such as 'test/sad/a.png' (sad) and 'train/happy/a.png' (happy)",
    ]


def test_people_of_one_photo_are_no_duplicates(
    plant: Plant, contents: ContentIndex, ledger: Ledger, tmp_path: Path
) -> None:
    plant({"a.png": 1})
    table = tmp_path / "corpus" / "labels.csv"
    table.write_text(
        "sample_id,path,label,split,x1,y1,x2,y2\np1,a.png,sad,train,0,0,1,1\np2,a.png,happy,train,1,1,2,2\n"
    )
    manifest, summary, _ = run(IndexSettings("csv", table), contents=contents, ledger=ledger)
    assert len(manifest) == 2
    assert summary.duplicates == 0
    assert summary.warnings == []


def test_classes_that_cannot_be_learned(plant: Plant, contents: ContentIndex, ledger: Ledger) -> None:
    root = plant(
        {"train/sad/a.png": 1, "test/sad/b.png": 2, "test/calm/c.png": 3, "val/calm/d.png": 4, "val/shy/e.png": 5}
    )
    _, summary, _ = run(IndexSettings("folder", root), contents=contents, ledger=ledger)
    assert summary.warnings == [
        "train has a single class, 'sad': nothing can be told apart",
        "class 'calm' is in val and test only: it cannot be learned",
        "class 'shy' is in val only: it cannot be learned",
    ]


def test_unlabelled_photos(plant: Plant, contents: ContentIndex, ledger: Ledger) -> None:
    manifest, summary, _ = run(
        IndexSettings("folder", plant({"a.png": 1, "b.mov": b"not looked into"})), contents=contents, ledger=ledger
    )
    assert [(sample.labels, sample.split, sample.media) for sample in manifest] == [
        ((), "test", "image"),
        ((), "test", "video"),
    ]
    assert summary.unlabelled == 2
    assert summary.classes == {}
    assert summary.warnings == ["no sample of train has a label: nothing can be trained"]


def test_nothing_left(plant: Plant, contents: ContentIndex, ledger: Ledger) -> None:
    with pytest.raises(DataError, match=r"none of the 2 item\(s\) of .*: sad/a.png: empty, the file has no bytes"):
        run(IndexSettings("folder", plant({"sad/a.png": b"", "sad/b.png": b""})), contents=contents, ledger=ledger)
    assert len(ledger) == 2


def test_settings_are_checked(plant: Plant, contents: ContentIndex, ledger: Ledger) -> None:
    root = plant({"sad/a.png": 1})
    with pytest.raises(SettingError, match="'fodler'"):
        run(IndexSettings("fodler", root), contents=contents, ledger=ledger)
    with pytest.raises(SettingError, match=r"data\.split\.val is 0\.9"):
        run(IndexSettings("folder", root, val=0.9), contents=contents, ledger=ledger)
