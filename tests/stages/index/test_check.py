"""The check: what is counted, what is opened, and what is found to be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from stages.index.check import Check, Middle, Range, check, tally
from stages.index.manifest import Box, Manifest, Sample
from stages.ledger import Ledger

Plant = Callable[..., Path]
Photo = Callable[..., bytes]
Corpus = Callable[[Mapping[str, dict[str, object]]], tuple[Manifest, Path]]
SIZE = 40, 30
INSIDE = Box(0, 0, 40, 30, "face")


def sample(name: str, content: str, **fields: object) -> Sample:
    known = {"labels": ("glad",), "split": "train", "group": "", "subset": "", "boxes": (), "media": "image"}
    return Sample(**{"sample_id": name, "path": name, "content": content, **known, **fields})  # pyright: ignore


@pytest.fixture
def corpus(plant: Plant, photo: Photo) -> Corpus:
    """Photos of 40x30 px on disk and their manifest: name -> fields of the sample; `bytes` are the file's."""
    import hashlib

    def make(samples: Mapping[str, dict[str, object]]) -> tuple[Manifest, Path]:
        made, root = [], plant({})
        for number, (name, fields) in enumerate(samples.items()):
            own = dict(fields)
            content = own.pop("bytes", photo(number, size=SIZE))
            assert isinstance(content, bytes)
            path = str(own.get("path", name))
            plant({path: content})
            made.append(sample(name, hashlib.sha256(content).hexdigest(), **own))
        return Manifest(tuple(made)), root

    return make


def run(made: tuple[Manifest, Path], ledger: Ledger | None = None) -> Check:
    return check(*made, Ledger("check") if ledger is None else ledger)


def test_counts_by_split() -> None:
    found = tally(
        [
            sample("a", "1", labels=("glad", "sad"), group="x"),
            sample("b", "1", labels=(), group="x"),
            sample("c", "1", labels=(), split="test", group="x"),
            sample("d", "2", labels=("glad",), split="test"),
        ]
    )
    assert found.splits == {"train": 2, "val": 0, "test": 2}
    assert found.classes == {
        "glad": {"train": 1, "val": 0, "test": 1},
        "sad": {"train": 1, "val": 0, "test": 0},
    }
    assert found.unlabelled == {"train": 1, "val": 0, "test": 1}
    assert found.files == {"train": 1, "val": 0, "test": 2}
    assert found.groups == {"train": 1, "val": 0, "test": 1}


def test_a_sound_corpus_has_nothing_to_say(corpus: Corpus) -> None:
    ledger = Ledger("check")
    found = run(corpus({"a.png": {"boxes": (INSIDE,)}, "b.png": {"split": "test"}}), ledger)
    assert not len(ledger)
    assert (found.files, found.groups, found.subsets, found.values, found.shares) == (2, 0, {}, {}, {})
    assert (found.shared.samples, found.torn_groups, found.bad_boxes, found.warnings) == ((), {}, (), ())
    assert found.photos == {"width": Middle(2, 40, 40, 40), "height": Middle(2, 30, 30, 30)}
    assert found.clips == {}


def test_what_cannot_be_read_is_recorded_for_each_sample_beside_what_was_there(corpus: Corpus, photo: Photo) -> None:
    ledger = Ledger("check", {"row": ("bad_box", "of the index")})
    broken = photo(9, size=(400, 300))[:-40]
    made = corpus(
        {
            "a.png": {"bytes": broken, "boxes": (INSIDE,)},
            "b.png": {"bytes": broken},
            "c.png": {"bytes": b"no picture at all"},
            "d.png": {},
            "e.png": {},
        }
    )
    (made[1] / "e.png").unlink()
    found = run(made, ledger)
    reasons = {name: reason for name, (reason, _) in ledger.entries.items()}
    assert reasons == {
        "row": "bad_box",
        "a.png": "truncated",
        "b.png": "truncated",
        "c.png": "not_an_image",
        "e.png": "missing",
    }
    assert found.photos["width"].count == 1
    assert found.boxes["face"].unknown == 1
    assert found.bad_boxes == ()


def test_a_file_that_changed_since_it_was_indexed_is_not_taken_for_the_one_that_was(corpus: Corpus) -> None:
    made = corpus({"a.png": {}, "b.png": {}})
    (made[1] / "a.png").write_bytes((made[1] / "b.png").read_bytes())
    ledger = Ledger("check")
    run(made, ledger)
    assert ledger.reasons() == {"changed": 1}


def test_sizes_are_of_distinct_photos_and_the_median_is_one_that_is_there(corpus: Corpus, photo: Photo) -> None:
    wide = photo(1, size=(90, 10))
    found = run(
        corpus(
            {"a.png": {}, "b.png": {"bytes": wide}, "c.png": {"bytes": wide}, "d.png": {"bytes": wide, "group": "x"}}
        )
    )
    assert found.photos == {"width": Middle(2, 40, 40, 90), "height": Middle(2, 10, 10, 30)}


def test_frames_and_seconds_of_clips(corpus: Corpus, film: Callable[..., Path]) -> None:
    short = film("s.mp4", frames=5, times_ms=[0, 100, 200, 300, 400]).read_bytes()
    single = film("o.mp4", frames=1).read_bytes()
    found = run(
        corpus(
            {
                "s.mp4": {"media": "video", "bytes": short},
                "o.mp4": {"media": "video", "bytes": single},
                "a.png": {},
            }
        )
    )
    assert found.clips["frames"] == Middle(2, 1, 1, 5)
    assert found.clips["width"] == Middle(2, 96, 96, 96)
    assert found.clips["seconds"].least == 0
    assert found.clips["seconds"].most == pytest.approx(0.5)
    assert found.photos["width"].count == 1


def test_a_clip_that_is_cut_off_is_recorded(corpus: Corpus, film: Callable[..., Path]) -> None:
    whole = film("s.mkv", frames=30).read_bytes()
    ledger = Ledger("check")
    found = run(corpus({"s.mkv": {"media": "video", "bytes": whole[: len(whole) // 2]}, "a.png": {}}), ledger)
    assert list(ledger.entries) == ["s.mkv"]
    assert found.clips == {}


def test_same_bytes_within_and_across_splits_and_with_other_labels(corpus: Corpus, photo: Photo) -> None:
    one, two, three = (photo(100 + i, size=SIZE) for i in range(3))
    found = run(
        corpus(
            {
                "a1": {"bytes": one},
                "a2": {"bytes": one, "labels": ("sad",)},
                "b1": {"bytes": two},
                "b2": {"bytes": two, "split": "test"},
                "c1": {"bytes": three},
                "c2": {"bytes": three, "split": "test"},
                "c3": {"bytes": three, "split": "test"},
                "d": {},
            }
        )
    ).shared
    assert (found.copied, found.within, found.across, found.torn, found.unsure) == (3, 2, 2, 0, 1)
    assert [[one.sample_id for one in some] for some in found.samples] == [
        ["a1", "a2"],
        ["b1", "b2"],
        ["c1", "c2", "c3"],
    ]


def test_persons_of_one_photo_are_no_copies_but_may_be_torn(corpus: Corpus, photo: Photo) -> None:
    one, two = photo(100, size=SIZE), photo(101, size=SIZE)
    persons = {"boxes": (Box(0, 0, 9, 9, "person"),)}
    found = run(
        corpus(
            {
                "a/0": {"bytes": one, "path": "a.png", **persons},
                "a/1": {"bytes": one, "path": "a.png", "labels": ("sad",), **persons},
                "b/0": {"bytes": two, "path": "b.png", **persons},
                "b/1": {"bytes": two, "path": "b.png", "split": "test", **persons},
            }
        )
    )
    shared = found.shared
    assert (shared.copied, shared.within, shared.across, shared.torn, shared.unsure) == (0, 0, 0, 1, 0)
    assert [[one.sample_id for one in some] for some in shared.samples] == [["b/0", "b/1"]]
    assert found.files == 2


def test_groups_on_several_sides(corpus: Corpus) -> None:
    found = run(
        corpus(
            {
                "a": {"group": "anna", "split": "test"},
                "b": {"group": "anna"},
                "c": {"group": "ben"},
                "d": {"group": "ben"},
                "e": {"group": "cleo", "split": "val"},
                "f": {"group": "cleo", "split": "test"},
            }
        )
    )
    assert found.groups == 3
    assert found.torn_groups == {"anna": {"train": 1, "test": 1}, "cleo": {"val": 1, "test": 1}}


@pytest.mark.parametrize(
    ("corners", "place"),
    [
        ((0, 0, 40, 30), None),
        ((0, 0, 40.0004, 30), None),  # a share of the width, written with few digits
        ((-0.5, 0, 10, 10), "over"),
        ((30, 20, 41, 29), "over"),
        ((30, 20, 35, 31), "over"),
        ((39, 0, 60, 10), "over"),
        ((39.5, 0, 60, 10), "outside"),
        ((-9, -9, -1, -1), "outside"),
        ((0.1, 0.2, 0.5, 0.9), "outside"),  # shares in place of px: nothing to cut either
    ],
)
def test_where_a_box_lies(corners: tuple[float, float, float, float], place: str | None, corpus: Corpus) -> None:
    found = run(corpus({"a.png": {"boxes": (INSIDE, Box(*corners, "person"))}}))
    assert [(one.place, one.width, one.height) for one in found.bad_boxes] == ([(place, *SIZE)] if place else [])
    person = found.boxes["person"]
    assert (person.count, person.over, person.outside) == (1, place == "over", place == "outside")
    assert found.boxes["face"].count == 1
    assert bool(found.warnings) == (place == "outside")


def test_the_sides_of_a_photo_that_is_turned_are_those_of_the_upright_one(corpus: Corpus) -> None:
    import io

    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", SIZE).save(buffer, "JPEG", exif=exif)
    found = run(corpus({"a.jpg": {"bytes": buffer.getvalue(), "boxes": (Box(0, 0, 30, 40, "face"),)}}))
    assert found.bad_boxes == ()
    assert found.photos["width"].most == SIZE[1]


def test_values_and_shares(corpus: Corpus) -> None:
    found = run(
        corpus(
            {
                "a": {"values": (("valence", 1.0),), "shares": (("glad", 0.25), ("sad", 0.75))},
                "b": {"values": (("arousal", 5.0), ("valence", 4.0)), "shares": (("glad", 1.0),)},
                "c": {"split": "test", "values": (("valence", -3.0),)},
            }
        )
    )
    assert found.values == {
        "arousal": {"train": Range(1, 5, 5, 5)},
        "valence": {"train": Range(2, 2.5, 1, 4), "test": Range(1, -3, -3, -3)},
    }
    assert found.shares == {"glad": {"train": Range(2, 0.625, 0.25, 1)}, "sad": {"train": Range(2, 0.375, 0, 0.75)}}
    assert math.isclose(sum(splits["train"].mean for splits in found.shares.values()), 1)


def test_subsets_are_counted_apart(corpus: Corpus) -> None:
    found = run(corpus({"a": {"subset": "indoors"}, "b": {}, "c": {"subset": "indoors", "split": "test"}}))
    assert {name: of.splits for name, of in found.subsets.items()} == {
        "": {"train": 1, "val": 0, "test": 0},
        "indoors": {"train": 1, "val": 0, "test": 1},
    }
