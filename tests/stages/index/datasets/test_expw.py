"""ExpW's adapter over its stand-in and over damaged copies of its layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import expw
from stages.index.manifest import Box
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.standins import expw as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]
LINES = ("a.jpg 0 10 20 60 70 50.5 0", "a.jpg 1 11 80 120 71 12.5 6", "b.jpg 0 5 6 30 40 99.0 3")


def layout(*lines: str, table: str = "label/label.lst", images: str = "image/origin") -> dict[str, bytes | int]:
    """Two photos and a list."""
    return {table: "\n".join(lines).encode(), f"{images}/a.jpg": 1, f"{images}/b.jpg": 2}


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, **options: object) -> Corpus:
        return expw.read(Source(root, options=options), ledger)

    return run_


def faces(corpus: Corpus) -> dict[str, str]:
    return {raw.sample_id: raw.labels[0] for raw in corpus.samples}


def test_the_stand_in_is_read(tmp_path: Path, ledger: Ledger, contents: ContentIndex) -> None:
    """Through `index`, so that its files are looked at as well."""
    standin.write(tmp_path / "expw", standin.Sizes(photos=7, size=64), 3)
    settings = IndexSettings("expw", tmp_path / "expw", val=0.2, test=0.2)
    manifest, summary, total = run(settings, contents=contents, ledger=ledger)
    assert (len(ledger), total, summary.warnings) == (0, 13, [])
    assert Counter(s.labels[0] for s in manifest) == {label: 2 - (label == "neutral") for label in expw.CLASSES}
    second = manifest.by_id["image/origin/photo_2.jpg#1"]
    assert (second.path, second.labels) == ("image/origin/photo_2.jpg", ("fear",))
    assert (second.group, second.boxes) == ("image/origin/photo_2.jpg", (Box(77.0, 9.0, 115.0, 58.0, "face"),))
    splits = {s.group: {other.split for other in manifest if other.group == s.group} for s in manifest}
    assert all(len(of_photo) == 1 for of_photo in splits.values())


def test_the_stand_in_follows_from_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        standin.write(tmp_path / name, standin.Sizes(photos=4, size=48), seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*") if p.name != "DRAWN.txt"} for n in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_a_sample_is_a_face_with_its_box_and_the_photo_as_group(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout(*LINES)))
    assert faces(corpus) == {
        "image/origin/a.jpg#0": "angry",
        "image/origin/a.jpg#1": "neutral",
        "image/origin/b.jpg#0": "happy",
    }
    first = corpus.samples[0]
    assert first.boxes == (Box(20.0, 10.0, 60.0, 70.0, "face"),)
    assert (first.path, first.group, first.split) == ("image/origin/a.jpg", "image/origin/a.jpg", None)
    assert corpus.notes == ()


@pytest.mark.parametrize(
    ("table", "images"),
    [("label.lst", "image"), ("data/label/label.lst", "data/image/origin"), ("Label/label.lst", "Image/Origin")],
)
def test_other_places_and_spellings(table: str, images: str, plant: Plant, read: Read) -> None:
    assert next(iter(faces(read(plant(layout(*LINES, table=table, images=images)))))) == f"{images}/a.jpg#0"


def test_low_confidence_is_left_out_and_counted(plant: Plant, read: Read, ledger: Ledger) -> None:
    root = plant(layout(*LINES))
    corpus = read(root, min_confidence=50.5)
    assert list(faces(corpus)) == ["image/origin/a.jpg#0", "image/origin/b.jpg#0"]
    assert corpus.notes == ("1 face(s) below options.min_confidence are left out",)
    assert len(ledger) == 0
    with pytest.raises(DataError, match=r"has no face with a confidence of 1000: lower options.min_confidence"):
        read(root, min_confidence=1000)
    with pytest.raises(SettingError, match=r"options.min_confidence is 'high'"):
        read(root, min_confidence="high")


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        ("b.jpg 1 5 6 30 40 99.0", "label/label.lst line 4", "bad_row"),
        ("b.jpg 1 5 6 thirty 40 99.0 3", "label/label.lst line 4", "bad_row"),
        ("b.jpg one 5 6 30 40 99.0 3", "label/label.lst line 4", "bad_row"),
        ("b.jpg 1 5 6 30 40 nan 3", "label/label.lst line 4", "bad_row"),
        ("b.jpg 1 5 30 6 40 99.0 3", "image/origin/b.jpg#1", "bad_box"),
        ("b.jpg 1 40 6 30 40 99.0 3", "image/origin/b.jpg#1", "bad_box"),
        ("b.jpg 1 5 6 nan 40 99.0 3", "image/origin/b.jpg#1", "bad_box"),
        ("b.jpg 1 5 6 30 40 99.0 7", "image/origin/b.jpg#1", "bad_label"),
        ("b.jpg 1 5 6 30 40 99.0 -1", "image/origin/b.jpg#1", "bad_label"),
        (f"b.jpg 1 5 6 30 40 99.0 {'1' * 5000}", "image/origin/b.jpg#1", "bad_label"),
        ("../../../b.jpg 1 5 6 30 40 99.0 1", "image/origin/../../../b.jpg#1", "bad_name"),
        ("b\x01.jpg 1 5 6 30 40 99.0 1", "image/origin/b\\x01.jpg#1", "bad_name"),
        ("a.jpg 0 10 20 60 70 50.5 1", "image/origin/a.jpg#0", "contradictory"),
        ("a.jpg 0 10 20 60 71 50.5 0", "image/origin/a.jpg#0", "contradictory"),
    ],
)
def test_a_bad_line_is_recorded(line: str, name: str, reason: str, plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant(layout(*LINES, line)))
    assert {key: entry[0] for key, entry in ledger.entries.items()} == {name: reason}
    assert len(corpus.samples) == (2 if reason == "contradictory" else 3)


def test_a_box_over_the_border_is_kept(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout("a.jpg 0 -10 -20 6000 7000 50.5 0")))
    assert corpus.samples[0].boxes == (Box(-20.0, -10.0, 6000.0, 7000.0, "face"),)


def test_bom_crlf_latin_blanks_and_repeated_lines(plant: Plant, read: Read, ledger: Ledger) -> None:
    lines = [*LINES, "caf\xe9 au lait.jpg 0 5 6 30 40 99.0 1", LINES[0], "", "  "]
    for codec, bom in (("utf-8", b"\xef\xbb\xbf"), ("cp1252", b"")):
        files = layout() | {"label/label.lst": bom + "\r\n".join(lines).encode(codec)}
        corpus = read(plant({**files, "image/origin/caf\xe9 au lait.jpg": 3}, codec))
        assert "image/origin/caf\xe9 au lait.jpg#0" in faces(corpus)
        assert (len(corpus.samples), corpus.merged_rows, len(ledger), corpus.notes) == (4, 1, 0, ())


def test_missing_photos_are_recorded_by_index(plant: Plant, ledger: Ledger, contents: ContentIndex) -> None:
    root = plant(layout(*LINES, "gone.jpg 0 5 6 30 40 99.0 3"))
    manifest, _, _ = run(IndexSettings("expw", root, use="train"), contents=contents, ledger=ledger)
    assert len(manifest) == 3
    assert ledger.entries["image/origin/gone.jpg#0"][0] == "missing"


def test_a_list_of_which_no_photo_is_there(plant: Plant, read: Read) -> None:
    files = layout("x.jpg 0 10 20 60 70 50.5 0", "y.jpg 0 10 20 60 70 50.5 0")
    with pytest.raises(
        DataError, match=r"none of the 2 photo\(s\) that label/label.lst .*for image/origin/x.jpg, image"
    ):
        read(plant(files))


def test_photos_without_a_line_are_counted(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout("a.jpg 0 10 20 60 70 50.5 0", "b.jpg 0 10 20 60 70 50.5 9") | {"image/origin/c.jpg": 3}))
    assert corpus.notes == ("1 photo(s) of image/origin have no face in label.lst",)


def test_another_layout_says_what_was_expected_and_found(plant: Plant, read: Read) -> None:
    with pytest.raises(DataError, match=r"expected label/label.lst \(.*, image/origin \(.*; found there: happy/$"):
        read(plant({"happy/a.jpg": 1}, "by_class"))
    with pytest.raises(DataError, match=r"expected image/origin \(the photos\); found there: label/$"):
        read(plant({"label/label.lst": LINES[0].encode()}, "half"))
    with pytest.raises(DataError, match=r"expected label/label.lst \(the faces' classes\); found there: image/$"):
        read(plant({"image/origin/a.jpg": 1}, "other_half"))
    with pytest.raises(DataError, match=r"label.lst is empty"):
        read(plant(layout(""), "empty"))
