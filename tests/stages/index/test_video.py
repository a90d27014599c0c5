from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stages.index.media import is_probably_video


def test_is_probably_video(photo: Callable[..., bytes], tmp_path: Path) -> None:
    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert is_probably_video(file("a.jpg", b"\0\0\0\x18ftypisom\0\0\0\0"))
    assert is_probably_video(file("b", b"\0\0\0\x14ftypqt  \0\0\0\0"))
    assert is_probably_video(file("c", b"RIFF\0\0\0\0AVI LIST"))
    assert is_probably_video(file("d", b"\x1a\x45\xdf\xa3\1\0\0\0"))
    assert is_probably_video(file("e.MP4", b"nothing known"))
    assert is_probably_video(tmp_path / "none.webm")
    assert not is_probably_video(file("f", b"\0\0\0\x18ftypheic\0\0\0\0"))
    assert not is_probably_video(file("g.mp4", photo()))
    assert not is_probably_video(file("h.txt", b"nothing known"))
    assert not is_probably_video(tmp_path)
    assert not is_probably_video(Path("a\0b"))
