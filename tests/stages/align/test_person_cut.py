"""What is cut out for a person, and that nothing of it is left in the context."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.align.person_cut import PersonCutter, touched
from stages.align.persons import FILL, PersonTemplate
from stages.index.drawn.scenes import Scene

PERSON, CONTEXT = PersonTemplate("person", 224), PersonTemplate("context", 224)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def box(*corners: float) -> np.ndarray:
    return np.array(corners, np.float64)


def is_fill(crop: np.ndarray) -> np.ndarray:
    return (crop == FILL).all(axis=2)


def test_a_person_is_its_box_resized(scene: Scene) -> None:
    crop = PersonCutter(scene.image).cut(box(20, 10, 90, 120), PERSON)
    assert (crop.shape, crop.dtype) == ((224, 224, 3), np.uint8)
    wanted = scene.image.crop((20, 10, 90, 120)).resize((224, 224), Image.Resampling.BILINEAR)
    inner = np.abs(crop.astype(float) - np.asarray(wanted))[4:-4, 4:-4]
    assert inner.max() <= 2


def test_a_large_person_is_shrunk_without_aliasing() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = PersonCutter(Image.fromarray(stripes)).cut(box(0, 0, 900, 900), PERSON)
    assert np.abs(crop.astype(float) - 127.5).max() < 12


def test_what_reaches_over_the_border_is_cut_off(scene: Scene) -> None:
    width, height = scene.image.size
    cutter = PersonCutter(scene.image)
    for template in (PERSON, CONTEXT):
        over = cutter.cut(box(-80, 30, 70, height + 55), template)
        assert np.array_equal(over, cutter.cut(box(0, 30, 70, height), template))
        larger = cutter.cut(box(-5, -5, width + 5, height + 5), template)
        assert np.array_equal(larger, cutter.cut(box(0, 0, width, height), template))


def test_a_few_px_are_a_crop_too() -> None:
    image = noise(50, 40)
    crop = PersonCutter(image).cut(box(10, 10, 12, 11), PERSON)
    first, second = np.asarray(image)[10, 10:12].astype(int)
    assert np.abs(crop[112, 56].astype(int) - first).max() <= 3
    assert np.abs(crop[112, 168].astype(int) - second).max() <= 3


def test_the_context_is_the_photo_without_the_person(scene: Scene) -> None:
    width, height = scene.image.size
    crop = PersonCutter(scene.image).cut(box(width / 4, height / 2, width / 2, height), CONTEXT)
    plain = np.asarray(scene.image.resize((224, 224), Image.Resampling.BILINEAR))
    masked = np.zeros((224, 224), bool)
    masked[111:, 55:113] = True  # a px more at each edge, which would have some of the person
    assert (crop[masked] == FILL).all()
    assert np.array_equal(crop[~masked], plain[~masked])


def test_a_person_that_covers_all_leaves_nothing(scene: Scene) -> None:
    width, height = scene.image.size
    assert is_fill(PersonCutter(scene.image).cut(box(0, 0, width, height), CONTEXT)).all()


def test_persons_of_one_photo_do_not_mask_each_other() -> None:
    image = noise(300, 200)
    cutter = PersonCutter(image)
    first, second = box(10, 10, 60, 100), box(200, 50, 280, 190)
    crops = [cutter.cut(one, CONTEXT) for one in (first, second, first)]
    assert np.array_equal(crops[0], crops[2])
    for crop, one in zip(crops, (first, second), strict=False):
        assert np.array_equal(crop, PersonCutter(image).cut(one, CONTEXT))
    assert not (is_fill(crops[0]) & is_fill(crops[1])).any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_px_of_a_person_is_left(data: st.DataObject) -> None:
    """Whatever the person looks like: the context is the same, to the bit."""
    width, height = data.draw(st.integers(2, 150)), data.draw(st.integers(2, 150))
    side = data.draw(st.integers(32, 64))
    x1, y1 = data.draw(st.floats(0, width - 1)), data.draw(st.floats(0, height - 1))
    x2, y2 = data.draw(st.floats(x1 + 1, width)), data.draw(st.floats(y1 + 1, height))
    pixels = np.asarray(noise(width, height)).copy()
    template = PersonTemplate("context", side)
    crops: list[np.ndarray] = []
    for fill in (0, 255):
        pixels[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = fill
        crops.append(PersonCutter(Image.fromarray(pixels)).cut(box(x1, y1, x2, y2), template))
    assert np.array_equal(crops[0], crops[1])


@pytest.mark.parametrize("length", [7, 32, 100, 224, 500, 4000])
def test_no_more_is_masked_than_has_some_of_the_person(length: int) -> None:
    """Against Pillow itself: a line that is lit in the box, resized in floats; what is not masked has none of it."""
    rng = np.random.default_rng(length)
    for _ in range(20):
        start, stop = sorted(rng.uniform(0, length, 2).tolist())
        line = np.zeros((1, length), np.float32)
        line[0, int(np.floor(start)) : int(np.ceil(stop))] = 1
        resized = np.asarray(Image.fromarray(line).resize((224, 1), Image.Resampling.BILINEAR))[0]
        masked = np.zeros(224, bool)
        masked[touched(length, 224, start, stop)] = True
        lit = np.flatnonzero(resized > 0)
        assert masked[lit].all()
        # Pillow's windows are whole px, at the ends of which the weight may be 0
        assert masked.sum() <= lit.max() - lit.min() + 1 + 2 * max(1, -(-224 // length))
