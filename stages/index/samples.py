"""Opening the photo or clip of a manifest's row, and only the very file that was indexed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from stages.errors import MediaError
from stages.index.manifest import Manifest, Sample
from stages.index.media import is_probably_video, open_image
from stages.index.packed import open_packed, place_of

if TYPE_CHECKING:
    from stages.index.clips import Probe

T = TypeVar("T")

TRANSIENT = frozenset({"missing", "permission", "unreadable", "changed", "clip", "decoder_crash"})
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
        raise MediaError("clip", f"{sample.path} is a clip; a photo is looked for here")
    if (packed := place_of(sample.path)) is not None:
        return open_packed(images_root, packed, sample.content)
    path = _unchanged(sample, images_root)
    try:
        return open_image(path)
    except MediaError as error:
        if error.reason == "unsupported" and is_probably_video(path):  # the name misled, and another may not
            raise MediaError("clip", f"{sample.path} is a clip by its bytes; name it as one") from error
        raise _renamed(error, path, sample) from error


def open_shared(samples: Sequence[Sample], images_root: Path) -> Image.Image:
    """The photo of samples that share one content, from the first of their files that can be read.

    Args:
        samples: at least one.

    Raises:
        MediaError: as `open_sample`; of the first sample where no file can be read.
    """
    return _first(samples, lambda sample: open_sample(sample, images_root))


def probe_shared(samples: Sequence[Sample], images_root: Path) -> Probe:
    """Which frames the clip of samples that share one content has, from the first of their files that can be read.

    Args:
        samples: at least one.

    Raises:
        MediaError: as `clips.probe`; or `changed`; of the first sample where no file can be read. The detail as in
            `open_sample`.
    """

    from stages.index.clips import probe  # here: photos need no FFmpeg

    def ask(sample: Sample) -> Probe:
        path = _unchanged(sample, images_root)
        try:
            return probe(path)
        except MediaError as error:
            raise _renamed(error, path, sample) from error

    return _first(samples, ask)


def open_frames(samples: Sequence[Sample], images_root: Path, times_us: Sequence[int] | None) -> Iterator[Image.Image]:
    """The photo of samples that share one content, or frames of their clip, RGB and upright, one after another.

    The file is the first that can be opened and has the indexed bytes, which is checked once, before the first picture.

    Args:
        samples: at least one.
        times_us: None for a photo, which is one picture. Of a clip, presentation times in microseconds as `clips.probe`
            tells them, ascending, each once.

    Raises:
        MediaError: as `open_shared` for a photo. For a clip as `clips.read_frames`, or `changed`, with details as in
            `open_sample`; it may come after some frames.
    """
    for found in try_frames(samples, images_root, times_us):
        if isinstance(found, MediaError):
            raise found
        yield found


def try_frames(
    samples: Sequence[Sample], images_root: Path, times_us: Sequence[int] | None
) -> Iterator[Image.Image | MediaError]:
    """As `open_frames`, but what is wrong with one frame of a clip stands in its place, and the next ones follow.

    Raises:
        MediaError: for what is wrong with the photo or the clip as a whole, and for what may pass.
    """
    if times_us is None:
        yield open_shared(samples, images_root)
        return
    from stages.index import clips

    sample = _first(samples, lambda sample: _readable(sample, images_root))
    path = sample.located(images_root)
    try:
        for found in clips.try_frames(path, times_us):
            yield _renamed(found, path, sample) if isinstance(found, MediaError) else found
    except MediaError as error:
        raise _renamed(error, path, sample) from error


def _first(samples: Sequence[Sample], ask: Callable[[Sample], T]) -> T:
    """The answer for the first sample whose file can be read."""
    first: MediaError | None = None
    for sample in samples:
        try:
            return ask(sample)
        except MediaError as error:
            if error.reason not in TRANSIENT:
                raise  # the others have the same bytes
            first = first or error
    if first is None:
        raise ValueError("a photo or clip needs a sample")
    raise first


def _readable(sample: Sample, images_root: Path) -> Sample:
    _unchanged(sample, images_root)
    return sample


def _unchanged(sample: Sample, images_root: Path) -> Path:
    """The sample's file, if its bytes are those that were indexed."""
    path = sample.located(images_root)
    if _sha256(path, sample.path) != sample.content:
        raise MediaError("changed", f"{sample.path} changed since it was indexed; run kuleshov index")
    return path


def _renamed(error: MediaError, path: Path, sample: Sample) -> MediaError:
    """The error with the sample's path for the file's, or no path where others may share it."""
    name = sample.path if error.reason in TRANSIENT else "the file"
    return MediaError(error.reason, error.detail.replace(str(path), name))


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
