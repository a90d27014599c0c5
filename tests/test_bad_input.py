"""Everything a user's folder may hold, through every stage: bad items are recorded, the rest goes on."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main_group
from stages.index.drawn.scenes import draw_scene

Run = Callable[..., tuple[int, str, str]]
BAD = {"truncated.jpg": "truncated", "empty.jpg": "empty", "words.jpg": "not_an_image", "huge.png": "too_large"}
GONE = {"gone.jpg": "missing"}
GOOD = (
    *("scene0.jpg", "scene1.jpg", "scene2.jpg", "scene3.jpg", "cmyk.jpg", "deep.png", "palette.png", "animated.gif"),
    *("turned.jpg", "dot.png", "really_a_png.jpg", "faceless.png", "once.jpg", "test_only.jpg", "unlabelled.jpg"),
)


def write_photos(folder: Path) -> None:
    scenes = [draw_scene(5, index).image for index in range(4)]
    small = scenes[0].resize((240, 180))
    for index, scene in enumerate(scenes):
        scene.save(folder / f"scene{index}.jpg")
    content = (folder / "scene0.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "words.jpg").write_text("this is not a photo\n")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    small.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    small.convert("P").save(folder / "palette.png")
    small.save(folder / "animated.gif", save_all=True, append_images=[scenes[1].resize((240, 180))])
    exif = Image.Exif()
    exif[0x0112] = 6
    scenes[1].transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    small.save(folder / "really_a_png.jpg", format="PNG")
    Image.new("RGB", (200, 150), (90, 140, 60)).save(folder / "faceless.png")
    for index, name in enumerate(("once.jpg", "test_only.jpg", "unlabelled.jpg")):
        scenes[index].resize((320, 240)).save(folder / name)


LABELS = {"once.jpg": "rare", "test_only.jpg": "unseen", "unlabelled.jpg": ""}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bad")
    (place / "images").mkdir()
    write_photos(place / "images")
    with open(place / "labels.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "label", "split"))
        for i, name in enumerate(sorted({*GOOD, *BAD, *GONE})):
            split = "test" if name in {"test_only.jpg", "scene3.jpg", "unlabelled.jpg"} else "train"
            writer.writerow((name, LABELS.get(name, ("negative", "positive")[i % 2]), split))
    table, images = str(place / "labels.csv"), str(place / "images")
    main_group.main(
        ["init", str(place / "p"), "--adapter", "csv", "--root", table, "--images", images], standalone_mode=False
    )
    path = place / "p" / "params.yaml"
    text = path.read_text().replace("seeds: [0, 1, 2]", "seeds: [0]").replace("max_failures: 5%", "max_failures: 50%")
    path.write_text(text)
    return place / "p"


def ledger(project: Path, stage: str) -> dict[str, str]:
    with open(project / "artifacts" / "failures" / f"{stage}.csv", newline="", encoding="utf-8") as handle:
        return {row["sample_id"]: row["reason"] for row in csv.DictReader(handle)}


def test_every_stage_goes_on_and_every_bad_item_is_recorded(project: Path, kuleshov: Run) -> None:
    for stage in ("index", "detect", "align", "extract", "train", "fuse", "evaluate", "report"):
        status, out, err = kuleshov("-C", project, stage)
        assert status == 0, (stage, out, err)
        assert "Traceback" not in err
        if stage == "index":
            assert "2 of 20 failed" in out
            assert "warning" in out
            assert "unseen" in out
    assert ledger(project, "index") == {"gone.jpg": "missing", "empty.jpg": "empty"}
    assert ledger(project, "detect") == {name: reason for name, reason in BAD.items() if name != "empty.jpg"}
    with open(project / "artifacts" / "predictions" / "fused" / "all_heads.csv", newline="") as handle:
        predicted = {row["sample_id"]: row for row in csv.DictReader(handle)}
    assert set(predicted) == set(GOOD)
    assert predicted["unlabelled.jpg"]["label"] == ""
    assert {"rare", "unseen"} <= set(predicted["scene0.jpg"])


def test_a_photo_without_a_face_counts(project: Path) -> None:
    with open(project / "artifacts" / "detections.csv", newline="") as handle:
        with_faces = {row["sample_id"] for row in csv.DictReader(handle)}
    assert "faceless.png" not in with_faces
    assert {"scene0.jpg", "turned.jpg", "scene1.jpg"} <= with_faces


def test_a_turned_photo_gives_the_boxes_of_the_upright_one(project: Path) -> None:
    boxes: dict[str, list[tuple[float, ...]]] = {"turned.jpg": [], "scene1.jpg": []}
    with open(project / "artifacts" / "detections.csv", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["sample_id"] in boxes:
                boxes[row["sample_id"]].append(tuple(float(row[c]) for c in ("x1", "y1", "x2", "y2")))
    assert len(boxes["turned.jpg"]) == len(boxes["scene1.jpg"]) > 0
    # JPEG twice: the same boxes within a few px, whatever their order
    for box in boxes["turned.jpg"]:
        nearest = min(boxes["scene1.jpg"], key=lambda other: sum(abs(a - b) for a, b in zip(box, other, strict=True)))
        assert box == pytest.approx(nearest, abs=6)


@pytest.mark.parametrize(("allowed", "status"), [("1", 1), ("2", 0), ("9%", 1), ("10%", 0)])
def test_the_allowance_is_a_count_or_a_percentage(project: Path, kuleshov: Run, allowed: str, status: int) -> None:
    found, _, err = kuleshov("-C", project, "index", "--max-failures", allowed)
    assert found == status
    if status:
        assert f"2 of 20 items failed (empty 1, missing 1), max_failures is {allowed}" in err
        assert (project / "artifacts" / "manifest.csv").exists(), "what was done is kept"


@pytest.mark.parametrize("allowed", ["many", "-1", "200%"])
def test_a_bad_allowance_is_one_line(project: Path, kuleshov: Run, allowed: str) -> None:
    status, _, err = kuleshov("-C", project, "index", "--max-failures", allowed)
    assert status == 1
    assert "--max-failures" in err
    assert len(err.splitlines()) == 1


def test_a_directory_without_images_is_one_line(tmp_path: Path, kuleshov: Run) -> None:
    (tmp_path / "photos" / "calm").mkdir(parents=True)
    (tmp_path / "photos" / "calm" / "notes.txt").write_text("no photo")
    kuleshov("init", tmp_path / "p", "--adapter", "folder", "--root", tmp_path / "photos")
    status, _, err = kuleshov("-C", tmp_path / "p", "index")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert str(tmp_path / "photos") in err


def test_an_unknown_key_stops_before_anything_is_done(project: Path, tmp_path: Path, kuleshov: Run) -> None:
    text = (project / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("min_face_size", "min_face"))
    status, out, err = kuleshov("-C", tmp_path, "index")
    assert (status, out) == (1, "")
    assert "detect.min_face" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "artifacts").exists()


def test_weights_that_are_missing_are_one_line(
    project: Path, kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(tmp_path))
    status, _, err = kuleshov("-C", project, "extract", "resnet29")
    assert status == 1
    assert "kuleshov weights fetch resnet29" in err
    assert len(err.splitlines()) == 1


def test_a_role_that_is_not_there_is_one_line(project: Path, kuleshov: Run) -> None:
    status, _, err = kuleshov("-C", project, "extract", "resnet92")
    assert status == 1
    assert "resnet92" in err
    assert "resnet29" in err


def test_too_few_photos_for_a_test_split_are_warned_of_and_said(tmp_path: Path, kuleshov: Run) -> None:
    for label in ("calm", "glad"):
        (tmp_path / "photos" / "train" / label).mkdir(parents=True)
        draw_scene(6, 0).image.resize((160, 120)).save(tmp_path / "photos" / "train" / label / f"{label}.png")
    kuleshov("init", tmp_path / "p", "--adapter", "folder", "--root", tmp_path / "photos")
    status, out, _ = kuleshov("-C", tmp_path / "p", "index")
    assert status == 0
    assert "warning: no samples in test, which evaluate scores" in out


def test_an_index_ledger_names_no_place_of_this_machine(project: Path, kuleshov: Run) -> None:
    kuleshov("-C", project, "index")
    text = (project / "artifacts" / "failures" / "index.csv").read_text()
    assert "gone.jpg,missing" in text
    assert str(project.parent) not in text
