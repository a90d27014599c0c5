"""Whatever the bytes are: a picture or a MediaError, in bounded time and memory, without a word on standard error."""

from __future__ import annotations

import functools
import io
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.errors import MediaError
from stages.index.media import is_probably_video, open_image

LIMIT = 300_000
REASONS = {"empty", "not_an_image", "truncated", "decode_error", "too_large", "unsupported"}
KINDS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "LZW", "JPEG-TIFF", "FLOAT", "P", "APNG", "CMYK", "RLE"]


@functools.cache
def sound(kind: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (13, 17, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    match kind:
        case "LZW":
            image.save(buffer, "TIFF", compression="tiff_lzw")
        case "JPEG-TIFF":
            image.save(buffer, "TIFF", compression="jpeg")
        case "FLOAT":
            Image.fromarray(pixels[..., 0].astype(np.float32)).save(buffer, "TIFF")
        case "P":
            image.quantize(8).save(buffer, "PNG", transparency=bytes(range(8)))
        case "APNG":
            image.save(buffer, "PNG", save_all=True, append_images=[image.rotate(90), image.rotate(180)])
        case "CMYK":
            image.convert("CMYK").save(buffer, "JPEG")
        case "RLE":
            rows = b"".join(bytes([17, value, 0, 0]) for value in range(13)) + b"\0\1"
            image.quantize(256).save(buffer, "BMP")
            head = bytearray(buffer.getvalue()[:1078])
            head[30:34], head[34:38] = (1).to_bytes(4, "little"), len(rows).to_bytes(4, "little")
            return bytes(head) + rows
        case "GIF":
            image.save(buffer, "GIF", save_all=True, append_images=[image.rotate(90)], transparency=3, disposal=2)
        case "BMP":
            image.save(buffer, "BMP")
        case _:
            image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


edits = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 80), st.integers(0, 2000)),
        st.integers(0, 4),
        st.one_of(
            st.binary(max_size=4), st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80"])
        ),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(autouse=True, scope="module")
def memory_stays_bounded() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    began = time.monotonic()
    reason = ""
    try:
        image = open_image(path, max_pixels=LIMIT)
    except MediaError as error:
        reason = error.reason
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= LIMIT
        assert np.asarray(image).shape == (image.height, image.width, 3)
    assert reason in REASONS | {""}
    assert time.monotonic() - began < 5
    is_probably_video(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_beginnings_are_sound(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(sound(kind))
    assert sorted(open_image(tmp_path / "a", max_pixels=LIMIT).size) == [13, 17]


@pytest.mark.parametrize("kind", KINDS)
@given(edits=edits, cut=st.one_of(st.none(), st.integers(0, 2000)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, edits: list[tuple[int, int, bytes]], cut: int | None
) -> None:
    data = sound(kind)
    for place, removed, added in edits:
        at = place % len(data)
        data = data[:at] + added + data[at + removed :]
    check(tmp_path / "a", data[:cut])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere(tmp_path: Path, kind: str) -> None:
    data = sound(kind)
    for length in range(0, len(data), 7):
        check(tmp_path / "a", data[:length])


@given(data=st.binary(max_size=300), head=st.sampled_from([sound(kind)[:12] for kind in KINDS] + [b""]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise(tmp_path: Path, data: bytes, head: bytes) -> None:
    check(tmp_path / "a", head + data)
