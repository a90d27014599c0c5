"""`kuleshov index --check`: the table, the JSON, the lists, and what ends it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline import check_table
from pipeline.scaffold.write import ProjectData, files
from stages.index.check import check
from stages.index.manifest import Manifest, Sample
from stages.index.summary import summarise
from stages.ledger import Ledger

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent.parent
SETTINGS = ROOT / "docs" / "settings.md"
HEADER = ("path", "sample_id", "label", "split", "group", "subset", "x1", "y1", "x2", "y2", "box_kind")


def photo(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 9 % 256, number * 31 % 256, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def row(name: str, label: str, split: str, group: str, subset: str, *box: object) -> tuple[object, ...]:
    return (name, name.removesuffix(".png"), label, split, group, subset, *(box or ("",) * 5))


def settings(place: Path, **data: Any) -> None:
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv"))["params.yaml"])
    values["data"] |= data
    (place / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A table of 44 photos and a further data set of 8. Wrong are: two damaged photos, a missing one, three copies (in
    a split, across splits, with another label), a group on two sides, boxes over the border, and one far outside."""
    rows = []
    for number in range(40):
        name, split = f"p{number:02}.png", ("train", "train", "train", "val", "test")[number % 5]
        (tmp_path / name).write_bytes(photo(number, (64, 48) if number % 4 else (200, 150)))
        box = (-3, 2, 20, 22, "face") if number == 3 else (700, 500, 800, 600, "face") if number == 8 else ()
        plain = (4, 2, 20, 22, "face") if number in {1, 2} else ()
        label = "" if number == 39 else ("glad", "sad")[number % 3 == 0]
        rows.append(row(name, label, split, f"film{number % 10}", ("indoors", "street")[number % 2], *(box or plain)))
    rows[5] = (*rows[5][:4], "film3", *rows[5][5:])  # the others of film3 are in val
    whole = photo(1)
    for name, like, label, split in (("c1", 1, "glad", "train"), ("c2", 4, "glad", "val"), ("c3", 7, "sad", "train")):
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"p{like:02}.png").read_bytes())
        rows.append(row(f"{name}.png", label, split, "", "indoors"))
    (tmp_path / "p10.png").write_bytes(photo(10, (300, 200))[:-30])
    (tmp_path / "p11.png").write_bytes(b"no picture")
    rows.append(row("gone.png", "sad", "train", "", "indoors"))
    assert whole == (tmp_path / "c1.png").read_bytes()
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([HEADER, *rows])
    for number in range(8):
        target = tmp_path / "more" / ("happy", "angry")[number % 4 == 0] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo(100 + number))
    more = {"adapter": "folder", "root": "more", "labels": {"happy": "glad", "angry": None}, "use": "train"}
    settings(tmp_path, also={"more": more})
    return tmp_path


def listed(place: Path, name: str) -> list[dict[str, str]]:
    with open(place / "artifacts" / "check" / name, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def go(kuleshov: Run, place: Path, *arguments: str) -> tuple[str, str]:
    status, out, err = kuleshov("-C", place, "index", "--max-failures", "20%", *arguments)
    assert status == 0, err
    return out, err


def test_the_table_is_the_one_in_the_docs(place: Path, kuleshov: Run) -> None:
    out, err = go(kuleshov, place, "--check")
    assert err == ""
    said = out.replace(f"{place}{os.sep}", "")
    assert f"```\n{said}```" in SETTINGS.read_text(encoding="utf-8"), said


def test_json_says_the_same(place: Path, kuleshov: Run) -> None:
    out, _ = go(kuleshov, place, "--check", "--json")
    found = json.loads(out)
    assert (found["samples"], found["items"], found["files"], found["groups"]) == (49, 50, 46, 10)
    assert found["whole"]["splits"] == {"train": 32, "val": 9, "test": 8}
    assert sum(sum(counts.values()) for counts in found["whole"]["classes"].values()) == 48
    assert found["sets"]["data.also.more"]["classes"] == {"glad": {"train": 6, "val": 0, "test": 0}}
    assert found["sets"]["data.also.more"]["left_out"] == {"angry": 2}
    assert found["subsets"]["more"]["splits"]["train"] == 6
    assert found["unreadable"] == {"missing": ["gone"], "not_an_image": ["p11"], "truncated": ["p10"]}
    assert found["duplicates"] == {"copied": 3, "within": 2, "across": 1, "torn": 0, "unsure": 1}
    assert found["torn_groups"] == {"film3": {"train": 1, "val": 4}}
    assert found["boxes"] == {"face": {"count": 4, "over": 1, "outside": 1, "unknown": 0}}
    assert found["photos"]["width"] == {"count": 44, "least": 64, "median": 64, "most": 200}
    assert found["clips"] == {}
    assert any("less than a px lies in the photo, such as 700,500,800,600 of 'p08'" in one for one in found["warnings"])
    assert Path(found["lists"]) == place / "artifacts" / "check"


def test_the_lists_name_everything(place: Path, kuleshov: Run) -> None:
    go(kuleshov, place, "--check")
    unreadable = {one["sample_id"]: one["reason"] for one in listed(place, "unreadable.csv")}
    assert unreadable == {"gone": "missing", "p10": "truncated", "p11": "not_an_image"}
    twice = listed(place, "duplicates.csv")
    assert [(one["file"], one["sample_id"], one["split"], one["labels"]) for one in twice] == [
        ("1", "c1", "train", "glad"),
        ("1", "p01", "train", "glad"),
        ("2", "c2", "val", "glad"),
        ("2", "p04", "test", "glad"),
        ("3", "c3", "train", "sad"),
        ("3", "p07", "train", "glad"),
    ]
    assert len({one["content"] for one in twice}) == 3
    assert [tuple(one.values()) for one in listed(place, "groups.csv")] == [
        ("film3", "train", "1"),
        ("film3", "val", "4"),
    ]
    assert [(one["sample_id"], one["place"], one["x1"], one["width"]) for one in listed(place, "boxes.csv")] == [
        ("p03", "over", "-3.0", "64"),
        ("p08", "outside", "700.0", "200"),
    ]


def test_what_index_writes_is_the_same(place: Path, kuleshov: Run) -> None:
    def written() -> dict[str, bytes]:
        artifacts = place / "artifacts"
        own = (path for path in sorted(artifacts.rglob("*")) if path.is_file() and path.parent.name != "check")
        return {str(path.relative_to(artifacts)): path.read_bytes() for path in own}

    go(kuleshov, place)
    plain = written()
    assert {"manifest.csv", "failures/index.csv"} < plain.keys()
    assert not (place / "artifacts" / "check").exists()
    go(kuleshov, place, "--check")
    assert written() == plain


def test_more_unreadable_files_than_allowed_end_with_status_1_after_the_table(place: Path, kuleshov: Run) -> None:
    """The index alone has one failure, which is allowed; the check has two more."""
    status, out, err = kuleshov("-C", place, "index", "--max-failures", "2")
    assert (status, err) == (0, "")
    status, out, err = kuleshov("-C", place, "index", "--check", "--max-failures", "2")
    assert status == 1
    assert out.startswith("index: 49 samples")
    assert "UNREADABLE" in out
    assert "3 of 50 items failed (missing 1, not_an_image 1, truncated 1), max_failures is 2" in err
    assert str(place / "artifacts" / "check" / "unreadable.csv") in err
    status, out, err = kuleshov("-C", place, "index", "--check", "--json", "--max-failures", "2")
    assert status == 1
    assert json.loads(out)["items"] == 50
    status, _, err = kuleshov("-C", place, "index", "--check", "--max-failures", "3")
    assert (status, err) == (0, "")


def test_json_without_a_check_is_refused(place: Path, kuleshov: Run) -> None:
    status, out, err = kuleshov("-C", place, "index", "--json")
    assert status == 2
    assert "--json is for --check" in err
    assert out == ""


def test_a_sound_data_set_is_said_to_be_one(tmp_path: Path, kuleshov: Run) -> None:
    for number in range(12):
        target = tmp_path / "photos" / ("train", "test")[number % 2] / ("glad", "sad")[number // 6] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo(number))
    settings(tmp_path, adapter="folder", root="photos")
    out, err = go(kuleshov, tmp_path, "--check")
    assert err == ""
    assert "every file can be read\n\nno file is there twice\n" in out
    assert not {"warning", "UNREADABLE", "BOXES", "SUBSET", "DATA SET", "groups"} & {*out.split(), *out.split("  ")}
    lists = ("unreadable.csv", "duplicates.csv", "groups.csv", "boxes.csv")
    assert [listed(tmp_path, name) for name in lists] == [[]] * 4


def test_values_shares_and_clips_have_sections(tmp_path: Path, film: Path) -> None:
    import hashlib

    def one(name: str, media: str, content: bytes, **fields: Any) -> Sample:
        (tmp_path / name).write_bytes(content)
        return Sample(
            *(name, name, media, ("glad",), "train", "", fields.pop("subset", ""), ()),
            hashlib.sha256(content).hexdigest(),
            **fields,
        )

    numbers = {"values": (("valence", 7.0),), "shares": (("glad", 0.8), ("sad", 0.2))}
    subsets = [one(f"{i}.png", "image", photo(i), subset=f"s{i:02}", **numbers) for i in range(23)]
    manifest = Manifest((one("c.mp4", "video", film.read_bytes()), *subsets))
    ledger = Ledger("check")
    found = check(manifest, tmp_path, ledger)
    said = check_table.lines(check_table.Checked(summarise(manifest), found, ledger, len(manifest), tmp_path))
    table = [line.split() for line in said]
    assert ["VALUE", "SPLIT", "SAMPLES", "MEAN", "MIN", "MAX"] in table
    assert ["valence", "train", "23", "7", "7", "7"] in table
    assert ["sad", "train", "23", "0.2", "0.2", "0.2"] in table
    assert ["(none)", "1", "0", "0", "1"] in table
    assert "and 4 more; --json has all" in said
    assert ["clip", "frames", "1", "6", "6", "6"] in table
    assert ["clip", "seconds", "1", "0.24", "0.24", "0.24"] in table


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A clip of 6 frames, 25 a second."""
    import av
    import numpy as np

    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level * 40, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return tmp_path / "film.mp4"


def test_ctrl_c_ends_it_in_one_line_and_leaves_the_manifest(tmp_path: Path) -> None:
    large = photo(1, (6000, 6000))
    (tmp_path / "photos" / "glad").mkdir(parents=True)
    for number in range(60):  # Pillow does not mind what follows a picture; each is a content of its own
        (tmp_path / "photos" / "glad" / f"{number}.png").write_bytes(large + bytes([number]))
    settings(tmp_path, adapter="folder", root="photos")
    listen = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pipeline.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", listen, "-C", str(tmp_path), "index", "--check"],
        cwd=ROOT,
        env={**os.environ, "KULESHOV_DECODERS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "artifacts" / "failures" / "index.csv").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip() == (
        "kuleshov: error: stopped; a check keeps nothing half-way: run the same command again, it opens all files anew"
    )
    assert len(Manifest.read(tmp_path / "artifacts" / "manifest.csv")) == 60
    assert not (tmp_path / "artifacts" / "check").exists()
