"""What `predict` was asked to look at: files, folders and patterns -> samples."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path

from stages.errors import DataError, MediaError
from stages.index.contents import ContentIndex
from stages.index.manifest import Manifest, Sample, is_unwritable, printable
from stages.index.raw import IMAGE_EXTENSIONS
from stages.ledger import Ledger


def find_photos(inputs: Sequence[str]) -> list[Path]:
    """The photos meant, each once, sorted: files as named, folders with all photos below them, patterns.

    A file is taken whatever its ending; in a folder the ending decides.

    Raises:
        DataError: an input that is nothing on this machine, or no photo at all.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS and p.is_file())
            found.update(dict.fromkeys(sorted(p for p in inside if not p.name.startswith("."))))
        elif path.exists():
            found[path] = None
        else:
            matches = sorted(Path(m) for m in glob.glob(given, recursive=True))  # noqa: PTH207 - may be absolute
            if not matches:
                raise DataError(f"{given}: no such file or folder, and nothing matches it as a pattern")
            found.update(dict.fromkeys(p for p in matches if p.is_file()))
    if not found:
        endings = " ".join(sorted(IMAGE_EXTENSIONS))
        raise DataError(f"no photos in {', '.join(inputs)}; looked for {endings}")
    return list(found)


def manifest_of(photos: Sequence[Path], contents: ContentIndex, ledger: Ledger) -> Manifest:
    """Photos as an unlabelled manifest; those that cannot be read go to the ledger under their path."""
    samples: dict[str, Sample] = {}
    for path, content in zip(photos, contents.many(photos), strict=True):
        name = path.as_posix()
        if isinstance(content, MediaError):
            ledger.record(printable(name), content.reason, content.detail)
        elif is_unwritable(name):
            ledger.record(printable(name), "bad_name", "the file's name is not valid Unicode or has control characters")
        elif content.size == 0:
            ledger.record(name, "empty", "the file has no bytes")
        else:
            samples[name] = Sample(name, path.absolute().as_posix(), "image", (), "test", "", "", (), content.sha256)
    return Manifest(tuple(samples.values()))


def picture_name(sample: Sample, taken: set[str]) -> str:
    """A file name for the sample's annotated picture that no other has: its stem, with a hash where needed."""
    stem = Path(sample.path).stem
    name = f"{stem}.jpg"
    if name in taken:
        name = f"{stem}-{hashlib.sha256(sample.sample_id.encode()).hexdigest()[:8]}.jpg"
    taken.add(name)
    return name
