"""What an adapter is given and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stages.index.manifest import Box, Numbers
from stages.ledger import Ledger

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
VIDEO_EXTENSIONS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm"})

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class RawSample:
    """A sample as the corpus tells it: like `manifest.Sample`, but the file has not been looked at.

    `split` is None where the corpus gives none; `labels` are sorted and unique. `shares` need not sum to 1 here.
    """

    sample_id: str
    path: str
    media: str
    labels: tuple[str, ...]
    split: str | None = None
    group: str = ""
    subset: str = ""
    boxes: tuple[Box, ...] = ()
    shares: Numbers = ()
    values: Numbers = ()


@dataclass(frozen=True)
class Source:
    """Where a corpus is.

    Attributes:
        root: the folder or file that the adapter reads.
        images: the folder that relative paths start from; None leaves it to the adapter.
        columns: our column name -> the file's, for adapters that read tables.
        place: where params.yaml names the corpus, for messages.
        splits: whether its own splits are wanted; else a table's are not read, so that none can be a bad one.
        options: what else the adapter can be told, see `stages.index.options`.
        base: the folder that paths in `options` start from: the project's.
    """

    root: Path
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    place: str = "data"
    splits: bool = True
    options: Mapping[str, object] = field(default_factory=dict)
    base: Path = Path()


@dataclass(frozen=True)
class Corpus:
    """What an adapter found.

    Attributes:
        samples: in the order of the source; each sample_id once.
        images: the folder that relative paths start from.
        merged_rows: rows that repeated an earlier row and were dropped.
        notes: what a person should know of what was found, a line each.
    """

    samples: tuple[RawSample, ...]
    images: Path
    merged_rows: int = 0
    notes: tuple[str, ...] = ()


class Adapter(Protocol):
    """A function that reads a corpus. Items that cannot be used go to the ledger and not into the corpus.

    Raises:
        SettingError: a setting that this adapter cannot follow.
        DataError: the corpus as a whole cannot be used.
    """

    def __call__(self, source: Source, ledger: Ledger) -> Corpus: ...


def split_of(word: str) -> str | None:
    """`"train"`, `"val"` or `"test"` for a word that means it (`valid`, `validation` and `dev` mean val), else None."""
    return _SPLIT_WORDS.get(word.strip().casefold())


def extension_of(path: str) -> str:
    """The extension in lower case with its dot (as text: a corpus may have a million paths)."""
    return "." + path.rpartition(".")[2].lower()


def media_of(path: str) -> str:
    """`"video"` for a clip's extension, else `"image"`."""
    return "video" if extension_of(path) in VIDEO_EXTENSIONS else "image"
