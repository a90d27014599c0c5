"""Thumbnails as data URIs, and what is drawn over them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stages.errors import DataError, MediaError
from stages.index.manifest import Sample
from stages.index.samples import open_frames, probe_shared
from stages.report.choice import Case
from stages.report.inputs import Row
from stages.report.words import percent

LONG_SIDE = 320  # px of a thumbnail
BUDGET = 42_000  # bytes of a thumbnail: 24 of them in base64 stay under 1.4 MB
TILE = (250.0, 190.0)  # CSS px that a photo has on the page, for text of one size on every photo
TEXT = 11.0  # CSS px
NAMED_WEIGHTS = 3  # weights written out per photo: more would hide the faces


@dataclass(frozen=True)
class Face:
    """A box over a thumbnail, in px of the thumbnail.

    Attributes:
        x, y, width, height: the box, cut to the photo.
        weight: attention in [0, 1]; None where there is none.
        stroke: line width in CSS px; opacity: in [0, 1].
        text: the weight as text, or empty; text_x, text_y: where its base line starts.
    """

    x: float
    y: float
    width: float
    height: float
    weight: float | None
    stroke: float
    opacity: float
    text: str
    text_x: float
    text_y: float


@dataclass(frozen=True)
class Tile:
    """One photo of the gallery. `uri` is empty and `problem` says why where the photo cannot be read."""

    case: Case
    uri: str
    width: int
    height: int
    font: float
    faces: tuple[Face, ...]
    label: str
    spoken: str
    problem: str


def thumbnail(image: Image.Image) -> tuple[bytes, int, int]:
    """JPEG bytes of an RGB image with a long side of at most 320 px, and its width and height.

    It carries no metadata of the photo (place, camera, comments). At most `BUDGET` bytes: the quality gives way.
    """
    scale = min(1.0, LONG_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.info = {}  # Pillow copies comments and profiles from here
    data = b""
    for quality in (78, 66, 52, 38, 24, 10):
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= BUDGET:
            break
    return data, *size


def tiles(chosen: Sequence[Case], root: Path, detections: Sequence[Row], attention: Sequence[Row]) -> list[Tile]:
    """The gallery's tiles. A photo that cannot be read is a tile without a picture.

    A clip shows the frame whose faces weigh most, the first of equals; one without a face its middle frame.

    Args:
        chosen: what to show.
        root: what relative paths are relative to.
        detections: rows of detections.csv.
        attention: rows of one attention/NAME.csv.

    Raises:
        DataError: a row of detections or attention without a column or with something that is not a number.
    """
    wanted = {case.sample.sample_id for case in chosen}
    boxes = _by_face("detections.csv", detections, ("x1", "y1", "x2", "y2"), wanted)
    weights = _by_face("attention", attention, ("weight",), wanted)
    clips = {case.sample.sample_id for case in chosen if case.sample.media == "video"}
    times = _by_face("detections.csv", detections, ("time_s",), clips) if clips else {}
    found = []
    for case in chosen:
        key = case.sample.sample_id
        mine = weights.get(key, {})
        frame = _most_attended(boxes.get(key, {}), mine)
        time_s = next((row[0] for (at, _), row in times.get(key, {}).items() if at == frame), None)
        found.append(_tile(case, root, time_s, _of_frame(boxes.get(key, {}), frame), _of_frame(mine, frame)))
    return found


Numbers = Mapping[tuple[int, int], tuple[float, ...]]
"""(frame, face) -> numbers."""


def _most_attended(boxes: Numbers, weights: Numbers) -> int:
    total: dict[int, float] = {}
    for frame, face in sorted(boxes):
        total[frame] = total.get(frame, 0.0) + weights.get((frame, face), (0.0,))[0]
    return max(total, key=total.__getitem__, default=0)


def _of_frame(numbers: Numbers, frame: int) -> dict[int, tuple[float, ...]]:
    return {face: row for (at, face), row in numbers.items() if at == frame}


def _picture(sample: Sample, root: Path, time_s: float | None) -> Image.Image:
    """The photo, or the clip's frame of this time; None: its middle one. Raises MediaError."""
    times_us = None
    if sample.media == "video":
        times_us = [round(time_s * 1e6)] if time_s is not None else _middle(probe_shared([sample], root).times_us)
    [image] = open_frames([sample], root, times_us)
    return image


def _middle(times_us: np.ndarray) -> list[int]:
    return [int(times_us[len(times_us) // 2])]


def _tile(
    case: Case,
    root: Path,
    time_s: float | None,
    boxes: Mapping[int, tuple[float, ...]],
    attention: Mapping[int, tuple[float, ...]],
) -> Tile:
    label = ", ".join(case.sample.labels)
    weights = {face: row[0] for face, row in attention.items()}
    try:
        image = _picture(case.sample, root, time_s)
    except MediaError as error:
        return Tile(case, "", 4, 3, 0.0, (), label, "", error.reason)
    data, width, height = thumbnail(image)
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    shown = min(TILE[0] / width, TILE[1] / height)
    font = round(TEXT / shown, 2)
    named = set(sorted(weights, key=lambda face: (-weights[face], face))[:NAMED_WEIGHTS])
    faces = tuple(
        _face(box, width / image.width, (width, height), weights.get(face), face in named, font)
        for face, box in sorted(boxes.items())
    )
    kind = "Photo" if case.sample.media == "image" else "Clip, one frame"
    spoken = (
        f"{kind} with {len(faces)} detected face{'' if len(faces) == 1 else 's'}. Label: {label or 'none'}. "
        f"Predicted: {case.predicted}, {percent(case.probability, 0)}. {case.outcome.capitalize()}."
    )
    return Tile(case, uri, width, height, font, faces, label, spoken, "")


def _face(
    box: tuple[float, ...], scale: float, size: tuple[int, int], weight: float | None, is_named: bool, font: float
) -> Face:
    x1, x2 = (min(max(value * scale, 0.0), size[0]) for value in (box[0], box[2]))
    y1, y2 = (min(max(value * scale, 0.0), size[1]) for value in (box[1], box[3]))
    strength = 0.5 if weight is None else min(max(weight, 0.0), 1.0)
    # Above the box, or inside it where there is no room above.
    text_y = y1 - font * 0.35 if y1 > font * 1.2 else y1 + font * 1.05
    return Face(
        x=round(x1, 1),
        y=round(y1, 1),
        width=round(max(x2 - x1, 0.0), 1),
        height=round(max(y2 - y1, 0.0), 1),
        weight=weight,
        stroke=round(1.2 + 3.0 * strength, 2),
        opacity=round(0.45 + 0.55 * math.sqrt(strength), 2),
        text=f"{weight:.2f}" if weight is not None and is_named else "",
        text_x=round(max(0.0, min(x1 + 1, size[0] - 3.3 * font)), 1),  # 4 characters, also where a phone enlarges them
        text_y=round(text_y, 1),
    )


def _by_face(
    what: str, rows: Iterable[Row], columns: tuple[str, ...], wanted: set[str]
) -> dict[str, dict[tuple[int, int], tuple[float, ...]]]:
    """sample_id -> (frame, face) -> the numbers of its columns, for the samples wanted."""
    found: dict[str, dict[tuple[int, int], tuple[float, ...]]] = {}
    for row in rows:
        try:
            if row["sample_id"] not in wanted:
                continue
            numbers = tuple(float(row[column]) for column in columns)
            if not all(map(math.isfinite, numbers)):
                raise ValueError("not a finite number")
            found.setdefault(row["sample_id"], {})[int(row["frame"]), int(row["face"])] = numbers
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{what}: row of sample {row.get('sample_id')!r} has no usable {', '.join(columns)} ({error}); "
                "run the stage that wrote it again"
            ) from error
    return found
