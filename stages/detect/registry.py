"""Detectors are files of this folder, found by name; only the one asked for is imported."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from stages.detect.faces import Faces
from stages.detect.settings import DetectSettings
from stages.device import DeviceName
from stages.engines import Runtime
from stages.errors import SettingError

_OTHERS = {
    *("__init__", "clips", "corpus", "detections", "faces", "looking"),
    *("persons", "pictures", "registry", "run", "settings", "table", "tracks"),
}


class Detector(Protocol):
    """What a detector's file offers as `load(settings, device)`."""

    def detect(self, image: Image.Image) -> Faces:
        """All faces of one upright RGB photo, in a fixed order.

        May raise anything: the photo is recorded as `detector_error`, and the next one is its turn.
        """
        ...


class DetectorFile(Protocol):
    """The module of a detector."""

    VERSION: int  # a part of the key
    ENGINES: tuple[Runtime, ...]  # what its networks can be run with, see stages/engines.py

    def weights(self) -> dict[str, str]:
        """File name -> SHA-256 (hex) of the weights that `load` uses; raises WeightsError when they are not right."""
        ...

    def preprocessing(self, settings: DetectSettings) -> dict[str, Any]:
        """The settings that change what is found: a part of the key."""
        ...

    def load(self, settings: DetectSettings, device: DeviceName) -> Detector:
        """The detector, ready to use."""
        ...


def names() -> list[str]:
    """Detectors that are here."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _OTHERS)


def find(name: str) -> DetectorFile:
    """The module of a detector.

    Raises:
        SettingError: there is no such detector.
    """
    if name not in names():
        raise SettingError(f"detect.detector is {name!r}: use one of {', '.join(names())}")
    return importlib.import_module(f"stages.detect.{name}")  # pyright: ignore[reportReturnType]
