"""What a clip's container says of itself, read without FFmpeg: which kind it is, and whether it is all there."""

from __future__ import annotations

import os
from typing import Protocol

DEMUXERS = {
    "MP4 or QuickTime": "mov",
    "QuickTime": "mov",
    "Matroska or WebM": "matroska",
    "AVI": "avi",
}
"""`sniff.Kind.name` -> FFmpeg's reader of it. The others (playlists above all) are never asked."""

_BOXES = (b"ftyp", b"moov", b"moof", b"mdat")
_EBML, _SEGMENT, _VOID = 0x1A45DFA3, 0x18538067, 0xEC


class Readable(Protocol):
    """What is asked of a file here."""

    def read(self, count: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


def ends_early(demuxer: str, handle: Readable) -> bool:
    """Whether a container declares more bytes than the file has: it was cut, or its writing was never finished.

    Only what a container says of its own length counts, so a sound file is never meant: recordings that leave the
    length open (MP4 in fragments, live WebM) may be cut at a fragment's end without notice.

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
    """Whether one of the outer boxes (ISO/IEC 14496-12, 4.2) reaches over the end, or none says where frames lie."""
    at, found = 0, set()
    while at + 8 <= size:
        handle.seek(at)
        head = handle.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # the length follows in 8 bytes
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # up to the end of the file
            length = size - at
        if length < 8:  # no box: padding after the last one
            return False
        if name in _BOXES:
            found.add(name)
            if at + length > size:
                return True
        at += length
    return not found & {b"moov", b"moof"}


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
