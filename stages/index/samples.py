"""Opening the photo of a manifest's row, and only the very photo that was indexed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from stages.errors import MediaError
from stages.index.manifest import Sample
from stages.index.media import open_image

TRANSIENT = frozenset({"missing", "permission", "unreadable", "changed", "clip"})
"""Reasons that do not lie in the file's content: never cached, tried again in the next run."""


def open_sample(sample: Sample, images_root: Path) -> Image.Image:
    """The sample's photo, RGB and upright.

    Raises:
        MediaError: it cannot be read; or its bytes are not those the manifest was made from (`changed`), so that a
            feature is never kept under another photo's key.
    """
    if sample.media != "image":
        raise MediaError("clip", f"{sample.path} is a clip; this version reads photos")
    path = sample.located(images_root)
    try:
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise MediaError("missing", f"{sample.path} is not there any more") from None
    except PermissionError:
        raise MediaError("permission", f"{sample.path} may not be read") from None
    except OSError as error:
        raise MediaError("unreadable", f"{sample.path}: {error.strerror}") from None
    if digest != sample.content:
        raise MediaError("changed", f"{sample.path} changed since it was indexed; run kuleshov index")
    return open_image(path)
