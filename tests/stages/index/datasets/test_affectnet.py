"""AffectNet's adapter over its stand-in and over damaged copies of its two layouts."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import affectnet
from stages.index.datasets._affectnet import COLUMNS
from stages.index.manifest import Box
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.standins import affectnet as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]
HEADER = ",".join(COLUMNS)
IMAGES = "Manually_Annotated_Images"
LISTS = "Manually_Annotated_file_lists"


def row(name: str, label: object = 0, valence: object = 0.5, arousal: object = -0.25, box: str = "10,20,30,40") -> str:
    return f"{name},{box},1.5;2.5;3.5,{label},{valence},{arousal}"


TRAIN = [row("1/a.jpg"), row("1/b.jpg", 7), row("2/c.jpg", 9, -2, -2)]
VAL = [row("2/d.jpg", 1)]


def layout(
    train: list[str], val: list[str], lists: str = f"{LISTS}/", images: str = f"{IMAGES}/"
) -> dict[str, bytes | int]:
    """Four photos and two lists with a header."""
    photos = {f"{images}{name}": i for i, name in enumerate(("1/a.jpg", "1/b.jpg", "2/c.jpg", "2/d.jpg"))}
    tables = {"training.csv": train, "validation.csv": val}
    return photos | {f"{lists}{name}": "\n".join([HEADER, *rows]).encode() for name, rows in tables.items()}


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, splits: bool = True, **options: object) -> Corpus:
        return affectnet.read(Source(root, options=options, splits=splits), ledger)

    return run_


def told(corpus: Corpus) -> dict[str, tuple[str | None, str]]:
    return {raw.sample_id: (raw.split, raw.labels[0]) for raw in corpus.samples}


def reasons(ledger: Ledger) -> dict[str, str]:
    return {name: entry[0] for name, entry in ledger.entries.items()}


@pytest.mark.parametrize("form", ["lists", "arrays"])
def test_the_stand_in_is_read(form: str, tmp_path: Path, ledger: Ledger, contents: ContentIndex) -> None:
    """Through `index`, so that its files are looked at as well."""
    standin.write(tmp_path / "an", standin.Sizes.model_validate({"train": 16, "val": 8, "form": form, "size": 64}), 3)
    manifest, summary, total = run(IndexSettings("affectnet", tmp_path / "an"), contents=contents, ledger=ledger)
    assert (len(ledger), total, summary.warnings) == (0, 24, [])
    assert Counter((s.split, s.labels[0]) for s in manifest) == {
        (split, label): count for split, count in (("train", 2), ("val", 1)) for label in affectnet.CLASSES
    }
    for sample in manifest:
        values = dict(sample.values)
        valence, arousal = standin.FEELINGS[sample.labels[0]]
        assert (abs(values["valence"] - valence) < 0.16, abs(values["arousal"] - arousal) < 0.16) == (True, True)
        assert len(sample.boxes) == (form == "lists")


def test_the_stand_in_follows_from_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        standin.write(tmp_path / name, standin.Sizes(train=8, val=8, size=48), seed)
    a, b, c = (sorted(p.read_bytes() for p in (tmp_path / n).rglob("*.*") if p.name != "DRAWN.txt") for n in "abc")
    assert a == b
    assert not set(a) & set(c)


def test_lists_give_class_split_box_and_values(plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant(layout(TRAIN, VAL)))
    assert told(corpus) == {
        f"{IMAGES}/1/a.jpg": ("train", "neutral"),
        f"{IMAGES}/1/b.jpg": ("train", "contempt"),
        f"{IMAGES}/2/d.jpg": ("val", "happy"),
    }
    first = corpus.samples[0]
    assert (first.boxes, first.values) == (
        (Box(10.0, 20.0, 40.0, 60.0, "face"),),
        (("arousal", -0.25), ("valence", 0.5)),
    )
    assert corpus.notes == ("left out as options say: uncertain 1",)
    assert len(ledger) == 0


@pytest.mark.parametrize(
    ("lists", "images"),
    [
        ("", f"{IMAGES}/"),
        ("", ""),
        ("Manually_Annotated/Manually_Annotated_file_lists/", f"Manually_Annotated/{IMAGES}/"),
    ],
)
def test_other_places(lists: str, images: str, plant: Plant, read: Read) -> None:
    assert f"{images}1/a.jpg" in told(read(plant(layout(TRAIN, VAL, lists, images))))


def test_classes_can_be_left_out_or_taken(plant: Plant, read: Read) -> None:
    root = plant(layout([*TRAIN, row("2/e.jpg", 10, -2, -2, "NULL,NULL,NULL,NULL")], VAL))
    seven = read(root, contempt=False)
    assert {label for _, label in told(seven).values()} == {"neutral", "happy"}
    assert seven.notes == ("left out as options say: contempt 1, no-face 1, uncertain 1",)
    every = read(root, others=True)
    assert {label for _, label in told(every).values()} == {"neutral", "happy", "contempt", "uncertain", "no-face"}
    no_face = next(raw for raw in every.samples if raw.labels == ("no-face",))
    assert (no_face.boxes, no_face.values, every.notes) == ((), (), ())
    with pytest.raises(SettingError, match=r"options.contempt is 'perhaps'"):
        read(root, contempt="perhaps")


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        (row("1/x.jpg", 11), "1/x.jpg", "bad_label"),
        (row("1/x.jpg", "happy"), "1/x.jpg", "bad_label"),
        (row("1/x.jpg", 1, 1.5), "1/x.jpg", "bad_value"),
        (row("1/x.jpg", 1, 0.5, "calm"), "1/x.jpg", "bad_value"),
        (row("1/x.jpg", 1, "nan"), "1/x.jpg", "bad_value"),
        (row("1/x.jpg", 1, box="10,20,0,40"), "1/x.jpg", "bad_box"),
        (row("1/x.jpg", 1, box="10,20,30,-40"), "1/x.jpg", "bad_box"),
        (row("1/x.jpg", 1, box="10,20,NULL,40"), "1/x.jpg", "bad_box"),
        (row("../../x.jpg", 1), "../../x.jpg", "bad_name"),
        (row("1/x\x01.jpg", 1), "1/x\\x01.jpg", "bad_name"),
        (row("", 1), "training.csv line 5", "bad_name"),
        (row("1/x.jpg", 1) + ",more", "training.csv line 5", "bad_row"),
        ("1/x.jpg,1", "training.csv line 5", "bad_row"),
        (row("1/a.jpg", 1), "1/a.jpg", "contradictory"),
        (row("1/a.jpg", 0, 0.25), "1/a.jpg", "contradictory"),
    ],
)
def test_a_bad_row_is_recorded(line: str, name: str, reason: str, plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant(layout([*TRAIN, line], VAL)))
    assert reasons(ledger) == {name if name.startswith("training") else f"{IMAGES}/{name}": reason}
    assert len(corpus.samples) == (2 if reason == "contradictory" else 3)


def test_a_photo_of_both_lists_contradicts_itself(plant: Plant, read: Read, ledger: Ledger) -> None:
    assert f"{IMAGES}/1/a.jpg" not in told(read(plant(layout(TRAIN, [*VAL, TRAIN[0]]))))
    assert reasons(ledger) == {f"{IMAGES}/1/a.jpg": "contradictory"}
    assert told(read(plant(layout(TRAIN, [*VAL, TRAIN[0]])), splits=False))[f"{IMAGES}/2/d.jpg"] == (None, "happy")


def test_boxes_over_the_border_and_values_not_given(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout([row("1/a.jpg", 0, -2, 0.5, "-5,-6,9000,9000")], VAL)))
    assert corpus.samples[0].boxes == (Box(-5.0, -6.0, 8995.0, 8994.0, "face"),)
    assert corpus.samples[0].values == (("arousal", 0.5),)


@pytest.mark.parametrize(("codec", "bom"), [("utf-8", b"\xef\xbb\xbf"), ("cp1252", b""), ("utf-16", b"")])
def test_bom_crlf_encodings_and_repeated_rows(codec: str, bom: bytes, plant: Plant, read: Read, ledger: Ledger) -> None:
    text = "\r\n".join([HEADER, *TRAIN, row("1\\caf\xe9.jpg", 2), TRAIN[0], "", ""])
    files = layout(TRAIN, VAL) | {f"{LISTS}/training.csv": bom + text.encode(codec), f"{IMAGES}/1/caf\xe9.jpg": 9}
    corpus = read(plant(files))
    assert told(corpus)[f"{IMAGES}/1/caf\xe9.jpg"] == ("train", "sad")
    assert (len(corpus.samples), corpus.merged_rows, len(ledger)) == (4, 1, 0)
    assert corpus.notes == ("left out as options say: uncertain 1",)


def test_a_list_without_a_header_has_the_official_columns(plant: Plant, read: Read) -> None:
    corpus = read(plant(layout(TRAIN, VAL) | {f"{LISTS}/validation.csv": "\n".join(VAL).encode()}))
    assert told(corpus)[f"{IMAGES}/2/d.jpg"] == ("val", "happy")


def test_missing_and_unnamed_photos(plant: Plant, read: Read, ledger: Ledger, contents: ContentIndex) -> None:
    root = plant(layout([*TRAIN[:2], row("9/gone.jpg", 1)], VAL))
    manifest, summary, _ = run(IndexSettings("affectnet", root), contents=contents, ledger=ledger)
    assert len(manifest) == 3
    assert reasons(ledger) == {f"{IMAGES}/9/gone.jpg": "missing"}
    assert "data: 1 photo(s) in the folder of photos have no annotation" in summary.warnings
    with pytest.raises(DataError, match=rf"none of the 2 photo\(s\) .*looked for {IMAGES}/9/x.jpg"):
        read(plant(layout([row("9/x.jpg")], [row("9/y.jpg")]), "none"))


def test_another_layout_says_what_was_expected_and_found(plant: Plant, read: Read) -> None:
    with pytest.raises(DataError, match=rf"expected {LISTS}/training.csv \(.*found there: happy/$"):
        read(plant({"happy/a.jpg": 1}, "other"))
    half = {name: content for name, content in layout(TRAIN, VAL).items() if "validation" not in name}
    with pytest.raises(DataError, match=rf"expected {LISTS}/validation.csv \(.*found in {LISTS}/: training.csv$"):
        read(plant(half, "half"))
    with pytest.raises(DataError, match=r"training.csv is empty"):
        read(plant(layout(TRAIN, VAL) | {f"{LISTS}/training.csv": b"\n \n"}, "empty"))
    with pytest.raises(DataError, match="has no annotation"):
        read(plant(layout([], []), "bare"))
    lacking = {f"{LISTS}/training.csv": b"subDirectory_filePath,expression\n1/a.jpg,0\n"}
    with pytest.raises(DataError, match=r"has no column 'face_x'; expected .*found subdirectory_filepath, expression"):
        read(plant(layout(TRAIN, VAL) | lacking, "columns"))


def array(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(value))
    return buffer.getvalue()


def arrays() -> dict[str, bytes | int]:
    """The smaller release: two photos of train, one of val."""
    files: dict[str, bytes | int] = {}
    for number, (name, label) in enumerate((("train_set/{}/0", "6"), ("train_set/{}/1", "2"), ("val_set/{}/0", "7"))):
        files[name.format("images") + ".jpg"] = number
        for kind, value in (("exp", label), ("val", "-0.5"), ("aro", "0.125")):
            files[f"{name.format('annotations')}_{kind}.npy"] = array(value)
    return files


def test_arrays_give_class_split_and_values(plant: Plant, read: Read) -> None:
    corpus = read(plant(arrays()))
    assert told(corpus) == {
        "train_set/images/0.jpg": ("train", "anger"),
        "train_set/images/1.jpg": ("train", "sad"),
        "val_set/images/0.jpg": ("val", "contempt"),
    }
    assert {raw.values for raw in corpus.samples} == {(("arousal", 0.125), ("valence", -0.5))}
    assert read(plant(arrays()), contempt=False).notes == ("left out as options say: contempt 1",)


@pytest.mark.parametrize(
    "value", [b"6", 6, np.int8(6), np.uint8(6), np.array([6]), np.array("6", ">U4"), np.array(6, ">i4")]
)
def test_a_class_in_other_forms(value: object, plant: Plant, read: Read) -> None:
    corpus = read(plant(arrays() | {"train_set/annotations/1_exp.npy": array(value)}))
    assert told(corpus)["train_set/images/1.jpg"] == ("train", "anger")


def test_values_are_numbers_or_not_there(plant: Plant, read: Read) -> None:
    files = arrays() | {"train_set/annotations/1_val.npy": array(np.float32(0.75))}
    files.pop("train_set/annotations/1_aro.npy")
    assert read(plant(files)).samples[1].values == (("valence", 0.75),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no_label"),
        (b"", "bad_row"),
        (b"no array at all", "bad_row"),
        (array("6")[:-2], "bad_row"),
        (array("10")[:-4], "bad_row"),  # the first digit would be a class
        (array(6)[:-1], "bad_row"),
        (array(["6", "7"]), "bad_row"),
        (array(6)[:40], "bad_row"),
        (array(1j), "bad_row"),
        (array("11"), "bad_label"),
        (array(6.5), "bad_label"),
    ],
)
def test_a_bad_array_is_recorded(content: bytes | None, reason: str, plant: Plant, read: Read, ledger: Ledger) -> None:
    files = arrays()
    files.pop("train_set/annotations/1_exp.npy")
    corpus = read(plant(files | ({} if content is None else {"train_set/annotations/1_exp.npy": content})))
    assert len(corpus.samples) == 2
    assert reasons(ledger) == {"train_set/images/1.jpg": reason}


def test_half_of_the_arrays(plant: Plant, read: Read) -> None:
    files = {name: content for name, content in arrays().items() if not name.startswith("val_set/annotations")}
    with pytest.raises(
        DataError, match=r"expected val_set/annotations \(the annotations\); found in val_set/: images/"
    ):
        read(plant(files, "half"))
    only = {name: content for name, content in arrays().items() if name.startswith("train_set")}
    with pytest.raises(DataError, match=r"expected val_set/images .*found there: train_set/$"):
        read(plant(only, "only"))
    files |= {"val_set/annotations": b"x"}
    with pytest.raises(DataError, match=r"expected val_set/annotations .*; found in val_set/: annotations, images/"):
        read(plant(files, "file"))
