"""Group scenes: who stands where, with which expression, and whose expression decides.

A scene depends on (seed, index) alone. The index gives subset, label and split by counting, so that every prefix of a
data set is as balanced as its length allows and 240 scenes are exactly balanced; the seed gives the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from stages.index.drawn.faces import FacePlace, FaceTruth, draw_body, draw_face, face_truth
from stages.index.drawn.rules import CROWD, LABELS, LARGEST, MARKED, NEGATIVE, NEUTRAL, POSITIVE, SUBSETS
from stages.index.drawn.settings import INDOOR, SETTINGS, TINTS, draw_setting
from stages.index.drawn.style import FaceStyle

_TRAIN, _VAL, _TEST = "train", "val", "test"
SPLIT_CYCLE = (
    _TRAIN, _VAL, _TRAIN, _TEST, _TRAIN, _TRAIN, _TRAIN, _TEST, _VAL, _TRAIN,
    _TRAIN, _TEST, _TRAIN, _TRAIN, _VAL, _TEST, _TRAIN, _TRAIN, _TRAIN, _TEST,
)  # fmt: skip
"""12 train, 3 val, 5 test, spread out."""

SIZES = ((480, 360), (560, 420), (600, 400), (640, 480))
OVERSAMPLING = 2
MIN_HEIGHT, MAX_HEIGHT = 44.0, 150.0
LARGER = 1.7
"""In `largest`, how many times as high the deciding faces are, at least."""

# What a head takes around its box's centre, in heights of its box: hair, bun, the turn by MAX_ANGLE, neck.
REACH_X, REACH_UP, REACH_DOWN = 0.68, 0.95, 0.70
MAX_ANGLE = 12.0

_ROWS = {
    1: ((1,),),
    2: ((2,),),
    3: ((3,), (1, 2)),
    4: ((2, 2), (4,)),
    5: ((2, 3),),
    6: ((3, 3),),
    7: ((3, 4), (2, 2, 3)),
    8: ((4, 4), (2, 3, 3)),
    9: ((4, 5), (3, 3, 3)),
}
"""Faces per row, back to front, by number of faces."""


@dataclass(frozen=True)
class Cell:
    """What the index alone says of a scene."""

    subset: str
    label: str
    split: str


@dataclass(frozen=True)
class SceneFace:
    """One face of a scene: its truth, and whether it decides the scene's label."""

    truth: FaceTruth
    decides: bool


@dataclass(frozen=True)
class Person:
    """One person of a plan."""

    style: FaceStyle
    place: FacePlace
    expression: float
    decides: bool


@dataclass(frozen=True)
class ScenePlan:
    """A scene before it is drawn: all of its truth, none of its pixels.

    Attributes:
        seed, index: what it depends on.
        cell: subset, label, split.
        size: width and height, px.
        setting: `indoor` or `outdoor`.
        people: back to front, then left to right.
    """

    seed: int
    index: int
    cell: Cell
    size: tuple[int, int]
    setting: str
    people: tuple[Person, ...]

    @property
    def name(self) -> str:
        """`scene_00000`: unique per scene, in the order of the indices."""
        return f"scene_{self.index:05d}"

    @property
    def faces(self) -> tuple[SceneFace, ...]:
        """The truth of each face, in the order of `people`."""
        return tuple(
            SceneFace(face_truth(person.style, person.place, person.expression), person.decides)
            for person in self.people
        )


@dataclass(frozen=True)
class Scene:
    """A drawn scene: the plan (with the truth) and the RGB picture of `plan.size`."""

    plan: ScenePlan
    image: Image.Image

    @property
    def faces(self) -> tuple[SceneFace, ...]:
        """The truth of each face."""
        return self.plan.faces


@dataclass(frozen=True)
class _Role:
    """What a face is for, before it has looks and a place."""

    expression: float
    decides: bool
    glasses: bool
    paint: bool = False


def scene_cell(index: int) -> Cell:
    """Subset, label and split of scene `index`: 12 cells in turn, each going through the split cycle."""
    cell, block = index % 12, index // 12
    return Cell(SUBSETS[cell % 4], LABELS[cell // 4], SPLIT_CYCLE[(block + 3 * cell) % len(SPLIT_CYCLE)])


def plan_scene(seed: int, index: int) -> ScenePlan:
    """Everything about a scene but its pixels; the same for the same (seed, index).

    Args:
        seed: 0 or above.
        index: 0 or above.
    """
    rng = np.random.default_rng((seed, 0, index))
    cell = scene_cell(index)
    size = SIZES[int(rng.integers(len(SIZES)))]
    setting = SETTINGS[int(rng.integers(len(SETTINGS)))]
    roles = _roles(cell, setting, rng)
    places = _places_by_size(roles, size, rng) if cell.subset == LARGEST else _places(len(roles), size, rng)
    people = tuple(
        Person(FaceStyle.draw_lots(rng, glasses=role.glasses, paint=role.paint), place, role.expression, role.decides)
        for role, place in zip(roles, places, strict=True)
    )
    return ScenePlan(seed, index, cell, size, setting, people)


def draw_scene(seed: int, index: int) -> Scene:
    """Draw a scene; the same bytes for the same (seed, index), on one kind of machine.

    Other versions of Pillow or numpy may round a pixel differently; the plan stays the same."""
    plan = plan_scene(seed, index)
    rng = np.random.default_rng((seed, 1, index))
    width, height = plan.size
    canvas = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw_setting(canvas, plan.setting, rng, OVERSAMPLING)
    # Whoever's chin is lower stands in front. Heads come after all bodies, so no body hides a face.
    people = sorted(plan.people, key=lambda person: person.place.y + person.place.height / 2)
    for person in people:
        draw_body(canvas, person.style, person.place, OVERSAMPLING)
    image = canvas.reduce(OVERSAMPLING)
    for person in people:
        draw_face(image, person.style, person.place, person.expression)
    return Scene(plan, finish(image, plan.setting, rng))


def finish(image: Image.Image, setting: str, rng: np.random.Generator) -> Image.Image:
    """The setting's tint, the exposure and the grain of a camera."""
    pixels = np.asarray(image, dtype=np.float32)
    gain = np.asarray(TINTS[setting], dtype=np.float32) * np.float32(rng.uniform(0.86, 1.04))
    grain = rng.standard_normal((image.height, image.width, 1), dtype=np.float32) * np.float32(rng.uniform(1.0, 3.0))
    return Image.fromarray(np.clip(pixels * gain + grain + 0.5, 0, 255).astype(np.uint8))


def _toward(label: str, low: float, high: float, rng: np.random.Generator) -> float:
    """An expression of strength low..high in the label's direction, or within ±0.15 for neutral."""
    if label == NEUTRAL:
        return round(float(rng.uniform(-0.15, 0.15)), 3)
    return round(float(rng.uniform(low, high)) * (1 if label == POSITIVE else -1), 3)


def _contrary(label: str, rng: np.random.Generator) -> str:
    """The opposite label; for neutral, one of the two at random."""
    if label == NEUTRAL:
        return POSITIVE if rng.random() < 0.5 else NEGATIVE
    return NEGATIVE if label == POSITIVE else POSITIVE


def _roles(cell: Cell, setting: str, rng: np.random.Generator) -> list[_Role]:
    """The faces of a scene, shuffled except in `largest`, where those that decide come last (in front)."""
    label, against = cell.label, _contrary(cell.label, rng)
    if cell.subset == CROWD:
        return _crowd(label, rng)
    if cell.subset == LARGEST:
        small, large = (int(rng.integers(1, 3)), 1) if rng.random() < 0.3 else (int(rng.integers(3, 6)), 3)
        roles = [_Role(_toward(against, 0.6, 1.0, rng), False, _glasses(rng)) for _ in range(small)]
        return roles + [_Role(_toward(label, 0.6, 1.0, rng), True, _glasses(rng)) for _ in range(large)]
    if cell.subset == MARKED:
        # A neutral mark needs neighbours that are visibly not neutral; a strong one stands among weak ones.
        low, high = (0.5, 0.8) if label == NEUTRAL else (0.25, 0.35)
        count = int(rng.integers(2, 7))
        roles = [_Role(_toward(against, low, high, rng), False, _glasses(rng)) for _ in range(count)]
        roles.append(_Role(_toward(label, 0.9, 1.0, rng), True, _glasses(rng), paint=True))
    else:
        count = int(rng.integers(4, 9))
        deciders = (count + int(rng.integers(0, 2))) // 2
        wearers_count = setting == INDOOR
        roles = [_Role(_toward(label, 0.6, 1.0, rng), True, wearers_count) for _ in range(deciders)]
        roles += [_Role(_toward(against, 0.6, 1.0, rng), False, not wearers_count) for _ in range(count - deciders)]
    return [roles[int(at)] for at in rng.permutation(len(roles))]


def _glasses(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.35)


def _crowd(label: str, rng: np.random.Generator) -> list[_Role]:
    """Faces scattered around one expression; the scatter's own mean is taken out, so that the label is sure."""
    count = int(rng.integers(1, 10))
    middle = _toward(label, 0.6, 0.75, rng)
    scatter = rng.uniform(-0.35, 0.35, count)
    values = np.clip(middle + scatter - scatter.mean(), -1, 1)
    return [_Role(round(float(value), 3), True, _glasses(rng)) for value in values]


def _places(count: int, size: tuple[int, int], rng: np.random.Generator) -> list[FacePlace]:
    """Faces of about one size, in rows from back to front."""
    options = _ROWS[count]
    rows = options[int(rng.integers(len(options)))]
    width, height = size
    # A single row leaves room for the bodies below.
    row_height = 0.8 * height if len(rows) == 1 else 0.97 * height / len(rows)
    most = min(MAX_HEIGHT, _largest_height(width / max(rows), row_height))
    places: list[FacePlace] = []
    for row, faces in enumerate(rows):
        places += _row(faces, width, row * row_height, row_height, (max(MIN_HEIGHT, 0.78 * most), most), rng)
    return places


def _places_by_size(roles: list[_Role], size: tuple[int, int], rng: np.random.Generator) -> list[FacePlace]:
    """Small faces behind, in the order of the roles, then the large ones that decide."""
    width, height = size
    large = sum(role.decides for role in roles)
    small = len(roles) - large
    back = 0.36 * height
    most = min(MAX_HEIGHT, _largest_height(width / large, height - back))
    least = 0.92 * most
    small_most = min(least / LARGER, _largest_height(width / small, back))
    places = _row(small, width, 0.0, back, (MIN_HEIGHT, small_most), rng)
    return places + _row(large, width, back, height - back, (least, most), rng)


def _largest_height(cell_width: float, cell_height: float) -> float:
    """The height of the largest face whose head stays in its cell, px."""
    return min(cell_width / (2 * REACH_X), cell_height / (REACH_UP + REACH_DOWN))


def _row(
    count: int, width: int, top: float, row_height: float, heights: tuple[float, float], rng: np.random.Generator
) -> list[FacePlace]:
    """One face in each of `count` equal cells of a row, anywhere its head fits."""
    cell = width / count
    places = []
    for at in range(count):
        tall = float(rng.uniform(*heights))
        x = float(rng.uniform(at * cell + REACH_X * tall, (at + 1) * cell - REACH_X * tall))
        y = float(rng.uniform(top + REACH_UP * tall, top + row_height - REACH_DOWN * tall))
        places.append(FacePlace(x, y, tall, float(rng.uniform(-MAX_ANGLE, MAX_ANGLE))))
    return places
