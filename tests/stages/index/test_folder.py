from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.folder import read
from stages.index.raw import Corpus, Source
from stages.ledger import Ledger

Plant = Callable[..., Path]


def rows(corpus: Corpus) -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(sample.sample_id, sample.labels, sample.split) for sample in corpus.samples]


def test_one_folder_per_class(plant: Plant, ledger: Ledger) -> None:
    root = plant({"sad/b.JPG": 1, "happy/deep/er/a.png": 2, "sad/clip.MP4": b"x", "happy/notes.txt": b"x"})
    corpus = read(Source(root), ledger)
    assert rows(corpus) == [
        ("happy/deep/er/a.png", ("happy",), None),
        ("sad/b.JPG", ("sad",), None),
        ("sad/clip.MP4", ("sad",), None),
    ]
    assert [sample.media for sample in corpus.samples] == ["image", "image", "video"]
    assert all(sample.path == sample.sample_id for sample in corpus.samples)
    assert corpus.images == root
    assert len(ledger) == 0


@pytest.mark.parametrize("word", ["val", "valid", "Validation", "dev"])
def test_splits_and_their_words(plant: Plant, ledger: Ledger, word: str) -> None:
    root = plant({"train/sad/a.png": 1, f"{word}/sad/b.png": 2, "TEST/happy/c.png": 3, "docs/readme.md": b"x"})
    assert sorted(rows(read(Source(root), ledger))) == sorted(
        [
            ("train/sad/a.png", ("sad",), "train"),
            (f"{word}/sad/b.png", ("sad",), "val"),
            ("TEST/happy/c.png", ("happy",), "test"),
        ]
    )


def test_photos_without_class_folders_are_unlabelled(plant: Plant, ledger: Ledger) -> None:
    assert rows(read(Source(plant({"a.png": 1, "b.png": 2})), ledger)) == [("a.png", (), None), ("b.png", (), None)]
    split = plant({"train/sad/a.png": 1, "test/b.png": 2}, "second")
    assert rows(read(Source(split), ledger)) == [("test/b.png", (), "test"), ("train/sad/a.png", ("sad",), "train")]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train/sad/a.png", "happy/b.png"], "'train' is a split and 'happy' is not"),
        (["a.png", "happy/b.png"], "'a.png' lies beside the folder 'happy'"),
        (["train/a.png", "train/happy/b.png"], "'a.png' lies beside the folder 'happy'"),
        (["a;b/c.png"], "'a;b'"),
    ],
)
def test_layouts_that_cannot_be_told(plant: Plant, ledger: Ledger, files: list[str], said: str) -> None:
    root = plant(dict.fromkeys(files, 1))
    with pytest.raises(DataError, match=said):
        read(Source(root), ledger)


def test_nothing_there(plant: Plant, ledger: Ledger, tmp_path: Path) -> None:
    root = plant({"sad/notes.txt": b"x"})
    with pytest.raises(DataError, match=r"no photos in .*corpus .*\.jpeg.*\.mp4"):
        read(Source(root), ledger)
    with pytest.raises(DataError, match="is not a folder"):
        read(Source(tmp_path / "nowhere"), ledger)
    with pytest.raises(DataError, match="is not a folder"):
        read(Source(root / "sad" / "notes.txt"), ledger)


def test_settings_of_the_other_adapter_are_refused(plant: Plant, ledger: Ledger) -> None:
    root = plant({"sad/a.png": 1})
    with pytest.raises(SettingError, match="csv adapter"):
        read(Source(root, images=root), ledger)
    with pytest.raises(SettingError, match="csv adapter"):
        read(Source(root, columns={"path": "image"}), ledger)


def test_hidden_things_are_passed_over(plant: Plant, ledger: Ledger) -> None:
    root = plant({"sad/a.png": 1, "sad/._a.png": 1, ".cache/b.png": 1, "__MACOSX/sad/c.png": 1, ".d.png": 1})
    assert rows(read(Source(root), ledger)) == [("sad/a.png", ("sad",), None)]


def test_links_are_followed_and_circles_are_not(plant: Plant, ledger: Ledger) -> None:
    root = plant({"sad/a.png": 1})
    other = plant({"x/b.png": 2}, "other")
    (root / "sad" / "file.png").symlink_to(other / "x" / "b.png")
    (root / "happy").symlink_to(other / "x")
    (root / "sad" / "up").symlink_to(root)
    (root / "sad" / "self").symlink_to(root / "sad")
    (root / "sad" / "gone.png").symlink_to(root / "nowhere.png")
    assert [row[0] for row in rows(read(Source(root), ledger))] == [
        "happy/b.png",
        "sad/a.png",
        "sad/file.png",
        "sad/gone.png",
    ]


def test_names_that_no_csv_can_hold(plant: Plant, ledger: Ledger, tmp_path: Path) -> None:
    root = plant({"sad/a.png": 1, "sad/new\nline.png": 2})
    with open(os.fsencode(root) + b"/sad/\xff.png", "wb"):
        pass
    assert rows(read(Source(root), ledger)) == [("sad/a.png", ("sad",), None)]
    assert {name: entry[0] for name, entry in ledger.entries.items()} == {
        "sad/new\\nline.png": "bad_name",
        "sad/\\udcff.png": "bad_name",
    }
    ledger.write(tmp_path / "failures.csv")


def test_a_folder_that_cannot_be_listed(
    plant: Plant, ledger: Ledger, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    root = plant({"sad/a.png": 1, "shut/b.png": 2})
    (root / "shut").chmod(0)
    try:
        with without_rights():
            assert rows(read(Source(root), ledger)) == [("sad/a.png", ("sad",), None)]
    finally:
        (root / "shut").chmod(0o755)
    assert ledger.entries["shut"][0] == "permission"
