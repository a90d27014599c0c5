"""RAF-DB's adapter over its stand-in and over damaged copies of its layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import rafdb
from stages.index.manifest import Box
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.standins import rafdb as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]
TABLE = "EmoLabel/list_patition_label.txt"
LINES = ("train_00001.jpg 5", "train_00002.jpg 1", "test_0001.jpg 7")
ALIGNED = [f"basic/Image/aligned/{name}_aligned.jpg" for name in ("train_00001", "train_00002", "test_0001")]


def layout(*lines: str, basic: str = "basic/", boxes: bool = True) -> dict[str, bytes | int]:
    """Three photos in both forms, their boxes and a list."""
    files: dict[str, bytes | int] = {f"{basic}{TABLE}": "\n".join(lines or LINES).encode()}
    for number, line in enumerate(LINES):
        stem = line.partition(".")[0]
        files[f"{basic}Image/aligned/{stem}_aligned.jpg"] = number
        files[f"{basic}Image/original/{stem}.jpg"] = 10 + number
        if boxes:
            files[f"{basic}Annotation/boundingbox/{stem}_boundingbox.txt"] = f"1.5 2 30.25 {40 + number} \n".encode()
    return files


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, splits: bool = True, **options: object) -> Corpus:
        return rafdb.read(Source(root, options=options, splits=splits), ledger)

    return run_


def told(corpus: Corpus) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(raw.sample_id, raw.split, raw.labels) for raw in corpus.samples]


@pytest.mark.parametrize("images", ["aligned", "original"])
def test_the_stand_in_is_read(images: str, tmp_path: Path, ledger: Ledger, contents: ContentIndex) -> None:
    """Through `index`, so that its files are looked at as well."""
    standin.write(tmp_path / "raf", standin.Sizes(train=14, test=7), 3)
    settings = IndexSettings("rafdb", tmp_path / "raf", options={"images": images})
    manifest, summary, total = run(settings, contents=contents, ledger=ledger)
    assert (len(ledger), total, summary.warnings) == (0, 21, [])
    assert Counter((s.split, s.labels[0]) for s in manifest) == {
        (split, label): count for split, count in (("train", 2), ("test", 1)) for label in rafdb.CLASSES
    }
    assert {len(s.boxes) for s in manifest} == {int(images == "original")}
    assert {s.path.split("/")[2] for s in manifest} == {images}


def test_the_stand_in_follows_from_its_seed_and_its_crops_from_its_boxes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        standin.write(tmp_path / name, standin.Sizes(train=7, test=7), seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.jpg")} for n in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a)
    basic = tmp_path / "a" / "basic"
    with Image.open(basic / "Image/aligned/train_00001_aligned.jpg") as aligned:
        assert aligned.size == (100, 100)


@pytest.mark.parametrize("basic", ["basic/", "", "Basic/"])
def test_the_list_gives_class_and_split(basic: str, plant: Plant, read: Read) -> None:
    corpus = read(plant(layout(basic=basic)))
    names = [f"{basic}Image/aligned/{line.partition('.')[0]}_aligned.jpg" for line in LINES]
    assert told(corpus) == [
        (names[0], "train", ("sadness",)),
        (names[1], "train", ("surprise",)),
        (names[2], "test", ("neutral",)),
    ]
    assert corpus.notes == ()
    assert all(raw.boxes == () for raw in corpus.samples)


def test_original_photos_have_the_faces_boxes(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout()), images="original")
    assert [raw.path for raw in corpus.samples][2] == "basic/Image/original/test_0001.jpg"
    assert corpus.samples[2].boxes == (Box(1.5, 2.0, 30.25, 42.0, "face"),)
    bare = read(plant(layout(boxes=False), "bare"), images="original")
    assert all(raw.boxes == () for raw in bare.samples)
    assert bare.notes == (
        "basic/Annotation/boundingbox is not there: which face of a photo its class is of is not told",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"1 2 3", "bad_box"),
        (b"1 2 three 4", "bad_box"),
        (b"30 2 3 40", "bad_box"),
        (b"1 2 nan 4", "bad_box"),
        (None, "no_box"),
    ],
)
def test_a_bad_box_file_is_recorded(
    content: bytes | None, reason: str, plant: Plant, read: Read, ledger: Ledger
) -> None:
    files = layout()
    name = "basic/Annotation/boundingbox/train_00002_boundingbox.txt"
    files.pop(name)
    corpus = read(plant(files | ({name: content} if content is not None else {})), images="original")
    assert len(corpus.samples) == 2
    assert {k: v[0] for k, v in ledger.entries.items()} == {"basic/Image/original/train_00002.jpg": reason}


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        ("train_00009.jpg 8", "basic/Image/aligned/train_00009_aligned.jpg", "bad_label"),
        ("train_00009.jpg 0", "basic/Image/aligned/train_00009_aligned.jpg", "bad_label"),
        ("train_00009.jpg five", "basic/Image/aligned/train_00009_aligned.jpg", "bad_label"),
        (f"train_00009.jpg {'1' * 5000}", "basic/Image/aligned/train_00009_aligned.jpg", "bad_label"),
        ("train/../../../../b.jpg 5", "basic/Image/aligned/train/../../../../b_aligned.jpg", "bad_name"),
        ("valid_00009.jpg 5", "basic/Image/aligned/valid_00009_aligned.jpg", "bad_split"),
        ("train_00009 5", "basic/EmoLabel/list_patition_label.txt line 4", "bad_row"),
        ("5", "basic/EmoLabel/list_patition_label.txt line 4", "bad_row"),
        ("train_\x01.jpg 5", "basic/Image/aligned/train_\\x01_aligned.jpg", "bad_name"),
        ("train_00001.jpg 4", ALIGNED[0], "contradictory"),
    ],
)
def test_a_bad_line_is_recorded(line: str, name: str, reason: str, plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant(layout(*LINES, line)))
    assert {key: entry[0] for key, entry in ledger.entries.items()} == {name: reason}
    assert len(corpus.samples) == (2 if reason == "contradictory" else 3)


def test_one_split_for_all_reads_no_split(plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant(layout(*LINES, "odd_1.jpg 5")), splits=False)
    assert [raw.split for raw in corpus.samples] == [None] * 4
    assert len(ledger) == 0


def test_bom_crlf_tabs_and_repeated_lines(plant: Plant, read: Read, ledger: Ledger) -> None:
    text = "\r\n".join([*LINES[:2], "test_0001.jpg\t7", LINES[0], "", ""])
    corpus = read(plant(layout() | {f"basic/{TABLE}": b"\xef\xbb\xbf" + text.encode()}))
    assert [raw.sample_id for raw in corpus.samples] == ALIGNED
    assert (corpus.merged_rows, len(ledger)) == (1, 0)


def test_photos_without_a_line_are_counted_and_missing_ones_kept(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout(LINES[0], "train_00002.jpg 9", "train_00077.jpg 3")))
    assert [raw.sample_id for raw in corpus.samples][1] == "basic/Image/aligned/train_00077_aligned.jpg"
    assert corpus.notes == ("1 photo(s) of basic/Image/aligned are not in basic/EmoLabel/list_patition_label.txt",)
    with pytest.raises(DataError, match=r"none of the 1 photo\(s\) .*looked for basic/Image/aligned/train_00077_al"):
        read(plant(layout("train_00077.jpg 3"), "none"))


def by_class(above: str = "") -> dict[str, bytes | int]:
    return {
        f"{above}{part}/{number}/{part}_{number:05d}_aligned.jpg": number + 10 * (part == "test")
        for part in ("train", "test")
        for number in range(1, 8)
    }


@pytest.mark.parametrize("above", ["", "DATASET/"])
def test_class_folders_are_read_too(above: str, plant: Plant, read: Read) -> None:
    root = plant(by_class(above))
    corpus = read(root)
    assert told(corpus)[4] == (f"{above}train/5/train_00005_aligned.jpg", "train", ("sadness",))
    assert Counter((raw.split, raw.labels[0]) for raw in corpus.samples) == {
        (part, label): 1 for part in ("train", "test") for label in rafdb.CLASSES
    }
    with pytest.raises(SettingError, match=r"images is 'original', and .* class folders of aligned photos"):
        read(root, images="original")


def test_another_layout_says_what_was_expected_and_found(plant: Plant, read: Read) -> None:
    with pytest.raises(DataError, match=r"expected basic/EmoLabel/list_patition_label.txt \(.*found there: happy/$"):
        read(plant({"happy/a.jpg": 1}, "other"))
    half = {name: content for name, content in layout().items() if "aligned" not in name}
    with pytest.raises(
        DataError, match=r"expected basic/Image/aligned \(the aligned photos\); found in basic/Image/: orig"
    ):
        read(plant(half, "half"))
    folders = {name: content for name, content in by_class().items() if not name.startswith("test/3")}
    with pytest.raises(DataError, match=r"expected test/3 \(photos of the class disgust\)"):
        read(plant(folders, "folders"))
    with pytest.raises(DataError, match="has no photos in its class folders"):
        read(plant({name.replace(".jpg", ".txt"): b"x" for name in by_class()}, "no_photos"))
    with pytest.raises(SettingError, match=r"options.images is 'both'.*aligned"):
        read(plant(layout(), "whole"), images="both")
