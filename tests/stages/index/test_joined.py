"""Several data sets in one manifest."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from stages.errors import DataError, SettingError
from stages.index.contents import ContentIndex
from stages.index.joined import SetSettings, path_prefix
from stages.index.manifest import Manifest
from stages.index.run import IndexSettings, images_root, run
from stages.index.samples import open_sample
from stages.index.summary import IndexSummary
from stages.ledger import Ledger
from stages.train.overlaps import overlapping

Plant = Callable[..., Path]
Index = Callable[..., tuple[Manifest, IndexSummary]]
MAP = {"joy": "glad", "delight": "glad", "grief": "sad", "contempt": None}
MAP_OF_TWO = {"joy": "glad", "grief": "sad"}
OTHER = {"joy/a.png": 50, "delight/a.png": 51, "grief/b.png": 52, "contempt/c.png": 53}


@pytest.fixture
def index(contents: ContentIndex, ledger: Ledger) -> Index:
    """The manifest and summary of a main data set and others."""

    def run_(main: SetSettings, **also: SetSettings) -> tuple[Manifest, IndexSummary]:
        settings = IndexSettings(**vars(main), also=also)
        manifest, summary, total = run(settings, contents=contents, ledger=ledger)
        assert total == len(manifest) + len(ledger)
        return manifest, summary

    return run_


@pytest.fixture
def main(plant: Plant) -> SetSettings:
    """Ten photos of each of two classes, to be split into train and val."""
    files: dict[str, bytes | int] = {
        f"{label}/{i}.png": i + 20 * (label == "sad") for label in ("glad", "sad") for i in range(10)
    }
    return SetSettings("folder", plant(files, "main"), val=0.2, test=0.0)


def test_another_data_set_is_the_test_split(
    main: SetSettings, plant: Plant, index: Index, photo: Callable[..., bytes]
) -> None:
    alone, _ = index(main)
    other = SetSettings("folder", plant(OTHER, "other"), labels=MAP, use="test")
    manifest, summary = index(main, other=other)
    assert [s for s in manifest if not s.subset] == list(alone)
    assert [(s.sample_id, s.path, s.labels, s.split, s.subset) for s in manifest if s.subset] == [
        ("other/delight/a.png", "../other/delight/a.png", ("glad",), "test", "other"),
        ("other/grief/b.png", "../other/grief/b.png", ("sad",), "test", "other"),
        ("other/joy/a.png", "../other/joy/a.png", ("glad",), "test", "other"),
    ]
    assert open_sample(manifest.by_id["other/joy/a.png"], images_root(main)).getpixel((0, 0)) == (50, 0, 77)
    assert list(summary.sets) == ["data", "data.also.other"]
    first, second = summary.sets.values()
    assert (first.samples, first.splits, first.left_out) == (20, {"train": 16, "val": 4}, {})
    assert (second.samples, second.splits, second.unlabelled) == (3, {"test": 3}, 0)
    assert (second.labels, second.left_out) == ({"glad": 2, "sad": 1}, {"contempt": 1})
    assert manifest.classes == ("glad", "sad")
    assert summary.warnings == []


def table(folder: Path, *rows: str, name: str = "labels.csv", head: str = "path,label,split,group,subset") -> Path:
    path = folder / name
    path.write_text("\n".join([head, *rows, ""]))
    return path


@pytest.mark.parametrize("use", ["train", "val", "test"])
def test_use_overrides_what_the_data_set_says(use: str, main: SetSettings, plant: Plant, index: Index) -> None:
    """A split that is not wanted cannot be a bad one, nor contradict itself, nor be missing."""
    rows = ("a.png,glad,train,,", "b.png,sad,PublicTest,,", "b.png,sad,test,,", "c.png,sad,,,")
    root = table(plant({"a.png": 90, "b.png": 91, "c.png": 92}, "other"), *rows)
    manifest, _ = index(main, other=SetSettings("csv", root, use=use))
    assert [s.split for s in manifest if s.subset] == [use] * 3
    by_folder = SetSettings("folder", plant({"train/glad/a.png": 93, "test/sad/b.png": 94}, "parted"), use=use)
    manifest, _ = index(main, parted=by_folder)
    assert [(s.split, s.labels) for s in manifest if s.subset] == [(use, ("sad",)), (use, ("glad",))]


def test_splits_are_made_for_each_data_set_alone(main: SetSettings, plant: Plant, index: Index) -> None:
    """A data set's own split does not depend on its name, nor on what is beside it; a given split stays."""
    again = replace(
        main,
        root=plant({f"{c}/{i}.png": 100 + i + 50 * (c == "sad") for c in ("glad", "sad") for i in range(10)}, "again"),
    )
    given = SetSettings("folder", plant({"train/sad/a.png": 200, "test/glad/b.png": 201}, "given"))
    manifest, summary = index(main, again=again, given=given)
    splits = {s.sample_id: s.split for s in manifest}
    assert [summary.sets[f"data.also.{name}"].splits for name in ("again", "given")] == [
        {"train": 16, "val": 4},
        {"train": 1, "test": 1},
    ]
    for sample in index(main)[0]:
        assert splits[sample.sample_id] == splits[f"again/{sample.sample_id}"] == sample.split
    assert splits["given/train/sad/a.png"] == "train"


def test_groups_and_subsets_stay_apart(plant: Plant, index: Index) -> None:
    head = plant({"a.png": 1, "b.png": 2}, "main")
    main = SetSettings("csv", table(head, "a.png,glad,train,7,largest", "b.png,sad,train,,"))
    other = SetSettings(
        "csv", table(plant({"a.png": 3, "b.png": 4}, "b"), "a.png,glad,test,7,largest", "b.png,sad,test,,")
    )
    manifest, summary = index(main, b=other)
    assert [(s.sample_id, s.group, s.subset) for s in manifest] == [
        ("a.png", "7", "largest"),
        ("b.png", "", ""),
        ("b/a.png", "b/7", "largest"),
        ("b/b.png", "", "b"),
    ]
    assert summary.warnings == []
    table(head, "a.png,glad,train,b/7,largest", "b.png,sad,train,,")
    with pytest.raises(DataError, match=r"group 'b/7' is in two data sets, data \(.*\) and data\.also\.b .*: give"):
        index(main, b=other)


def test_the_same_file_in_two_data_sets_is_warned_of(main: SetSettings, plant: Plant, index: Index) -> None:
    other = SetSettings("folder", plant({"joy/a.png": 3, "grief/b.png": 4}, "other"), labels=MAP_OF_TWO, use="test")
    manifest, summary = index(main, other=other)
    assert overlapping(manifest.samples, ["test"]) == {
        f"glad/{name}.png": f"the file's content with other/{other}.png of split test"
        for name, other in ((3, "joy/a"), (4, "grief/b"))
    }, "which train refuses"
    assert summary.duplicates == 2
    torn, unsure = summary.warnings
    assert torn.startswith("2 file(s) in more than one split, such as 'glad/3.png' in ")
    assert unsure.startswith(
        "1 file(s) with more than one label, such as 'glad/4.png' (glad) and 'other/grief/b.png' (s"
    )
    inside = SetSettings("folder", main.root / "sad", use="test")
    _, summary = index(main, inside=inside)
    assert summary.duplicates == 0, "one path, told from two places"
    assert summary.warnings[0].startswith(
        "10 file(s) in more than one split, such as 'inside/0.png' in test and 'sad/0"
    )


def test_several_labels_of_one_sample(plant: Plant, index: Index) -> None:
    """Labels that become one are one; a sample with a label of null is left out whole; no label stays none."""
    root = table(
        plant({f"{i}.png": i for i in range(5)}, "main"),
        "0.png,joy;delight,train,,",
        "1.png,joy;grief,train,,",
        "2.png,contempt;joy,train,,",
        "3.png,,train,,",
        "4.png,contempt,train,,",
    )
    manifest, summary = index(SetSettings("csv", root, labels=MAP))
    assert [(s.sample_id, s.labels) for s in manifest] == [
        ("0.png", ("glad",)),
        ("1.png", ("glad", "sad")),
        ("3.png", ()),
    ]
    counted = summary.sets["data"]
    assert (counted.left_out, counted.unlabelled, counted.labels) == ({"contempt": 2}, 1, {"glad": 2, "sad": 1})


def test_a_label_that_no_sample_has_is_warned_of(main: SetSettings, plant: Plant, index: Index) -> None:
    other = SetSettings("folder", plant(OTHER, "other"), labels={**MAP, "bliss": "glad", "rage": None}, use="test")
    assert index(main, other=other)[1].warnings == [
        "data.also.other.labels names 'bliss', which no sample has",
        "data.also.other.labels names 'rage', which no sample has",
    ]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"joy": "glad", "grief": "sad"}, "has no 'contempt' (nor 'delight'), a label of 1 sample(s) of ROOT: add it"),
        (
            {**MAP, "rage": "angry"},
            "makes 'rage' to 'angry', a class that no sample of ROOT then has (it has 'glad', 's",
        ),
        (dict.fromkeys(MAP), "leaves out every sample of ROOT: map a label to one of ours"),
        ({**MAP, "joy": "a;b"}, "label 'a;b': a label must not be empty"),
        ({**MAP, "joy": ""}, "label '': a label must not be empty"),
    ],
)
def test_maps_that_do_not_fit(
    labels: dict[str, str | None], said: str, main: SetSettings, plant: Plant, index: Index
) -> None:
    root = plant(OTHER, "other")
    with pytest.raises(SettingError, match=re.escape(said.replace("ROOT", str(root)))) as caught:
        index(main, other=SetSettings("folder", root, labels=labels, use="test"))
    assert str(caught.value).startswith("data.also.other.labels")
    assert "\n" not in str(caught.value)


def test_a_class_that_is_in_shares_alone_may_be_mapped(plant: Plant, index: Index) -> None:
    """Nobody's label is contempt, but some votes are for it, so the map must name it."""
    head = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes = "\n".join([head, "Training,a.png,7,0,0,0,0,0,0,3,0,0", "Training,b.png,0,8,0,0,0,0,0,0,0,0"])
    root = plant({"fer2013new.csv": votes.encode(), "FER2013Train/a.png": 1, "FER2013Train/b.png": 2}, "fer")
    maps = {"neutral": "calm", "happiness": "glad", "contempt": "sad"}
    manifest, _ = index(SetSettings("ferplus", root, options={"labels": "distribution"}, labels=maps))
    assert manifest.by_id["FER2013Train/a.png"].shares == (("calm", 0.7), ("sad", 0.3))


def test_errors_name_the_data_set(main: SetSettings, plant: Plant, index: Index, tmp_path: Path) -> None:
    folder, nowhere = plant(OTHER, "other"), tmp_path / "nowhere"
    lines = table(folder, "joy/a.png,x,,,")
    for settings, kind, said in (
        (SetSettings("folder", nowhere), DataError, "data.also.other.root .* is not a folder: give"),
        (SetSettings("csv", nowhere), DataError, "data.also.other.root .* is not there: give"),
        (SetSettings("csv", lines, columns={"label": "mood"}), SettingError, r"data\.also\.other\.columns: .* 'mood'"),
        (SetSettings("csv", lines, columns={"mood": "label"}), SettingError, r"data\.also\.other\.columns has 'mood'"),
        (SetSettings("folder", folder, columns={"a": "b"}), SettingError, r"^data\.also\.other\.images and data\.also"),
        (SetSettings("folder", folder, val=0.6, test=0.6), SettingError, r"^data\.also\.other\.split\.val is 0\.6"),
        (
            SetSettings("folder", folder, use="dev"),
            SettingError,
            r"^data\.also\.other\.use is 'dev': choose one of all",
        ),
    ):
        with pytest.raises(kind, match=said):
            index(main, other=settings)
    for name in ("", "a/b", "a b", ".a", "é", "-"):
        with pytest.raises(SettingError, match=re.escape(f"data.also: data set name {name!r}: use letters")):
            index(main, **{name: SetSettings("folder", folder)})


def test_one_sample_id_in_two_data_sets(plant: Plant, index: Index) -> None:
    main = SetSettings("folder", plant({"train/glad/a.png": 1, "test/sad/b.png": 2}, "main"))
    other = SetSettings("folder", plant({"glad/a.png": 3}, "other"))
    said = r"sample_id 'train/glad/a\.png' is in two data sets, data \(.*main\) and data\.also\.train \(.*other\): give"
    with pytest.raises(DataError, match=said):
        index(main, train=other)


def test_what_fails_is_recorded_under_the_manifest_s_names(
    main: SetSettings, plant: Plant, index: Index, ledger: Ledger
) -> None:
    root = table(
        plant({"a.png": 90, "b.png": b""}, "other"), "a.png,glad,,,", "b.png,sad,,,", "c.png,sad,,,", ",sad,,,"
    )
    index(main, other=SetSettings("csv", root, use="test"))
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {
        "other/b.png": "empty",
        "other/c.png": "missing",
        "other/labels.csv line 5": "no_path",
    }


def test_a_data_set_of_which_nothing_can_be_used(main: SetSettings, plant: Plant, index: Index, ledger: Ledger) -> None:
    root = table(plant({}, "other"), "b.png,sad,,,")
    with pytest.raises(
        DataError, match=r"none of the 1 item\(s\) of .*labels\.csv can be used; .*: other/b\.png: miss"
    ):
        index(main, other=SetSettings("csv", root))
    assert list(ledger.entries) == ["other/b.png"]


def test_paths_lead_from_the_main_images(plant: Plant, index: Index, tmp_path: Path) -> None:
    """Inside it, beside it, through links, and absolute ones as they are."""
    main = SetSettings("folder", plant({"deep/main/glad/a.png": 1, "deep/main/sad/b.png": 2}) / "deep" / "main")
    below = SetSettings("folder", main.root / "sad")
    far = plant({"x/y.png": 5, "z.png": 6}, "far")
    lines = table(tmp_path, "x/y.png,glad,,,", f"{far / 'z.png'},sad,,,", name="far.csv")
    manifest, _ = index(main, below=below, far=SetSettings("csv", lines, far))
    paths = {s.sample_id: s.path for s in manifest if s.subset}
    assert paths == {
        "below/b.png": "sad/b.png",
        "far/x/y.png": "../../../far/x/y.png",
        f"far/{far / 'z.png'}": str(far / "z.png"),
    }
    link = tmp_path / "link"
    link.symlink_to(main.root)
    linked, _ = index(replace(main, root=link), far=SetSettings("csv", lines, far))
    assert {s.path for s in linked if s.subset} <= {*paths.values()}
    assert all(open_sample(sample, link).size == (4, 3) for sample in linked)
    assert path_prefix(tmp_path, tmp_path) == ""


def test_on_another_drive_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_way(path: str, start: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", no_way)
    assert path_prefix(tmp_path, tmp_path / "main") == f"{tmp_path.as_posix()}/"


def test_a_photo_in_one_and_a_clip_in_another_is_what_its_bytes_are(
    main: SetSettings, plant: Plant, index: Index, film: Callable[..., Path]
) -> None:
    clip = film("a.mp4").read_bytes()
    plant({"glad/clip.jpg": clip}, "main")
    manifest, _ = index(main, other=SetSettings("folder", plant({"sad/clip.mp4": clip}, "other")))
    assert [s.media for s in manifest if "clip" in s.sample_id] == ["video", "video"]


def test_a_second_look_hashes_nothing_of_any_data_set(
    main: SetSettings, plant: Plant, index: Index, contents: ContentIndex
) -> None:
    other = SetSettings("folder", plant({"glad/a.png": 50}, "other"), use="test")
    then = time.time() - 60
    for path in (*main.root.rglob("*.png"), *other.root.rglob("*.png")):
        os.utime(path, (then, then))
    index(main, other=other)
    with closing(sqlite3.connect(contents.path)) as connection, connection:
        assert connection.execute("UPDATE contents SET sha256 = ?", ("f" * 64,)).rowcount == 21
    assert {s.content for s in index(main, other=other)[0]} == {"f" * 64}
    assert {s.content for s in index(other, first=main)[0]} == {"f" * 64}, "the other way round as well"


def test_written_and_read_again(main: SetSettings, plant: Plant, index: Index, tmp_path: Path) -> None:
    other = SetSettings("folder", plant(OTHER, "other"), labels=MAP, use="test")
    manifest, _ = index(main, other=other)
    manifest.write(tmp_path / "manifest.csv")
    assert Manifest.read(tmp_path / "manifest.csv") == manifest
