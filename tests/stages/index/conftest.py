"""Small real photos and clips, corpora on disk, and a way to be a user without rights."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from stages.index.contents import ContentIndex
from stages.ledger import Ledger


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("index")


@pytest.fixture
def contents(tmp_path: Path) -> ContentIndex:
    return ContentIndex(tmp_path / "memory" / "contents.sqlite", threads=2)


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """Bytes of a picture of one colour: photo(colour, format, size)."""

    def make(colour: int = 0, kind: str = "PNG", size: tuple[int, int] = (4, 3)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, (colour % 256, colour // 256 % 256, 77)).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def plant(tmp_path: Path, photo: Callable[..., bytes]) -> Callable[..., Path]:
    """Write files under a new folder: path -> bytes, or a number for a photo of that colour."""

    def make(files: Mapping[str, bytes | int], root: str = "corpus") -> Path:
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(photo(content) if isinstance(content, int) else content)
        return folder

    return make


@pytest.fixture
def without_rights(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """Inside the context this process has the rights of an ordinary user, where it is root."""

    @contextmanager
    def drop() -> Iterator[None]:
        if os.getuid() != 0:
            yield
            return
        folder = tmp_path
        while folder.stat().st_uid == 0 and folder != folder.parent and folder.name:
            folder.chmod(folder.stat().st_mode | 0o055)
            folder = folder.parent
            if folder in (Path("/tmp"), Path("/")):  # noqa: S108 - where to stop, not where to write
                break
        os.setresgid(65534, 65534, 0)
        os.setresuid(65534, 65534, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)

    return drop


BITS = 6


def numbered(number: int, size: tuple[int, int]) -> np.ndarray:
    """A frame (height, width, 3) uint8 that shows a number as upright bars, the lowest bit on the left."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8)
    bars = np.repeat(bits * 235 + 10, -(-size[0] // BITS))[: size[0]]
    return np.broadcast_to(bars[None, :, None], (size[1], size[0], 3)).copy()


@pytest.fixture
def number_of() -> Callable[[Image.Image], int]:
    """The number that a frame of `film` shows."""

    def read(image: Image.Image) -> int:
        row = np.asarray(image.convert("L"))[image.height // 2]
        width = -(-image.width // BITS)
        return sum(int(row[bit * width + width // 2] > 127) << bit for bit in range(BITS))

    return read


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """Write a clip whose frames show 0, 1, 2, ...: film("a.mp4", codec="libx264", frames=12).

    `times_ms` are presentation times, evenly 40 ms by default; `options` are the encoder's, `muxer` the container's;
    `prepare` is called with the stream before the first frame.
    """

    def make(
        name: str,
        codec: str = "libx264",
        frames: int | Sequence[np.ndarray] = 12,
        *,
        size: tuple[int, int] = (96, 64),
        pixels: str = "yuv420p",
        times_ms: Sequence[int] | None = None,
        options: Mapping[str, str] | None = None,
        muxer: Mapping[str, str] | None = None,
        b_frames: int | None = None,
        prepare: Callable[[Any], None] = lambda stream: None,
    ) -> Path:
        pictures = [numbered(i % 2**BITS, size) for i in range(frames)] if isinstance(frames, int) else frames
        with av.open(str(tmp_path / name), "w", options=dict(muxer or {})) as container:
            stream: Any = container.add_stream(codec, rate=25, options=dict(options or {}))
            stream.width, stream.height, stream.pix_fmt = *size, pixels
            if times_ms is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            stream.codec_context.thread_count = 1
            if b_frames is not None:
                stream.codec_context.max_b_frames = b_frames
            prepare(stream)
            container.start_encoding()
            for number, pixels_of in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(pixels_of, format="rgb24" if pixels_of.shape[2] == 3 else "rgba")
                if times_ms is not None:
                    frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return tmp_path / name

    return make
