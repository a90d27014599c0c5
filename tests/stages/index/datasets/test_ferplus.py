"""FER+'s adapter over its stand-in and over damaged copies of its layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.datasets import ferplus
from stages.index.datasets.ferplus import VOTES
from stages.index.packed import place_of
from stages.index.raw import Corpus, Source
from stages.index.run import IndexSettings, run
from stages.index.samples import open_sample
from stages.index.standins import ferplus as standin
from stages.ledger import Ledger

Plant = Callable[..., Path]
Read = Callable[..., Corpus]
HEAD = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
ROWS = (
    "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",  # 4 of 9 after the single vote is dropped: no majority
    "Training,fer0000001.png,6,0,1,1,0,0,0,0,2,0",
    "PublicTest,fer0000002.png,5,0,0,3,1,0,0,0,1,0",
    "PrivateTest,fer0000003.png,4,0,0,4,1,0,0,0,1,0",  # a tie
    "Training,fer0000004.png,1,1,1,1,1,1,1,1,1,1",
    "Training,fer0000005.png,0,2,0,0,0,0,0,0,8,0",
    "Training,,0,0,0,0,0,0,0,0,0,10",
    "PrivateTest,fer0000007.png,0,3,0,0,2,0,0,0,0,2",  # 3 of 7
)
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def pictures(rows: tuple[str, ...] = ROWS) -> bytes:
    lines = [f"6,{n} 2 3 4,{row.partition(',')[0]}" for n, row in enumerate(rows)]
    return "\n".join(["emotion,pixels,Usage", *lines, ""]).encode()


def votes(rows: tuple[str, ...] = ROWS, end: str = "\n") -> bytes:
    return end.join([HEAD, *rows, ""]).encode()


def as_folders(rows: tuple[str, ...] = ROWS, above: str = "") -> dict[str, bytes | int]:
    parts = [row.split(",") for row in rows]
    return {f"{above}{FOLDERS[p[0]]}/{p[1]}": n for n, p in enumerate(parts) if p[1]}


@pytest.fixture
def read(ledger: Ledger) -> Read:
    def run_(root: Path, labels: str = "majority", **how: object) -> Corpus:
        return ferplus.read(Source(root, options={"labels": labels}, **how), ledger)  # pyright: ignore[reportArgumentType]

    return run_


def told(corpus: Corpus) -> dict[str, tuple[str | None, str]]:
    return {raw.sample_id: (raw.split, *raw.labels) for raw in corpus.samples}  # pyright: ignore[reportReturnType]


def test_the_stand_in_is_read(tmp_path: Path, ledger: Ledger, contents: ContentIndex) -> None:
    root = tmp_path / "fer"
    standin.write(root, standin.Sizes(training=64, public_test=16, private_test=16), 3)
    found = {}
    for labels in ("majority", "distribution"):
        settings = IndexSettings("ferplus", root, options={"labels": labels})
        found[labels], summary, total = run(settings, contents=contents, ledger=ledger)
        assert (len(ledger), total) == (0, len(found[labels]))
        assert "2 picture(s) that FER+ dropped are left out" in summary.warnings[0] + summary.warnings[-1]
    few, many = found["majority"], found["distribution"]
    assert few.classes == tuple(sorted(ferplus.CLASSES))
    assert set(few.by_id) < set(many.by_id)
    assert {many.by_id[name].split for name in set(many.by_id) - set(few.by_id)} == {"train"}
    assert all(many.by_id[s.sample_id].labels == s.labels for s in few)
    assert all(s.shares and max(s.shares, key=lambda one: one[1])[0] in s.labels for s in many)
    assert not any(s.shares for s in few)
    assert {open_sample(one, root).size for one in few} == {(48, 48)}
    assert min(Counter(s.labels for s in many).values()) >= 4
    again = tmp_path / "again"
    standin.write(again, standin.Sizes(training=64, public_test=16, private_test=16), 3)
    for name in ("fer2013.csv", "fer2013new.csv"):
        assert (again / name).read_bytes() == (root / name).read_bytes()


def test_majority(plant: Plant, read: Read, ledger: Ledger) -> None:
    corpus = read(plant({"fer2013.csv": pictures(), "fer2013new.csv": votes()}))
    assert told(corpus) == {"fer0000001": ("train", "neutral"), "fer0000002": ("val", "neutral")}
    assert corpus.notes == (
        "1 picture(s) that FER+ dropped are left out",
        "1 picture(s) voted unknown or no face are left out",
        "4 picture(s) without a class that more than half voted for are left out",
    )
    assert {raw.shares for raw in corpus.samples} == {()}
    assert len(ledger) == 0


def test_distribution(plant: Plant, read: Read) -> None:
    """Shares are of the eight classes, without single votes; only training pictures come without a majority."""
    corpus = read(plant({"fer2013.csv": pictures(), "fer2013new.csv": votes()}), "distribution")
    by_id = {raw.sample_id: raw for raw in corpus.samples}
    assert told(corpus) == {
        "fer0000000": ("train", "neutral"),
        "fer0000001": ("train", "neutral"),
        "fer0000002": ("val", "neutral"),
    }
    assert dict(by_id["fer0000000"].shares) == {"neutral": 4, "anger": 3, "disgust": 2}
    assert dict(by_id["fer0000001"].shares) == {"neutral": 6}
    assert dict(by_id["fer0000002"].shares) == {"neutral": 5, "sadness": 3}
    assert "1 picture(s) with as many votes for another class are left out" in corpus.notes  # all single votes


@pytest.mark.parametrize(
    ("cells", "strict", "label"),
    [
        ((5, 0, 0, 0, 0, 0, 0, 0, 5, 0), True, None),
        ((6, 0, 0, 0, 0, 0, 0, 0, 4, 0), True, "neutral"),
        ((0, 0, 0, 0, 0, 0, 0, 3, 2, 0), True, "contempt"),
        ((0, 0, 0, 0, 0, 0, 3, 2, 2, 0), True, None),
        ((0, 0, 0, 0, 0, 0, 3, 2, 2, 0), False, "fear"),
        ((0, 0, 0, 0, 0, 0, 3, 0, 0, 3), False, None),
        ((0, 0, 0, 0, 0, 0, 2, 0, 0, 3), False, None),
        ((0,) * 10, True, None),
        ((0,) * 10, False, None),
    ],
)
def test_what_votes_decide(cells: tuple[int, ...], strict: bool, label: str | None) -> None:
    found, why = ferplus.class_of(cells, strict=strict)
    assert found == label
    assert bool(why) == (label is None)


@pytest.mark.parametrize("above", ["", "data/"])
def test_pictures_in_folders(plant: Plant, read: Read, ledger: Ledger, contents: ContentIndex, above: str) -> None:
    extra = {f"{above}FER2013Test/fer0000099.png": 60, f"{above}FER2013Test/label.csv": b"x"}
    root = plant({"fer2013new.csv": votes(), **as_folders(above=above), **extra})
    corpus = read(root)
    assert told(corpus) == {
        f"{above}FER2013Train/fer0000001.png": ("train", "neutral"),
        f"{above}FER2013Valid/fer0000002.png": ("val", "neutral"),
    }
    assert "1 picture(s) of which there are no votes are left out" in corpus.notes
    manifest, _, _ = run(IndexSettings("ferplus", root), contents=contents, ledger=ledger)
    assert [open_sample(one, root).getpixel((0, 0)) for one in manifest] == [(1, 0, 77), (2, 0, 77)]
    (root / above / "FER2013Valid/fer0000002.png").unlink()
    run(IndexSettings("ferplus", root), contents=contents, ledger=ledger)
    assert ledger.entries[f"{above}FER2013Valid/fer0000002.png"][0] == "missing"
    (root / above / "FER2013Train/fer0000001.png").unlink()
    with pytest.raises(DataError, match=r"none of the 2 photo\(s\) that fer2013new\.csv names is there; looked for "):
        ferplus.read(Source(root), Ledger("index"))


def test_votes_in_other_clothes(plant: Plant, read: Read, ledger: Ledger) -> None:
    """BOM, CRLF and rows that are there twice; a column more, in another encoding."""
    rows = tuple(f"{row},caf\xe9" for row in (*ROWS, ROWS[1]))
    data = "\r\n".join([f"{HEAD},who", *rows, ""]).encode("latin-1")
    corpus = read(plant({"fer2013.csv": pictures(rows), "fer2013new.csv": data}))
    assert set(told(corpus)) == {"fer0000001", "fer0000002"}
    assert corpus.merged_rows == 1
    bom = b"\xef\xbb\xbf" + votes(end="\r\n")
    assert set(told(read(plant({"fer2013.csv": pictures(), "fer2013new.csv": bom}, "bom")))) == set(told(corpus))
    assert len(ledger) == 0


def test_bad_rows_are_recorded(plant: Plant, read: Read, ledger: Ledger) -> None:
    good = "9,0,0,0,0,0,0,0,0,0"
    rows = (
        f"Training,fer0000000.png,{good}",
        f"Practice,fer0000001.png,{good}",
        "Training,fer0000002.png,9,0,0,0,0,-1,0,0,0,0",
        "Training,fer0000003.png,9,0,0,0",
        f"Training,../fer0000004.png,{good}",
        f"Training,fer0000005.png,{good}",
        "Training,fer0000005.png,0,9,0,0,0,0,0,0,0,0",
        f"PublicTest,fer0000007.png,{good}",
    )
    root = plant({"fer2013.csv": pictures(rows), "fer2013new.csv": votes(rows)})
    assert set(told(read(root))) == {"fer0000000", "fer0000007"}
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
        "fer0000001": "bad_split",
        "fer0000002": "bad_label",
        "fer2013new.csv line 5": "bad_row",
        "fer2013new.csv line 6: ../fer0000004.png": "bad_name",
        "fer0000005": "contradictory",
    }
    assert told(ferplus.read(Source(root, splits=False), Ledger("index")))["fer0000001"] == (None, "neutral")


def test_a_bad_row_of_pictures_shifts_nothing(plant: Plant, read: Read, ledger: Ledger) -> None:
    rows = (*ROWS[:4], "Training,fer0000004.png,0,9,0,0,0,0,0,0,0,0", *ROWS[5:])
    lines = pictures().decode().splitlines()
    lines[2] = "6,Training"
    root = plant({"fer2013.csv": "\n".join(lines).encode(), "fer2013new.csv": votes(rows)})
    corpus = read(root)
    assert set(told(corpus)) == {"fer0000002", "fer0000004"}
    data = (root / "fer2013.csv").read_bytes()
    for raw in corpus.samples:
        offset, length = map(int, raw.path.partition("#")[2].split("+"))
        assert data[offset : offset + length].decode() == f"{int(raw.sample_id[3:])} 2 3 4"
    assert ledger.entries == {"fer2013.csv line 3": ("bad_row", "2 cells, the header has 3")}


@pytest.mark.parametrize("at", [1, 3, 8])
def test_empty_lines_shift_nothing(at: int, plant: Plant, read: Read, ledger: Ledger) -> None:
    """In either table; and CR CR LF, which makes every other line of the votes empty."""
    whole = {raw.sample_id: raw.labels for raw in read(plant({"fer2013.csv": pictures(), VOTES: votes()})).samples}
    offset = {name: picture_at(name) for name in whole}
    lines, told_ = pictures().split(b"\n"), votes().split(b"\n")
    lines.insert(at, b"")
    told_.insert(at, b"")
    for number, files in enumerate((
        {"fer2013.csv": pictures(), VOTES: b"\n".join(told_)},
        {"fer2013.csv": b"\n".join(lines), VOTES: votes()},
        {"fer2013.csv": pictures(), VOTES: votes(end="\r\r\n")},
    )):  # fmt: skip
        root = plant(files, f"root{number}")
        corpus = read(root)
        assert {raw.sample_id: raw.labels for raw in corpus.samples} == whole
        for raw in corpus.samples:
            place = place_of(raw.path)
            assert place is not None
            cell = (root / place.table).read_bytes()[place.offset : place.offset + place.length]
            assert cell.split()[0] == offset[raw.sample_id]
    assert len(ledger) == 0


def picture_at(name: str) -> bytes:
    """The first grey value of the picture that `pictures` has of a name."""
    return str(int(name.removeprefix("fer"))).encode()


def test_tables_that_do_not_belong_together(plant: Plant, read: Read) -> None:
    with pytest.raises(DataError, match=r"fer2013new\.csv has 8 rows and fer2013\.csv 7: they must be of the same"):
        read(plant({"fer2013.csv": pictures(ROWS[:7]), "fer2013new.csv": votes()}))
    turned = (*ROWS[4:], *ROWS[:4])
    with pytest.raises(DataError, match=r"line 4 has the Usage 'PublicTest' and fer2013\.csv line 4 'Training'"):
        read(plant({"fer2013.csv": pictures(turned), "fer2013new.csv": votes()}, "turned"))


def test_half_a_data_set(plant: Plant, read: Read) -> None:
    with pytest.raises(DataError, match=r"expected fer2013new\.csv \(the votes\); found there: fer2013\.csv$"):
        read(plant({"fer2013.csv": pictures()}, "a"))
    with pytest.raises(
        DataError, match=r"expected fer2013\.csv \(the pictures of FER2013; or FER2013Train, .*\); found"
    ):
        read(plant({"fer2013new.csv": votes()}, "b"))
    with pytest.raises(DataError, match="has a header and no rows"):
        read(plant({"fer2013.csv": pictures(), "fer2013new.csv": votes(())}, "c"))
    with pytest.raises(DataError, match=r"no picture of .* has a class"):
        read(plant({"fer2013.csv": pictures(ROWS[3:5]), "fer2013new.csv": votes(ROWS[3:5])}, "d"))
    with pytest.raises(DataError, match="has no column 'Image name'"):
        read(plant({"fer2013.csv": pictures(), "fer2013new.csv": b"Usage,neutral\nTraining,9\n"}, "e"))
    with pytest.raises(SettingError, match=r"data\.options\.labels is 'mean'"):
        read(plant({}, "f"), "mean")
