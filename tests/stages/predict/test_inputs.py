"""What a person may name: files, folders, patterns, and what is wrong with some of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from stages.errors import DataError
from stages.index.contents import ContentIndex
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.predict.inputs import find_photos, manifest_of, picture_name


def photo(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 100, 100)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(["b.jpg", "a.PNG", "below/c.jpeg", "below/deeper/d.webp", ".hidden.jpg", ".thumbs/e.jpg"]):
        photo(tmp_path / "in" / name, i)
    (tmp_path / "in" / "notes.txt").write_text("not a photo")
    return tmp_path / "in"


def names(inputs: list[str], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_photos(inputs)]


def test_folders(folder: Path) -> None:
    assert names([str(folder)], folder) == ["a.PNG", "b.jpg", "below/c.jpeg", "below/deeper/d.webp"]


def test_files_as_named_in_the_order_given(folder: Path) -> None:
    given = [str(folder / name) for name in ("notes.txt", "b.jpg", ".hidden.jpg", "a.PNG")]
    assert names(given, folder) == ["notes.txt", "b.jpg", ".hidden.jpg", "a.PNG"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("**/*.jp*g", ["b.jpg", "below/c.jpeg"]),
        ("be*", ["below/c.jpeg", "below/deeper/d.webp"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
        ("*", ["a.PNG", "b.jpg", "below/c.jpeg", "below/deeper/d.webp", "notes.txt"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    assert names([str(folder / pattern)], folder) == expected


def test_a_name_with_the_signs_of_a_pattern_is_a_file(folder: Path) -> None:
    photo(folder / "[b].jpg")
    assert names([str(folder / "[b].jpg")], folder) == ["[b].jpg"]


def test_each_path_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_photos(["b.jpg", "./b.jpg", str(folder / "b.jpg"), "b.*", "."]) == [
        Path("b.jpg"),
        *(Path(name) for name in ("a.PNG", "below/c.jpeg", "below/deeper/d.webp")),
    ]


def test_nothing_there(folder: Path) -> None:
    for given in (str(folder / "gone.jpg"), str(folder / "*.gif")):
        with pytest.raises(DataError, match="no such file or folder, and nothing matches") as caught:
            find_photos([str(folder), given])
        assert given in str(caught.value)


def test_nothing_in_it(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"^no photos or clips in .*empty; looked for .*\.jpg"):
        find_photos([str(folder / "empty")])


def manifest(paths: list[Path], tmp_path: Path) -> tuple[Manifest, Ledger]:
    ledger = Ledger("predict")
    return manifest_of(paths, ContentIndex(tmp_path / "contents.sqlite"), ledger), ledger


def test_samples(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    made, ledger = manifest([Path("b.jpg"), folder / "a.PNG"], tmp_path)
    assert {s.sample_id: s.path for s in made} == {
        "b.jpg": (folder / "b.jpg").as_posix(),
        (folder / "a.PNG").as_posix(): (folder / "a.PNG").as_posix(),
    }
    assert all((s.labels, s.media, s.boxes) == ((), "image", ()) for s in made)
    assert len(ledger) == 0


def test_copies_are_two_samples(folder: Path, tmp_path: Path) -> None:
    photo(folder / "copy" / "b.jpg", 0)
    made, _ = manifest([folder / "b.jpg", folder / "copy" / "b.jpg"], tmp_path)
    assert len(made) == 2
    assert len({s.content for s in made}) == 1


def test_what_cannot_be_read_goes_to_the_ledger(folder: Path, tmp_path: Path) -> None:
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "link.jpg").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.jpg")
    newline = photo(folder / "two\nlines.jpg")
    made, ledger = manifest([folder / n for n in ("empty.jpg", "link.jpg", "pipe.jpg", "a.PNG")] + [newline], tmp_path)
    assert [Path(s.path).name for s in made] == ["a.PNG"]
    assert {Path(name).name: reason for name, (reason, _) in ledger.entries.items()} == {
        "empty.jpg": "empty",
        "link.jpg": "missing",
        "pipe.jpg": "not_a_file",
        "two\\nlines.jpg": "bad_name",
    }


def test_a_name_that_is_not_utf_8(folder: Path, tmp_path: Path) -> None:
    bad = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")
    try:
        Image.new("RGB", (8, 8)).save(bad)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    made, ledger = manifest(find_photos([str(folder)]), tmp_path)
    assert len(made) == 4
    [(name, (reason, _))] = ledger.entries.items()
    assert name.endswith("caf\\udce9.jpg")
    assert reason == "bad_name"
    Path(bad).unlink()
    made, ledger = manifest([Path(bad)], tmp_path)
    ledger.write(tmp_path / "failures.csv")  # its detail names the file too
    assert "caf\\udce9.jpg,missing" in (tmp_path / "failures.csv").read_text(encoding="utf-8")
    with pytest.raises(DataError) as caught:
        find_photos([bad])
    str(caught.value).encode()


def test_picture_names_are_distinct() -> None:
    taken: set[str] = set()
    paths = ["/x/a.jpg", "/y/a.jpg", "/y/a.png", "/z/A.jpg", "/é/b.tar.gz", f"/{'ä' * 120}.jpg", f"/{'ä' * 121}.jpg"]
    found = [picture_name(Sample(p, p, "image", (), "test", "", "", (), "0" * 64), taken) for p in paths]
    assert found[0] == "a.jpg"
    assert found[4] == "b.tar.jpg"
    assert len({name.casefold() for name in found}) == len(paths)
    assert all(name.endswith(".jpg") and len(name.encode()) < 240 for name in found)
    again: set[str] = set()
    assert [picture_name(Sample(p, p, "image", (), "test", "", "", (), "0" * 64), again) for p in paths] == found
