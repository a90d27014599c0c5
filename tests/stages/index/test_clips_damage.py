"""What damage in a clip costs: the frames that need it, whichever were asked for; and what is no damage."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from stages.errors import MediaError
from stages.index import clips, decoder
from stages.index.clips import probe, try_frames

Film = Callable[..., Path]


def damaged(path: Path, number: int) -> Path:
    """The clip with one packet's bytes turned over."""
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    at, size = packets[number]
    if path.suffix == ".avi":
        at += 8  # the chunk's name and length
    data[at + 5 : at + size] = bytes(255 - value for value in data[at + 5 : at + size])
    path.write_bytes(data)
    return path


def fates(path: Path, times: list[int]) -> dict[int, bytes | str]:
    """Time -> the pixels of its frame, or why there is none."""
    found = list(try_frames(path, times))
    assert len(found) == len(times)
    said = [one.reason if isinstance(one, MediaError) else one.tobytes() for one in found]
    return dict(zip(times, said, strict=True))


@pytest.mark.parametrize("far_us", [0, 300_000, 10_000_000])
@pytest.mark.parametrize("kind", ["a.mp4", "a.mkv", "a.avi"])
def test_what_becomes_of_a_frame_does_not_depend_on_the_others(
    film: Film, kind: str, far_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "_FAR_US", far_us)
    path = film(kind, frames=40, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    times = probe(path).times_us.tolist()
    damaged(path, 13)
    alone = {time: fates(path, [time])[time] for time in times}
    lost = [number for number, time in enumerate(times) if alone[time] == "decode_error"]
    assert lost == list(range(13, 40 if kind == "a.avi" else 20)), "AVI has no times to look for a keyframe by"
    for some in (times, times[::3], times[1::7], times[12:16], times[13:25], times[19:22]):
        assert fates(path, some) == {time: alone[time] for time in some}


@pytest.mark.parametrize("kind", ["a.mp4", "a.avi"])
def test_damage_costs_no_more_than_a_few_passes(film: Film, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyframe at the beginning alone, and everything after the middle lost."""
    path = film(kind, frames=300, options={"g": "1000", "bf": "0", "sc_threshold": "0"})
    times = probe(path).times_us.tolist()
    damaged(path, 150)
    decoded, plain = [0], decoder.Decoder._decoded

    def counting(self: decoder.Decoder) -> Iterator[Any]:
        for one in plain(self):
            decoded[0] += 1
            yield one

    monkeypatch.setattr(decoder.Decoder, "_decoded", counting)
    said = list(fates(path, times).values())
    assert said[150:] == ["decode_error"] * 150
    assert "decode_error" not in said[:150]
    assert decoded[0] < 3 * 300


def test_a_frame_of_another_size_is_one_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes change in the middle and back, where a long clip's probe does not look."""
    monkeypatch.setattr(clips, "DECODED_WHOLE", 3)
    monkeypatch.setattr(clips, "_CHECKED", 3)
    monkeypatch.setattr(clips, "_FAR_US", 100_000)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i in range(20):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 48) if 8 <= i < 12 else (64, 48), (9 * i, 0, 0)).save(buffer, "JPEG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, 40 * i, 40 * i, Fraction(1, 1000)
            container.mux(packet)
    times = probe(path).times_us.tolist()
    alone = {time: fates(path, [time])[time] for time in times}
    assert [i for i, time in enumerate(times) if alone[time] == "unsupported"] == [8, 9, 10, 11]
    for some in (times, times[8:], times[10:14], times[::4]):
        assert fates(path, some) == {time: alone[time] for time in some}


LITTLE_MEMORY = """
import os, resource, sys
from pathlib import Path
import av, numpy, PIL.Image
from stages.errors import MediaError
from stages.index import decoder
from stages.index.clips import read_frames

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for room in range(14, 141, 3):  # MB above what is in use: a frame has 12; each in a process of its own
    if not os.fork():
        resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), -1))
        try:
            list(read_frames(Path(sys.argv[1]), [0, 40000]))
        except MediaError as error:
            os.write(1, f"{error.reason}: {error.detail}\\n".encode())
        os._exit(0)
    os.wait()
"""


def test_too_little_memory_is_no_damage(film: Film) -> None:
    """Python's word for it, and FFmpeg's."""
    path = film("a.mp4", "mpeg4", 2, size=(3840, 2160))
    out = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, str(path)], capture_output=True, text=True, check=True)
    said = out.stdout.splitlines()
    assert {line.split(":")[0] for line in said} == {"unreadable"}, said
    assert any("Cannot allocate memory" in line for line in said), "FFmpeg itself ran out of it"
