"""Opening a photo or clip to see that it can be read, and how large it is. This runs in decoding processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.errors import MediaError
from stages.index.manifest import Sample
from stages.index.samples import open_shared, probe_shared

US = 1_000_000
"""Microseconds of a second."""


@dataclass(frozen=True)
class Look:
    """A photo or clip to open: the samples that have it, at least one, and where their paths begin."""

    samples: tuple[Sample, ...]
    images_root: Path


class Opened(NamedTuple):
    """A photo or clip that can be read.

    Attributes:
        width, height: px, upright.
        frames: of a clip; 0 of a photo.
        seconds: how long a clip is shown, its last frame for as long as the others are on average; 0 of a photo and of
            a clip of one frame.
    """

    width: int
    height: int
    frames: int = 0
    seconds: float = 0.0


def opened(look: Look) -> Iterator[Opened | MediaError]:
    """In a decoding process: what the photo or clip is, or why it cannot be read. A photo is decoded as a whole, of a
    clip what `clips.probe` decodes."""
    try:
        if look.samples[0].media == "image":
            yield Opened(*open_shared(look.samples, look.images_root).size)
            return
        found = probe_shared(look.samples, look.images_root)
        count = len(found.times_us)
        shown = int(found.times_us[-1] - found.times_us[0])
        yield Opened(*found.size, count, shown * count / (count - 1) / US if count > 1 else 0.0)
    except MediaError as error:
        yield error
