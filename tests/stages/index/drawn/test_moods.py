"""Eight expressions: each moves what it should, by strength, and none is another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from stages.index.drawn.faces import FacePlace, draw_face, face_truth
from stages.index.drawn.moods import MOODS, Mood, mood_of
from stages.index.drawn.style import FaceStyle

PLACE = FacePlace(80, 84, 110)
BOX = (37, 29, 123, 139)


def drawn(label: str, strength: float = 1.0, seed: int = 2) -> np.ndarray:
    """The pixels of the face's box, int (110, 86, 3)."""
    image = Image.new("RGB", (160, 170), (96, 140, 120))
    style = FaceStyle.draw_lots(np.random.default_rng(seed))
    draw_face(image, style, PLACE, 0.0, mood_of(label, strength))
    return np.asarray(image.crop(BOX)).astype(int)


def test_a_weaker_expression_is_nearer_to_itself_than_to_any_other() -> None:
    for seed in (2, 3):
        strong = {label: drawn(label, seed=seed) for label in MOODS}
        assert len(strong) == 8
        for label in MOODS:
            weaker = drawn(label, 0.75, seed)
            assert min(MOODS, key=lambda other: float(np.abs(strong[other] - weaker).mean())) == label


def test_without_strength_every_face_is_neutral() -> None:
    assert all((drawn(label, 0.0) == drawn("neutral")).all() for label in MOODS)
    assert mood_of("fear", 0.0) == Mood()
    assert mood_of("fear", 0.5).brow_in == pytest.approx(mood_of("fear").brow_in / 2)


def test_the_mouth_s_truth_follows_the_mood() -> None:
    style = FaceStyle.draw_lots(np.random.default_rng(2))

    def corners(label: str) -> tuple[tuple[float, float], tuple[float, float]]:
        left, right = face_truth(style, PLACE, 0.0, mood_of(label)).landmarks[3:]
        return left, right

    neutral = corners("neutral")
    assert corners("happy")[0][1] < neutral[0][1] < corners("sad")[0][1]
    assert corners("surprise")[1][0] < neutral[1][0] < corners("happy")[1][0]
    left, right = corners("contempt")
    assert right[1] < left[1] - 5  # one corner up
    assert neutral[0][1] == neutral[1][1]


@pytest.mark.parametrize("label", MOODS)
def test_the_dark_line_ends_at_the_corners(label: str) -> None:
    style = FaceStyle.draw_lots(np.random.default_rng(2))
    image = Image.new("RGB", (160, 170), (96, 140, 120))
    truth = draw_face(image, style, PLACE, 0.0, mood_of(label))
    pixels = np.asarray(image).astype(int).sum(axis=2)
    for x, y in truth.landmarks[3:]:
        near = pixels[math.floor(y) - 3 : math.floor(y) + 4, math.floor(x) - 4 : math.floor(x) + 5]
        assert near.min() < 0.75 * sum(style.skin)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="'furious': give one of angry, disgust"):
        mood_of("furious")
    with pytest.raises(ValueError, match=r"strength is 1\.1"):
        mood_of("sad", 1.1)
