"""An open clip: its packets, its frames with their times, and the pixels of a frame. What is decided: see `clips`.

No key holds these rules: when colour, turning or transparency come out otherwise, or other frames than before, raise
the versions of all that stands on frames (detectors, `stages.align.run`, `stages.extract`, and of times and sizes).
"""

from __future__ import annotations

import errno
import heapq
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av import error as av_error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from stages.errors import MediaError
from stages.index.containers import DEMUXERS, ends_early
from stages.index.media import file_errors
from stages.index.sniff import HEAD, kind_of
from stages.index.upright import SIDEWAYS, picture, turn_of

MAX_FRAMES = 10_000_000
_ONE_FRAME_A_PACKET = ("h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "prores")
_LATEST_US = 2**53  # 285 years; item keys hold times as floats


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Decoder]:
    """A clip that is closed afterwards; whatever is raised inside because of it becomes a MediaError."""
    with file_errors(path):
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise MediaError("not_a_clip", f"{path} is not a file")
        handle = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
    source = Source(handle)
    try:
        with handle, closing(_decoder(path, source, max_pixels)) as clip:
            yield clip
    except Exception as error:  # FFmpeg and PyAV raise nearly anything on bytes that are not what they seem
        found = _explained(path, source, error)
        if found is error:
            raise
        raise found from error
    if source.failure is not None:
        raise MediaError("unreadable", f"{path}: {source.failure.strerror or source.failure}")


def _explained(path: Path, source: Source, error: Exception) -> MediaError:
    """The MediaError for what was raised while a clip was read."""
    if source.failure is not None:  # FFmpeg took it for the end of the file
        return MediaError("unreadable", f"{path}: {source.failure.strerror or source.failure}")
    if isinstance(error, MediaError):
        return error
    if isinstance(error, MemoryError):  # FFmpeg's own as well: another day it may go well
        return MediaError("unreadable", f"{path}: {said(error)}")
    if isinstance(error, OSError) and not isinstance(error, av_error.FFmpegError):
        return MediaError("unreadable", f"{path}: {said(error)}")
    if isinstance(error, av_error.EOFError):  # a container that is whole and holds nothing
        return MediaError("no_frames", f"{path} has no frames")
    return MediaError("decode_error", f"{path} is not sound ({said(error)})")


def _decoder(path: Path, source: Source, max_pixels: int) -> Decoder:
    demuxer = _demuxer(path, source.read(HEAD))
    if ends_early(demuxer, source):
        raise MediaError("truncated", f"{path} ends before what its container declares")
    return Decoder(path, source, demuxer, max_pixels)


def _demuxer(path: Path, head: bytes) -> str:
    """FFmpeg's reader for a file, by its first bytes; the file's name has no say."""
    if not head:
        raise MediaError("empty", f"{path} has 0 bytes")
    kind = kind_of(head)
    if kind is None:
        raise MediaError("not_a_clip", f"{path} does not begin as any kind of clip does")
    if kind.name not in DEMUXERS:
        remedy = "name it as a photo" if kind.is_read else "convert it to MP4"
        raise MediaError("unsupported", f"{path} is {kind.name}, not a clip of a kind that is read; {remedy}")
    return DEMUXERS[kind.name]


class Source:
    """A file for FFmpeg to read, without a name to guess a format from.

    Nothing is raised here: PyAV would keep it, and raise it from some later call.

    Attributes:
        failure: what the disk answered, if it failed: FFmpeg takes that for the end of the file.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self.failure: OSError | None = None

    def read(self, count: int) -> bytes:
        """Up to `count` bytes."""
        try:
            return self._handle.read(count)
        except OSError as error:
            self.failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new position; below 0 the error number, as FFmpeg has it, where there is none."""
        try:
            return self._handle.seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:  # that one means a position before the file, which damage leads to
                self.failure = error
            return -(error.errno or errno.EIO)

    def tell(self) -> int:
        """The position."""
        return self._handle.tell()


class Decoder:
    """A clip's best video stream, and a place in it.

    Args:
        path: for messages.
        source: the file's bytes.
        demuxer: of `containers.DEMUXERS`.
        max_pixels: refuse larger frames.

    Raises:
        MediaError: in every method, for what is wrong with the clip.
        FFmpegError: the container cannot be opened.
        MemoryError: in every method; FFmpeg's own as well.
    """

    def __init__(self, path: Path, source: Source, demuxer: str, max_pixels: int) -> None:
        self.path, self._source, self._demuxer, self._max_pixels = path, source, demuxer, max_pixels
        self._shape: tuple[int, int, Image.Transpose | None] | None = None
        self._turns: dict[int, Image.Transpose | None] = {}
        self._begin()

    def close(self) -> None:
        """Let go of FFmpeg's part; the source stays open."""
        self._container.close()

    def restart(self) -> None:
        """Go to the first packet, with a new decoder."""
        self.close()
        self._begin()

    def _begin(self) -> None:
        self._source.seek(0)
        self._container: InputContainer = av.open(
            self._source, "r", format=self._demuxer, options=self._options(), metadata_errors="replace"
        )
        self._ahead: Packet | None = None
        self._stream = self._best()
        codec = self._stream.codec_context
        codec.thread_count = 1
        # H.264 that does not declare how far its frames are reordered: wait as long as its level allows. FFmpeg would
        # guess, and drop frames that come too late for the guess.
        codec.options = {**self._options(), **({"strict": "1"} if codec.name == "h264" else {})}
        self._refuse_large(codec.width, codec.height)

    def _options(self) -> dict[str, str]:
        # Coded frames are padded to whole blocks, so this limit is a wide one: it bounds what FFmpeg allocates.
        return {"max_pixels": str(2 * self._max_pixels + 65536), "protocol_whitelist": "none"}

    def _best(self) -> VideoStream:
        streams = self._container.streams
        videos = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
        if not videos:
            raise MediaError("no_video", f"{self.path} has no moving pictures")
        best = streams.best("video")
        stream = next((s for s in videos if best is not None and s.index == best.index), videos[0])
        if stream.codec_context is None:
            raise MediaError("unsupported", f"{self.path}: its video has no decoder here; convert it to H.264")
        return stream

    def _refuse_large(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise MediaError(
                "too_large", f"{self.path} has frames of {width} x {height} px, more than {self._max_pixels} px in all"
            )

    def explained(self, error: Exception) -> MediaError:
        """What something raised in here means."""
        return _explained(self.path, self._source, error)

    @property
    def seeks(self) -> bool:
        """Whether keyframes can be looked for by their times."""
        return self._demuxer != "avi" and bool(self._stream.time_base)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px upright, of the frames decoded so far."""
        if self._shape is None:
            raise MediaError("no_frames", f"{self.path} has no frame that can be shown")
        width, height, turn = self._shape
        return (height, width) if turn in SIDEWAYS else (width, height)

    @property
    def start(self) -> int:
        """The time in us at which the file says that the stream starts; 0 where it does not."""
        time = self._time(self._stream.start_time)
        return 0 if time is None else time

    def packet_times(self) -> list[int] | None:
        """The times of all frames by the packets alone, ascending; None where packets do not tell them.

        The place is lost.
        """
        if self._demuxer == "avi" or self._stream.codec_context.name not in _ONE_FRAME_A_PACKET:
            return None
        times: list[int] = []
        first: int | None = None
        for packet in self._packets():
            time = self._time(packet.pts)
            if time is None or len(times) > MAX_FRAMES:
                return None
            if first is None:
                if not packet.is_keyframe:
                    return None
                first = time
            if not packet.is_discard:
                times.append(time)
        times.sort()
        if first is None or not times or len(set(times)) < len(times):
            return None
        # Frames before the first keyframe are those of an open beginning; not all of them can be decoded.
        return times if times[0] >= first else None

    def seek(self, time: int) -> int | None:
        """Go to the last keyframe at or before a time in us: its time, or None where the file does not lead there."""
        base = self._stream.time_base
        if not self.seeks or not base:
            return None
        self._ahead = None
        try:
            self._container.seek(round(Fraction(time, 1_000_000) / base), stream=self._stream)
            self._ahead = next(self._packets(), None)
        except av_error.MemoryError:
            raise
        except (av_error.FFmpegError, MediaError, OverflowError):
            return None
        if self._ahead is None or not self._ahead.is_keyframe:
            return None
        return self._time(self._ahead.pts)

    def frames(self, since: int | None = None) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from here to the end: times in us, ascending, and their frames.

        Args:
            since: after `seek`, its answer: frames before it are left out.
        """
        last = None if since is None else since - 1
        begun, early = False, ""
        for time, frame, problem, of_key in self._decoded():
            if problem and (begun or of_key):
                raise MediaError("decode_error", f"{self.path}: {problem}{_after(last if begun else None)}")
            early = early or problem
            if problem or frame is None or time is None or (last is not None and time <= last):
                continue
            self._check(frame)
            begun, last = True, time
            yield time, frame
        if not begun and early:
            raise MediaError("decode_error", f"{self.path}: no frame can be decoded ({early})")

    def _decoded(self) -> Iterator[tuple[int | None, VideoFrame | None, str, bool]]:
        """What the decoder gives, in its order: time, frame, what is wrong (or `""`), and whether it is a keyframe."""
        by_order = self._demuxer == "avi"
        sent: list[int] = []  # times of packets whose frames are still to come
        for packet in self._sent():
            if by_order and packet is not None:
                time = self._time(packet.pts if packet.pts is not None else packet.dts)
                if time is not None:
                    heapq.heappush(sent, time)
            try:
                frames = self._stream.codec_context.decode(packet)
            except av_error.EOFError:
                return
            except av_error.MemoryError:
                raise
            except NotImplementedError as error:
                raise MediaError("unsupported", f"{self.path}: a variant that is not read ({said(error)})") from None
            except av_error.FFmpegError as error:
                if sent:
                    heapq.heappop(sent)
                yield None, None, said(error), packet is not None and packet.is_keyframe
                continue
            for frame in frames:
                time = self._time(frame.pts) if not by_order else heapq.heappop(sent) if sent else None
                yield time, frame, "a frame is damaged" if frame.is_corrupt else "", bool(frame.key_frame)

    def _sent(self) -> Iterator[Packet | None]:
        """The packets for the decoder, and None at last, which asks it for what it holds back."""
        yield from self._packets()
        yield None

    def _packets(self) -> Iterator[Packet]:
        """The stream's packets from here. Empty ones (a frame is shown again) would end the decoder's work."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            yield ahead
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise MediaError("truncated", f"{self.path}: the data of a frame end too soon")
                if packet.size:
                    yield packet
        except av_error.MemoryError:
            raise
        except av_error.FFmpegError as error:
            raise MediaError("decode_error", f"{self.path} cannot be read on ({said(error)})") from error

    def _time(self, pts: int | None) -> int | None:
        """Microseconds, rounded half up."""
        base = self._stream.time_base
        if pts is None or not base:
            return None
        time = (2_000_000 * pts * base.numerator + base.denominator) // (2 * base.denominator)
        if abs(time) > _LATEST_US:
            raise MediaError("decode_error", f"{self.path}: a frame is said to be shown at {time} us")
        return time

    def picture(self, frame: VideoFrame) -> Image.Image:
        """A frame's pixels, upright, of mode RGB."""
        image, turn = picture(frame), self._turn(frame)
        return image if turn is None else image.transpose(turn)

    def _turn(self, frame: VideoFrame) -> Image.Transpose | None:
        """Asked once for each rotation: a frame whose side data were asked for lives until Python looks for cycles."""
        if frame.rotation not in self._turns:
            self._turns[frame.rotation] = turn_of(frame)
        return self._turns[frame.rotation]

    def _check(self, frame: VideoFrame) -> None:
        shape = (frame.width, frame.height, self._turn(frame))
        if self._shape is None:
            self._refuse_large(frame.width, frame.height)
            self._shape = shape
        elif shape != self._shape:
            old, new = (f"{width} x {height}" for width, height, _ in (self._shape, shape))
            what = f"from {old} to {new} px" if old != new else "by a quarter turn or mirroring"
            raise MediaError("unsupported", f"{self.path} changes its frames {what} in the middle; cut it there")


def _after(time: int | None) -> str:
    return "" if time is None else f", after {time / 1e6:.3f} s"


def said(error: Exception) -> str:
    """What PyAV or FFmpeg says of an error, in one line without a file's name."""
    text = error.strerror if isinstance(error, av_error.FFmpegError) else str(error)
    return " ".join((text or type(error).__name__).split())[:200]
