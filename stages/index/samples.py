"""Opening the photo of a manifest's row, and only the very photo that was indexed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from stages.errors import MediaError
from stages.index.manifest import Manifest, Sample
from stages.index.media import open_image

TRANSIENT = frozenset({"missing", "permission", "unreadable", "changed", "clip"})
"""Reasons that do not lie in the file's content: never cached, tried again in the next run."""


def by_content(manifest: Manifest) -> dict[str, list[Sample]]:
    """Content -> the samples that have it, in the manifest's order: two names of one photo are one photo."""
    shared: dict[str, list[Sample]] = {}
    for sample in manifest.samples:
        shared.setdefault(sample.content, []).append(sample)
    return shared


def open_sample(sample: Sample, images_root: Path) -> Image.Image:
    """The sample's photo, RGB and upright.

    Raises:
        MediaError: it cannot be read; or its bytes are not those the manifest was made from (`changed`), so that a
            feature is never kept under another photo's key. The detail names the sample's path where the reason is one
            of `TRANSIENT`, and no path where it lies in the content, which other samples and projects may share.
    """
    if sample.media != "image":
        raise MediaError("clip", f"{sample.path} is a clip; this version reads photos")
    path = sample.located(images_root)
    if _sha256(path, sample.path) != sample.content:
        raise MediaError("changed", f"{sample.path} changed since it was indexed; run kuleshov index")
    try:
        return open_image(path)
    except MediaError as error:
        name = sample.path if error.reason in TRANSIENT else "the file"
        raise MediaError(error.reason, error.detail.replace(str(path), name)) from error


def open_shared(samples: Sequence[Sample], images_root: Path) -> Image.Image:
    """The photo of samples that share one content, from the first of their files that can be read.

    Args:
        samples: at least one.

    Raises:
        MediaError: as `open_sample`; of the first sample where no file can be read.
    """
    first: MediaError | None = None
    for sample in samples:
        try:
            return open_sample(sample, images_root)
        except MediaError as error:
            if error.reason not in TRANSIENT:
                raise  # the others have the same bytes
            first = first or error
    if first is None:
        raise ValueError("open_shared needs a sample")
    raise first


def _sha256(path: Path, name: str) -> str:
    """SHA-256 (hex) of a file's bytes; `name` stands for it in errors."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise MediaError("unreadable", f"{name} is not a file")
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("missing", f"{name} is not there any more") from None
    except PermissionError:
        raise MediaError("permission", f"{name} may not be read") from None
    except OSError as error:
        raise MediaError("unreadable", f"{name}: {error.strerror}") from None
