import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stages.errors import DataError, SettingError
from stages.index.drawn.dataset import CLIP_COLUMNS, FACE_COLUMNS, LABEL_COLUMNS, DrawnSummary, draw_dataset

Rows = list[dict[str, str]]
Drawn = tuple[Path, DrawnSummary]


def label_from_rows(subset: str, faces: Rows) -> str:
    """The documented rule, written anew from the columns of faces.csv alone."""

    def size(row: dict[str, str]) -> float:
        return (float(row["x2"]) - float(row["x1"])) * (float(row["y2"]) - float(row["y1"]))

    chosen = {
        "crowd": lambda: faces,
        "marked": lambda: [row for row in faces if row["paint"] == "1"],
        "setting": lambda: [row for row in faces if row["glasses"] == ("1" if row["setting"] == "indoor" else "0")],
        "largest": lambda: sorted(faces, key=size, reverse=True)[: 3 if len(faces) > 3 else 1],
    }[subset]()
    assert {row["face"] for row in chosen} == {row["face"] for row in faces if row["decides"] == "1"}
    mean = sum(float(row["expression"]) for row in chosen) / len(chosen)
    return "positive" if mean > 0.3 else "negative" if mean < -0.3 else "neutral"


def test_the_labels_follow_from_the_truth(drawn: Drawn, read_rows: Callable[[Path], Rows]) -> None:
    folder, summary = drawn
    faces: dict[str, Rows] = defaultdict(list)
    for row in read_rows(folder / "faces.csv"):
        assert tuple(row) == FACE_COLUMNS
        assert row["face"] == str(len(faces[row["path"]]))
        faces[row["path"]].append(row)
    labels = read_rows(folder / "labels.csv")
    assert [row["path"] for row in labels] == [f"images/scene_{index:05d}.jpg" for index in range(36)] == list(faces)
    for row in labels:
        assert tuple(row) == LABEL_COLUMNS
        assert label_from_rows(row["subset"], faces[row["path"]]) == row["label"], row["path"]
    assert len({row["group"] for row in labels}) == 36
    assert sum(map(len, faces.values())) == summary.faces


def test_the_pictures_are_jpeg_files_and_hold_their_faces(drawn: Drawn, read_rows: Callable[[Path], Rows]) -> None:
    folder, _ = drawn
    sizes = {}
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes[f"images/{path.name}"] = image.size
    assert len(sizes) == 36
    assert not list(folder.rglob("*.tmp"))
    for row in read_rows(folder / "faces.csv"):
        width, height = sizes[row["path"]]
        assert 0 <= float(row["x1"]) < float(row["left_eye_x"]) < float(row["right_eye_x"]) < float(row["x2"]) <= width
        assert (
            0 <= float(row["y1"]) < float(row["left_eye_y"]) < float(row["mouth_left_y"]) < float(row["y2"]) <= height
        )
        assert float(row["mouth_left_x"]) < float(row["nose_x"]) + 0.2 * (float(row["x2"]) - float(row["x1"]))


def test_the_summary_counts_what_was_written(drawn: Drawn, read_rows: Callable[[Path], Rows]) -> None:
    folder, summary = drawn
    assert (summary.scenes, summary.clips, summary.clip_labels) == (36, 0, {})
    assert summary.subsets == {"crowd": 9, "largest": 9, "marked": 9, "setting": 9}
    assert summary.labels == {"negative": 12, "neutral": 12, "positive": 12}
    rows = read_rows(folder / "labels.csv")
    for part, count in summary.splits.items():
        assert sum(row["split"] == part for row in rows) == count
    for (subset, label, split), count in summary.cells.items():
        assert sum((row["subset"], row["label"], row["split"]) == (subset, label, split) for row in rows) == count
    assert sum(summary.cells.values()) == 36


def test_fewer_scenes_are_a_prefix_and_the_same_bytes(drawn: Drawn, tmp_path: Path) -> None:
    folder, _ = drawn
    draw_dataset(tmp_path, scenes=9, seed=3)
    for path in sorted((tmp_path / "images").iterdir()):
        assert path.read_bytes() == (folder / "images" / path.name).read_bytes()
    for name in ("labels.csv", "faces.csv"):
        part, whole = (place / name for place in (tmp_path, folder))
        assert whole.read_bytes().startswith(part.read_bytes())


def test_another_seed_gives_other_scenes_of_the_same_labels(drawn: Drawn, tmp_path: Path) -> None:
    folder, _ = drawn
    draw_dataset(tmp_path, scenes=4, seed=4)
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes() != (folder / "images" / path.name).read_bytes()
    assert (folder / "labels.csv").read_bytes().startswith((tmp_path / "labels.csv").read_bytes())
    assert not (folder / "faces.csv").read_bytes().startswith((tmp_path / "faces.csv").read_bytes())


def test_photos_are_copied_from_scikit_image(drawn: Drawn) -> None:
    pytest.importorskip("skimage")
    folder, summary = drawn
    assert summary.notes == ()
    sizes = {}
    for path in (folder / "predict").iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert sizes == {"astronaut.png": (512, 512), "coffee.png": (600, 400)}


def test_clips_are_written_with_their_table(tmp_path: Path, read_rows: Callable[[Path], Rows]) -> None:
    summary = draw_dataset(tmp_path, scenes=1, clips=2)
    rows = read_rows(tmp_path / "clips.csv")
    assert all(tuple(row) == CLIP_COLUMNS for row in rows)
    assert [row["path"] for row in rows] == ["clips/clip_0000.mp4", "clips/clip_0001.mp4"]
    assert [row["label"] for row in rows] == ["negative", "neutral"]
    assert all((tmp_path / row["path"]).stat().st_size > 1000 for row in rows)
    assert (summary.clips, summary.clip_labels) == (2, {"negative": 1, "neutral": 1})


def test_without_scikit_image_the_photos_are_left_out_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    summary = draw_dataset(tmp_path, scenes=1)
    assert not (tmp_path / "predict").exists()
    assert len(summary.notes) == 1
    assert "scikit-image is not installed" in summary.notes[0]


@pytest.mark.parametrize(
    ("scenes", "clips", "seed", "message"),
    [
        (0, 0, 0, "scenes is 0: give a whole number from 1 to 100000"),
        (100_001, 0, 0, "scenes is 100001"),
        (1, -1, 0, "clips is -1: give a whole number from 0 to 10000"),
        (1, 0, -5, "seed is -5"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, scenes: int, clips: int, seed: int, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        draw_dataset(tmp_path, scenes=scenes, clips=clips, seed=seed)


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="taken"):
        draw_dataset(tmp_path / "taken", scenes=1)


def test_drawing_again_replaces_every_table(tmp_path: Path) -> None:
    draw_dataset(tmp_path, scenes=2, seed=1)
    first = (tmp_path / "faces.csv").read_bytes()
    (tmp_path / "clips.csv").write_text("path,label,split,group\n")
    draw_dataset(tmp_path, scenes=1, seed=2)
    assert not first.startswith((tmp_path / "faces.csv").read_bytes())
    assert not (tmp_path / "clips.csv").exists()
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 2
