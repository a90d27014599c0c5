from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cache.keys import PLAIN, item_key, view_key
from stages.extract import views
from stages.extract.settings import ViewSettings

KEY = item_key("aa" * 32)
CROPS = ViewSettings(crops=3, area=0.25)


def gradient(height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3): the first channel grows to the right, the second downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, np.zeros_like(x)], -1).astype(np.uint8)


def test_the_plain_view_comes_first_and_names_say_what_changes_pixels() -> None:
    assert views.names(ViewSettings()) == (PLAIN,)
    named = views.names(ViewSettings(flip=True, crops=2, seed=3, area=0.5))
    assert named == (PLAIN, "flip", "crop 0 of seed 3, area 0.5 to 1", "crop 1 of seed 3, area 0.5 to 1")
    keys = {
        view_key(KEY, name)
        for settings in (CROPS, CROPS.model_copy(update={"seed": 1}))
        for name in views.names(settings)
    }
    assert len(keys) == 7
    assert view_key(KEY, PLAIN) == KEY


def test_areas_that_show_other_parts_have_other_names() -> None:
    some = [ViewSettings(crops=1, area=area) for area in (0.7, 0.7000001)]
    (_, one), (_, other) = map(views.names, some)
    assert views.part_of(one, some[0], KEY) != views.part_of(one, some[1], KEY)
    assert one != other


def test_more_crops_leave_the_first_ones_as_they_are() -> None:
    few, many = views.names(CROPS), views.names(CROPS.model_copy(update={"crops": 9}))
    assert many[: len(few)] == few


@given(st.integers(0, 99), st.integers(0, 9), st.floats(0.01, 1), st.integers(0, 5))
def test_a_crop_lies_in_the_picture_and_has_its_area(seed: int, crop: int, area: float, row: int) -> None:
    settings = ViewSettings(crops=crop + 1, seed=seed, area=area)
    x1, y1, x2, y2 = views.part_of(views.names(settings)[-1], settings, KEY, row)
    assert 0 <= x1 < x2 <= 1 + 1e-9
    assert 0 <= y1 < y2 <= 1 + 1e-9
    assert (x2 - x1) * (y2 - y1) >= area - 1e-9
    assert x2 - x1 == pytest.approx(y2 - y1)  # the shape of the picture


def test_crops_are_spread_over_areas_and_places() -> None:
    settings = ViewSettings(crops=100, area=0.25)
    parts = np.array(
        [views.part_of(v, settings, item_key(f"{i}")) for i in range(20) for v in views.names(settings)[1:]]
    )
    side = parts[:, 2] - parts[:, 0]
    assert np.mean(side**2) == pytest.approx(0.625, abs=0.02)  # uniform in 0.25 to 1
    left = parts[:, 0] / (1 - side)
    assert np.mean(left) == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(left, parts[:, 1] / (1 - side))[0, 1]) < 0.1


def test_each_face_is_cropped_on_its_own_and_alone_as_among_others() -> None:
    rows = np.stack([gradient(40, 30)] * 3)
    view = views.names(CROPS)[1]
    three = views.of_crops(rows, view, CROPS, KEY)
    assert three.shape == rows.shape
    assert three.dtype == np.uint8
    assert not np.array_equal(three[0], three[1])
    assert np.array_equal(views.of_crops(rows[:1], view, CROPS, KEY)[0], three[0])


def test_a_crop_of_a_face_shows_its_part() -> None:
    view = views.names(CROPS)[2]
    x1, y1, x2, y2 = views.part_of(view, CROPS, KEY)
    [crop] = views.of_crops(gradient(200, 160)[None], view, CROPS, KEY)
    shares = crop[:, :, :2].astype(float) / 255
    assert shares[100, 2, 0] == pytest.approx(x1, abs=0.02)
    assert shares[100, -3, 0] == pytest.approx(x2, abs=0.02)
    assert shares[2, 80, 1] == pytest.approx(y1, abs=0.02)
    assert shares[-3, 80, 1] == pytest.approx(y2, abs=0.02)


def test_flips_are_mirrored() -> None:
    rows, settings = gradient(40, 30)[None], ViewSettings(flip=True)
    assert np.array_equal(views.of_crops(rows, views.FLIP, settings, KEY)[0], rows[0, :, ::-1])
    photo = views.of_photo(Image.fromarray(rows[0]), views.FLIP, settings, KEY)
    assert np.array_equal(np.asarray(photo), rows[0, :, ::-1])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 50))
def test_a_crop_of_any_photo_has_pixels(width: int, height: int, seed: int) -> None:
    settings = ViewSettings(crops=1, seed=seed, area=0.01)
    part = views.of_photo(Image.new("RGB", (width, height)), views.names(settings)[1], settings, KEY)
    assert 1 <= part.width <= width
    assert 1 <= part.height <= height
