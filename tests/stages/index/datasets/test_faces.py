"""The adapter of faces and other pictures over its stand-in and over other layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import faces
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.samples import open_sample
from stages.index.standins import faces as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, **how: object) -> Corpus:
        return faces.read(Source(root, **how), ledger)  # pyright: ignore[reportArgumentType]

    return run_


def told(corpus: Corpus) -> dict[str, tuple[str, str]]:
    """sample_id -> label and subset."""
    return {raw.sample_id: (raw.labels[0], raw.subset) for raw in corpus.samples}


def test_the_stand_in_is_read(tmp_path: Path, ledger: Ledger, contents: ContentIndex) -> None:
    sizes = standin.Sizes(faces=8, others=6, side=32)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        standin.write(tmp_path / name, sizes, seed)
    manifest, summary, total = run(IndexSettings("faces", tmp_path / "a"), contents=contents, ledger=ledger)
    assert (len(ledger), total, summary.duplicates) == (0, 14, 0)
    assert Counter((s.labels, s.subset) for s in manifest) == {
        (("face",), "colour"): 4, (("face",), "grey"): 4, (("other",), "colour"): 3, (("other",), "grey"): 3,
    }  # fmt: skip
    assert {open_sample(s, tmp_path / "a").size for s in manifest} == {(32, 32)}
    once, twice, other = ([(tmp_path / name / s.path).read_bytes() for s in manifest] for name in "abc")
    assert once == twice
    assert not set(once) & set(other)


def test_a_folder_that_is_a_file_or_there_twice(plant: Plant, read: Read) -> None:
    with pytest.raises(DataError, match=r"expected others \(or negatives\); found there: faces/, others$"):
        read(plant({"faces/a.png": 1, "others": b"x"}, "file"))
    with pytest.raises(DataError, match=r"has Faces and faces: put all into one"):
        read(plant({"faces/a.png": 1, "Faces/b.png": 2, "others/c.png": 3}, "twice"))


def test_a_link_that_leads_in_a_circle_shows_no_picture_twice(plant: Plant, read: Read) -> None:
    root = plant({"faces/vgg/a.png": 1, "others/b.png": 2})
    (root / "faces/vgg/back").symlink_to(root / "faces")
    assert set(told(read(root))) == {"faces/vgg/a.png", "others/b.png"}


def test_folders_at_any_depth(plant: Plant, read: Read) -> None:
    root = plant({
        "Positives/vgg/ann/1.jpg": 1, "Positives/vgg/bob/1.jpg": 2, "Positives/ck/3.PNG": 3, "Positives/4.png": 4,
        "others/5.png": 5, "others/places/notes.txt": b"x", "others/.trash/6.png": 6, "README/7.png": 7,
    })  # fmt: skip
    corpus = read(root)
    assert told(corpus) == {
        "Positives/vgg/ann/1.jpg": ("face", "vgg"),
        "Positives/vgg/bob/1.jpg": ("face", "vgg"),
        "Positives/ck/3.PNG": ("face", "ck"),
        "Positives/4.png": ("face", ""),
        "others/5.png": ("other", ""),
    }
    assert {raw.split for raw in corpus.samples} == {None}


def test_another_layout_says_what_was_expected(plant: Plant, read: Read, tmp_path: Path) -> None:
    root = plant({"faces/a.png": 1, "objects/b.png": 2})
    with pytest.raises(DataError) as caught:
        read(root)
    assert str(caught.value) == (
        f"data.root {root} is not laid out as faces and other pictures: expected others (or negatives); "
        "found there: faces/, objects/"
    )
    with pytest.raises(DataError, match="is not a folder: give the folder"):
        read(tmp_path / "gone")
    with pytest.raises(DataError, match="has negatives and others: put all into one of them"):
        read(plant({"faces/a.png": 1, "others/b.png": 2, "negatives/c.png": 3}, "both"))
    with pytest.raises(DataError, match="others has no pictures, and both classes need some"):
        read(plant({"faces/a.png": 1, "others/b.txt": b"x"}, "empty"))
    with pytest.raises(SettingError, match="options here: none"):
        read(root, options={"size": 3})
    with pytest.raises(SettingError, match="are for the csv adapter"):
        read(root, images=tmp_path)
