"""Three ways to faces, through the commands: found, given by boxes, the whole image."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.scaffold.write import ProjectData, files
from stages.index.drawn.scenes import draw_scene

Run = Callable[..., tuple[int, str, str]]


def make(place: Path, rows: list[tuple[object, ...]], header: tuple[str, ...], faces: str) -> None:
    with open(place / "labels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    (place / "params.yaml").write_text(files(ProjectData("csv", "labels.csv", faces=faces))["params.yaml"])


def detections(place: Path) -> list[dict[str, str]]:
    with open(place / "artifacts" / "detections.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def stages(kuleshov: Run, place: Path, *names: str) -> dict[str, str]:
    said = {}
    for name in names:
        status, said[name], err = kuleshov("-C", place, *name.split())
        assert status == 0, err
    return said


BOXED = ("path", "sample_id", "label", "split", "x1", "y1", "x2", "y2")


@pytest.fixture
def boxed(tmp_path: Path) -> tuple[Path, list[tuple[object, ...]]]:
    """Two scenes with the boxes of their faces, and one box where no face is."""
    rows: list[tuple[object, ...]] = []
    for index in range(2):
        scene = draw_scene(8, index)
        scene.image.save(tmp_path / f"{index}.png")
        for face in scene.faces[:3]:
            box = (round(v, 1) for v in face.truth.box)
            rows.append((f"{index}.png", f"s{index}", ("glad", "sad")[index], "train", *box))
    rows.append(("0.png", "s0", "glad", "train", 0.0, 0.0, 12.0, 12.0))
    make(tmp_path, rows, BOXED, "given")
    return tmp_path, rows


def test_given_boxes_are_the_faces_and_a_corrected_one_costs_itself(
    boxed: tuple[Path, list[tuple[object, ...]]], kuleshov: Run
) -> None:
    place, rows = boxed
    said = stages(kuleshov, place, "index", "detect", "align", "extract resnet29")
    assert "2 photos, 2 computed" in said["detect"]
    assert f"{len(rows)} face groups, {len(rows)} computed" in said["extract resnet29"]
    table = detections(place)
    assert len(table) == len(rows)
    assert {(row["sample_id"], float(row["x1"])) for row in table} == {(str(r[1]), float(str(r[4]))) for r in rows}
    bare = next(row for row in table if row["x2"] == "12.00")
    assert (bare["score"], bare["nose_x"]) == ("", "")
    assert sum(row["nose_x"] != "" for row in table) >= len(rows) - 2, "drawn faces are found, so boxes have landmarks"

    rows[0] = (*rows[0][:4], float(str(rows[0][4])) + 2, *rows[0][5:])
    make(place, rows, BOXED, "given")
    said = stages(kuleshov, place, "index", "detect", "align", "extract resnet29")
    assert "2 photos, 0 computed" in said["detect"]
    assert f"{len(rows)} face groups, 1 computed" in said["extract resnet29"]


def test_the_whole_image_is_the_face(tmp_path: Path, kuleshov: Run) -> None:
    scene = draw_scene(8, 0)
    x1, y1, x2, y2 = scene.faces[0].truth.box
    face = scene.image.crop((int(x1), int(y1), int(x2), int(y2))).convert("L").resize((48, 48))
    face.save(tmp_path / "face.png")
    scene.image.crop((0, 0, 40, 40)).save(tmp_path / "wall.png")
    make(tmp_path, [("face.png", "glad", "train"), ("wall.png", "sad", "train")], ("path", "label", "split"), "whole")
    said = stages(kuleshov, tmp_path, "index", "detect", "align", "extract")
    assert "2 face groups, 2 computed" in said["extract"]
    boxes = {row["sample_id"]: tuple(row[c] for c in ("x1", "y1", "x2", "y2")) for row in detections(tmp_path)}
    assert boxes == {"face.png": ("0.00", "0.00", "48.00", "48.00"), "wall.png": ("0.00", "0.00", "40.00", "40.00")}
