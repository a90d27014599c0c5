"""Opening a photo safely: whatever the bytes are, an upright RGB picture or a `MediaError`.

What is decided here, because files leave it open:

- Transparency is laid over white, as viewers do.
- 16-bit grey is scaled from its full range: round(v / 257). Numbers without a declared range (32-bit integers, floats)
  are read by their maximum: up to 1 (floats) as shares, up to 255 as 8 bit, up to 65535 as 16 bit, above that as shares
  of the maximum; negative values and NaN are black.
- Of an animation or a TIFF with several pages, the first picture.
- Colour profiles are not applied.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import (  # the plug-ins by name: Pillow would look for them, all forty, at the first photo
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from stages.errors import MediaError
from stages.index.raw import VIDEO_EXTENSIONS
from stages.index.sniff import HEAD, ends_early, kind_of, webp_size
from stages.index.unhindered import unhindered

_OF_THE_DISK = (errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)  # others, such as EINVAL, come from the bytes
_TAIL = 4096
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_HUGE = 3.4e38  # stands for infinity in float pictures
_ORIENTATION = 0x0112  # the EXIF tag; values 1 to 8 (EXIF 2.32, 4.6.4)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow logs some damage as errors, which Python prints where nobody has configured logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def open_image(path: Path, *, max_pixels: int = 100_000_000) -> Image.Image:
    """Decode a photo: JPEG, PNG, GIF, WebP, BMP or TIFF, by its bytes, whatever its name.

    May be called from several threads at once. The file is closed when this returns.

    Args:
        path: the file.
        max_pixels: refuse a picture whose header announces more (before it is decoded). Holds in place of Pillow's own
            limit, `Image.MAX_IMAGE_PIXELS`.

    Returns:
        A picture of mode RGB (8 bit), fully loaded, turned upright by its EXIF orientation, without metadata.

    Raises:
        MediaError: with one of the reasons `missing`, `permission`, `unreadable` (the disk or the memory failed, not
            the photo), `empty`, `not_an_image` (no photo by its bytes, or not a file), `unsupported` (a known format
            that is not read, a clip, or a variant without a decoder), `too_large`, `truncated` (the bytes end too
            soon), `decode_error` (anything else, `detail` says what).
    """
    with file_errors(path):
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise MediaError("not_an_image", f"{path} is not a file")
        with open(path, "rb") as handle:
            return _open(path, handle, max_pixels)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """What the system says of a file, inside the block, becomes a MediaError."""
    try:
        yield
    except PermissionError:
        raise MediaError("permission", f"{path} may not be read by this user") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path that no file can have
        raise MediaError("missing", f"there is no file {path}") from None
    except OSError as error:
        raise MediaError("unreadable", f"{path}: {error.strerror or error}") from None


def is_probably_video(path: Path) -> bool:
    """Whether a file is a clip: by its first bytes where they tell, else by its extension. Never raises."""
    try:
        kind = None
        if stat.S_ISREG(path.stat().st_mode):
            with open(path, "rb") as handle:
                kind = kind_of(handle.read(HEAD))
    except (OSError, ValueError):
        kind = None
    if kind is not None:
        return kind.is_video
    return path.suffix.lower() in VIDEO_EXTENSIONS


def _open(path: Path, handle: BinaryIO, max_pixels: int) -> Image.Image:
    head = handle.read(HEAD)
    if not head:
        raise MediaError("empty", f"{path} has 0 bytes")
    kind = kind_of(head)
    if kind is None:
        raise MediaError("not_an_image", f"{path} does not begin as any kind of photo does")
    if not kind.is_read:
        what = "a clip" if kind.is_video else "not a photo of a kind that is read"
        raise MediaError("unsupported", f"{path} is {kind.name}, {what}; convert it to JPEG or PNG")
    # Pillow's WebP decoder makes room for the picture before its size can be asked for.
    _refuse_large(path, webp_size(head), max_pixels)
    handle.seek(0)
    try:
        with unhindered(max_pixels), Image.open(handle, formats=(kind.name.upper(),)) as image:
            _refuse_large(path, image.size, max_pixels)
            image.load()
            return _turned(_rgb(image), _orientation(image))
    except MediaError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on bytes that are not what they seem
        raise _explained(path, handle, kind.name, error) from error


def _refuse_large(path: Path, size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise MediaError("too_large", f"{path} is {size[0]} x {size[1]} px, more than {max_pixels} px in all")


def _explained(path: Path, handle: BinaryIO, name: str, error: Exception) -> MediaError:
    """The MediaError for what a decoder raised."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return MediaError("too_large", f"{path}: {said}")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_DISK):
        return MediaError("unreadable", f"{path}: {said}")  # another day it may go well
    if isinstance(error, UnidentifiedImageError):
        said = "the header is damaged"
    if isinstance(error, NotImplementedError) or "not available" in said or "nsupported" in said:
        return MediaError("unsupported", f"{path} is a variant of {name} that is not read ({said})")
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    head = handle.read(HEAD)
    handle.seek(max(0, size - _TAIL))
    if "truncated" in said.lower() or ends_early(name, head, handle.read(), size):
        return MediaError("truncated", f"{path}: the {name} data end too soon ({said})")
    return MediaError("decode_error", f"{path} is not sound {name} ({said})")


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation; 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a photo with damaged EXIF is still a photo
        return 1
    return value if isinstance(value, int) else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    """A new RGB picture without metadata."""
    if image.mode.startswith(("I", "F")):
        picture = Image.fromarray(_to_8_bit(np.asarray(image), wide=image.mode.startswith("I;16"))).convert("RGB")
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        picture = image.convert("RGB")  # a copy where it is RGB already
    picture.info = {}
    return picture


def _to_8_bit(values: np.ndarray, *, wide: bool) -> np.ndarray:
    """Grey values (H, W) of another range as uint8; `wide` tells that the range is 0 to 65535.

    In place after the first copy: 100 megapixels are 400 MB as it is.
    """
    if wide:
        counts = values.astype(np.uint32)
        counts += 128
        counts //= 257
        return counts.astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=_HUGE, neginf=0.0)
    np.maximum(numbers, 0, out=numbers)
    top = float(numbers.max(initial=0.0))
    if top <= 1 and values.dtype.kind == "f":
        top = 1.0
    elif top <= 255:
        top = 255.0
    elif top <= 65535:
        top = 65535.0
    numbers *= 255.0 / top
    return np.rint(numbers, out=numbers).astype(np.uint8)
