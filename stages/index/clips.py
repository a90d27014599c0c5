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

MAX_PIXELS = 100_000_000
DECODED_WHOLE = 300

_CHECKED = 32  # frames at the beginning of a longer clip
_FAR_US = 1_000_000  # a wanted frame further ahead than this is sought


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
    wanted = [int(time) for time in times_us]
    if any(a >= b for a, b in pairwise(wanted)):
        raise ValueError("read_frames needs ascending times, each once")
    if wanted:
        from stages.index.decoder import opened

        with opened(path, max_pixels) as clip:
            for frame in _at(clip, wanted):
                yield clip.picture(frame)


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
    except MediaError:
        return False  # whole decoding will tell


def _at(clip: Decoder, wanted: list[int]) -> Iterator[VideoFrame]:
    """The frames at `wanted` times, by the rule of `read_frames`."""
    frames, position = clip.frames(), None
    may_seek, sought = True, False
    for time in wanted:
        if may_seek and time - (clip.start if position is None else position) > _FAR_US:
            key = clip.seek(time)
            sought, may_seek = True, key is not None and (position is None or key > position)
            frames = clip.frames(key)
        found = None
        try:
            found = _up_to(frames, time, clip)
        except MediaError:
            if not sought:
                raise
        if found is None:  # the search misled: only decoding from the beginning tells what is there
            may_seek = sought = False
            clip.restart()
            frames = clip.frames()
            found = _up_to(frames, time, clip)
        position = time
        yield found


def _up_to(frames: Iterator[tuple[int, VideoFrame]], wanted: int, clip: Decoder) -> VideoFrame:
    for time, frame in frames:
        if time == wanted:
            return frame
        if time > wanted:
            raise MediaError("decode_error", f"{clip.path} has no frame at {wanted} us")
    raise MediaError("truncated", f"{clip.path} ends before its frame at {wanted} us")
