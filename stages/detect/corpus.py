"""What detection looks at: the distinct photos of a manifest, and the chosen frames of its clips, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache.block import Block
from cache.keys import FACES, WHOLE, BlockSpec, frame_key, item_keys, key_array
from stages.detect.pictures import PHOTO

SIZE_SPEC = BlockSpec(
    source="media",
    tap="size",
    level="frame",
    shape=(2,),
    extractor_version=1,
    preprocessing={"orientation": "upright by EXIF", "columns": ["width", "height"]},
    numerics={"dtype": "int32"},
)


@dataclass(frozen=True)
class Corpus:
    """n distinct photos and clips with F frames, in columns.

    Attributes:
        contents: SHA-256 (hex) of each, n.
        first: (n + 1,) int64; frames of content i are those from `first[i]` up to `first[i + 1]`, at least one.
        times_us: (F,) int64, presentation times in microseconds; `PHOTO` for photos.
        keys: (F,) item keys of all faces of a frame.
        size_keys: (n,) item keys of the contents' sizes.
    """

    contents: list[str]
    first: np.ndarray
    times_us: np.ndarray
    keys: np.ndarray
    size_keys: np.ndarray

    @classmethod
    def of(cls, contents: Iterable[str], clips: Mapping[str, np.ndarray]) -> Corpus:
        """The distinct ones of these contents.

        Args:
            contents: of photos and clips.
            clips: content of each clip -> (T,) times of its chosen frames.
        """
        distinct = list(dict.fromkeys(contents))
        size_keys, keys = (item_keys(distinct, region=region) for region in (WHOLE, FACES))
        if not clips.keys() & distinct:
            first = np.arange(len(distinct) + 1)
            return cls(distinct, first, np.full(len(distinct), PHOTO), key_array(keys), key_array(size_keys))
        photo = np.array([PHOTO])
        times = [clips.get(content, photo) for content in distinct]
        every: list[bytes] = []
        for content, key in zip(distinct, keys, strict=True):
            times_us = clips[content].tolist() if content in clips else ()
            every += [frame_key(content, time_us, region=FACES) for time_us in times_us] or [key]
        first = np.concatenate([[0], np.cumsum([len(some) for some in times])])
        return cls(distinct, first, np.concatenate(times), key_array(every), key_array(size_keys))

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def counts(self) -> np.ndarray:
        """(n,) int64, frames of each."""
        return np.diff(self.first)

    @property
    def owner(self) -> np.ndarray:
        """(F,) int64, which content each frame is of."""
        return np.repeat(np.arange(len(self)), self.counts)

    def lacking(self, block: Block, sizes: Block) -> np.ndarray:
        """Frames to detect, (F,) bool: those not in `block`, and all of a content without its size. A run that was cut
        short may have left one without the other."""
        return ~block.has(self.keys) | np.repeat(~sizes.has(self.size_keys), self.counts)

    def stored(self, block: Block, sizes: Block) -> np.ndarray:
        """Contents of which nothing is lacking, (n,) bool."""
        return np.bincount(self.owner, self.lacking(block, sizes), len(self)) == 0

    def take(self, positions: Sequence[int] | np.ndarray) -> Corpus:
        """Some of the contents, with their frames."""
        counts = self.counts[positions]
        frames = spans(self.first[:-1][positions], counts)
        return Corpus(
            [self.contents[i] for i in np.asarray(positions).tolist()],
            np.concatenate([[0], np.cumsum(counts)]),
            self.times_us[frames],
            self.keys[frames],
            self.size_keys[positions],
        )

    def without(self, contents: Mapping[str, object]) -> Corpus:
        """All but these."""
        if not contents:
            return self
        return self.take(np.array([i for i, one in enumerate(self.contents) if one not in contents], np.int64))


def spans(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`first[i], first[i] + 1, ...`, `counts[i]` of them, for each i in turn: (sum of counts,) int64."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(first - (ends - counts), counts) + np.arange(total)
