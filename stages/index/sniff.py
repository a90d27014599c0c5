"""What a file is, by its bytes."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 64  # bytes that the functions here want to see of a file's beginning


@dataclass(frozen=True)
class Kind:
    """A file format: its name, whether `media.open_image` reads it, and whether it is a clip."""

    name: str
    is_read: bool = False
    is_video: bool = False


_JPEG, _PNG, _GIF, _WEBP, _BMP, _TIFF = (Kind(n, is_read=True) for n in ("JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF"))
_BEGINNINGS = (
    (b"\xff\xd8\xff", _JPEG),
    (b"\x89PNG\r\n\x1a\n", _PNG),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"BM", _BMP),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"II+\0", _TIFF),  # BigTIFF
    (b"MM\0+", _TIFF),
    (b"\x1a\x45\xdf\xa3", Kind("Matroska or WebM", is_video=True)),
    (b"\x00\x00\x01\xba", Kind("MPEG", is_video=True)),
    (b"\x00\x00\x01\xb3", Kind("MPEG", is_video=True)),
    (b"FLV\x01", Kind("Flash video", is_video=True)),
    (b"\x00\x00\x00\x0cjP  \r\n", Kind("JPEG 2000")),
    (b"\xff\x4f\xff\x51", Kind("JPEG 2000")),
    (b"\x00\x00\x00\x0cJXL \r\n", Kind("JPEG XL")),
    (b"\xff\x0a", Kind("JPEG XL")),
    (b"8BPS", Kind("a Photoshop document")),
    (b"%PDF-", Kind("PDF")),
    (b"%!PS", Kind("PostScript")),
    (b"\x00\x00\x01\x00", Kind("an icon")),
)
_STILL_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}


def kind_of(head: bytes) -> Kind | None:
    """The format that a file's first bytes tell, None where they tell none."""
    if head[:4] == b"RIFF":
        return {b"WEBP": _WEBP, b"AVI ": Kind("AVI", is_video=True)}.get(head[8:12])
    if head[4:8] == b"ftyp":  # ISO base media: stills and clips differ by their brand
        still = _STILL_BRANDS.get(head[8:12])
        return Kind(still) if still else Kind("MP4 or QuickTime", is_video=True)
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return Kind("QuickTime", is_video=True)
    return next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), None)


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height in px that a WebP header announces (RFC 9649, 2.5 to 2.7); None for anything else."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    chunk = head[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None


def ends_early(name: str, head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file that could not be decoded lacks its end, as far as its format tells.

    Args:
        name: `Kind.name`.
        head: its first bytes.
        tail: its last bytes, some thousand; cameras and editors write things after the end of the picture.
        size: bytes in all.
    """
    if name == "JPEG":
        return b"\xff\xd9" not in tail
    if name == "PNG":
        return b"IEND" not in tail
    if name == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    if name == "WebP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if name == "BMP":
        return int.from_bytes(head[2:6], "little") > size
    return False
