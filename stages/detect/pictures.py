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
from stages.index.samples import TRANSIENT, try_frames

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
    """In a decoding process: for each frame that is asked for, uint8 (H, W, 3) RGB and upright, or why there is none.
    An error of `TRANSIENT` is the last."""
    done = 0
    try:
        for found in try_frames(look.samples, look.images_root, look.times_us):
            yield found if isinstance(found, MediaError) else np.asarray(found)
            done += 1
    except MediaError as error:
        yield from [error] * (1 if error.reason in TRANSIENT else len(look.keys) - done)
