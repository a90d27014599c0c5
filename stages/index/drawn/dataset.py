"""Writes the drawn demo data set: scenes, their labels, their truth, clips, and two photos to predict on.

    folder/images/scene_00000.jpg ...   group scenes
    folder/labels.csv                   path,label,split,group,subset
    folder/faces.csv                    the truth of every face, see `FACE_COLUMNS` and `rules.py`
    folder/clips/clip_0000.mp4 ...      with clips > 0
    folder/clips.csv                    path,label,split,group; with clips > 0
    folder/predict/*.png                photos of scikit-image's package, where it is installed

Labels, splits and truth depend on (seed, index) alone; so do the files' bytes under one version of Pillow, numpy and
PyAV on one kind of machine. The tables of an earlier run are removed first and written after the pictures: an
interrupted run leaves no table that is wrong. Pictures of an earlier, longer run stay, and no table names them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stages.errors import DataError, SettingError
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.drawn.scenes import ScenePlan, draw_scene
from stages.progress import progress
from stages.tables import write_csv

JPEG_QUALITY = 92
MOST_SCENES, MOST_CLIPS = 100_000, 10_000
TABLES = ("labels.csv", "faces.csv", "clips.csv")
PHOTOS = ("astronaut.png", "coffee.png")

LABEL_COLUMNS = ("path", "label", "split", "group", "subset")
CLIP_COLUMNS = ("path", "label", "split", "group")
FACE_COLUMNS = (
    "path", "face", "x1", "y1", "x2", "y2",
    "left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "nose_x", "nose_y",
    "mouth_left_x", "mouth_left_y", "mouth_right_x", "mouth_right_y",
    "expression", "glasses", "decides", "setting", "paint",
)  # fmt: skip
"""px of the picture with three decimals; left as seen; expression -1 to 1; glasses, decides and paint 0 or 1."""


@dataclass(frozen=True)
class DrawnSummary:
    """What `draw_dataset` wrote.

    Attributes:
        scenes, faces, clips: how many.
        subsets, labels, splits: how many scenes of each.
        cells: how many scenes of each (subset, label, split) that occurs.
        clip_labels: how many clips of each label.
        notes: one line each on what was left out, and why.
    """

    scenes: int
    faces: int
    clips: int
    subsets: dict[str, int]
    labels: dict[str, int]
    splits: dict[str, int]
    cells: dict[tuple[str, str, str], int]
    clip_labels: dict[str, int]
    notes: tuple[str, ...]


def draw_dataset(folder: Path, *, scenes: int = 240, clips: int = 0, seed: int = 0) -> DrawnSummary:
    """Draw the demo data set into `folder`, which is made if it is not there; files of the same names are replaced.

    Args:
        folder: where to write.
        scenes: how many scenes, 1 to 100000. Scene k is the same whatever this is.
        clips: how many clips, 0 to 10000.
        seed: 0 or above.

    Raises:
        SettingError: a count or the seed is out of range.
        DataError: the folder cannot be written.
    """
    for name, value, least, most in (
        ("scenes", scenes, 1, MOST_SCENES),
        ("clips", clips, 0, MOST_CLIPS),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not least <= value <= most:
            raise SettingError(f"{name} is {value}: give a whole number from {least} to {most}")
    try:
        for table in TABLES:
            (folder / table).unlink(missing_ok=True)
        plans = _write_scenes(folder, scenes, seed)
        clip_labels = _write_clips(folder, clips, seed)
        notes = _copy_photos(folder / "predict")
    except OSError as error:
        raise DataError(
            f"cannot write the drawn data set to {folder}: {error}; give a folder you may write to"
        ) from error
    cells = Counter((plan.cell.subset, plan.cell.label, plan.cell.split) for plan in plans)
    return DrawnSummary(
        scenes=scenes,
        faces=sum(len(plan.people) for plan in plans),
        clips=clips,
        subsets=_counts(plan.cell.subset for plan in plans),
        labels=_counts(plan.cell.label for plan in plans),
        splits=_counts(plan.cell.split for plan in plans),
        cells=dict(sorted(cells.items())),
        clip_labels=_counts(clip_labels),
        notes=tuple(notes),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _write_scenes(folder: Path, scenes: int, seed: int) -> list[ScenePlan]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    plans: list[ScenePlan] = []
    for index in progress(range(scenes), total=scenes, desc="scenes", unit="scene"):
        scene = draw_scene(seed, index)
        scene.image.save(folder / _image_path(scene.plan), format="JPEG", quality=JPEG_QUALITY)
        plans.append(scene.plan)
    write_csv(folder / "faces.csv", FACE_COLUMNS, (row for plan in plans for row in face_rows(plan)))
    write_csv(folder / "labels.csv", LABEL_COLUMNS, (label_row(plan) for plan in plans))
    return plans


def _image_path(plan: ScenePlan) -> str:
    return f"images/{plan.name}.jpg"


def label_row(plan: ScenePlan) -> tuple[str, ...]:
    """A scene's row of labels.csv, in the order of `LABEL_COLUMNS`."""
    return _image_path(plan), plan.cell.label, plan.cell.split, plan.name, plan.cell.subset


def face_rows(plan: ScenePlan) -> list[tuple[str | int | float, ...]]:
    """A scene's rows of faces.csv, in the order of `FACE_COLUMNS`."""
    rows: list[tuple[str | int | float, ...]] = []
    for number, face in enumerate(plan.faces):
        truth = face.truth
        px = [round(value, 3) for point in (truth.box, *truth.landmarks) for value in point]
        traits = (truth.expression, int(truth.glasses), int(face.decides), plan.setting, int(truth.paint))
        rows.append((_image_path(plan), number, *px, *traits))
    return rows


def _write_clips(folder: Path, clips: int, seed: int) -> list[str]:
    if not clips:
        return []
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    plans = [plan_clip(seed, index) for index in range(clips)]
    for plan in progress(plans, total=clips, desc="clips", unit="clip"):
        write_clip(folder / "clips" / f"{plan.name}.mp4", plan)
    rows = [(f"clips/{plan.name}.mp4", plan.label, plan.split, plan.name) for plan in plans]
    write_csv(folder / "clips.csv", CLIP_COLUMNS, rows)
    return [plan.label for plan in plans]


def _copy_photos(folder: Path) -> list[str]:
    """Copy the photos out of scikit-image's package data, which is found without importing it; never download."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return ["predict/ has no photos: scikit-image is not installed (pip install 'kuleshov[demo]')"]
    notes = []
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        source = Path(spec.origin).parent / "data" / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
        else:
            notes.append(f"predict/{name} left out: this scikit-image does not carry it")
    return notes
