"""MTCNN (Zhang et al. 2016) with the weights in the package of facenet-pytorch 2.5.3, run by our own driver.

It finds what `facenet_pytorch.MTCNN.detect` finds in a single photo; see `stages/detect/cascade`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.detect.faces import Faces
from stages.detect.settings import DetectSettings
from stages.device import DeviceName, full_float32
from stages.engines import RUNTIMES, require, resolve
from stages.errors import WeightsError

VERSION = 2
"""Raise it when the values change for the same photo and settings. 2: our own driver; its sums are rounded elsewhere
than facenet-pytorch's, which moves a landmark by less than 0.001 px and a score by less than 1e-6."""

WEIGHTS = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}


ENGINES = RUNTIMES


def weights() -> dict[str, str]:
    """File name -> SHA-256 of the three networks, checked on disk.

    Raises:
        WeightsError: facenet-pytorch is not installed, or a file is not the one that was published.
    """
    _files()
    return dict(WEIGHTS)


def _files() -> dict[str, bytes]:
    """Contents of the three files, checked; raises as `weights`."""
    found = importlib.util.find_spec("facenet_pytorch")
    if found is None or found.origin is None:
        raise WeightsError("mtcnn: facenet-pytorch is not installed; run pip install facenet-pytorch==2.5.3 --no-deps")
    folder = Path(found.origin).parent / "data"
    contents = {}
    for name, sha256 in WEIGHTS.items():
        path = folder / name
        contents[name] = path.read_bytes() if path.exists() else b""
        digest = hashlib.sha256(contents[name]).hexdigest() if path.exists() else "nothing"
        if digest != sha256:
            raise WeightsError(
                f"mtcnn: {path} hashes to {digest[:12]}, expected {sha256[:12]}; "
                "run pip install --force-reinstall --no-deps facenet-pytorch==2.5.3"
            )
    return contents


def preprocessing(settings: DetectSettings) -> dict[str, Any]:
    """The settings that change what is found."""
    return {
        "min_face_size": settings.min_face_size,
        "thresholds": list(settings.thresholds),
        "factor": settings.factor,
        "max_side": settings.max_side,
    }


def load(settings: DetectSettings, device: DeviceName) -> Mtcnn:
    """The detector on a device, with the engine of the settings.

    Raises:
        WeightsError: see `weights`.
        SettingError: this machine cannot compute with them.
    """
    return Mtcnn(settings, device)


class Mtcnn:
    """The cascade in a photo's own px, large photos shrunk."""

    def __init__(self, settings: DetectSettings, device: DeviceName) -> None:
        import torch

        from stages.detect.cascade.driver import Cascade

        engine = resolve("detect", settings.engine, device, offered=ENGINES)
        require("detect", engine)
        self._max_side = settings.max_side
        self._cascade = Cascade(
            # a plain tensor file: nothing in it is run
            [torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) for content in _files().values()],
            engine,
            min_face_size=settings.min_face_size,
            thresholds=settings.thresholds,
            factor=settings.factor,
        )

    def detect(self, image: Image.Image) -> Faces:
        """All faces of an upright RGB photo, the largest first."""
        return self.detect_many([image])[0]

    def detect_many(self, images: Sequence[Image.Image]) -> list[Faces]:
        """The faces of each of several upright RGB photos, of any sizes: the same as of each alone."""
        shrunk = [_shrink(image, self._max_side) for image in images]
        with full_float32():
            found = self._cascade.detect_many([small for small, _ in shrunk])
        return [
            Faces(some.boxes * np.tile(scale, 2), some.scores, some.landmarks * scale, image.size)
            for image, (_, scale), some in zip(images, shrunk, found, strict=True)
        ]


def _shrink(image: Image.Image, max_side: int) -> tuple[Image.Image, np.ndarray]:
    """The image with its longer side at most `max_side` px (0: as it is), and the factors (x, y) to the original."""
    longest = max(image.size)
    if not max_side or longest <= max_side:
        return image, np.ones(2, np.float32)
    share = max_side / longest
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    back = np.array([image.width / size[0], image.height / size[1]], np.float32)
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), back
