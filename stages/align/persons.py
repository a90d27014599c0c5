"""Templates of persons, and of what is around them: `person224`, `context224`, and the same of another size.

`person` is the person's box, so far as it lies in the photo, resized to a square. `context` is the whole photo, resized
to a square, with the person masked. Neither is turned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Region = Literal["person", "context"]
"""What of a photo is cut out for a person."""

SIDES = range(32, 1025)
"""Px of a crop's side that there are templates for."""

FILL = (124, 116, 104)
"""What a masked person is painted with: the mean colour of ImageNet, (0.485, 0.456, 0.406) of 255. Networks that were
trained there subtract it, so that a masked place is 0 to them, as what they pad a photo with. Black would be two
standard deviations of darkness, in the shape of a box."""

_NAME = re.compile(r"(person|context)([1-9]\d*)")


@dataclass(frozen=True)
class PersonTemplate:
    """A crop for each person.

    Attributes:
        region: `person` or `context`.
        side: px of the crop, in width and height.
    """

    region: Region
    side: int
    level: ClassVar[str] = "person"

    @property
    def name(self) -> str:
        """Of its block: `person224`."""
        return f"{self.region}{self.side}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px."""
        return self.side, self.side

    def describe(self) -> dict[str, Any]:
        """What of it belongs in a key."""
        fill = {"fill": list(FILL)} if self.region == "context" else {}
        return {"region": self.region, "size": list(self.size), "box": "in the photo", **fill}


def find_person(name: str) -> PersonTemplate | None:
    """The template `personN` or `contextN`; None: it is no name of one."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[2]) not in SIDES:
        return None
    return PersonTemplate("person" if match[1] == "person" else "context", int(match[2]))
