"""Opening what was indexed, and nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.errors import MediaError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import TRANSIENT, by_content, open_frames, open_sample, open_shared, probe_shared

Plant = Callable[..., Path]


def sample(name: str, content: bytes) -> Sample:
    digest = hashlib.sha256(content).hexdigest()
    return Sample(name, name, "image", (), "train", "", "", (), digest)


def reason(row: Sample, root: Path) -> tuple[str, str]:
    with pytest.raises(MediaError) as caught:
        open_sample(row, root)
    return caught.value.reason, caught.value.detail


def test_the_indexed_photo_is_opened(plant: Plant, photo: Callable[..., bytes]) -> None:
    root = plant({"sub/a.png": 5})
    image = open_sample(sample("sub/a.png", photo(5)), root)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (4, 3), (5, 0, 77))
    absolute = replace(sample("a", photo(5)), path=(root / "sub/a.png").as_posix())
    assert open_sample(absolute, Path("/nowhere")).size == (4, 3)


def test_another_photo_in_its_place_is_refused(plant: Plant, photo: Callable[..., bytes]) -> None:
    root = plant({"a.png": 6})
    assert reason(sample("a.png", photo(5)), root) == (
        "changed",
        "a.png changed since it was indexed; run kuleshov index",
    )


def test_what_is_no_file(plant: Plant) -> None:
    root = plant({"a.png": 1})
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    assert reason(sample("gone.png", b""), root) == ("missing", "gone.png is not there any more")
    assert reason(sample("a.png/b.png", b""), root)[0] == "missing"
    assert reason(sample("folder", b""), root) == ("unreadable", "folder is not a file")
    assert reason(sample("pipe", b""), root) == ("unreadable", "pipe is not a file")
    assert reason(replace(sample("a.mp4", b""), media="video"), root)[0] == "clip"


def test_a_locked_photo(plant: Plant, photo: Callable[..., bytes], without_rights: Callable) -> None:
    root = plant({"a.png": 1})
    (root / "a.png").chmod(0)
    with without_rights():
        assert reason(sample("a.png", photo(1)), root) == ("permission", "a.png may not be read")


@pytest.mark.parametrize(("content", "word"), [(b"", "empty"), (b"text", "not_an_image")])
def test_what_lies_in_the_content_names_no_path(plant: Plant, content: bytes, word: str) -> None:
    root = plant({"a.png": content})
    found, detail = reason(sample("a.png", content), root)
    assert found == word
    assert found not in TRANSIENT
    assert detail.startswith("the file ")
    assert "a.png" not in detail


def test_a_clip_by_another_name_is_not_remembered_as_a_bad_photo(
    plant: Plant, film: Callable[..., Path], tmp_path: Path
) -> None:
    """Under a clip's name the same bytes are sound."""
    content = film("a.mp4").read_bytes()
    found, detail = reason(sample("a.jpg", content), plant({"a.jpg": content}))
    assert (found, detail) == ("clip", "a.jpg is a clip by its bytes; name it as one")
    assert found in TRANSIENT


def test_samples_of_one_content_stay_in_order(photo: Callable[..., bytes]) -> None:
    rows = [sample("c", photo(1)), sample("a", photo(1)), sample("b", photo(2))]
    shared = by_content(Manifest(tuple(rows)))
    assert [[row.sample_id for row in group] for group in shared.values()] == [["a", "c"], ["b"]]
    assert list(shared) == [rows[0].content, rows[2].content]


def test_any_file_of_a_shared_photo_will_do(plant: Plant, photo: Callable[..., bytes]) -> None:
    root = plant({"a.png": 9, "c.png": 1})
    rows = [sample(name, photo(1)) for name in ("a.png", "b.png", "c.png")]
    assert open_shared(rows, root).getpixel((0, 0)) == (1, 0, 77)
    with pytest.raises(MediaError, match=r"changed: a\.png"):
        open_shared(rows[:2], root)
    broken = [sample(name, b"text") for name in ("a.png", "b.png")]
    (root / "a.png").write_bytes(b"text")
    with pytest.raises(MediaError, match="not_an_image"):
        open_shared(broken, root)
    with pytest.raises(ValueError, match="needs a sample"):
        open_shared([], root)


def clip_sample(path: Path, name: str | None = None) -> Sample:
    return replace(sample(name or path.name, path.read_bytes()), media="video")


def test_frames_of_the_indexed_clip(film: Callable[..., Path], number_of: Callable, tmp_path: Path) -> None:
    row = clip_sample(film("a.mp4"))
    assert probe_shared([row], tmp_path).times_us.tolist() == [40_000 * i for i in range(12)]
    assert [number_of(image) for image in open_frames([row], tmp_path, [0, 120_000, 440_000])] == [0, 3, 11]
    assert list(open_frames([row], tmp_path, [])) == []


def test_a_photo_is_one_picture(plant: Plant, photo: Callable[..., bytes]) -> None:
    [image] = open_frames([sample("a.png", photo(5))], plant({"a.png": 5}), None)
    assert image.getpixel((0, 0)) == (5, 0, 77)


def test_another_clip_in_its_place_is_refused(film: Callable[..., Path], tmp_path: Path) -> None:
    row = clip_sample(film("a.mp4"))
    film("a.mp4", frames=5)
    with pytest.raises(MediaError, match=r"changed: a\.mp4 changed since it was indexed"):
        probe_shared([row], tmp_path)
    with pytest.raises(MediaError, match="changed"):
        next(open_frames([row], tmp_path, [0]))


def test_any_file_of_a_shared_clip_will_do(film: Callable[..., Path], number_of: Callable, tmp_path: Path) -> None:
    path = film("c.mp4")
    rows = [clip_sample(path, name) for name in ("gone.mp4", "changed.mp4", "c.mp4")]
    (tmp_path / "changed.mp4").write_bytes(b"text")
    assert len(probe_shared(rows, tmp_path).times_us) == 12
    assert [number_of(image) for image in open_frames(rows, tmp_path, [80_000])] == [2]
    with pytest.raises(MediaError, match=r"missing: gone\.mp4"):
        list(open_frames(rows[:2], tmp_path, [0]))
    with pytest.raises(ValueError, match="needs a sample"):
        list(open_frames([], tmp_path, [0]))


def test_what_lies_in_a_clip_names_no_path(film: Callable[..., Path], tmp_path: Path) -> None:
    path = film("a.mp4")
    path.write_bytes(path.read_bytes()[:-10])
    row = clip_sample(path)
    for ask in (lambda: probe_shared([row], tmp_path), lambda: list(open_frames([row], tmp_path, [0]))):
        with pytest.raises(MediaError, match="truncated") as caught:
            ask()
        assert caught.value.detail.startswith("the file ")
        assert "a.mp4" not in caught.value.detail


def test_a_clips_file_is_hashed_once_a_call(
    film: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    plain = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: (hashed.append(1), plain(*given))[1])
    row = clip_sample(film("a.mp4"))
    assert len({np.asarray(image).tobytes() for image in open_frames([row], tmp_path, [0, 40_000, 80_000])}) == 3
    assert hashed == [1]
