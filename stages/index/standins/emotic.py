"""Draws photos of whole persons in the layout of EMOTIC, with its Annotations.mat: see `stages.index.datasets.emotic`.

Which of the 26 categories a person has follows from what can be seen: the face's expression, glasses and painted
cheeks, whether the photo is indoors, and whether the person is alone (`RULES`). An annotator sees most of that, not
all: the one of train misses one category in ten of those beside the main one, each of the several of val and test
three in ten. Valence, arousal and dominance follow from the expression and are off by at most one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from stages.index.drawn.faces import FacePlace, draw_body, draw_face
from stages.index.drawn.moods import MOODS, mood_of
from stages.index.drawn.scenes import OVERSAMPLING, finish
from stages.index.drawn.settings import INDOOR, OUTDOOR, SETTINGS, draw_setting
from stages.index.drawn.style import FaceStyle
from stages.index.standins._folder import JPEG_QUALITY, fresh
from stages.progress import progress
from stages.settings import Settings

PICTURE_SIZES = ((480, 360), (420, 360), (360, 400))
LARGEST_FACE = 104.0
_PLANS, _PICTURE, _TRUTH = 20, 21, 22  # streams of random numbers; those below are of other drawings
_ANNOTATORS = {"train": 1, "val": 5, "test": 3}
_MISSED = {"train": 0.1, "val": 0.3, "test": 0.3}
_HEADER = b"MATLAB 5.0 MAT-file, drawn by Kuleshov; not the data set."
_FOLDERS = {
    "mscoco": "COCO_train2014_{:012d}.jpg",
    "framesdb": "frame_{:06d}.jpg",
    "emodb_small": "{:010d}.jpg",
    "ade20k": "ADE_train_{:08d}.jpg",
}
_SCALES = {  # valence, arousal, dominance of an expression, 1 to 10
    "angry": (3, 8, 8),
    "disgust": (3, 6, 6),
    "fear": (2, 8, 2),
    "happy": (9, 7, 7),
    "sad": (2, 3, 3),
    "surprise": (6, 9, 5),
    "neutral": (5, 2, 5),
    "contempt": (4, 4, 8),
}


@dataclass(frozen=True)
class Rule:
    """When a person has a category; None where something does not matter.

    Attributes:
        moods: the expressions, of `MOODS`.
        setting: `indoor` or `outdoor`.
        alone: whether nobody else is in the photo.
        glasses, paint: whether the person wears glasses, has painted cheeks.
    """

    moods: tuple[str, ...] = MOODS
    setting: str | None = None
    alone: bool | None = None
    glasses: bool | None = None
    paint: bool | None = None

    def holds(self, mood: str, setting: str, alone: bool, glasses: bool, paint: bool) -> bool:
        """Whether it does of such a person."""
        pairs = ((self.setting, setting), (self.alone, alone), (self.glasses, glasses), (self.paint, paint))
        return mood in self.moods and all(wanted is None or wanted == seen for wanted, seen in pairs)


RULES = {
    "Affection": Rule(("happy",), setting=INDOOR, alone=False),
    "Anger": Rule(("angry",)),
    "Annoyance": Rule(("angry", "contempt"), alone=False),
    "Anticipation": Rule(("surprise", "neutral"), setting=OUTDOOR, alone=True),
    "Aversion": Rule(("disgust",)),
    "Confidence": Rule(("neutral", "happy", "contempt"), glasses=True),
    "Disapproval": Rule(("contempt",)),
    "Disconnection": Rule(("neutral",), alone=True),
    "Disquietment": Rule(("fear", "sad"), setting=OUTDOOR),
    "Doubt/Confusion": Rule(("surprise", "contempt"), glasses=True),
    "Embarrassment": Rule(("sad", "fear", "neutral"), paint=True),
    "Engagement": Rule(("neutral", "happy", "surprise"), alone=False),
    "Esteem": Rule(("neutral", "happy"), alone=False, glasses=True),
    "Excitement": Rule(("happy", "surprise"), setting=OUTDOOR),
    "Fatigue": Rule(("sad", "neutral"), setting=INDOOR, glasses=True),
    "Fear": Rule(("fear",)),
    "Happiness": Rule(("happy",)),
    "Pain": Rule(("sad", "disgust"), paint=True),
    "Peace": Rule(("neutral",), setting=OUTDOOR),
    "Pleasure": Rule(("happy",), glasses=False),
    "Sadness": Rule(("sad",)),
    "Sensitivity": Rule(("sad",), alone=False),
    "Suffering": Rule(("sad", "fear"), setting=INDOOR),
    "Surprise": Rule(("surprise",)),
    "Sympathy": Rule(("neutral", "sad"), setting=INDOOR, alone=False, paint=False),
    "Yearning": Rule(("sad", "neutral"), setting=OUTDOOR, alone=True),
}


class Sizes(Settings):
    """How many photos train, val and test have; 1.8 persons each. From about 20 on a part has every category."""

    train: int = Field(140, ge=3)
    val: int = Field(20, ge=1)
    test: int = Field(40, ge=3)


@dataclass(frozen=True)
class _Person:
    main: str
    mood: str
    glasses: bool
    paint: bool


@dataclass(frozen=True)
class _Photo:
    """A photo before it is drawn. `index` is its number in the whole data set."""

    part: str
    index: int
    setting: str
    people: tuple[_Person, ...]

    @property
    def database(self) -> str:
        return tuple(_FOLDERS)[self.index % len(_FOLDERS)]

    @property
    def folder(self) -> str:
        return f"{self.database}/images"

    @property
    def filename(self) -> str:
        return _FOLDERS[self.database].format(self.index + 1)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.04 s a photo.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    photos: list[_Photo] = []
    for number, (part, count) in enumerate((("train", sizes.train), ("val", sizes.val), ("test", sizes.test))):
        rng = np.random.default_rng((seed, _PLANS, number))
        photos += _plans(part, len(photos), count, rng)
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    with fresh(folder):
        for photo in progress(photos, total=len(photos), desc="persons", unit="photo"):
            image, boxes = _draw(seed, photo)
            path = folder / "emotic" / photo.folder / photo.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, format="JPEG", quality=JPEG_QUALITY)
            entries[photo.part].append(_entry(seed, photo, image.size, boxes))
        (folder / "Annotations").mkdir()
        (folder / "Annotations" / "Annotations.mat").write_bytes(_mat(entries))


def _plans(part: str, first: int, count: int, rng: np.random.Generator) -> Iterator[_Photo]:
    """Photos whose persons' main categories take turns, in ever new orders."""
    waiting: list[str] = []
    for index in range(first, first + count):
        if len(waiting) < len(RULES):
            waiting += [list(RULES)[int(at)] for at in rng.permutation(len(RULES))]
        rule = RULES[waiting[0]]
        setting = rule.setting or SETTINGS[int(rng.integers(len(SETTINGS)))]
        company = 1 + int(rng.integers(1, 3)) if rule.alone is False else 1
        if rule.alone is None:
            company = int(rng.choice(3, p=(0.4, 0.35, 0.25))) + 1
        people: list[_Person] = []
        for _ in range(company):
            main = _next(waiting, setting, company == 1, people)
            waiting.remove(main)
            people.append(_person(main, rng))
        yield _Photo(part, index, setting, tuple(people))


def _next(waiting: Sequence[str], setting: str, alone: bool, people: Sequence[_Person]) -> str:
    """The first category that fits the photo; rather one as pleasant as the first person."""
    fitting = [
        name for name in waiting if RULES[name].setting in (None, setting) and RULES[name].alone in (None, alone)
    ]
    if people:
        tone = _tone(people[0].mood)
        fitting.sort(key=lambda name: tone not in {_tone(mood) for mood in RULES[name].moods})
    return fitting[0]


def _tone(mood: str) -> int:
    valence = _SCALES[mood][0]
    return (valence > 6) - (valence < 4)


def _person(main: str, rng: np.random.Generator) -> _Person:
    rule = RULES[main]
    mood = rule.moods[int(rng.integers(len(rule.moods)))]
    glasses, paint = bool(rng.random() < 0.35), bool(rng.random() < 0.15)
    if rule.paint is not None:
        paint = rule.paint
    glasses = rule.glasses if rule.glasses is not None else glasses and not paint
    return _Person(main, mood, glasses, paint and not glasses)


def categories_of(photo_setting: str, alone: bool, mood: str, glasses: bool, paint: bool) -> list[str]:
    """Every category whose rule holds, in EMOTIC's order: one to five."""
    return [name for name, rule in RULES.items() if rule.holds(mood, photo_setting, alone, glasses, paint)]


def _draw(seed: int, photo: _Photo) -> tuple[Image.Image, list[list[int]]]:
    """The picture, and each person's box from hair to the picture's lower edge, a few px off, as people draw them."""
    rng = np.random.default_rng((seed, _PICTURE, photo.index))
    width, height = PICTURE_SIZES[int(rng.integers(len(PICTURE_SIZES)))]
    canvas = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw_setting(canvas, photo.setting, rng, OVERSAMPLING)
    cell = width / len(photo.people)
    placed = []
    for number, person in enumerate(photo.people):
        tall = float(rng.uniform(0.75, 1.0)) * min(LARGEST_FACE, cell / 1.6)
        place = FacePlace(
            float(rng.uniform(number * cell + 0.8 * tall, (number + 1) * cell - 0.8 * tall)),
            float(rng.uniform(0.95 * tall, max(0.96 * tall, 0.42 * height))),
            tall,
            float(rng.uniform(-10, 10)),
        )
        style = FaceStyle.draw_lots(rng, glasses=person.glasses, paint=person.paint)
        strength = 0.0 if person.mood == "neutral" else float(rng.uniform(0.75, 1.0))
        draw_body(canvas, style, place, OVERSAMPLING)
        placed.append((style, place, mood_of(person.mood, strength)))
    image = canvas.reduce(OVERSAMPLING)
    boxes = []
    for style, place, mood in placed:
        draw_face(image, style, place, 0.0, mood)
        reach = 0.8 * place.height
        edges = (place.x - reach, place.y - 0.9 * place.height, place.x + reach, float(height))
        boxes.append([round(edge + float(rng.uniform(-3, 3))) for edge in edges])
    return finish(image, photo.setting, rng), boxes


def _entry(seed: int, photo: _Photo, size: tuple[int, int], boxes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A photo's entry of the struct array."""
    rng = np.random.default_rng((seed, _TRUTH, photo.index))
    people = [_told(photo, person, box, rng) for person, box in zip(photo.people, boxes, strict=True)]
    return {
        "filename": photo.filename,
        "folder": photo.folder,
        "image_size": {"n_row": size[1], "n_col": size[0]},
        "original_database": {"name": photo.database, "info": {"drawn": 1}},
        "person": _structs(people),
    }


def _told(photo: _Photo, person: _Person, box: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
    """What annotators told of a person; in val and test with what they come to together."""
    seen = categories_of(photo.setting, len(photo.people) == 1, person.mood, person.glasses, person.paint)
    told = []
    for _ in range(_ANNOTATORS[photo.part]):
        names = [name for name in seen if name == person.main or rng.random() >= _MISSED[photo.part]]
        rated = [int(np.clip(value + rng.integers(-1, 2), 1, 10)) for value in _SCALES[person.mood]]
        told.append((names, dict(zip(("valence", "arousal", "dominance"), rated, strict=True))))
    struct: dict[str, Any] = {"body_bbox": np.array([box], np.float64)}
    struct["annotations_categories"] = _structs([{"categories": _cell(names)} for names, _ in told])
    if photo.part != "train":
        struct["combined_categories"] = _cell(sorted({name for names, _ in told for name in names}))
    struct["annotations_continuous"] = _structs([rated for _, rated in told])
    if photo.part != "train":
        means = {name: float(np.mean([rated[name] for _, rated in told])) for name in told[0][1]}
        struct["combined_continuous"] = means
    struct["gender"] = ("Female", "Male")[int(rng.integers(2))]
    struct["age"] = ("Kid", "Teenager", "Adult")[int(rng.choice(3, p=(0.1, 0.1, 0.8)))]
    return struct


def _cell(names: Sequence[str]) -> np.ndarray:
    """A row of texts as MATLAB's cell."""
    cell = np.empty((1, len(names)), object)
    cell[0, :] = names
    return cell


def _structs(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Rows with the same names as a MATLAB struct array of one row."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for at, row in enumerate(rows):
        array[0, at] = tuple(row.values())
    return array


def _mat(entries: dict[str, list[dict[str, Any]]]) -> bytes:
    """A MATLAB file of version 5, without the time that scipy writes into its first bytes."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {part: _structs(rows) for part, rows in entries.items()}, do_compression=True)
    return _HEADER.ljust(116) + buffer.getvalue()[116:]
