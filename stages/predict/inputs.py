"""What `predict` was asked to look at: files, folders and patterns -> samples."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.errors import DataError, MediaError
from stages.index.contents import ContentIndex
from stages.index.manifest import Manifest, Sample, is_unwritable, printable
from stages.index.media import is_probably_video
from stages.index.raw import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from stages.ledger import Ledger

_NAME_BYTES = 200
"""Of a picture's name without hash and ending; most file systems take 255 in all."""


def find_photos(inputs: Sequence[str]) -> list[Path]:
    """The photos and clips meant, in the order asked for, each path once: files as named, folders, patterns.

    A file is taken whatever its ending. In a folder the ending decides, folders below it are searched too, and hidden
    files and folders are left out. A pattern stands for the files and folders that it matches.

    Raises:
        DataError: an input that is nothing on this machine, or no photo or clip at all.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        matches = [path] if path.exists() else [Path(m) for m in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207 - may be absolute
        if not matches:
            raise DataError(f"{printable(given)}: no such file or folder, and nothing matches it as a pattern")
        for match in matches:
            for photo in _photos_below(match) if match.is_dir() else [match]:
                found.setdefault(photo.absolute(), photo)
    if not found:
        endings = " ".join([*sorted(IMAGE_EXTENSIONS), *sorted(VIDEO_EXTENSIONS)])
        raise DataError(f"no photos or clips in {printable(', '.join(inputs))}; looked for {endings}")
    return list(found.values())


def _photos_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS and path.is_file():
            yield path


def manifest_of(photos: Sequence[Path], contents: ContentIndex, ledger: Ledger) -> Manifest:
    """Photos and clips as an unlabelled manifest; those that cannot be read go to the ledger.

    A sample's id is the photo's path as it was given, its path the absolute one. Two photos of the same bytes are two
    samples.
    """
    samples: dict[str, Sample] = {}
    for path, content in zip(photos, contents.many(photos), strict=True):
        name = path.as_posix()
        if isinstance(content, MediaError):
            ledger.record(printable(name), content.reason, printable(content.detail))
        elif is_unwritable(str(path.absolute())):
            ledger.record(printable(name), "bad_name", "its path is not valid Unicode or has control characters")
        elif content.size == 0:
            ledger.record(name, "empty", "the file has no bytes")
        else:
            media = "video" if is_probably_video(path) else "image"
            samples[name] = Sample(name, path.absolute().as_posix(), media, (), "test", "", "", (), content.sha256)
    return Manifest(tuple(samples.values()))


def picture_name(sample: Sample, taken: set[str]) -> str:
    """A file name for the sample's annotated picture: its stem, with a hash where another picture has that name.

    `taken` holds the names given so far, and is added to. Names that differ by case alone count as one, as they do on
    some file systems.
    """
    stem = Path(sample.path).stem.encode()[:_NAME_BYTES].decode(errors="ignore")
    name, digest = f"{stem}.jpg", hashlib.sha256(sample.sample_id.encode()).hexdigest()
    length = 8
    while name.casefold() in taken:
        name, length = f"{stem}-{digest[:length]}.jpg", length + 8
    taken.add(name.casefold())
    return name
