"""A project whose photos are rows of a table: the commands that open photos, decoding processes included."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from stages.report.choice import Case
from stages.report.pictures import tiles

Run = Callable[..., tuple[int, str, str]]
COUNT, SIDE = 12, 48


def cell(number: int) -> str:
    return " ".join(map(str, np.random.default_rng(number).integers(0, 256, SIDE * SIDE)))


def table(place: Path, cells: list[str]) -> None:
    usages = ("Training", "PublicTest", "PrivateTest")
    rows = [f"{number % 7},{one},{usages[number % 3]}" for number, one in enumerate(cells)]
    (place / "fer" / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows, ""]))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "fer").mkdir()
    table(tmp_path, [cell(number) for number in range(COUNT)])
    values = yaml.safe_load(files(ProjectData("folder", "fer"))["params.yaml"])
    values["data"]["adapter"] = "fer2013"
    values["detect"] |= {"faces": "whole"}
    values["extract"]["backbones"] = {"resnet29": {"taps": ["embedding"]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_rows_are_photos_to_every_command(place: Path, kuleshov: Run) -> None:
    def go(*arguments: str) -> str:
        status, said, err = kuleshov("-C", place, *arguments)
        assert status == 0, err
        return said

    assert go("index").startswith("index: 12 samples (train 4, val 4, test 4), 7 classes")
    assert f"{COUNT} photos, {COUNT} computed, 0 from the store, 0 failed" in go("detect")
    assert f"{COUNT} photos, {COUNT} computed, 0 from the store, 0 failed" in go("align")
    assert "every file can be read" in go("index", "--check")
    assert go("cache", "why", "fer0000003").startswith("fer0000003: fer2013.csv#")

    table(place, [cell(number) for number in reversed(range(COUNT))])  # other rows, the same pictures
    status, said, err = kuleshov("-C", place, "align")
    assert (status, f"{COUNT} photos, 0 computed" in said) == (0, True), err
    go("index")
    assert f"{COUNT} photos, 0 computed, {COUNT} from the store, 0 failed" in go("detect")
    assert f"{COUNT} photos, 0 computed, {COUNT} from the store, 0 failed" in go("align")


def test_a_row_that_changed_is_no_photo_until_it_is_indexed(place: Path, kuleshov: Run) -> None:
    table(place, [cell(100 + number) for number in range(COUNT)])  # tests share a store
    assert kuleshov("-C", place, "index")[0] == 0
    table(place, [cell(100 + number) for number in range(COUNT - 1)] + [cell(99)])
    status, said, err = kuleshov("-C", place, "detect", "--max-failures", "1")
    assert status == 0, err
    assert f"{COUNT} photos, {COUNT - 1} computed, 0 from the store, 1 failed" in said
    failed = (place / "artifacts" / "failures" / "detect.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in failed[1:]] == [["fer0000011", "changed"]]
    assert kuleshov("-C", place, "index")[0] == 0
    assert f"{COUNT} photos, 1 computed, {COUNT - 1} from the store, 0 failed" in kuleshov("-C", place, "detect")[1]


def test_the_report_shows_them(place: Path, kuleshov: Run) -> None:
    assert kuleshov("-C", place, "index")[0] == 0
    project = Project(place)
    cases = [Case(sample, "happy", 0.5, None, None, "uncertain") for sample in project.manifest]
    [first, *_] = found = tiles(cases, project.images_root, (), ())
    assert [tile.problem for tile in found] == [""] * COUNT
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.uri.partition(",")[2]))).convert("L")).astype(int)
    drawn = np.array(cell(0).split(), int).reshape(SIDE, SIDE)
    assert np.abs(picture - drawn).mean() < 20  # JPEG; any other picture is 85 apart
    (place / "fer" / "fer2013.csv").unlink()
    assert {tile.problem for tile in tiles(cases[:2], project.images_root, (), ())} == {"missing"}
