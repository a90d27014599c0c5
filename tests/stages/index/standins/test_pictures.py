"""Drawn faces for stand-ins: the same for the same arguments, found by MTCNN, and as moving pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.index.clips import probe, read_frames
from stages.index.drawn.moods import MOODS
from stages.index.standins.pictures import face_clip, face_photo, other_photo


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


def test_a_photo_follows_from_its_arguments() -> None:
    photo = face_photo(3, 5, "fear", 64)
    assert (photo.mode, photo.size) == ("RGB", (64, 64))
    assert photo.tobytes() == face_photo(3, 5, "fear", 64).tobytes() == face_photo(3, 5, "fear", 64, person=5).tobytes()
    others = [face_photo(4, 5, "fear", 64), face_photo(3, 6, "fear", 64), face_photo(3, 5, "fear", 64, person=6)]
    assert all(difference(photo, other) > 3 for other in others)
    assert 0.5 < difference(photo, face_photo(3, 5, "happy", 64)) < difference(photo, others[1])  # the same place
    grey = face_photo(3, 5, "fear", 64, grey=True)
    assert (grey.mode, grey.tobytes()) == ("L", photo.convert("L").tobytes())


def test_a_picture_without_a_face() -> None:
    picture = other_photo(3, 5, 64)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    assert picture.tobytes() == other_photo(3, 5, 64).tobytes()
    assert difference(picture, other_photo(3, 6, 64)) > 3
    assert other_photo(3, 5, 64, grey=True).tobytes() == picture.convert("L").tobytes()


def test_mtcnn_finds_the_faces_and_no_others() -> None:
    """Of 96 faces, twelve of each expression, it found all, each once; here one of each, which is quick."""
    torch = pytest.importorskip("torch")
    facenet = pytest.importorskip("facenet_pytorch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    detector = facenet.MTCNN(keep_all=True)
    faces = [detector.detect(face_photo(0, index, MOODS[index % 8], 100))[0] for index in range(8)]
    others = [detector.detect(other_photo(0, index, 100))[0] for index in range(6)]
    torch.set_num_threads(threads)
    assert sum(boxes is not None and len(boxes) == 1 for boxes in faces) >= 7
    assert sum(boxes is not None for boxes in others) <= 1


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_a_clip_goes_from_neutral_to_the_expression_and_back(tmp_path: Path, ending: str) -> None:
    path, again = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    face_clip(path, 1, 2, "surprise", 9, 96)
    face_clip(again, 1, 2, "surprise", 9, 96)
    assert path.read_bytes() == again.read_bytes()
    found = probe(path)
    assert (len(found.times_us), found.size) == (9, (96, 96))
    times = [int(time) for time in found.times_us]
    calm = tmp_path / f"calm{ending}"
    face_clip(calm, 1, 2, "neutral", 9, 96)
    apart = [difference(*pair) for pair in zip(read_frames(path, times), read_frames(calm, times), strict=True)]
    assert apart[4] > 2
    assert max(apart[0], apart[-1]) < 0.7 * apart[4]


def test_a_clip_of_no_expression(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'bored': give one of angry"):
        face_clip(tmp_path / "a.mp4", 0, 0, "bored", 4, 96)
    assert not (tmp_path / "a.mp4").exists()
