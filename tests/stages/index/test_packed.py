"""Pictures in the rows of a table: found, told apart by what they show, opened, and refused once they are others."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.errors import DataError, MediaError
from stages.index.contents import Content
from stages.index.manifest import Manifest, Sample
from stages.index.packed import Place, contents, open_packed, place_of, read_packed
from stages.index.samples import open_frames, open_sample, open_shared, probe_shared
from stages.ledger import Ledger

SIDE = 4


def pixels(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def cell(seed: int) -> str:
    return " ".join(map(str, pixels(seed).ravel()))


def table(path: Path, *cells: str, end: str = "\n", head: str = "emotion,pixels,Usage") -> Path:
    path.write_bytes(end.join([head, *(f"{n},{one},Training" for n, one in enumerate(cells)), ""]).encode())
    return path


def places(path: Path, columns: tuple[str, ...] = ()) -> list[str]:
    rows = read_packed(path, "data", columns, Ledger("index"))
    return [Place(path.as_posix(), row.offset, row.length).path for row in rows]


def told(path: Path) -> list[str]:
    """Contents, or reasons, of a table's pictures."""
    found = contents(places(path))
    return [one.sha256 if isinstance(one, Content) else one.reason for one in found]


def sample(path: str, content: str) -> Sample:
    return Sample("a", path, "image", (), "train", "", "", (), content)


def reason(row: Sample, root: Path) -> str:
    with pytest.raises(MediaError) as caught:
        open_sample(row, root)
    return caught.value.reason


def test_what_is_the_place_of_a_packed_picture() -> None:
    assert place_of("fer/fer2013.csv#12+300") == Place("fer/fer2013.csv", 12, 300)
    assert place_of("../a#1+2.csv#0+1") == Place("../a#1+2.csv", 0, 1)
    assert Place("a.csv", 7, 9).path == "a.csv#7+9"
    for path in (
        "a.csv", "a.csv#1", "a.csv#1+", "a.csv#+2", "a.csv#01+2", "a.csv#1+0", "a.csv#-1+2", "a.png#1+2", ".csv#1+2",
        "a.csv#1+2 ", "a.csv#1+2/b.png", "a.csv#\u0661+2", "a.csv#1+99999999999999999", "a#b.png",
    ):  # fmt: skip
        assert place_of(path) is None, path


def test_pictures_are_found_and_opened(tmp_path: Path) -> None:
    path = table(tmp_path / "fer.csv", cell(0), cell(1))
    for number, place in enumerate(places(path)):
        [found] = contents([place])
        assert isinstance(found, Content)
        relative = place.replace(f"{tmp_path.as_posix()}/", "")
        image = open_sample(sample(relative, found.sha256), tmp_path)
        assert (image.mode, image.size) == ("RGB", (SIDE, SIDE))
        assert (np.asarray(image) == pixels(number)[:, :, None]).all()
        [again] = open_frames([sample(relative, found.sha256)], tmp_path, None)
        assert again.tobytes() == image.tobytes()
        absolute = replace(sample(place, found.sha256), sample_id="b")
        assert open_sample(absolute, Path("/nowhere")).tobytes() == image.tobytes()


def test_a_content_is_what_is_shown_not_where(tmp_path: Path) -> None:
    one = told(table(tmp_path / "a.csv", cell(0), cell(1), cell(0)))
    assert one[0] == one[2] != one[1]
    assert told(table(tmp_path / "b.csv", cell(1), cell(0), end="\r\n")) == [one[1], one[0]]
    quoted = [f'"{" ".join(f"{value:03d}" for value in pixels(n).ravel())}"' for n in (1, 0)]
    assert told(table(tmp_path / "c.csv", *quoted, head='\ufeff"emotion", "Pixels" ,Usage')) == [one[1], one[0]]
    flat = " ".join("7" for _ in range(16))
    [content] = told(table(tmp_path / "d.csv", flat))
    assert content == hashlib.sha256(b"grey uint8 4 4\n" + bytes([7] * 16)).hexdigest()


def test_other_columns_come_with_the_picture(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "icml.csv"
    path.write_bytes(
        b"emotion, Usage, pixels\r\n" + f'3, "PublicTest", {cell(0)}\r\n\r\n4,Priv\xe9,{cell(1)}'.encode("latin-1")
    )
    rows = list(read_packed(path, "data", ("Usage", "emotion"), ledger))
    assert [(row.line, row.where, row.cells) for row in rows] == [
        (2, "icml.csv line 2", {"Usage": "PublicTest", "emotion": "3"}),
        (4, "icml.csv line 4", {"Usage": "Privé", "emotion": "4"}),
    ]
    data = path.read_bytes()
    assert [data[row.offset : row.offset + row.length].decode() for row in rows] == [cell(0), cell(1)]
    assert len(ledger) == 0


@pytest.mark.parametrize(
    ("damaged", "reason", "said"),
    [
        ("1 2 3 4 5", "truncated", "5 grey values do not fill a square"),
        ("1 2 3 256", "decode_error", "'256' is not a grey value"),
        ("1 2 3 -4", "decode_error", "'-4' is not a grey value"),
        ("1 2 3 0004", "decode_error", "'0004' is not a grey value"),
        ("1 2 3 4.0", "decode_error", "'4.0' is not a grey value"),
        ("1 2 x 4", "decode_error", "'x' is not a grey value"),
        ("1 2\t3 4", "decode_error", "'2\\\\t3' is not a grey value"),
        ("nan nan nan nan", "decode_error", "'nan' is not a grey value"),
    ],
)
def test_a_damaged_picture_is_no_other(tmp_path: Path, damaged: str, reason: str, said: str) -> None:
    path = table(tmp_path / "fer.csv", cell(0), damaged, cell(1))
    paths = places(path)
    good, bad, after = contents(paths)
    assert isinstance(bad, MediaError)
    assert bad.reason == reason
    assert bad.detail.startswith(f"{paths[1]}: {said}")
    assert isinstance(good, Content)
    assert isinstance(after, Content)


def test_places_that_hold_no_picture(tmp_path: Path) -> None:
    path = table(tmp_path / "fer.csv", cell(0))
    size = path.stat().st_size
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    blank = path.read_bytes().index(b" ")
    in_table = [f"{path}#{place}" for place in (f"{blank}+1", f"{size - 1}+8", f"{size * 9}+8", "0+2000000")]
    no_table = [f"{tmp_path}/{name}#1+2" for name in ("gone.csv", "fer.csv/fer.csv", "folder.csv", "pipe.csv")]
    found = list(contents([*in_table, *no_table]))
    reasons = ["truncated", "truncated", "truncated", "decode_error", "missing", "missing", "not_a_file", "not_a_file"]
    assert [one.reason for one in found if isinstance(one, MediaError)] == reasons
    with pytest.raises(ValueError, match="is not the place"):
        list(contents(["a.png"]))


def test_the_table_changed_since(tmp_path: Path) -> None:
    path = table(tmp_path / "fer.csv", cell(0), cell(1))
    paths = places(path)
    first, second = told(path)
    rows = [sample(place, content) for place, content in zip(paths, (first, second), strict=True)]
    table(path, cell(1), cell(0))
    for row in rows:
        with pytest.raises(MediaError) as caught:
            open_sample(row, tmp_path)
        assert (caught.value.reason, caught.value.detail) == (
            "changed",
            f"{row.path} changed since it was indexed; run kuleshov index",
        )
    for others in ((), ("x" * 90,)):  # too short, and no picture any more
        table(path, *others)
        assert reason(rows[0], tmp_path) == "changed"
    path.unlink()
    assert reason(rows[0], tmp_path) == "missing"
    path.mkdir()
    assert reason(rows[0], tmp_path) == "unreadable"


def test_another_table_with_the_picture_serves(tmp_path: Path) -> None:
    one, other = table(tmp_path / "a.csv", cell(0)), table(tmp_path / "b.csv", cell(1), cell(0))
    content = told(one)[0]
    shared = [sample(places(one)[0], content), sample(places(other)[1], content)]
    one.unlink()
    assert (np.asarray(open_shared(shared, tmp_path))[:, :, 0] == pixels(0)).all()


def test_no_clip_is_packed(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", cell(0))
    clip = replace(sample(places(path)[0], told(path)[0]), media="video")
    for ask in (lambda: open_sample(clip, tmp_path), lambda: probe_shared([clip], tmp_path)):
        with pytest.raises(MediaError):
            ask()


def test_a_locked_table(tmp_path: Path, without_rights: Callable[[], AbstractContextManager[None]]) -> None:
    path = table(tmp_path / "a.csv", cell(0))
    [place], [content] = places(path), told(path)
    path.chmod(0)
    with without_rights():
        [found] = contents([place])
        with pytest.raises(MediaError, match="permission"):
            open_packed(Path(), place_of(place) or Place("", 0, 1), content)
        with pytest.raises(DataError, match="cannot be read"):
            places(path)
    assert isinstance(found, MediaError)
    assert found.reason == "permission"


def test_rows_that_are_none(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "fer.csv"
    path.write_text(
        f"emotion,pixels,Usage\n0,{cell(0)}\n1,,Training\n2,{cell(1)},Training,more\n3,{cell(2)},Training\n"
    )
    [row] = read_packed(path, "data", ("emotion",), ledger)
    assert row.cells == {"emotion": "3"}
    assert ledger.entries == {
        "fer.csv line 2": ("bad_row", "2 cells, the header has 3"),
        "fer.csv line 3": ("bad_row", "no pixels"),
        "fer.csv line 4": ("bad_row", "4 cells, the header has 3"),
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty or begins with an empty line"),
        (b"\nemotion,pixels\n", "is empty or begins with an empty line"),
        (b"emotion,Usage\n0,Training\n", "has no column 'pixels'; found emotion, usage"),
        (b"emotion,pixels,pixels,Usage\n", "has the column 'pixels' 2 times"),
        ("emotion,pixels,Usage\n".encode("utf-16"), "is UTF-16: write it as UTF-8"),
        (b"emotion,pixels,Usage\n" + b"1" * 2**20 + b"\n", "more than 1048576 bytes"),
    ],
)
def test_what_is_no_table_of_pictures(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "fer.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        places(path, ("emotion", "Usage"))
    assert str(caught.value).startswith("data: ")
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        places(tmp_path / "gone.csv")


def test_a_table_is_read_line_by_line(tmp_path: Path) -> None:
    """120 MB of rows, and the process stays small."""
    path = tmp_path / "fer.csv"
    row = ("3," + " ".join(["128"] * 48 * 48) + ",Training\n").encode()
    with open(path, "wb") as handle:
        handle.write(b"emotion,pixels,Usage\n")
        for _ in range(13):
            handle.write(row * 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(1 for _ in read_packed(path, "data", ("emotion",), Ledger("index")))
    assert count == 13_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < path.stat().st_size / 3


def test_a_packed_sample_fits_a_manifest(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", cell(0))
    row = sample(places(path)[0], told(path)[0])
    Manifest((row,)).write(tmp_path / "manifest.csv")
    assert Manifest.read(tmp_path / "manifest.csv").samples == (row,)
    assert isinstance(open_sample(row, tmp_path), Image.Image)
