"""Whole photos and frames of clips for training. This runs in decoding processes, which have no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.backbones.spec import BackboneSpec
from stages.errors import MediaError
from stages.finetune.augment import Views, Who
from stages.index.manifest import Sample
from stages.index.samples import open_frames


class PhotoJob(NamedTuple):
    """A picture that is wanted.

    Attributes:
        samples: which have it: the first of their files that can be read is opened.
        time_us: of a clip's frame, its presentation time in microseconds; None: a photo.
        who: whose random view it is; None: the plain one.
    """

    samples: tuple[Sample, ...]
    time_us: int | None
    who: Who | None


@dataclass(frozen=True)
class PhotoLook:
    """How pictures are brought to a network's size."""

    images_root: Path
    spec: BackboneSpec
    views: Views

    def __call__(self, job: PhotoJob) -> Iterator[np.ndarray | MediaError]:
        """The picture, uint8 (H, W, 3), or why there is none."""
        try:
            times = None if job.time_us is None else (job.time_us,)
            for image in open_frames(job.samples, self.images_root, times):
                yield self.views.of_photo(image, self.spec, job.who)
        except MediaError as error:
            yield error
