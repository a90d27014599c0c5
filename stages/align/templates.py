"""Templates: where a face lies in the crop that a backbone wants.

A template either names where the five landmarks belong (a similarity transform brings them there), or how a box is
cut. Coordinates are px of the crop, x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from stages.align.persons import SIDES, PersonTemplate, find_person
from stages.errors import SettingError

Point = tuple[float, float]


@dataclass(frozen=True)
class Template:
    """A crop's geometry.

    Attributes:
        size: (height, width) px.
        points: where left eye, right eye, nose, left and right mouth corner belong; None for a box template.
        margin: a box template grows the box by this share of its size on all sides together.
        square: a box template makes the box square around its centre (the longer side) before resizing.
        source: where the numbers come from.
    """

    level: ClassVar[str] = "face"
    name: str
    size: tuple[int, int]
    points: tuple[Point, Point, Point, Point, Point] | None = None
    margin: float = 0.0
    square: bool = True
    source: str = ""

    def describe(self) -> dict[str, Any]:
        """What of it belongs in a key."""
        return {
            "size": list(self.size),
            "points": [list(p) for p in self.points] if self.points else None,
            "margin": self.margin,
            "square": self.square,
        }


_SPHEREFACE = ((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041))

TEMPLATES = {
    template.name: template
    for template in (
        Template("sphere112x96", (112, 96), _SPHEREFACE, source="SphereFace's 112x96 alignment, as in the papers"),
        Template(
            "arc112",
            (112, 112),
            tuple((x + 8.0, y) for x, y in _SPHEREFACE),  # pyright: ignore[reportArgumentType]
            source="the same points centred in 112x112",
        ),
        Template(
            "dlib150",
            (150, 150),
            ((42.9, 34.0), (101.1, 34.6), (71.3, 70.9), (46.1, 99.6), (96.0, 100.4)),
            source="MTCNN's points on dlib's 150x150 chips, the mean of 20",
        ),
        Template("box256", (256, 256), margin=0.1, source="a square around the box, Aminbeidokhti et al.'s size"),
        Template("box112", (112, 112), margin=0.1, source="a square around the box"),
        Template("box64", (64, 64), margin=0.1, source="a square around the box"),
        Template("box48", (48, 48), margin=0.1, source="a square around the box, FER2013's size"),
        Template("facenet160", (160, 160), square=False, source="facenet-pytorch's crop: the box, resized"),
    )
}


def find(name: str) -> Template:
    """A template by name.

    Raises:
        SettingError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise SettingError(f"align template {name!r}: use one of {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def find_any(name: str) -> Template | PersonTemplate:
    """A template of faces or of persons by name.

    Raises:
        SettingError: there is none of that name.
    """
    person = find_person(name)
    if person is None and name not in TEMPLATES:
        raise SettingError(
            f"align template {name!r}: use one of {', '.join(sorted(TEMPLATES))}; or of persons personN or contextN, "
            f"N from {SIDES[0]} to {SIDES[-1]} px, such as person224"
        )
    return person or TEMPLATES[name]


PIXELS = "pixels"
"""The tap of crops."""


def template_of(block: str) -> str | None:
    """The template that a block's name stands for, `TEMPLATE/pixels`; None: it is no block of crops."""
    source, _, tap = block.partition("/")
    return source if tap == PIXELS and source != "imported" else None
