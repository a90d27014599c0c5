"""EMOTIC: the .mat and the csv form, its splits and targets, what is wrong with people's copies, and its stand-in."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets.emotic import CATEGORIES, read, valence_class
from stages.index.manifest import Box
from stages.index.raw import Corpus, RawSample, Source
from stages.index.run import IndexSettings, run
from stages.index.standins import emotic as standin
from stages.index.standins.emotic import RULES, Sizes, categories_of, write
from stages.ledger import Ledger

Plant = Callable[..., Path]
BOX = (1, 2, 30, 40)
TABLE = "Index,Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels,Gender,Age"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "emotic"
    write(folder, Sizes(train=8, val=2, test=5), 3)
    return folder


def person(names: Sequence[str] = ("Peace",), vad: Sequence[float] = (5, 5, 5), box: Sequence[float] = BOX) -> dict:
    cell = np.empty((1, len(names)), object)
    cell[0, :] = names
    return {
        "body_bbox": np.array([box], float),
        "annotations_categories": {"categories": cell},
        "annotations_continuous": dict(zip(("valence", "arousal", "dominance"), map(float, vad), strict=True)),
        "gender": "Male",
    }


def entry(name: str, *people: dict, folder: str = "mscoco/images") -> dict[str, Any]:
    return {"filename": name, "folder": folder, "person": standin._structs(people) if people else np.empty((0, 0))}


@pytest.fixture
def planted(plant: Plant) -> Callable[..., Path]:
    """A root with entries of the three parts, and a photo for each name."""

    def make(train: Sequence[dict], val: Sequence[dict] = (), test: Sequence[dict] = (), photos: Any = None) -> Path:
        val, test = val or [entry("v.png", person())], test or [entry("t.png", person())]
        entries = [*train, *val, *test]
        named = {f"{one['folder']}/{one['filename']}" for one in entries if one["filename"].isprintable()}
        names = {name for name in named if name.endswith(".png")} if photos is None else photos
        root = plant({f"emotic/{name}": number for number, name in enumerate(sorted(names))})
        (root / "Annotations").mkdir()
        parts = {part: standin._structs(rows) for part, rows in (("train", train), ("val", val), ("test", test))}
        savemat(root / "Annotations/Annotations.mat", parts)
        return root

    return make


def of(corpus: Corpus, image: str) -> list[RawSample]:
    return [sample for sample in corpus.samples if sample.group == f"mscoco/images/{image}"]


def test_the_stand_in_is_read_as_it_was_drawn(drawn: Path, ledger: Ledger) -> None:
    corpus = read(Source(drawn), ledger)
    assert not len(ledger)
    assert (corpus.notes, corpus.images) == ((), drawn)
    assert Counter(s.split for s in corpus.samples).keys() == {"train", "val", "test"}
    assert len({s.path for s in corpus.samples}) == 15 < len(corpus.samples)
    for sample in corpus.samples:
        assert sample.sample_id.rpartition("#")[0] == sample.group == sample.path.removeprefix("emotic/")
        assert (drawn / sample.path).is_file()
        assert 1 <= len(sample.labels) <= 5
        assert {*sample.labels} <= {*CATEGORIES}
        assert [name for name, _ in sample.values] == ["arousal", "dominance", "valence"]
        assert all(1 <= value <= 10 for _, value in sample.values)
        assert [box.kind for box in sample.boxes] == ["person"]
    shared = Counter(s.group for s in corpus.samples)
    for group, count in shared.items():
        assert [s.sample_id for s in corpus.samples if s.group == group] == [f"{group}#{k + 1}" for k in range(count)]


def test_the_stand_in_has_the_official_fields(drawn: Path, ledger: Ledger) -> None:
    """As scipy, which is not what the adapter reads with, sees them; and what several annotators come to."""
    found = loadmat(drawn / "Annotations/Annotations.mat", simplify_cells=True)
    first = found["train"][0]
    assert list(first) == ["filename", "folder", "image_size", "original_database", "person"]
    lone = next(one for one in found["train"] if isinstance(one["person"], dict))["person"]
    assert {"categories"} == {*lone["annotations_categories"]}
    assert "combined_categories" not in lone
    samples = {s.sample_id: s for s in read(Source(drawn), ledger).samples}
    for one in found["test"]:
        people = [one["person"]] if isinstance(one["person"], dict) else one["person"]
        for number, told in enumerate(people, 1):
            sample = samples[f"{one['folder']}/{one['filename']}#{number}"]
            assert len(told["annotations_categories"]) == 3
            union = {x for each in told["annotations_categories"] for x in np.atleast_1d(each["categories"])}
            assert {*sample.labels} == union
            mean = np.mean([each["valence"] for each in told["annotations_continuous"]])
            assert dict(sample.values)["valence"] == pytest.approx(mean)
            box = sample.boxes[0]
            assert [box.x1, box.y1, box.x2, box.y2] == list(told["body_bbox"])


def test_the_stand_in_follows_from_its_seed(drawn: Path, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    sizes = Sizes(train=8, val=2, test=5)
    write(tmp_path / "again", sizes, 3)
    assert contents(tmp_path / "again") == contents(drawn)
    write(tmp_path / "other", sizes, 4)
    assert contents(tmp_path / "other")["Annotations/Annotations.mat"] != contents(drawn)["Annotations/Annotations.mat"]
    assert "not the data set" in (drawn / "DRAWN.txt").read_text()
    with pytest.raises(DataError, match="holds"):
        write(drawn, sizes, 3)


def test_every_category_is_in_train_and_test_and_can_be_seen() -> None:
    assert tuple(RULES) == CATEGORIES
    for seed, count in ((0, 40), (1, 24), (2, 20)):
        photos = list(standin._plans("test", 0, count, np.random.default_rng(seed)))
        told: Counter[str] = Counter()
        for photo in photos:
            for one in photo.people:
                names = categories_of(photo.setting, len(photo.people) == 1, one.mood, one.glasses, one.paint)
                assert one.main in names
                assert 1 <= len(names) <= 5
                told.update(names)
        assert told.keys() == {*CATEGORIES}, (seed, {*CATEGORIES} - told.keys())


def test_photos_beside_the_annotations(drawn: Path, tmp_path: Path, ledger: Ledger) -> None:
    """Without the folder emotic, and annotations in small letters: the same sample_ids."""
    root = shutil.copytree(drawn, tmp_path / "root")
    expected = [s.sample_id for s in read(Source(root), ledger).samples]
    for folder in (root / "emotic").iterdir():
        folder.rename(root / folder.name)
    (root / "Annotations").rename(root / "annotations")
    corpus = read(Source(root), ledger)
    assert [s.sample_id for s in corpus.samples] == expected
    assert all((root / s.path).is_file() for s in corpus.samples)


@pytest.mark.parametrize(
    ("encoding", "ends", "folder"), [("utf-8", "\n", ""), ("utf-8-sig", "\r\n", "emotic_pre"), ("latin-1", "\r\n", "")]
)
def test_the_csv_form_is_the_same(
    encoding: str, ends: str, folder: str, drawn: Path, tmp_path: Path, ledger: Ledger
) -> None:
    root = shutil.copytree(drawn, tmp_path / "root")
    expected = read(Source(root), ledger).samples
    shutil.rmtree(root / "Annotations")
    (root / folder).mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        with open(root / folder / f"{part}.csv", "w", encoding=encoding, newline="") as handle:
            table = csv.writer(handle, lineterminator=ends)
            table.writerow(TABLE.split(","))
            for number, s in enumerate(s for s in expected if s.split == part):
                place, _, name = s.group.rpartition("/")
                box, told = s.boxes[0], dict(s.values)
                corners = [int(value) for value in (box.x1, box.y1, box.x2, box.y2)]
                values = [told[key] for key in ("valence", "arousal", "dominance")]
                row = (number, place, name, [480, 360], corners, list(s.labels), values, "Kid", "é")
                table.writerow(row)
    assert read(Source(root), ledger).samples == expected
    assert not len(ledger)


def test_rows_of_a_csv_that_cannot_be_used(plant: Plant, ledger: Ledger) -> None:
    rows = [
        """0,mscoco/images,a.png,"[4, 3]","[1, 2, 3, 4]","['Peace', 'doubt / confusion']","[nan, 5, 3.5]",Male,Adult""",
        """1,mscoco/images,a.png,"[4, 3]","[1, 2, 3, 4]","['Peace', 'Doubt/Confusion']","[nan, 5, 3.5]",Male,Adult""",
        """2,mscoco\\images,a.png,"[4, 3]",[1 2 3 5],['Esteem'],[],Male,Adult""",
        """3,mscoco/images,a.png,"[4, 3]","[1, 2, 3, 6]",__import__('os').getcwd(),[],Male,Adult""",
        """4,mscoco/images,a.png,"[4, 3]","[1, 2, 3, 7]",['Peace'],"[1, 2]",Male,Adult""",
        """5,mscoco/images,a.png,"[4, 3]","[1, 2, x]",['Peace'],[],Male,Adult""",
        """6,mscoco/images,,"[4, 3]","[1, 2, 3, 8]",['Peace'],[],Male,Adult""",
        """7,mscoco/images,a.png""",
        """8,mscoco/images,a.png,"[4, 3]","[1, 2, 3, 9]",['Bliss'],[],Male,Adult""",
    ]
    root = plant({"emotic/mscoco/images/a.png": 1, "train.csv": "\n".join([TABLE, *rows, ""]).encode()})
    corpus = read(Source(root), ledger)
    assert [(s.sample_id, s.labels, s.values, s.boxes[0].y2) for s in corpus.samples] == [
        ("mscoco/images/a.png#1", ("Doubt/Confusion", "Peace"), (("arousal", 5.0), ("dominance", 3.5)), 4.0),
        ("mscoco/images/a.png#2", ("Esteem",), (), 5.0),
    ]
    assert corpus.merged_rows == 1
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
        "mscoco/images/a.png#3": "bad_row",
        "mscoco/images/a.png#4": "bad_row",
        "mscoco/images/a.png#5": "bad_box",
        "train.csv line 8": "bad_row",
        "train.csv line 9": "bad_row",
        "mscoco/images/a.png#6": "bad_label",
    }
    assert corpus.notes == (
        "val.csv is not there: its part is missing",
        "test.csv is not there: its part is missing",
        "1 person(s) have no valence, arousal or dominance",
    )


def test_persons_that_cannot_be_used(planted: Callable[..., Path], ledger: Ledger) -> None:
    flat, turned, torn = (1, 2, 1, 40), (30, 2, 1, 40), (np.nan, 2, 3, 4)
    people = [person(box=box) for box in (flat, turned, torn, (1, 2, 3), (-9, -5, 4000, 3000))]
    people += [person(()), person(("Peace", "Bliss")), person(("Peace", " doubt/Confusion"), vad=(np.nan, 2, 3))]
    root = planted([entry("a.png", *people), entry("", person()), entry("b.png"), entry("c\n.png", person())])
    corpus = read(Source(root), ledger)
    assert [(s.sample_id[-1], s.labels, s.boxes[0].x1) for s in of(corpus, "a.png")] == [
        ("5", ("Peace",), -9.0),
        ("8", ("Doubt/Confusion", "Peace"), 1.0),
    ]
    assert of(corpus, "a.png")[1].values == (("arousal", 2.0), ("dominance", 3.0))
    name = "mscoco/images/a.png#"
    assert {key: reason for key, (reason, _) in ledger.entries.items()} == {
        **dict.fromkeys((f"{name}{k}" for k in (1, 2, 3, 4)), "bad_box"),
        f"{name}6": "no_label",
        f"{name}7": "bad_label",
        "Annotations.mat train(2)": "bad_row",
        "mscoco/images/b.png": "bad_row",
        "mscoco/images/c\\n.png": "bad_name",
    }
    assert ledger.entries[f"{name}1"][1] == (
        "Annotations.mat train(1): box 1,2,1,40 has no area (x2 > x1 and y2 > y1 are needed)"
    )


def test_a_photo_in_two_parts_and_rows_twice(planted: Callable[..., Path], ledger: Ledger) -> None:
    twice = [entry("a.png", person(), person()), entry("a.png", person(("Fear",)))]
    root = planted(twice, test=[entry("a.png", person(("Pain",))), entry("t.png", person())])
    corpus = read(Source(root), ledger)
    assert [(s.sample_id[-2:], s.labels) for s in of(corpus, "a.png")] == [("#1", ("Peace",)), ("#2", ("Fear",))]
    assert corpus.merged_rows == 1
    assert ledger.entries == {
        "mscoco/images/a.png#3": ("contradictory", "Annotations.mat test(1): the photo is in train as well")
    }
    for source in (Source(root, splits=False), Source(root, options={"split": "paper"})):
        again = Ledger("index")
        assert len(of(read(source, again), "a.png")) == 3
        assert not len(again), "where its own split does not count it cannot be contradictory"


def test_one_person_in_two_parts_is_one_where_parts_do_not_count(planted: Callable[..., Path], ledger: Ledger) -> None:
    root = planted([entry("a.png", person())], test=[entry("a.png", person()), entry("t.png", person())])
    for source in (Source(root, splits=False), Source(root, options={"split": "paper"})):
        corpus = read(source, ledger)
        assert [s.sample_id[-2:] for s in of(corpus, "a.png")] == ["#1"]
        assert corpus.merged_rows == 1
    assert not len(ledger)


def test_names_that_lead_out_of_the_images_are_recorded(planted: Callable[..., Path], ledger: Ledger) -> None:
    train = [entry("a.png", person()), entry("../../../b.png", person()), entry("c.png", person(), folder="..")]
    corpus = read(Source(planted(train, photos={"mscoco/images/a.png", "mscoco/images/v.png"})), ledger)
    assert of(corpus, "a.png")
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
        "mscoco/images/../../../b.png": "bad_name",
        "../c.png": "bad_name",
    }


def test_a_folder_in_place_of_the_annotations(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "Annotations/Annotations.mat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected Annotations/Annotations\.mat .* found in Annotations/: Annotations"):
        read(Source(tmp_path), ledger)


def test_valence_of_photos(planted: Callable[..., Path], ledger: Ledger) -> None:
    none = (np.nan,) * 3
    root = planted(
        [
            entry("a.png", person((), vad=(2, 4, 4)), person(("Fear",), vad=(5, 4, 5), box=(5, 5, 9, 9))),
            entry("b.png", person(vad=(6.5, 1, 1)), person(vad=none, box=(5, 5, 9, 9))),
            entry("c.png", person(vad=(9, 1, 1)), person(vad=(1, 1, 1), box=(5, 5, 5, 9))),
            entry("d.png", person(vad=none)),
        ]
    )
    corpus = read(Source(root, options={"target": "valence3"}), ledger)
    shown = {s.sample_id: s for s in corpus.samples}
    assert [(name[-5:], s.labels[0], s.split) for name, s in shown.items()] == [
        ("a.png", "neutral", "train"),
        ("b.png", "neutral", "train"),
        ("c.png", "positive", "train"),
        ("v.png", "neutral", "val"),
        ("t.png", "neutral", "test"),
    ]
    first = shown["mscoco/images/a.png"]
    assert first.boxes == (Box(1, 2, 30, 40, "person"), Box(5, 5, 9, 9, "person"))
    assert first.values == (("arousal", 4.0), ("dominance", 4.5), ("valence", 3.5))
    assert first.path == "emotic/mscoco/images/a.png"
    assert {name[14:]: entry[0] for name, entry in ledger.entries.items()} == {
        "c.png#2": "bad_box",
        "d.png": "no_valence",
    }


@pytest.mark.parametrize(
    ("valence", "label"), [(1, "negative"), (3, "negative"), (3.49, "negative"), (3.5, "neutral"), (4, "neutral"),
                           (6, "neutral"), (6.5, "neutral"), (6.51, "positive"), (7, "positive"), (10, "positive")]
)  # fmt: skip
def test_classes_of_valence(valence: float, label: str) -> None:
    assert valence_class(valence) == label


def test_splits(planted: Callable[..., Path], ledger: Ledger) -> None:
    train = [entry(f"{k}.png", person(), person(("Fear",), box=(5, 5, 9, 9))) for k in range(18)]
    root = planted(train)

    def split(**options: object) -> dict[str, str | None]:
        return {s.sample_id[14:]: s.split for s in read(Source(root, options=options), ledger).samples}

    own, joined, paper = split(), split(split="joined"), split(split="paper")
    assert Counter(own.values()) == {"train": 36, "val": 1, "test": 1}
    assert joined == {name: "train" if one == "val" else one for name, one in own.items()}
    assert {*paper.values()} == {"train", "test"}
    assert abs(Counter(paper.values())["test"] - 0.2 * 38) <= 2
    assert all(paper[f"{k}.png#1"] == paper[f"{k}.png#2"] for k in range(18))
    assert split(split="paper", seed=1) != paper == split(split="paper", seed=0)
    assert {s.split for s in read(Source(root, splits=False), ledger).samples} == {None}
    with pytest.raises(
        SettingError, match=r"options\.split is 'paper', and data\.use puts every sample into one split"
    ):
        read(Source(root, splits=False, options={"split": "paper"}), ledger)


def test_what_is_there_and_what_is_annotated(
    planted: Callable[..., Path], ledger: Ledger, contents: ContentIndex
) -> None:
    """A photo without a person is noted, a person without a photo is missing, all without a photo cannot be."""
    there = ["mscoco/images/a.png", "mscoco/images/v.png", "mscoco/images/t.png", "ade20k/images/x.png"]
    root = planted([entry("a.png", person()), entry("gone.png", person())], photos=there)
    (root / "emotic/ade20k/images/notes.txt").write_text("x")
    manifest, summary, total = run(IndexSettings("emotic", root), contents=contents, ledger=ledger)
    assert [s.sample_id for s in manifest] == [f"mscoco/images/{name}.png#1" for name in "atv"]
    assert total == 4
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"mscoco/images/gone.png#1": "missing"}
    assert "data: 1 photo(s) have no annotation that can be used and are left out" in summary.warnings
    sample = manifest.by_id["mscoco/images/a.png#1"]
    assert (sample.path, sample.split, sample.values[2]) == ("emotic/mscoco/images/a.png", "train", ("valence", 5.0))
    shutil.rmtree(root / "emotic")
    said = (
        r"^data\.root: none of the 4 photo\(s\) that the annotations names? is there; looked for emotic/mscoco/images/a"
    )
    with pytest.raises(DataError, match=said):
        read(Source(root), ledger)


def test_roots_that_are_not_emotic_s(plant: Plant, planted: Callable[..., Path], ledger: Ledger) -> None:
    root = plant({"labels.csv": b"path,label"}, "other")
    said = (
        f"data.root {root} is not laid out as EMOTIC: expected Annotations/Annotations.mat (the annotations; or train"
    )
    with pytest.raises(DataError, match=re.escape(said) + ".*found there: labels.csv"):
        read(Source(root), ledger)
    with pytest.raises(DataError, match="is not a folder"):
        read(Source(root / "nowhere"), ledger)
    with pytest.raises(SettingError, match="for the csv adapter"):
        read(Source(root, images=root), ledger)
    with pytest.raises(SettingError, match=r"data\.options\.target is 'valence': .*options here: target, split, seed"):
        read(Source(root, options={"target": "valence"}), ledger)
    root = planted([entry("a.png", person())])
    mat = root / "Annotations/Annotations.mat"
    good = mat.read_bytes()
    for wrong, has in (({"train": 1.0}, "train has nothing"), ({"train": {"a": 1}}, "train has none")):
        savemat(mat, wrong)
        with pytest.raises(DataError, match=f"is not EMOTIC's: expected structs .* filename, folder, person; .*{has}$"):
            read(Source(root), ledger)
    mat.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"Annotations\.mat is damaged \(.*\): get it again$"):
        read(Source(root), ledger)
