"""GAF's adapter over its stand-in and over damaged copies of its layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import gaf
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.standins import gaf as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]
CLASSES = ("Positive", "Neutral", "Negative")


def layout(train: str = "Train", val: str = "Validation", each: int = 4) -> dict[str, bytes | int]:
    """Photos of each class of both parts: Train/Positive/pos_0.jpg and so on; no two are the same."""
    names = [f"{part}/{c}/{c[:3].lower()}_{i}.jpg" for part in (train, val) for c in CLASSES for i in range(each)]
    return {name: number for number, name in enumerate(names)}


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, base: Path = Path(), splits: bool = True, **options: object) -> Corpus:
        return gaf.read(Source(root, options=options, base=base, splits=splits), ledger)

    return run_


def eval_of(corpus: Corpus) -> set[str]:
    return {raw.sample_id for raw in corpus.samples if raw.subset == "EVAL"}


def cells(corpus: Corpus) -> dict[tuple[str | None, str], int]:
    """How many samples of each split and subset."""
    return dict(Counter((raw.split, raw.subset) for raw in corpus.samples))


def test_the_stand_in_is_read(tmp_path: Path, ledger: Ledger, contents: ContentIndex) -> None:
    """Through `index`, so that its files are looked at as well."""
    standin.write(tmp_path / "gaf", standin.Sizes(train=6, val=6, test=2), 3)
    settings = IndexSettings("gaf", tmp_path / "gaf", options={"evaluation": 3})
    manifest, summary, total = run(settings, contents=contents, ledger=ledger)
    assert (len(ledger), total, summary.warnings) == (0, 14, [])
    assert Counter((s.split, s.subset, s.labels) for s in manifest) == {
        **{("train", "train", (c.lower(),)): 2 for c in CLASSES},
        **{("val", "VAL", (c.lower(),)): 1 for c in CLASSES},
        **{("test", "EVAL", (c.lower(),)): 1 for c in CLASSES},
        ("test", "test", ()): 2,
    }
    assert manifest.by_id["Train/Positive/pos_3.jpg"].labels == ("positive",)
    assert len({s.content for s in manifest}) == 14
    assert (tmp_path / "gaf" / "DRAWN.txt").read_text() == "Drawn by Kuleshov; not the data set.\n"


def test_the_stand_in_follows_from_its_seed_and_spares_what_is_there(tmp_path: Path) -> None:
    sizes = standin.Sizes(train=3, val=3, test=0)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        standin.write(tmp_path / name, sizes, seed)
    a, b, c = (
        {p.relative_to(tmp_path / n).as_posix(): p.read_bytes() for p in (tmp_path / n).rglob("*.jpg")} for n in "abc"
    )
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)
    assert not (tmp_path / "a" / "Test").exists()
    with pytest.raises(DataError, match=r"a holds .*: give a folder that is empty"):
        standin.write(tmp_path / "a", sizes, 0)


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("TRAIN", "Valid"), ("Training", "validation")])
def test_folders_are_known_by_other_spellings(train: str, val: str, plant: Plant, read: Read) -> None:
    files = {name.replace("Positive", "positive"): i for name, i in layout(train, val).items()}
    corpus = read(plant(files), evaluation=3)
    assert cells(corpus) == {("train", "train"): 12, ("val", "VAL"): 9, ("test", "EVAL"): 3}
    assert {raw.labels for raw in corpus.samples} == {("positive",), ("neutral",), ("negative",)}


def test_a_draw_is_stratified_seeded_and_blind_to_order_and_folder_names(plant: Plant, read: Read) -> None:
    files = layout(each=6)
    files |= {f"Validation/Positive/more_{i}.jpg": 100 + i for i in range(12)}
    corpus = read(plant(files), evaluation=5)
    labels = Counter(raw.labels[0] for raw in corpus.samples if raw.subset == "EVAL")
    assert labels == {"positive": 3, "neutral": 1, "negative": 1}
    other = {name.replace("Validation", "val"): i for name, i in reversed(files.items())}
    again = eval_of(read(plant(other, "other"), evaluation=5))
    assert {name.replace("val/", "Validation/") for name in again} == eval_of(corpus)
    drawn = {frozenset(eval_of(read(plant(files), evaluation=5, evaluation_seed=seed))) for seed in range(4)}
    assert len(drawn) > 1


def test_without_evaluation_all_of_validation_is_val(plant: Plant, read: Read) -> None:
    assert cells(read(plant(layout()), evaluation=None)) == {("train", "train"): 12, ("val", "VAL"): 12}


def test_retrain_moves_val_into_the_training_split_alone(plant: Plant, read: Read) -> None:
    root = plant(layout())
    corpus = read(root, evaluation=3, retrain=True)
    assert cells(corpus) == {("train", "train"): 12, ("train", "VAL"): 9, ("test", "EVAL"): 3}
    assert eval_of(corpus) == eval_of(read(root, evaluation=3))
    with pytest.raises(SettingError, match=r"retrain is true and data.options.evaluation null"):
        read(root, evaluation=None, retrain=True)


def test_photos_of_test_are_unlabelled_and_can_be_left_out(plant: Plant, read: Read) -> None:
    root = plant({**layout(), "Test/test_1.jpg": 90, "Test/test_2.jpg": 91})
    corpus = read(root, evaluation=3)
    tests = [(raw.sample_id, raw.labels) for raw in corpus.samples if raw.subset == "test"]
    assert tests == [("Test/test_1.jpg", ()), ("Test/test_2.jpg", ())]
    assert cells(corpus)["test", "test"] == 2
    assert ("test", "test") not in cells(read(root, evaluation=3, test=False))


def test_one_split_for_all_reads_no_split(plant: Plant, read: Read) -> None:
    root = plant(layout())
    assert cells(read(root, splits=False)) == {(None, "train"): 12, (None, "VAL"): 12}
    with pytest.raises(SettingError, match=r"options.evaluation parts the validation set, and data.use"):
        read(root, splits=False, evaluation=3)
    with pytest.raises(SettingError, match=r"options.retrain parts the validation set"):
        read(root, splits=False, retrain=True)


@pytest.mark.parametrize(
    "form", ["{name}.jpg", "{name}", "{folder}/{name}", "Validation/{folder}/{name}.jpg", "{folder}\\{name}.JPG"]
)
def test_a_list_of_names_in_every_form(form: str, plant: Plant, read: Read, tmp_path: Path) -> None:
    names = [form.format(folder=f, name=n) for f, n in (("Positive", "pos_1"), ("Negative", "neg_3"))]
    (tmp_path / "eval.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*names, "", ""]).encode())
    corpus = read(plant(layout()), base=tmp_path, evaluation="eval.txt")
    assert eval_of(corpus) == {"Validation/Positive/pos_1.jpg", "Validation/Negative/neg_3.jpg"}
    assert cells(corpus) == {("train", "train"): 12, ("val", "VAL"): 10, ("test", "EVAL"): 2}


ALL_OF_VAL = [name for name in layout() if name.startswith("Val")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pos_1", "pos_77", "pos_78"], r"names 2 photo\(s\) that are not in the validation set, the first 'pos_77':"),
        (["pos_1", "old_1"], r"names 1 .* the first 'old_1', a photo of the training set"),
        (["pos_1", "pos_2", "Positive/pos_1.jpg"], r"1 photo\(s\) more than once, the first '.*pos_1.jpg'"),
        (ALL_OF_VAL, "names all 13 photos .* leave some for VAL"),
        ([], "is empty"),
        (["twin"], r"1 name\(s\) that several photos have, the first 'twin' \(.*Positive.*twin.jpg, .*twin.png\)"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    names: list[str], message: str, plant: Plant, read: Read, tmp_path: Path
) -> None:
    files = layout() | {"Train/Positive/old_1.jpg": 80}
    files |= {"Validation/Positive/twin.jpg": 81} | ({"Validation/Neutral/twin.png": 82} if names == ["twin"] else {})
    if len(names) > 9:
        names = [*names, "twin"]
    (tmp_path / "eval.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match=message):
        read(plant(files), base=tmp_path, evaluation="eval.txt")


def test_a_list_that_is_not_there(plant: Plant, read: Read, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.options.evaluation: .*eval.txt cannot be read"):
        read(plant(layout()), base=tmp_path, evaluation="eval.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluation": 12}, "evaluation is 12, and the validation set has 12"),
        ({}, "evaluation is 1000, and the validation set has 12"),
        ({"evaluation": 0}, "options.evaluation is 0: give a count"),
        ({"evaluation": True}, "options.evaluation is True: give a count"),
        ({"evaluation": " "}, "options.evaluation is ' ': give a count"),
        ({"evaluation": 0.5}, "options.evaluation is 0.5: give a count"),
        ({"evaluation_seed": -1}, "options.evaluation_seed is -1"),
        ({"eval": 3}, "options.eval is 3.*options here: evaluation"),
    ],
)
def test_bad_options_are_refused(options: Mapping[str, Any], message: str, plant: Plant, read: Read) -> None:
    with pytest.raises(SettingError, match=message):
        read(plant(layout()), **options)


@pytest.mark.parametrize("option", ["unseen", "evaluation_seed", "evaluation"])
def test_what_parts_validation_is_refused_where_no_split_is_wanted(option: str, plant: Plant, ledger: Ledger) -> None:
    with pytest.raises(SettingError, match=rf"options\.{option} parts the validation set, and data\.use puts every"):
        gaf.read(Source(plant(layout()), splits=False, options={option: 2}), ledger)


def test_another_layout_says_what_was_expected_and_found(plant: Plant, read: Read, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder: give the folder that GAF"):
        read(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"expected Train/Positive \(photos of the class positive\), .*found there: happy/"
    ):
        read(plant({"happy/a.jpg": 1}, "by_class"))
    only_train = {name: i for name, i in layout().items() if name.startswith("Train")}
    with pytest.raises(DataError, match=r"expected Validation/Positive .*found there: Train/"):
        read(plant(only_train, "half"))
    no_neutral = {name: i for name, i in layout().items() if not name.startswith("Validation/Neutral")}
    with pytest.raises(DataError, match=r"expected Validation/Neutral .*found in Validation/: Negative/, Positive/$"):
        read(plant(no_neutral, "two"))
    with pytest.raises(DataError, match="has Val and Validation, which all mean val"):
        read(plant({**layout(), "Val/Positive/a.jpg": 5}, "both"))


def test_a_class_without_photos_is_refused(plant: Plant, read: Read) -> None:
    files = {name: i for name, i in layout().items() if not name.startswith("Train/Negative")}
    with pytest.raises(DataError, match="Train has no photo of the class negative"):
        read(plant({**files, "Train/Negative/Thumbs.db": b"x"}))


def test_photos_in_no_class_folder_are_counted(plant: Plant, read: Read, ledger: Ledger) -> None:
    strays = {"Train/stray.jpg": 70, "Train/Unsure/a.jpg": 71, "Validation/b.jpg": 72, "Train/Positive/._pos_1.jpg": 73}
    corpus = read(plant({**layout(), **strays}), evaluation=3)
    assert len(corpus.samples) == 24
    assert len(ledger) == 0
    assert corpus.notes == (
        "2 photo(s) of Train are in no class folder and left out, the first Train/stray.jpg",
        "1 photo(s) of Validation are in no class folder and left out, the first Validation/b.jpg",
    )


def test_names_that_no_table_can_hold_are_recorded(plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant({**layout(), "Train/Positive/a\nb.jpg": 70}), evaluation=3)
    assert len(corpus.samples) == 24
    assert ledger.reasons() == {"bad_name": 1}


def test_some_of_validation_stand_for_the_test_set(tmp_path: Path, plant: Plant, read: Read) -> None:
    root = plant(layout(each=4), "gaf")
    plain, more = read(root, evaluation=3), read(root, evaluation=3, unseen=3, retrain=True)
    assert eval_of(more) == eval_of(plain)
    assert cells(more) == {("train", "train"): 12, ("test", "EVAL"): 3, ("test", "TEST"): 3, ("train", "VAL"): 6}
    labels = Counter(raw.labels for raw in more.samples if raw.subset == "TEST")
    assert set(labels.values()) == {1}
    with pytest.raises(SettingError, match=r"unseen is 9, and EVAL leaves 9 photo\(s\)"):
        read(root, evaluation=3, unseen=9)
    with pytest.raises(SettingError, match=r"unseen is 2 and data\.options\.evaluation null"):
        read(root, evaluation=None, unseen=2)
