"""MTCNN (Zhang et al. 2016) through facenet-pytorch 2.5.3, with the weights in its package."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.detect.faces import Faces
from stages.detect.settings import DetectSettings
from stages.device import full_float32, require
from stages.errors import WeightsError

VERSION = 1
"""Raise it when the values change for the same photo and settings."""

WEIGHTS = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}


def weights() -> dict[str, str]:
    """File name -> SHA-256 of the three networks, checked on disk.

    Raises:
        WeightsError: facenet-pytorch is not installed, or a file is not the one that was published.
    """
    found = importlib.util.find_spec("facenet_pytorch")
    if found is None or found.origin is None:
        raise WeightsError("mtcnn: facenet-pytorch is not installed; run pip install facenet-pytorch==2.5.3 --no-deps")
    folder = Path(found.origin).parent / "data"
    for name, sha256 in WEIGHTS.items():
        path = folder / name
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "nothing"
        if digest != sha256:
            raise WeightsError(
                f"mtcnn: {path} hashes to {digest[:12]}, expected {sha256[:12]}; "
                "run pip install --force-reinstall --no-deps facenet-pytorch==2.5.3"
            )
    return dict(WEIGHTS)


def preprocessing(settings: DetectSettings) -> dict[str, Any]:
    """The settings that change what is found."""
    return {
        "min_face_size": settings.min_face_size,
        "thresholds": list(settings.thresholds),
        "factor": settings.factor,
        "max_side": settings.max_side,
    }


def load(settings: DetectSettings, device: str) -> Mtcnn:
    """The detector on a device.

    Raises:
        WeightsError: see `weights`.
        SettingError: torch cannot use the device.
    """
    return Mtcnn(settings, device)


class Mtcnn:
    """facenet-pytorch's MTCNN, one photo at a time."""

    def __init__(self, settings: DetectSettings, device: str) -> None:
        import torch
        from facenet_pytorch import MTCNN

        require(device)
        weights()
        self._settings = settings
        self._net = MTCNN(
            keep_all=True,
            min_face_size=settings.min_face_size,
            thresholds=list(settings.thresholds),
            factor=settings.factor,
            device=torch.device(device),
        ).eval()

    def detect(self, image: Image.Image) -> Faces:
        """All faces of an upright RGB photo, the largest first."""
        small, scale = _shrink(image, self._settings.max_side)
        if min(small.size) * (12.0 / self._settings.min_face_size) < 12:
            return Faces.none(image.size)  # no pyramid level is left (by its own arithmetic), and it would fail
        with full_float32():
            found = self._net.detect(small, landmarks=True)
        if found[0] is None:
            return Faces.none(image.size)
        # facenet-pytorch returns object arrays
        boxes, scores, points = [np.asarray(list(part), np.float32) for part in found]
        return Faces(boxes * np.tile(scale, 2), scores, points * scale, image.size)


def _shrink(image: Image.Image, max_side: int) -> tuple[Image.Image, np.ndarray]:
    """The image with its longer side at most `max_side` px (0: as it is), and the factors (x, y) to the original."""
    longest = max(image.size)
    if not max_side or longest <= max_side:
        return image, np.ones(2, np.float32)
    share = max_side / longest
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    back = np.array([image.width / size[0], image.height / size[1]], np.float32)
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), back
