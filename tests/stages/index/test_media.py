from __future__ import annotations

import gc
import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.errors import MediaError
from stages.index.media import open_image
from stages.index.unhindered import unhindered

Save = Callable[..., Path]
RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 120, 150]], [[1, 2, 3], [250, 251, 252]]], np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def make(image: Image.Image | np.ndarray, kind: str = "PNG", name: str = "photo", **options: object) -> Path:
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        picture.save(tmp_path / name, kind, **options)
        return tmp_path / name

    return make


def opened(path: Path) -> np.ndarray:
    image = open_image(path)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def reason(path: Path, **options: int) -> str:
    with pytest.raises(MediaError) as caught:
        open_image(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_are_exact(save: Save, kind: str) -> None:
    assert np.array_equal(opened(save(RGB, kind)), RGB)


def test_webp_and_jpeg(save: Save) -> None:
    assert np.array_equal(opened(save(RGB, "WEBP", lossless=True)), RGB)
    flat = np.full((16, 24, 3), (200, 60, 30), np.uint8)
    for kind in ("WEBP", "JPEG", "MPO"):
        assert np.abs(opened(save(flat, kind)).astype(int) - flat).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_one_pixel(save: Save, kind: str) -> None:
    assert opened(save(np.full((1, 1, 3), 128, np.uint8), kind)).shape == (1, 1, 3)


@pytest.mark.parametrize("name", ["photo.jpg", "photo", "photo.mp4", "photo.txt"])
def test_the_bytes_count_and_not_the_name(save: Save, name: str) -> None:
    assert np.array_equal(opened(save(RGB, "PNG", name)), RGB)


def test_grey_one_bit_and_palette(save: Save) -> None:
    grey = np.array([[0, 7, 255]], np.uint8)
    assert np.array_equal(opened(save(grey)), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        assert opened(save(bits, kind))[0, :, 0].tolist() == [0, 255, 255]
    palette = Image.fromarray(RGB).quantize(6)
    assert np.array_equal(opened(save(palette)), RGB)


def test_transparency_is_laid_over_white(save: Save) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 51]]], np.uint8)
    expected = [[10, 20, 30], [255, 255, 255], [206, 208, 210]]  # 0.2 c + 0.8 * 255
    for kind in ("PNG", "TIFF"):
        assert opened(save(rgba, kind))[0].tolist() == expected
    assert opened(save(rgba, "WEBP", lossless=True, exact=True))[0].tolist() == expected
    la = Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])])
    assert opened(save(la))[0, :, 0].tolist() == [10, 255, 206]


def test_transparency_of_palettes_and_of_one_colour(save: Save) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    for kind in ("PNG", "GIF"):
        assert opened(save(palette, kind, transparency=1))[0].tolist() == [[10, 20, 30], [255] * 3, [70, 80, 90]]
    several = save(palette, "PNG", transparency=bytes([255, 0, 51]))
    assert opened(several)[0].tolist() == [[10, 20, 30], [255] * 3, [218, 220, 222]]
    colour = save(RGB, "PNG", transparency=(255, 0, 0))
    assert opened(colour)[0].tolist() == [[255, 255, 255], [0, 255, 0]]
    grey = save(np.array([[0, 7]], np.uint8), "PNG", transparency=7)
    assert opened(grey)[0, :, 0].tolist() == [0, 255]


def test_16_bit_grey_uses_its_full_range(save: Save) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert opened(save(deep, kind))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    big_endian = Image.frombytes("I;16B", (6, 1), deep.astype(">u2").tobytes())
    assert opened(save(big_endian, "TIFF"))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_16_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = b"\0" + struct.pack(">6H", 0, 65535, 0x1234, 0xFF00, 0x80FF, 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(data)
    assert opened(tmp_path / "deep.png")[0].tolist() == [[0, 255, 0x12], [0xFF, 0x80, 0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([0.0, 6e5, 1e6], [0, 153, 255]),
        ([-4.0, float("nan"), 1.0], [0, 0, 255]),
        ([0.0, 1.0, float("inf")], [0, 0, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_float_tiff(save: Save, values: list[float], expected: list[int]) -> None:
    assert opened(save(np.array([values], np.float32), "TIFF"))[0, :, 0].tolist() == expected


def test_32_bit_integers(save: Save) -> None:
    assert opened(save(np.array([[0, 1, 200]], np.int32), "TIFF"))[0, :, 0].tolist() == [0, 1, 200]
    assert opened(save(np.array([[-5, 257, 65535]], np.int32), "TIFF"))[0, :, 0].tolist() == [0, 1, 255]
    assert opened(save(np.array([[0, 2**30, 2**31 - 1]], np.int32), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_and_ycbcr(save: Save) -> None:
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert opened(save(cmyk, "TIFF"))[0, 0].tolist() == [0, 255, 255]
    assert np.abs(opened(save(cmyk, "JPEG"))[0, 0].astype(int) - [0, 255, 255]).max() <= 3
    assert opened(save(Image.new("YCbCr", (4, 4), (100, 128, 128)), "TIFF"))[0, 0].tolist() == [100, 100, 100]
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert opened(save(lab, "TIFF")).min() >= 250


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_several(save: Save, kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    path = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert opened(path).reshape(-1, 3).tolist() == [[200, 0, 0]] * 48


# What a viewer must do for each value: rows and columns of the upright picture from the stored one.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_orientation(save: Save, orientation: int, kind: str, options: dict[str, object]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(RGB, kind, exif=exif, **options)
    assert np.array_equal(opened(path), UPRIGHT[orientation](RGB))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_jpeg(save: Save, orientation: int) -> None:
    blocks = RGB.repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = opened(save(blocks, "JPEG", exif=exif, quality=95, subsampling=0))
    assert np.abs(seen.astype(int) - UPRIGHT[orientation](blocks))[4::16, 4::16].max() <= 6


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_are_none(save: Save, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(opened(save(RGB, "PNG", exif=exif)), RGB)


def test_damaged_exif_is_passed_over(save: Save) -> None:
    path = save(np.full((16, 16, 3), 50, np.uint8), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert opened(path).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "junk", [b"hello, I am text\n", b"<!DOCTYPE html><html>404</html>", b"\0", b"\xff\xd8", b"RIFF1234WAVE"]
)
def test_not_an_image(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(junk)
    assert reason(tmp_path / "a.jpg") == "not_an_image"


def test_missing_empty_and_not_files(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.jpg") == "missing"
    assert reason(tmp_path / "none.jpg" / "a.jpg") == "missing"
    assert reason(Path("a\0b")) == "missing"
    (tmp_path / "a.jpg").touch()
    assert reason(tmp_path / "a.jpg") == "empty"
    assert reason(tmp_path / "a.jpg" / "below") == "missing"
    assert reason(tmp_path) == "not_an_image"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not_an_image"
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert reason(tmp_path / "loop.jpg") == "unreadable"


def test_permission(save: Save, without_rights: Callable[[], AbstractContextManager[None]]) -> None:
    path = save(RGB)
    path.chmod(0)
    with without_rights():
        assert reason(path) == "permission"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated(save: Save, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(noise, kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert reason(path) in (("truncated", "decode_error") if kind == "TIFF" else ("truncated",))


def test_decode_error(save: Save) -> None:
    path = save(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "PNG")
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    assert reason(path) == "decode_error"


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x18ftypavif\0\0\0\0",
        b"\0\0\0\x18ftypisom\0\0\0\0",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1",
        b"RIFF\0\0\0\0AVI LIST",
        b"\x1a\x45\xdf\xa3\1\0\0\0",
    ],
)
def test_unsupported(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(head + bytes(100))
    assert reason(tmp_path / "a.jpg") == "unsupported"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_too_large(save: Save, kind: str) -> None:
    path = save(np.zeros((30, 20, 3), np.uint8), kind)
    assert open_image(path, max_pixels=600).size == (20, 30)
    assert reason(path, max_pixels=599) == "too_large"
    assert reason(path, max_pixels=100) == "too_large"


def test_too_large_is_told_by_the_header_alone(tmp_path: Path) -> None:
    huge = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\xff\x00" * 2 + bytes(8)
    (tmp_path / "a.webp").write_bytes(huge)
    assert reason(tmp_path / "a.webp") == "too_large"
    (tmp_path / "a.bmp").write_bytes(_bmp_header(65000, 65000))
    assert reason(tmp_path / "a.bmp") == "too_large"


def _bmp_header(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("limit", [1, 100, None])
def test_pillows_own_limit_does_not_interfere(save: Save, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    paths = [
        save(frames[0], "GIF", "a", save_all=True, append_images=frames[1:], disposal=2),
        save(frames[0], "WEBP", "b"),
        save(frames[0], "PNG", "c"),
        save(frames[0], "TIFF", "d", compression="tiff_lzw"),
    ]
    for path in paths:
        assert open_image(path).size == (40, 30)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_no_handle_is_left_open(save: Save, tmp_path: Path) -> None:
    sound = [save(RGB, kind, kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG")]
    (tmp_path / "broken.png").write_bytes(sound[0].read_bytes()[:50])
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers are meant
    images = [open_image(path) for path in sound]
    for _ in range(3):
        assert reason(tmp_path / "broken.png") in ("truncated", "decode_error")
    gc.collect()  # a handle left to the collector would be a ResourceWarning, which is an error here
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert len(images) == 6


def _noisy_tiff() -> bytes:
    """A sound picture with a tag that claims more bytes than the file has: Pillow warns."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", description="x" * 40)
    data = bytearray(buffer.getvalue())
    at = data.index(b"\x0e\x01\x02\x00")  # tag 270, ASCII
    data[at + 4 : at + 8] = (100_000).to_bytes(4, "little")
    return bytes(data)


def test_warnings_of_pillow_are_kept_from_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(_noisy_tiff())
    with pytest.warns(UserWarning, match="Tag data larger|Truncated"), Image.open(path) as image:  # that it does warn
        image.load()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert np.array_equal(opened(path), RGB)
    before = list(warnings.filters)
    assert np.array_equal(opened(path), RGB)  # here warnings are errors
    assert warnings.filters == before
    assert capfd.readouterr() == ("", "")


def test_many_threads(save: Save, tmp_path: Path) -> None:
    paths = []
    for i in range(12):
        paths.append(save(np.full((50, 40, 3), i, np.uint8), "PNG", f"{i}.png"))
        (tmp_path / f"{i}.tif").write_bytes(_noisy_tiff())
        paths.append(tmp_path / f"{i}.tif")
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    start = threading.Barrier(6)

    def work(_: int) -> list[np.ndarray]:
        start.wait()
        return [np.asarray(open_image(path, max_pixels=2000 + i)) for i, path in enumerate(paths)]

    with ThreadPoolExecutor(6) as pool:
        for seen in pool.map(work, range(6)):
            assert [int(a[0, 0, 0]) for a in seen[::2]] == list(range(12))
            assert all(np.array_equal(a, RGB) for a in seen[1::2])
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters


def test_a_fork_while_another_thread_is_inside(save: Save) -> None:
    path = save(RGB)
    limit = Image.MAX_IMAGE_PIXELS
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        with unhindered(7):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    inside.wait(30)
    child = os.fork()
    if child == 0:
        good = limit == Image.MAX_IMAGE_PIXELS and open_image(path).size == (2, 3)
        os._exit(0 if good and limit == Image.MAX_IMAGE_PIXELS else 1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert limit == Image.MAX_IMAGE_PIXELS
