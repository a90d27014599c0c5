"""Photos and frames as the detector sees them. This runs in decoding processes, which need neither torch nor HDF5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache.keys import key_list
from stages.errors import MediaError
from stages.index.manifest import Sample
from stages.index.samples import open_frames

if TYPE_CHECKING:
    from stages.detect.corpus import Corpus

PHOTO = int(np.iinfo(np.int64).min)
"""The time of a photo, which has none."""


@dataclass(frozen=True)
class Look:
    """A photo or clip to look at.

    Attributes:
        content: SHA-256 (hex) of its bytes.
        samples: those that have it, at least one.
        images_root: where their paths begin.
        times_us: of the frames wanted, ascending; None: a photo.
        keys: item keys of these frames' boxes.
        size_key: of its size, where the store lacks it; else None.
    """

    content: str
    samples: tuple[Sample, ...]
    images_root: Path
    times_us: tuple[int, ...] | None
    keys: tuple[bytes, ...]
    size_key: bytes | None

    @classmethod
    def of(
        cls, corpus: Corpus, i: int, lacking: np.ndarray, sized: bool, samples: tuple[Sample, ...], images_root: Path
    ) -> Look:
        """Content i of a corpus; `lacking` (F,) bool says which frames are wanted."""
        start, stop = corpus.first[i : i + 2].tolist()
        wanted = start + np.flatnonzero(lacking[start:stop])
        is_photo = corpus.times_us[start] == PHOTO
        return cls(
            corpus.contents[i],
            samples,
            images_root,
            None if is_photo else tuple(corpus.times_us[wanted].tolist()),
            tuple(key_list(corpus.keys[wanted])),
            None if sized else key_list(corpus.size_keys[i : i + 1])[0],
        )


def pictures(look: Look) -> Iterator[np.ndarray | MediaError]:
    """In a decoding process: the frames that are asked for, uint8 (H, W, 3) RGB and upright; an error ends them."""
    try:
        for image in open_frames(look.samples, look.images_root, look.times_us):
            yield np.asarray(image)
    except MediaError as error:
        yield error
