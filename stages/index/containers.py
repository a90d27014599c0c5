"""What a clip's container says of itself, read without FFmpeg: which kind it is, and whether it is all there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

DEMUXERS = {
    "MP4 or QuickTime": "mov",
    "QuickTime": "mov",
    "Matroska or WebM": "matroska",
    "AVI": "avi",
}
"""`sniff.Kind.name` -> FFmpeg's reader of it. The others (playlists above all) are never asked."""

_TABLES = frozenset((b"moov", b"moof"))  # say where frames lie
_BOXES = _TABLES | {b"ftyp", b"mdat"}
_NESTED = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"))
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # where in the box the number of samples stands
_EBML, _SEGMENT, _VOID = 0x1A45DFA3, 0x18538067, 0xEC


class Readable(Protocol):
    """What is asked of a file here."""

    def read(self, count: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


def ends_early(demuxer: str, handle: Readable) -> bool:
    """Whether a container declares more bytes than the file has: it was cut, or its writing was never finished.

    Only what a container says of its own length, and of how many frames it has, counts, so a sound file is never meant:
    recordings that leave the length open (MP4 in fragments, live WebM) may be cut at a fragment's end without notice.

    Args:
        demuxer: a value of `DEMUXERS`.
        handle: the file; its position is lost.
    """
    size = handle.seek(0, os.SEEK_END)
    if demuxer == "mov":
        return _boxes_end_early(handle, size)
    handle.seek(0)
    head = handle.read(4096)
    if demuxer == "avi":
        return int.from_bytes(head[4:8], "little") + 8 > size
    return _segment_end(head) > size


def _boxes_end_early(handle: Readable, size: int) -> bool:
    """Whether a box reaches over the end, none says where frames lie, or they declare more frames than there are bytes.

    FFmpeg makes room for as many frames as are declared: a few bytes could ask for gigabytes.
    """
    found = set()
    for name, _, end in _boxes(handle, 0, size):
        if name in _BOXES:
            found.add(name)
            if end > size:
                return True
    if _TABLES.isdisjoint(found):
        return True
    return sum(_samples(handle, 0, size)) > size


def _boxes(handle: Readable, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte of the content, and end of each box (ISO/IEC 14496-12, 4.2) that begins between two places."""
    while at + 8 <= stop:
        handle.seek(at)
        head = handle.read(16)
        length, name, begin = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if length == 1:  # the length follows in 8 bytes
            length, begin = int.from_bytes(head[8:16], "big"), at + 16
        elif length == 0:  # up to the end
            length = stop - at
        if length < begin - at:  # no box: padding after the last one
            return
        yield name, begin, at + length
        at += length


def _samples(handle: Readable, at: int, stop: int, depth: int = 0) -> Iterator[int]:
    """How many samples each table and each run of a fragment declares (8.7.3 and 8.8.8 there).

    Without sound of samples as short as the track's time can tell: FFmpeg makes no room for each of these, and old
    QuickTime declares more of them than there are bytes.
    """
    for name, begin, end in _boxes(handle, at, stop):
        if name == b"trak" and _is_plain_sound(handle, begin, min(end, stop)):
            continue
        if name in _NESTED and depth < 6:
            yield from _samples(handle, begin, min(end, stop), depth + 1)
        elif name in _COUNTS:
            handle.seek(begin + _COUNTS[name])
            yield int.from_bytes(handle.read(4), "big")


def _is_plain_sound(handle: Readable, at: int, stop: int) -> bool:
    """Whether a track is sound (8.4.3 there) and all its samples last one unit of its time (8.6.1.2)."""
    handler = _inside(handle, at, stop, b"mdia", b"hdlr")
    durations = _inside(handle, at, stop, b"mdia", b"minf", b"stbl", b"stts")
    return handler[8:12] == b"soun" and durations[4:8] == b"\0\0\0\1" and durations[12:16] == b"\0\0\0\1"


def _inside(handle: Readable, at: int, stop: int, *names: bytes) -> bytes:
    """The first bytes of a box inside others, by their names; none where there is no such box."""
    for wanted in names:
        found = next(((begin, end) for name, begin, end in _boxes(handle, at, stop) if name == wanted), None)
        if found is None:
            return b""
        at, stop = found[0], min(found[1], stop)
    handle.seek(at)
    return handle.read(min(16, stop - at))


def _segment_end(head: bytes) -> int:
    """Where a Matroska file's segment, or its head, ends (RFC 8794, 4 to 6); 0 where the length is left open."""
    at = 0
    while at < len(head):
        number, at = _vint(head, at, keep_marker=True)
        length, at = _vint(head, at)
        if number == _SEGMENT:
            return 0 if length is None else at + length
        if number not in (_EBML, _VOID) or length is None:
            return 0
        at += length
    return at


def _vint(head: bytes, at: int, *, keep_marker: bool = False) -> tuple[int | None, int]:
    """A number of variable length and where the next begins; None for the value that means unknown."""
    if at >= len(head) or head[at] == 0:
        return None, len(head)
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big")
    if not keep_marker:
        value &= (1 << 7 * width) - 1
        if value == (1 << 7 * width) - 1:
            return None, at + width
    return value, at + width
