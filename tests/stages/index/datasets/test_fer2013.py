"""FER2013's adapter over its stand-in and over damaged copies of its layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import fer2013
from stages.index.joined import SetSettings
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.samples import open_sample
from stages.index.standins import fer2013 as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]
PIXELS = "1 2 3 4"
HEAD = "emotion,pixels,Usage"


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, **how: object) -> Corpus:
        return fer2013.read(Source(root, **how), ledger)  # pyright: ignore[reportArgumentType]

    return run_


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "fer"
    standin.write(folder, standin.Sizes(training=14, public_test=7, private_test=7), 3)
    return folder


def told(corpus: Corpus) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(raw.sample_id, raw.split, raw.labels) for raw in corpus.samples]


def test_the_stand_in_is_read(drawn: Path, ledger: Ledger, contents: ContentIndex) -> None:
    manifest, summary, total = run(IndexSettings("fer2013", drawn), contents=contents, ledger=ledger)
    assert (len(ledger), total, summary.warnings, summary.duplicates) == (0, 28, [], 0)
    assert Counter((s.split, s.labels) for s in manifest) == {
        (split, (label,)): count
        for split, count in (("train", 2), ("val", 1), ("test", 1))
        for label in fer2013.CLASSES
    }
    assert [s.sample_id for s in manifest][:2] == ["fer0000000", "fer0000001"]
    images = [open_sample(one, drawn) for one in manifest]
    assert {image.size for image in images} == {(48, 48)}
    assert (drawn / "DRAWN.txt").read_text() == "Drawn by Kuleshov; not the data set.\n"
    assert (drawn / "fer2013.csv").read_text().startswith("emotion,pixels,Usage\n0,")


def test_a_stand_in_follows_from_its_seed(drawn: Path, tmp_path: Path) -> None:
    sizes = standin.Sizes(training=14, public_test=7, private_test=7)
    for seed in (3, 4):
        standin.write(tmp_path / str(seed), sizes, seed)
    assert (tmp_path / "3/fer2013.csv").read_bytes() == (drawn / "fer2013.csv").read_bytes()
    assert (tmp_path / "4/fer2013.csv").read_bytes() != (drawn / "fer2013.csv").read_bytes()
    with pytest.raises(DataError, match=r"holds .*: give a folder that is empty"):
        standin.write(drawn, sizes, 3)


def test_kaggle_s_other_table_is_the_same(drawn: Path, tmp_path: Path, contents: ContentIndex, ledger: Ledger) -> None:
    """Another order of columns, blanks, BOM and CRLF: the same samples of the same contents, by name and path."""
    rows = [line.split(",") for line in (drawn / "fer2013.csv").read_text().splitlines()[1:]]
    text = "\r\n".join(["\ufeffemotion, Usage, pixels", *(f"{n},{usage}, {pixels}" for n, pixels, usage in rows), ""])
    (tmp_path / "fer2013").mkdir()
    (tmp_path / "fer2013" / "icml_face_data.csv").write_bytes(text.encode())
    kinds = [
        [(s.sample_id, s.labels, s.split, s.content) for s in run(settings, contents=contents, ledger=ledger)[0]]
        for settings in (IndexSettings("fer2013", drawn), IndexSettings("fer2013", tmp_path))
    ]
    assert kinds[0] == kinds[1]
    [first, *_] = run(IndexSettings("fer2013", tmp_path), contents=contents, ledger=ledger)[0]
    assert first.path.startswith("fer2013/icml_face_data.csv#")


def test_beside_a_folder_of_photos(drawn: Path, plant: Plant, ledger: Ledger, contents: ContentIndex) -> None:
    """Rows and files in one manifest: each has its own content, and opens."""
    main = plant({f"{label}/{n}.png": n + 10 * (label == "sad") for label in ("happy", "sad") for n in range(5)})
    alone, _, _ = run(IndexSettings("fer2013", drawn), contents=contents, ledger=ledger)
    settings = IndexSettings("folder", main, also={"fer": SetSettings("fer2013", drawn)})
    manifest, _, total = run(settings, contents=contents, ledger=ledger)
    assert (len(manifest), total, len(ledger)) == (38, 38, 0)
    assert {s.sample_id: s.content for s in manifest if s.subset} == {f"fer/{s.sample_id}": s.content for s in alone}
    first = manifest.by_id["fer/fer0000000"]
    assert first.path.startswith("../")
    assert open_sample(first, main).tobytes() == open_sample(alone.by_id["fer0000000"], drawn).tobytes()
    assert open_sample(manifest.by_id["sad/3.png"], main).getpixel((0, 0)) == (13, 0, 77)


def test_bad_rows_are_recorded(plant: Plant, read: Read, ledger: Ledger, contents: ContentIndex) -> None:
    rows = (f"0,{PIXELS},Training", f"7,{PIXELS},Training", f"1,{PIXELS},Test", "2,1 2 3,PublicTest",
            f"3,{PIXELS}", f"4,{PIXELS},PrivateTest", "5,1 2 3 x,Training")  # fmt: skip
    root = plant({"fer2013.csv": "\n".join([HEAD, *rows]).encode()})
    corpus = read(root)
    assert [one[0] for one in told(corpus)] == [f"fer000000{n}" for n in (0, 3, 5, 6)]
    assert ledger.entries == {
        "fer0000001": ("bad_label", "fer2013.csv line 3: emotion is '7', not 0 to 6"),
        "fer0000002": (
            "bad_split",
            "fer2013.csv line 4: Usage is 'Test', not one of Training, PublicTest, PrivateTest",
        ),
        "fer2013.csv line 6": ("bad_row", "2 cells, the header has 3"),
    }
    again = Ledger("index")
    manifest, _, total = run(IndexSettings("fer2013", root), contents=contents, ledger=again)
    assert [(s.sample_id, s.split) for s in manifest] == [("fer0000000", "train"), ("fer0000005", "test")]
    assert total == 7
    assert again.entries["fer0000003"][0] == "truncated"
    reason, detail = again.entries["fer0000006"]
    assert reason == "decode_error"
    assert detail.startswith("fer2013.csv#")  # the path as the manifest has it


def test_splits_that_are_not_wanted_are_not_read(plant: Plant, read: Read, ledger: Ledger) -> None:
    root = plant({"fer2013.csv": f"{HEAD}\n0,{PIXELS},whatever\n6,{PIXELS},Training\n".encode()})
    assert told(read(root, splits=False)) == [("fer0000000", None, ("angry",)), ("fer0000001", None, ("neutral",))]
    without = plant({"fer2013.csv": f"emotion,pixels\n3,{PIXELS}\n".encode()}, "without")
    assert told(read(without, splits=False)) == [("fer0000000", None, ("happy",))]
    assert len(ledger) == 0


def test_the_same_picture_twice_is_two_samples(plant: Plant, ledger: Ledger, contents: ContentIndex) -> None:
    row = f"0,{PIXELS},Training"
    root = plant({"fer2013.csv": "\n".join([HEAD, row, row]).encode()})
    manifest, summary, _ = run(IndexSettings("fer2013", root), contents=contents, ledger=ledger)
    assert (len(manifest), summary.duplicates, summary.merged_rows) == (2, 1, 0)


def folders() -> dict[str, bytes | int]:
    names = ["train/angry/Training_1.jpg", "train/Happy/Training_2.jpg", "test/sad/PublicTest_3.jpg",
             "test/sad/PrivateTest_4.jpg", "test/neutral/other.jpg"]  # fmt: skip
    return {name: number for number, name in enumerate(names)}


def test_pictures_in_folders(plant: Plant, read: Read, ledger: Ledger, contents: ContentIndex) -> None:
    root = plant({**folders(), "test/.hidden/a.jpg": 9, "train/angry/notes.txt": b"x"})
    corpus = read(root)
    assert sorted(told(corpus), key=lambda one: one[0]) == [
        ("test/neutral/other.jpg", "test", ("neutral",)),
        ("test/sad/PrivateTest_4.jpg", "test", ("sad",)),
        ("test/sad/PublicTest_3.jpg", "val", ("sad",)),
        ("train/Happy/Training_2.jpg", "train", ("happy",)),
        ("train/angry/Training_1.jpg", "train", ("angry",)),
    ]
    assert corpus.notes == ()
    assert {raw.split for raw in read(root, splits=False).samples} == {None}
    manifest, _, total = run(IndexSettings("fer2013", root), contents=contents, ledger=ledger)
    assert (len(manifest), total) == (5, 5)


def test_pictures_in_folders_that_are_no_class(plant: Plant, read: Read) -> None:
    root = plant({**folders(), "train/bored/a.jpg": 8, "train/bored/b.jpg": 9, "test/c.jpg": 10})
    corpus = read(root)
    assert len(corpus.samples) == 5
    assert sorted(corpus.notes) == [
        "1 photo(s) in test, which is no class, are left out",
        "2 photo(s) in train/bored, which is no class, are left out",
    ]
    strange = plant({"train/bored/a.jpg": 1, "test/x/b.jpg": 2}, "strange")
    with pytest.raises(DataError, match=r"no photos in folders of the classes .*; photos lie in test/x, train/bored"):
        read(strange)


def test_another_layout_says_what_was_expected(plant: Plant, read: Read, tmp_path: Path) -> None:
    root = plant({"FER/angry/a.jpg": 1, "fer.csv": b"x"})
    with pytest.raises(DataError) as caught:
        read(root, place="data.also.fer")
    assert str(caught.value) == (
        f"data.also.fer.root {root} is not laid out as FER2013: expected fer2013.csv "
        "(a row per picture; or folders train/CLASS and test/CLASS); found there: FER/, fer.csv"
    )
    with pytest.raises(DataError, match="is not a folder: give the folder that FER2013 was unpacked to"):
        read(tmp_path / "gone")
    with pytest.raises(DataError, match="has a header and no rows"):
        read(plant({"fer2013.csv": f"{HEAD}\n".encode()}, "short"))
    with pytest.raises(DataError, match="has no column 'Usage'; found emotion, pixels"):
        read(plant({"fer2013.csv": b"emotion,pixels\n0,1\n"}, "challenge"))


def test_settings_that_it_has_not(drawn: Path, read: Read) -> None:
    with pytest.raises(SettingError, match=r"data\.options\.size is 48"):
        read(drawn, options={"size": 48})
    with pytest.raises(SettingError, match="are for the csv adapter"):
        read(drawn, columns={"label": "emotion"})
