"""Small real photos, corpora on disk, and a way to be a user without rights."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

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
