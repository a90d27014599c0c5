"""Clips: the times of their frames, the right pixels at each, upright; and what is no clip."""

from __future__ import annotations

import errno
import io
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from stages.errors import MediaError
from stages.index import clips, decoder
from stages.index.clips import probe, read_frames

Film = Callable[..., Path]
NumberOf = Callable[[Image.Image], int]

KINDS = {
    "h264.mp4": ("libx264", {"g": "5"}, {}),
    "open.mp4": ("libx264", {"g": "5", "x264-params": "open-gop=1"}, {}),
    "whole.mp4": ("libx264", {}, {}),
    "fragments.mp4": ("libx264", {"g": "5"}, {"movflags": "frag_keyframe+empty_moov"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=8"}, {}),
    "mpeg4.mov": ("mpeg4", {"g": "5"}, {}),
    "h264.mkv": ("libx264", {"g": "5"}, {}),
    "vp8.webm": ("libvpx", {"g": "5", "auto-alt-ref": "1", "lag-in-frames": "8"}, {}),
    "vp9.webm": ("libvpx-vp9", {"g": "5", "lag-in-frames": "8", "cpu-used": "8"}, {}),
    "h264.avi": ("libx264", {"g": "5"}, {}),
    "mpeg4.avi": ("mpeg4", {"g": "5"}, {}),
    "mjpeg.avi": ("mjpeg", {}, {}),
}


def reason(path: Path, **options: Any) -> str:
    """Why a clip cannot be used."""
    with pytest.raises(MediaError) as caught:
        probe(path, **options)
    assert str(path) in caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value.reason


def kept(images: Iterator[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(image) for image in images]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, film: Film) -> Path:
    """A clip of 40 frames, 40 ms each."""
    codec, options, muxer = KINDS[request.param]
    b_frames = 2 if request.param.startswith("mpeg4") else None
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return film(request.param, codec, 40, options=options, muxer=muxer, b_frames=b_frames, pixels=pixels)


def test_each_frame_at_its_time(kind: Path, number_of: NumberOf) -> None:
    found = probe(kind)
    assert found.size == (96, 64)
    assert found.times_us.dtype == np.int64
    first = int(found.times_us[0])
    assert first in ((0, 40_000) if kind.suffix == ".avi" else (0, 80_000) if "fragments" in kind.name else (0,))
    assert (found.times_us - first).tolist() == [40_000 * i for i in range(40)]
    images = list(read_frames(kind, found.times_us.tolist()))
    assert {(image.mode, image.size) for image in images} == {("RGB", (96, 64))}
    assert [number_of(image) for image in images] == list(range(40))


def test_packets_and_decoding_give_the_same_times(kind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = probe(kind)
    monkeypatch.setattr(clips, "DECODED_WHOLE", 3)
    monkeypatch.setattr(clips, "_CHECKED", 5)
    by_packets = probe(kind)
    assert by_packets.times_us.tolist() == decoded.times_us.tolist()
    assert by_packets.size == decoded.size


@pytest.mark.parametrize("far_us", [0, 150_000, 10_000_000])
def test_the_same_pixels_however_a_frame_is_reached(kind: Path, far_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    times = probe(kind).times_us.tolist()
    dense = kept(read_frames(kind, times))
    monkeypatch.setattr(clips, "_FAR_US", far_us)
    for step in (1, 4, 9):
        some = kept(read_frames(kind, times[3::step]))
        assert all(np.array_equal(a, b) for a, b in zip(some, dense[3::step], strict=True))


def test_few_frames_of_a_long_clip_are_sought(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = [], decoder.Decoder.seek
    monkeypatch.setattr(decoder.Decoder, "seek", lambda self, time: (asked.append(time), plain(self, time))[1])
    often = film("often.mp4", frames=160, options={"g": "10", "sc_threshold": "0"})
    assert len(kept(read_frames(often, [0, 2_000_000, 2_400_000, 6_000_000]))) == 4
    assert asked == [2_000_000, 6_000_000]
    asked.clear()
    seldom = film("seldom.mp4", frames=160, options={"g": "1000", "sc_threshold": "0"})
    assert len(kept(read_frames(seldom, [0, 2_000_000, 4_000_000, 6_000_000]))) == 4
    assert asked == [2_000_000], "the first search led back to the only keyframe: no more of them"


def test_a_file_that_lies_about_its_keyframes(film: Film, number_of: NumberOf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film("a.mp4", frames=60, options={"g": "30", "bf": "0"})
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))  # without it every frame is said to be a keyframe
    monkeypatch.setattr(clips, "_FAR_US", 0)
    assert [number_of(image) for image in read_frames(path, [200_000, 1_000_000, 1_600_000])] == [5, 25, 40]


def test_uneven_times(film: Film, number_of: NumberOf) -> None:
    times = [0, 7, 40, 900, 901, 1000, 5000, 5003]
    path = film("a.mkv", frames=8, times_ms=times)
    assert probe(path).times_us.tolist() == [1000 * time for time in times]
    assert [number_of(image) for image in read_frames(path, [901_000, 5_000_000])] == [4, 6]


def test_of_equal_times_the_first_frame_stays(film: Film, number_of: NumberOf) -> None:
    path = film("a.mkv", "mjpeg", 6, pixels="yuvj420p", times_ms=[0, 40, 80, 120, 160, 200])
    data = path.read_bytes()
    pictures = [at for at in range(data.index(b"\x1f\x43\xb6\x75"), len(data)) if data.startswith(b"\xff\xd8\xff", at)]
    second, third = pictures[1] - 3, pictures[2] - 3  # a block's time stands in two bytes before its flags
    assert data[second : second + 2] + data[third : third + 2] == b"\0\x28\0\x50"
    path.write_bytes(data[:third] + b"\0\x28" + data[third + 2 :])
    assert probe(path).times_us.tolist() == [0, 40_000, 120_000, 160_000, 200_000]
    assert [number_of(image) for image in read_frames(path, [40_000, 120_000])] == [1, 3]


def test_what_an_edit_list_cuts_off_is_no_frame(film: Film, number_of: NumberOf) -> None:
    path = film("a.mp4", frames=20, options={"g": "10"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16  # version and flags, count, duration, then where the media begin
    begin = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (begin + 3 * 512).to_bytes(4, "big")  # 12,800 a second: 512 a frame
    path.write_bytes(data)
    found = probe(path)
    assert found.times_us.tolist() == [40_000 * i for i in range(17)]
    assert [number_of(image) for image in read_frames(path, found.times_us.tolist())] == list(range(3, 20))


def test_a_clip_that_begins_in_the_middle(film: Film, tmp_path: Path, number_of: NumberOf) -> None:
    coding = {"g": "6", "bf": "2", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}
    source = film("a.mkv", frames=30, options=coding)
    with av.open(str(source)) as whole, av.open(str(tmp_path / "cut.mkv"), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        open_at = [
            at
            for at, (key, after) in enumerate(pairwise(packets))
            if at and key.is_keyframe and (after.pts or 0) < (key.pts or 0)
        ]
        key = packets[open_at[0]]
        first = (key.pts or 0) // 40
        for packet in packets[open_at[0] :]:
            packet.stream = stream
            cut.mux(packet)
    found = probe(tmp_path / "cut.mkv")
    numbers = [number_of(image) for image in read_frames(tmp_path / "cut.mkv", found.times_us.tolist())]
    assert numbers == list(range(first, 30)), "frames before the keyframe need others that were cut off"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, -1, 0),
        (0, -1, 1, 0),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_turned_upright(film: Film, name: str, matrix: tuple[int, int, int, int]) -> None:
    """The colour of each quarter goes where the matrix sends the quarter's middle."""
    colours = {(-1, -1): (200, 40, 40), (1, -1): (40, 200, 40), (-1, 1): (40, 40, 200), (1, 1): (220, 220, 220)}
    frame = np.zeros((64, 96, 3), np.uint8)
    for (x, y), colour in colours.items():
        frame[slice(0, 32) if y < 0 else slice(32, 64), slice(0, 48) if x < 0 else slice(48, 96)] = colour
    a, b, c, d = (value << 16 for value in matrix)
    full = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = film(name, frames=[frame] * 3, options={"crf": "10"}, prepare=lambda s: s.set_display_matrix(full))
    size = (96, 64) if matrix[0] else (64, 96)
    assert probe(path).size == size
    [image] = read_frames(path, [40_000])
    assert image.size == size
    for (x, y), colour in colours.items():
        to_x, to_y = matrix[0] * x + matrix[2] * y, matrix[1] * x + matrix[3] * y
        pixel = np.asarray(image)[size[1] * (2 + to_y) // 4, size[0] * (2 + to_x) // 4].astype(int)
        assert np.abs(pixel - colour).max() < 12


def test_other_angles_and_square_pixels_stay_as_they_are(film: Film) -> None:
    def slanted(stream: Any) -> None:
        stream.set_display_rotation(30)
        stream.codec_context.sample_aspect_ratio = 2

    assert probe(film("a.mp4", prepare=slanted)).size == (96, 64)


@pytest.mark.parametrize(("space", "limited"), [(1, True), (5, True), (1, False), (5, False)])
def test_colours_by_what_the_frame_says(film: Film, space: int, limited: bool) -> None:
    """A red of given Y, Cb, Cr is computed by hand for BT.709 (1) and BT.601 (5)."""
    kr, kb = (0.2126, 0.0722) if space == 1 else (0.299, 0.114)
    y, cb, cr = 100, 90, 200

    def plain(stream: Any) -> None:
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 1 if limited else 2

    path = film("a.mkv", "ffv1", 0, prepare=plain)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv444p"
        plain(stream)
        frame = av.VideoFrame.from_ndarray(np.stack([np.full((32, 32), v, np.uint8) for v in (y, cb, cr)]), "yuv444p")
        frame.colorspace, frame.color_range = space, 1 if limited else 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    luma = (y - 16) / 219 * 255 if limited else y
    blue, red = ((v - 128) * (255 / 224 if limited else 1) for v in (cb, cr))
    expected = (
        luma + 2 * (1 - kr) * red,
        luma - 2 * (1 - kb) * kb / (1 - kr - kb) * blue - 2 * (1 - kr) * kr / (1 - kr - kb) * red,
        luma + 2 * (1 - kb) * blue,
    )
    [image] = read_frames(path, [0])
    assert np.abs(np.asarray(image)[9, 9] - np.clip(expected, 0, 255)).max() <= 3


def test_transparency_is_laid_over_white_and_ten_bits_become_eight(film: Film) -> None:
    half = np.zeros((64, 96, 4), np.uint8)
    half[:, :48, 3] = 255
    [image] = read_frames(film("a.mov", "qtrle", [half], pixels="argb"), [0])
    assert image.getpixel((10, 10)) == (0, 0, 0)
    assert image.getpixel((80, 10)) == (255, 255, 255)
    [grey] = read_frames(film("b.mkv", "ffv1", [np.full((64, 96, 3), 130, np.uint8)], pixels="yuv420p10le"), [0])
    assert np.abs(np.asarray(grey).astype(int) - 130).max() <= 2
    assert (grey.mode, grey.info) == ("RGB", {})


def test_a_picture_does_not_decide_what_is_a_clip(film: Film, tmp_path: Path, number_of: NumberOf) -> None:
    """The name has no say; a cover picture beside the clip is not taken for it."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        moving: Any = container.add_stream("mpeg4", rate=25)
        moving.width, moving.height, moving.pix_fmt = 96, 64, "yuv420p"
        container.mux(cover.encode(av.VideoFrame(320, 240, "yuvj420p")))
        container.mux(cover.encode())
        for _ in range(3):
            container.mux(moving.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(moving.encode())
    assert probe(tmp_path / "a.mp4").size == (96, 64)
    renamed = film("b.mkv").rename(tmp_path / "b.m3u8")
    assert [number_of(image) for image in read_frames(renamed, [80_000])] == [2]


def sound(path: Path, *, cover: bool = False) -> Path:
    """A file with sound alone, or with a cover picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        picture: Any = None
        if cover:
            picture = container.add_stream("mjpeg", rate=25)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(32, 32, "yuvj420p")))
            container.mux(picture.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return path


def test_sound_is_no_clip(tmp_path: Path) -> None:
    assert reason(sound(tmp_path / "a.mp4")) == "no_video"
    assert reason(sound(tmp_path / "a.mkv")) == "no_video"
    assert reason(sound(tmp_path / "b.mp4", cover=True)) == "no_video"


def test_without_a_frame(film: Film) -> None:
    assert reason(film("a.mkv", "mjpeg", 0, pixels="yuvj420p")) == "no_frames"
    assert reason(film("a.avi", "mjpeg", 0, pixels="yuvj420p")) == "no_frames"
    assert reason(film("a.mp4", "mjpeg", 0, pixels="yuvj420p")) == "no_video"  # the track is not written at all


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "front.mp4"])
def test_cut_anywhere_is_truncated(film: Film, name: str) -> None:
    path = film(name, muxer={"movflags": "faststart"} if name.startswith("front") else {})
    data = path.read_bytes()
    for length in (64, len(data) // 4, len(data) // 2, len(data) * 3 // 4, len(data) - 1):
        path.write_bytes(data[:length])
        assert reason(path) == "truncated", length
    path.write_bytes(data + b"\0" * 40)  # padding is no damage
    assert len(probe(path).times_us) == 12


def test_a_live_recording_is_not_truncated(film: Film) -> None:
    path = film("a.mkv", frames=40, options={"g": "5"}, muxer={"live": "1", "cluster_time_limit": "100"})
    assert len(probe(path).times_us) == 40
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])  # nothing tells how long it was to be
    assert 5 <= len(probe(path).times_us) < 40


@pytest.mark.parametrize(("table", "count_at", "muxer"), [(b"stsz", 12, ""), (b"trun", 8, "frag_keyframe+empty_moov")])
def test_more_frames_than_bytes(film: Film, table: bytes, count_at: int, muxer: str) -> None:
    """FFmpeg would make room for them: 24 bytes each."""
    path = film("a.mp4", "mjpeg", pixels="yuvj420p", muxer={"movflags": muxer} if muxer else {})
    data = bytearray(path.read_bytes())
    at = data.index(table) - 4 + count_at + 4
    data[at : at + 4] = (2**31).to_bytes(4, "big")
    path.write_bytes(data)
    began = time.monotonic()
    assert reason(path) == "truncated"
    assert time.monotonic() - began < 1


def test_damage_in_the_middle(film: Film, monkeypatch: pytest.MonkeyPatch, number_of: NumberOf) -> None:
    path = film("a.mp4", frames=60, options={"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    at, size = packets[25]
    data[at + 5 : at + size] = bytes(255 - value for value in data[at + 5 : at + size])
    path.write_bytes(data)
    assert reason(path) == "decode_error"
    monkeypatch.setattr(clips, "DECODED_WHOLE", 10)  # now packets tell, and only what is read is decoded
    monkeypatch.setattr(clips, "_CHECKED", 8)
    monkeypatch.setattr(clips, "_FAR_US", 300_000)
    assert probe(path).times_us.tolist() == [40_000 * i for i in range(60)]
    assert [number_of(image) for image in read_frames(path, [0, 1_800_000])] == [0, 45]
    with pytest.raises(MediaError, match="decode_error"):
        kept(read_frames(path, [0, 27 * 40_000]))


def test_old_sound_has_more_samples_than_bytes(tmp_path: Path) -> None:
    """As QuickTime counts compressed sound: samples of one unit of time, many in a byte. They are no video's frames."""
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        moving: Any = container.add_stream("mpeg4", rate=25)
        moving.width, moving.height, moving.pix_fmt = 32, 32, "yuv420p"
        stream: Any = container.add_stream("pcm_u8", rate=8000, layout="mono")
        for _ in range(3):
            container.mux(moving.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(moving.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.uint8), format="u8", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    for name in (b"stts", b"stsz"):  # of the sound, which is the second track
        place = data.rindex(name) + 12
        assert int.from_bytes(data[place : place + 4], "big") in range(100, 2000)
        data[place : place + 4] = (80_000).to_bytes(4, "big")
    path.write_bytes(data)
    assert len(probe(path).times_us) == 3


def test_a_frame_that_is_not_there(film: Film) -> None:
    path = film("a.mp4")
    with pytest.raises(MediaError, match=r"decode_error: .* no frame at 40001 us"):
        kept(read_frames(path, [0, 40_001]))
    with pytest.raises(MediaError, match=r"truncated: .* ends before its frame at 4000000 us"):
        kept(read_frames(path, [0, 4_000_000]))
    with pytest.raises(ValueError, match="ascending"):
        kept(read_frames(path, [40_000, 0]))
    assert kept(read_frames(path, [])) == []


def test_frames_that_change_their_size(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, size in enumerate([(64, 48), (64, 48), (32, 48)]):
            buffer = io.BytesIO()
            Image.new("RGB", size).save(buffer, "JPEG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 25)
            container.mux(packet)
    assert reason(tmp_path / "a.mkv") == "unsupported"


@pytest.mark.parametrize("format", ["JPEG", "GIF"])
def test_a_photo_that_is_named_as_a_clip(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.mp4"
    Image.new("RGB", (32, 32)).save(path, format)
    with pytest.raises(MediaError, match=rf"is {format}, not a clip .*; name it as a photo$") as caught:
        probe(path)
    assert caught.value.reason == "unsupported"


def test_a_codec_without_a_decoder(film: Film) -> None:
    path = film("a.mkv")
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    assert reason(path) == "unsupported"


def test_too_large(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film("a.mp4")
    assert reason(path, max_pixels=96 * 64 - 1) == "too_large"
    assert probe(path, max_pixels=96 * 64).size == (96, 64)
    with pytest.raises(MediaError, match="too_large"):
        kept(read_frames(path, [0], max_pixels=1000))
    monkeypatch.setattr(decoder, "MAX_FRAMES", 11)
    assert reason(path) == "too_large"


def test_what_is_no_clip(tmp_path: Path, photo: Callable[..., bytes], without_rights: Callable[[], Any]) -> None:
    path = tmp_path / "a.mp4"
    assert reason(path) == "missing"
    assert reason(tmp_path / "a\0b") == "missing"
    path.write_bytes(b"")
    assert reason(path) == "empty"
    assert reason(path / "b.mp4") == "missing"
    assert reason(tmp_path) == "not_a_clip"
    path.write_bytes(b"text" * 100)
    assert reason(path) == "not_a_clip"
    path.write_bytes(photo())
    assert reason(path) == "unsupported"
    path.write_bytes(b"\0\0\1\xba" + bytes(200))
    assert reason(path) == "unsupported"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") == "not_a_clip"
    path.chmod(0)
    with without_rights():
        assert reason(path) == "permission"


def test_no_other_file_is_opened(film: Film, tmp_path: Path) -> None:
    """FFmpeg follows such lists where it is let."""
    clip = film("a.mp4")
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile '{clip.name}'\n",
        "a.mp4.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert reason(tmp_path / name) == "not_a_clip"
    with pytest.raises(MediaError, match="missing"):
        probe(Path(f"concat:{clip}"))


def test_a_disk_that_fails(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:  # type: ignore[override]
            if self.tell() > 40_000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size) or b""

    path = film("a.mkv", "mjpeg", 60, pixels="yuvj420p", size=(320, 240))
    monkeypatch.setattr(decoder, "open", lambda name, *_, **__: Failing(name), raising=False)
    assert reason(path) == "unreadable"
    with pytest.raises(MediaError, match=r"unreadable: .*Input/output error"):
        kept(read_frames(path, [0, 59 * 40_000]))


def test_one_frame_is_held_at_a_time(film: Film) -> None:
    """A frame is decoded when it is asked for, and a reader that stops early closes the file."""
    path = film("a.mp4", frames=60)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    images = read_frames(path, [40_000 * i for i in range(60)])
    assert all(a is not b for a, b in pairwise([next(images), next(images)]))
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    images.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_from_several_threads_at_once(film: Film) -> None:
    path = film("a.mp4", frames=40, options={"g": "10"})
    times = [40_000 * i for i in range(40)]
    alone = kept(read_frames(path, times))
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(lambda _: kept(read_frames(path, times)), range(8)):
            assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_memory_does_not_grow_with_the_frames(film: Film) -> None:
    path = film("a.mp4", frames=150, size=(960, 540), options={"preset": "ultrafast"})
    times = probe(path).times_us.tolist()
    for image in read_frames(path, times[:20]):
        assert image.size == (960, 540)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for image in read_frames(path, times):
        assert image.size == (960, 540)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB; a frame has 800, a picture 2,000
