"""Reading clips safely: which frames a clip has, and the pixels of some of them.

MP4 and QuickTime, Matroska and WebM, and AVI are read with PyAV. What is decided here, because files leave it open:

- **Times** are presentation times in whole microseconds, as the file has them: they start where the file starts, may be
  negative, and may be uneven. What an edit list cuts off are no frames. A frame without a time, or whose time is not
  after that of the frame before it, is left out: of equal times the first stays. AVI has no presentation times: its
  frames get their packets' times in ascending order.
- **Upright**: quarter turns and mirroring by the display matrix (phones) are applied, other angles are not. The aspect
  ratio of pixels is ignored, as OpenCV, decord and PyAV do, so that boxes from such tools fit.
- **Colour** is converted as FFmpeg does it: matrix and range as the frame says, BT.601 and limited range where it says
  nothing, 8 bit. High dynamic range is not tone-mapped. Transparency is laid over white, as in photos. Interlaced
  frames stay as they are.
- **Which stream**: the best video stream by FFmpeg's choice. Cover pictures are no clip.
- **Damage**: what cannot be decoded before the first sound frame is left out, as players do with clips cut out of
  others; damage after it is an error where it is met.
- **One thread**, so that errors are the same everywhere; several clips are decoded side by side in processes.

`probe` decodes a clip of up to `DECODED_WHOLE` frames. Of a longer one it takes the times from the packets, at a
hundredth of the time, where one packet is one frame: MP4 or Matroska, a codec without hidden or repeated frames, every
time there and different, no open beginning, and the frames at the beginning and the end, decoded, at just these times.
Else it is decoded as well. Damage in the middle of a longer clip then shows when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stages.errors import MediaError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from stages.index.decoder import Decoder

MAX_PIXELS = 40_000_000
"""Of a frame: 8K has 33 million. Decoders hold up to 17 frames at a time: of 8 bit and halved colour 1 GB at this size.

There is no limit on a decoding process's memory (RLIMIT_AS) beside it: FFmpeg calls some allocations that fail damage,
and damage is remembered. A process that the system ends for its memory is a crash, which is not.
"""
DECODED_WHOLE = 300

_CHECKED = 32  # frames at the beginning of a longer clip
_FAR_US = 1_000_000  # a wanted frame further ahead than this is sought
_PASSING = "unreadable"


@dataclass(frozen=True)
class Probe:
    """The frames of a clip.

    Attributes:
        times_us: (n,) int64, n >= 1: presentation times in microseconds, ascending, each once.
        size: (width, height) px of every frame, upright.
    """

    times_us: np.ndarray
    size: tuple[int, int]


def probe(path: Path, *, max_pixels: int = MAX_PIXELS) -> Probe:
    """Which frames a clip has. It follows from the file's bytes alone, not from its name.

    May be called from several threads at once. The file is closed when this returns.

    Args:
        path: the file.
        max_pixels: refuse a clip whose frames have more.

    Raises:
        MediaError: with one of the reasons `missing`, `permission`, `unreadable` (the disk or the memory failed, not
            the clip), `empty`, `not_a_clip` (no clip by its bytes, or not a file), `unsupported` (a known format that
            is not read, a codec without a decoder, frames that change their size), `no_video` (sound only),
            `no_frames`, `too_large` (the frames, or how many there are), `truncated` (the container declares more than
            the file holds), `decode_error` (anything else, `detail` says what).
    """
    from stages.index.decoder import MAX_FRAMES, opened  # PyAV takes 0.1 s to import: only where there are clips

    with opened(path, max_pixels) as clip:
        times = clip.packet_times()
        if times is None or len(times) <= DECODED_WHOLE or not _agree(clip, times):
            times = []
            clip.restart()
            for time, _ in clip.frames():
                times.append(time)
                if len(times) > MAX_FRAMES:
                    raise MediaError("too_large", f"{path} has more than {MAX_FRAMES} frames")
        return Probe(np.array(times, np.int64), clip.size)


def read_frames(path: Path, times_us: Sequence[int], *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The frames at some of the times that `probe` tells; one frame is held at a time.

    A frame more than a second ahead is sought from the keyframe before it, until a search leads back to where the
    decoder was: then keyframes are rarer than wanted frames. Other frames are decoded up to. The pixels are the same.

    Args:
        path: the file.
        times_us: presentation times in microseconds, ascending, each once.
        max_pixels: as in `probe`.

    Yields:
        Pictures of mode RGB (8 bit), upright, without metadata, one for each time, in order.

    Raises:
        MediaError: as `probe`; also `truncated` where the clip ends before a frame, and `decode_error` where it has
            none at a time.
        ValueError: the times are not ascending.
    """
    for found in try_frames(path, times_us, max_pixels=max_pixels):
        if isinstance(found, MediaError):
            raise found
        yield found


def try_frames(
    path: Path, times_us: Sequence[int], *, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image | MediaError]:
    """As `read_frames`, but where a frame cannot be read the error stands in its place, and the next ones follow.

    A frame can be read if it can be decoded from the keyframe before it, or from the beginning. That does not depend
    on which others are asked for: where damage is met on the way to a frame, it is decoded from its own keyframe. From
    no keyframe damage is run into twice, so a clip whose frames all fail takes at most three times as long as a sound
    one.

    Raises:
        MediaError: for what is wrong with the clip as a whole, and for what may pass (`unreadable`).
        ValueError: the times are not ascending.
    """
    wanted = [int(time) for time in times_us]
    if any(a >= b for a, b in pairwise(wanted)):
        raise ValueError("read_frames needs ascending times, each once")
    if wanted:
        from stages.index.decoder import opened

        with opened(path, max_pixels) as clip:
            reader = _Reader(clip)
            for time in wanted:
                yield reader.picture(time)


def _agree(clip: Decoder, times: list[int]) -> bool:
    """Whether the first frames of a clip, and those from its last keyframe on, come out of the decoder at `times`."""
    try:
        clip.restart()
        if [time for time, _ in islice(clip.frames(), _CHECKED)] != times[:_CHECKED]:
            return False
        key = clip.seek(times[-1])
        if key is None:
            return False
        return [time for time, _ in clip.frames(key)] == [time for time in times if time >= key]
    except MediaError as error:
        if clip.explained(error).reason == _PASSING:
            raise
        return False  # whole decoding will tell


class _Run:
    """Decoding on from a keyframe, or from the beginning, until something is wrong.

    Attributes:
        key: the keyframe's time; None: the beginning.
        error: why it cannot go on.
    """

    def __init__(self, clip: Decoder, key: int | None = None) -> None:
        self.key: int | None = key
        self.error: MediaError | None = None
        self._clip, self._frames = clip, clip.frames(key)
        self._ahead: tuple[int, VideoFrame] | None = None

    def next(self, wanted: int) -> tuple[int, VideoFrame] | None:
        """The time of the next frame and the frame, which stays the next; None: there is an error."""
        if self._ahead is None and self.error is None:
            try:
                self._ahead = next(self._frames, None)
                if self._ahead is None:
                    raise MediaError("truncated", f"{self._clip.path} ends before its frame at {wanted} us")
            except Exception as error:
                self.error = _lasting(self._clip, error)
        return self._ahead

    def at(self, time: int) -> VideoFrame | None:
        """The frame at a time; None: there is an error, or no such frame before the next one."""
        while (ahead := self.next(time)) is not None and ahead[0] <= time:
            self._ahead = None
            if ahead[0] == time:
                return ahead[1]
        return None


class _Reader:
    """The frames of a clip at ascending times, by the rule of `try_frames`."""

    def __init__(self, clip: Decoder) -> None:
        self._clip = clip
        self._run: _Run | None = _Run(clip)  # None: the place is lost
        self._failed: dict[int | None, MediaError] = {}  # keyframe, or None for the beginning -> how far it leads
        self._position: int | None = None  # of the last frame that was found
        self._may_seek = clip.seeks

    def picture(self, time: int) -> Image.Image | MediaError:
        """The picture at a time, or why there is none. Raises what may pass, a MediaError."""
        try:
            found = self._at(time)
            return found if isinstance(found, MediaError) else self._clip.picture(found)
        except Exception as error:
            return _lasting(self._clip, error)

    def _at(self, time: int) -> VideoFrame | MediaError:
        problem = None
        if self._run is not None and self._run.error is None and not self._is_far(time):
            found = self._on(self._run, time)
            if not isinstance(found, MediaError):
                return found
            problem = found
        if self._clip.seeks and (problem is None or (self._run is not None and self._run.error is not None)):
            found = self._from_keyframe(time)
            if found is not None and not isinstance(found, MediaError):
                return found
            problem = found or problem
        # The search misled, or there is damage: only decoding from the beginning tells what is there.
        if None in self._failed:
            return problem or self._failed[None]
        if problem is not None and self._run is not None and self._run.key is None:
            return problem
        self._may_seek = False
        self._clip.restart()
        self._run = _Run(self._clip)
        return self._on(self._run, time)

    def _is_far(self, time: int) -> bool:
        return self._may_seek and time - (self._clip.start if self._position is None else self._position) > _FAR_US

    def _on(self, run: _Run, time: int) -> VideoFrame | MediaError:
        """The frame at a time from where the decoder is."""
        found = run.at(time)
        if found is not None:
            self._position = time
            return found
        if run.error is None:
            return MediaError("decode_error", f"{self._clip.path} has no frame at {time} us")
        self._failed[run.key] = run.error
        return run.error

    def _from_keyframe(self, time: int) -> VideoFrame | MediaError | None:
        """The frame at a time by a search; None where the search finds no keyframe."""
        if self._position is None and self._run is not None and self._run.next(time) is None:
            self._on(self._run, time)  # the clip's first frame says which size and turn all have; it has none
        self._run, key = None, self._clip.seek(time)
        if key is None:
            return None
        self._may_seek = self._position is None or key > self._position
        if key in self._failed:
            return self._failed[key]
        self._run = _Run(self._clip, key)
        return self._on(self._run, time)


def _lasting(clip: Decoder, error: Exception) -> MediaError:
    """What an error means where it lies in the clip. Raises it where it may pass."""
    found = clip.explained(error)
    if found.reason == _PASSING:
        raise found from error
    return found
