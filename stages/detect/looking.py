"""Detecting photos and frames as the decoding processes hand them out, in groups that go to the detector together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from cache.writer import BlockWriter
from stages.decoding.pool import Crash, Decoded, decoded
from stages.detect.faces import Faces
from stages.detect.pictures import Look, pictures
from stages.detect.registry import Detector
from stages.errors import KuleshovError, MediaError
from stages.index.samples import TRANSIENT
from stages.timing import Timings

GROUP_FRAMES, GROUP_PIXELS = {"cpu": 4, "cuda": 8}, 8_000_000
"""Photos and frames that a detector is given together, at most, and their px. On a CPU MTCNN took 18 % less time for
four together than for one at a time, and eight gave nothing more."""

Failures = dict[str, tuple[str, str]]
"""Content -> (reason, detail)."""


class Detection:
    """Detects what it is asked to look at, and writes boxes and sizes.

    Args:
        load: gives the detector; called for the first picture that can be read, not before.
        boxes: takes the rows.
        sizes: takes the sizes.
        timings: takes `load`, `decode`, `detect`, `write` and `wait`.
        device: where it computes, `cpu` or `cuda`.

    Attributes:
        unread: content -> failure, of what is not to be remembered.
    """

    def __init__(
        self, load: Callable[[], Detector], boxes: BlockWriter, sizes: BlockWriter, timings: Timings, device: str
    ) -> None:
        self.unread: Failures = {}
        self._load, self._boxes, self._sizes, self._timings = load, boxes, sizes, timings
        self._detector: Detector | None = None
        self._most = GROUP_FRAMES[device]
        self._group: list[tuple[Look, bytes, Image.Image]] = []

    def run(self, looks: Iterable[Look]) -> Iterator[Look]:
        """Look at all; yields each when its last frame was decoded.

        Raises:
            KuleshovError: the detector cannot be loaded, or refuses its settings.
            StorePlaceError: the store refuses.
        """
        taken = 0  # frames of the photo or clip at hand
        for answer in self._timings.each("wait", decoded(pictures, looks)):
            self._timings.add("decode", answer.seconds, int(isinstance(answer.value, np.ndarray)))
            self._take(answer, taken)
            taken = 0 if answer.last else taken + 1
            if answer.last:
                yield answer.job
        self._flush()

    def _take(self, answer: Decoded[Look, np.ndarray | MediaError], taken: int) -> None:
        """A frame, or why there is none: the `taken`-th of its photo or clip."""
        look, value = answer.job, answer.value
        if isinstance(value, MediaError | Crash):
            if value.reason in TRANSIENT:
                self.unread[look.content] = (value.reason, value.detail)
            else:
                self._remember(look, look.keys[taken], value)
        else:
            height, width = value.shape[:2]
            if look.size_key is not None and not taken:
                self._sizes.add(look.size_key, np.array([[width, height]], np.int32))
            image = Image.fromarray(value)
            pixels = width * height + sum(one.width * one.height for _, _, one in self._group)
            if self._group and pixels > GROUP_PIXELS:
                self._flush()
            self._group.append((look, look.keys[taken], image))
            if len(self._group) >= self._most:
                self._flush()

    def _remember(self, look: Look, key: bytes, error: MediaError | Crash) -> None:
        """Write that this photo or frame cannot be read."""
        self._boxes.add(key, None, status=error.reason, detail=error.detail)
        if look.size_key is not None and look.times_us is None:
            self._sizes.add(look.size_key, None, status=error.reason, detail=error.detail)

    def _flush(self) -> None:
        """Detect the group's faces and write them."""
        if not self._group:
            return
        group, self._group = self._group, []
        if self._detector is None:
            with self._timings.measure("load"):
                self._detector = self._load()
        with self._timings.measure("detect", len(group)):
            found = detect_group(self._detector, [image for _, _, image in group])
        with self._timings.measure("write"):
            for (look, key, _), faces in zip(group, found, strict=True):
                if isinstance(faces, Exception):
                    self.unread[look.content] = ("detector_error", f"{type(faces).__name__}: {faces}")
                else:
                    self._boxes.add(key, faces.to_rows(), status="ok" if len(faces) else "no_face")


def detect_group(detector: Detector, images: Sequence[Image.Image]) -> list[Faces | Exception]:
    """The faces of each picture, or what the detector raised at it: whatever one does, the others are not at fault.

    Raises:
        KuleshovError: what the detector raises on purpose.
    """
    many = getattr(detector, "detect_many", None)
    if many is not None and len(images) > 1:
        try:
            return list(many(images))
        except KuleshovError:
            raise
        except Exception:  # noqa: S110 - one of them: find out which
            pass
    return [_detected(detector, image) for image in images]


def _detected(detector: Detector, image: Image.Image) -> Faces | Exception:
    try:
        return detector.detect(image)
    except KuleshovError:
        raise
    except Exception as error:
        return error
