"""Settings of face detection; all but `device`, `clips` and `persons` are part of the detection block's key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.device import DeviceName
from stages.engines import EngineName
from stages.index.frames import ClipSettings
from stages.settings import Settings

Threshold = Annotated[float, Field(ge=0, le=1)]
FaceSource = Literal["found", "given", "whole"]


class PersonSettings(Settings):
    """How far a person reaches around a face, where the data give no person boxes.

    The defaults are ours. In the canon of drawing a figure is 7.5 heads high, its hips lie 4 heads under the crown, its
    shoulders are 2 heads wide, and arms need as much as half of that again. A detector's box, from the forehead to the
    chin, is about 0.8 of a head high and as wide as the face. That gives 0.5 and 4 heights and, with the arms, 1.5
    widths.

    Attributes:
        sides: widths of the face's box to the left of it, and to its right.
        up: heights of the face's box above it.
        down: heights of the face's box under it.
    """

    sides: float = Field(default=1.5, ge=0, le=20)
    up: float = Field(default=0.5, ge=0, le=20)
    down: float = Field(default=4.0, ge=0, le=20)


class DetectSettings(Settings):
    """How faces are found.

    Attributes:
        faces: `found` every face the detector finds; `given` the manifest's face boxes, with landmarks where a
            detection overlaps them; `whole` the whole image is one face (FER2013 and the like), with landmarks where
            the detector finds them.
        detector: a file of `stages/detect/`.
        min_face_size: px, the smallest face looked for.
        thresholds: of the detector's three networks, 0..1.
        factor: of the image pyramid, between 0 and 1.
        max_side: px; a larger photo is shrunk for detection, and the boxes scaled back. 0: never.
        clips: which frames of a clip are looked at. Not part of the key: a frame that is there costs nothing again.
        persons: how far a person reaches around a face. In the keys of the persons, not in those of the faces.
        device: `auto`, `cpu` or `cuda`.
        engine: `auto`, `torch` or `openvino`, see `stages.engines.resolve`.
    """

    faces: FaceSource = "found"
    detector: str = "mtcnn"
    min_face_size: int = Field(default=20, ge=12)
    thresholds: tuple[Threshold, Threshold, Threshold] = (0.6, 0.7, 0.7)
    factor: float = Field(default=0.709, gt=0.1, lt=1)
    max_side: int = Field(default=1600, ge=0)
    clips: ClipSettings = ClipSettings()
    persons: PersonSettings = PersonSettings()
    device: DeviceName = "auto"
    engine: EngineName = "auto"
