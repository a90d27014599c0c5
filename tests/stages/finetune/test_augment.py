"""Random views, beside what torchvision does."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as vision

from stages.backbones.preprocess import fit
from stages.backbones.registry import get_spec
from stages.errors import SettingError
from stages.finetune.augment import ASPECT, PHOTO, Views, Who, blend, grey, jittered, mirror, part_of
from stages.finetune.settings import AugmentSettings

FACE = get_spec("vgg19_44:emotion")
ALIGNED = get_spec("sphereface:20")
SCENE = get_spec("torchvision:resnet18")
WHO = Who(3, 5, "a.png", PHOTO)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def crops(count: int, size: tuple[int, int] = (48, 48), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def whose(count: int, epoch: int = 0) -> list[Who]:
    return [Who(0, epoch, f"{i}.png", i) for i in range(count)]


def test_the_values_are_those_of_the_settings() -> None:
    settings = AugmentSettings(flip=True, crop="resized", area=(0.5, 0.75), jitter=0.4)
    assert Views.of(settings) == Views(True, "resized", None, (0.5, 0.75), 0.4)
    assert Views.of(AugmentSettings(crop="random", short_side=300)) == Views(crop="random", short_side=300)
    assert Views.of(AugmentSettings()) == Views()


def test_numbers_follow_from_who_asks() -> None:
    first = list(islice(WHO.lots("crop"), 20))
    assert first == list(islice(WHO.lots("crop"), 20))
    assert len(set(first)) == 20
    assert WHO.lot("crop") == first[0]
    others = [WHO._replace(seed=4), WHO._replace(epoch=6), WHO._replace(sample_id="b.png"), WHO._replace(face=0)]
    assert len({first[0], WHO.lot("flip"), *(other.lot("crop") for other in others)}) == 6


def test_numbers_are_evenly_spread() -> None:
    lots = np.array(list(islice(WHO.lots("crop"), 20_000)))
    assert lots.min() >= 0
    assert lots.max() < 1
    assert np.abs(np.histogram(lots, 10, (0, 1))[0] / 2000 - 1).max() < 0.1
    assert abs(np.corrcoef(lots[:-1], lots[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("size", [(200, 300), (500, 256), (40, 30), (3000, 3), (1, 1)])
def test_without_a_draw_a_photo_is_as_extraction_sees_it(size: tuple[int, int]) -> None:
    views = Views(flip=True, crop="random", jitter=0.5)
    assert np.array_equal(views.of_photo(photo(*size), SCENE, None), fit(photo(*size), SCENE))
    assert np.array_equal(Views().of_photo(photo(*size), SCENE, WHO), fit(photo(*size), SCENE))


def test_without_a_draw_crops_are_as_extraction_sees_them() -> None:
    views = Views(flip=True, crop="random", jitter=0.5)
    assert np.array_equal(views.of_crops(crops(3), FACE, None), crops(3)[:, 2:46, 2:46])
    assert np.array_equal(Views().of_crops(crops(3), FACE, whose(3)), crops(3)[:, 2:46, 2:46])
    aligned = crops(2, (112, 96))
    assert np.array_equal(views.of_crops(aligned, ALIGNED, None), aligned)


def test_flips_mirror_half_of_the_pictures() -> None:
    seen = Views(flip=True).of_crops(crops(400, (112, 96)), ALIGNED, whose(400))
    plain = crops(400, (112, 96))
    flipped = (seen == plain[:, :, ::-1]).all((1, 2, 3))
    assert (flipped | (seen == plain).all((1, 2, 3))).all()
    assert 160 < flipped.sum() < 240
    photos = [Views(flip=True).of_photo(photo(224, 224), SCENE, WHO._replace(epoch=i)) for i in range(40)]
    found = [np.array_equal(one, fit(photo(224, 224), SCENE)[:, ::-1]) for one in photos]
    assert 8 < sum(found) < 32
    assert all(
        np.array_equal(one, fit(photo(224, 224), SCENE)) for one, is_it in zip(photos, found, strict=True) if not is_it
    )


def test_mirroring_some_leaves_the_others() -> None:
    pixels = crops(3)
    mirror(pixels, np.array([True, False, True]))
    assert np.array_equal(pixels[[0, 2]], crops(3)[[0, 2], :, ::-1])
    assert np.array_equal(pixels[1], crops(3)[1])


def test_a_random_place_of_a_crop_is_a_part_of_it_and_every_place_comes() -> None:
    one = crops(1)
    places = set()
    for epoch in range(400):
        [seen] = Views(crop="random").of_crops(one.copy(), FACE, whose(1, epoch))
        [place] = [(y, x) for y in range(5) for x in range(5) if np.array_equal(seen, one[0, y : y + 44, x : x + 44])]
        places.add(place)
    assert len(places) == 25


@pytest.mark.parametrize(("size", "side"), [((300, 200), 256), ((200, 300), None), ((90, 700), 300), ((256, 256), 256)])
def test_a_random_place_of_a_photo_is_that_of_the_resized_photo(size: tuple[int, int], side: int | None) -> None:
    spec = replace(SCENE, interpolation="bilinear")
    image = photo(*size)
    short = side or SCENE.resize_to
    assert short is not None
    less, more = sorted(size)
    longer = int(short * more / less)
    resized = image.resize((short, longer) if size[0] < size[1] else (longer, short), Image.Resampling.BILINEAR)
    whole = np.asarray(resized).astype(int)
    free = (whole.shape[0] - 224, whole.shape[1] - 224)
    for epoch in range(3):
        who = WHO._replace(epoch=epoch)
        seen = Views(crop="random", short_side=side).of_photo(image, spec, who)
        lots = who.lots("crop")
        top, left = (int(next(lots) * (edge + 1)) for edge in free)
        wrong = seen - whole[top : top + 224, left : left + 224]
        assert np.abs(wrong).max() <= 2  # each of the two passes rounds
        assert np.abs(wrong).mean() < 0.3


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 40), st.integers(0, 1000))
def test_a_random_place_never_leaves_the_photo(width: int, height: int, side: int, seed: int) -> None:
    spec = replace(SCENE, input_size=(8, 8), resize_to=8)
    image = Image.new("RGB", (width, height), (200, 100, 50))
    seen = Views(crop="random", short_side=side).of_photo(image, spec, WHO._replace(seed=seed))
    assert (seen == (200, 100, 50)).all()


def test_a_random_place_of_a_long_strip_needs_no_memory_for_all_of_it() -> None:
    seen = Views(crop="random", short_side=256).of_photo(photo(20_000, 2), SCENE, WHO)
    assert seen.shape == (224, 224, 3)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda area: (min(area), max(area))),
    st.integers(0, 1000),
)
def test_a_part_lies_in_the_picture(width: int, height: int, area: tuple[float, float], seed: int) -> None:
    left, top, right, bottom = part_of(width, height, area, Who(seed, 0, "a", 0).lots("crop"))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_parts_have_the_areas_and_aspects_of_torchvisions_formula() -> None:
    parts = np.array([part_of(1000, 1000, (0.08, 1.0), Who(0, i, "a", 0).lots("crop")) for i in range(3000)])
    wide, high = (parts[:, 2] - parts[:, 0]).astype(float), (parts[:, 3] - parts[:, 1]).astype(float)
    torch.manual_seed(0)
    from torchvision.transforms import RandomResizedCrop

    picture = torch.empty(3, 1000, 1000)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], list(ASPECT)) for _ in range(3000)], float)
    for mine, other in (
        (wide * high / 1e6, theirs[:, 2] * theirs[:, 3] / 1e6),
        (wide / high, theirs[:, 3] / theirs[:, 2]),
    ):
        assert np.abs(np.quantile(mine, [0.1, 0.5, 0.9]) / np.quantile(other, [0.1, 0.5, 0.9]) - 1).max() < 0.12
    assert np.abs(np.log(wide / high)).max() < math.log(4 / 3) + 0.01
    assert (wide * high).min() > 0.079e6


def test_where_no_part_fits_the_middle_is_shown() -> None:
    lots = Who(0, 0, "a", 0).lots("crop")
    assert part_of(300, 10, (1.0, 1.0), lots) == (143, 0, 156, 10)
    assert part_of(10, 300, (1.0, 1.0), lots) == (0, 143, 10, 156)
    assert part_of(30, 31, (1.0, 1.0), iter([1 - 1e-9, 0.0] * 10)) == (0, 0, 30, 31)


def test_resized_parts_come_to_the_inputs_size() -> None:
    views = Views(crop="resized", area=(0.25, 0.5))
    seen = views.of_crops(crops(2), FACE, whose(2))
    assert seen.shape == (2, 44, 44, 3)
    box = part_of(48, 48, (0.25, 0.5), whose(2)[1].lots("crop"))
    expected = Image.fromarray(crops(2)[1]).crop(box).resize((44, 44), Image.Resampling.BILINEAR)
    assert np.array_equal(seen[1], np.asarray(expected))
    image = photo(300, 200)
    box = part_of(300, 200, (0.25, 0.5), WHO.lots("crop"))
    expected = image.crop(box).resize((224, 224), Image.Resampling[SCENE.interpolation.upper()])
    assert np.array_equal(views.of_photo(image, SCENE, WHO), np.asarray(expected))


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_jitters_parts_are_torchvisions(factor: float) -> None:
    pixels = np.asarray(photo(80, 60))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    other = grey(pixels)
    assert np.array_equal(other, vision.rgb_to_grayscale(tensor)[0].numpy())
    mine = (
        blend(pixels, 0.0, factor),
        blend(pixels, other.mean(dtype=np.float64), factor),
        blend(pixels, other[..., None].astype(np.float32), factor),
    )
    theirs = (
        vision.adjust_brightness(tensor, factor),
        vision.adjust_contrast(tensor, factor),
        vision.adjust_saturation(tensor, factor),
    )
    for one, expected in zip(mine, theirs, strict=True):
        wrong = one.astype(int) - expected.permute(1, 2, 0).numpy()
        assert np.abs(wrong).max() <= 1
        assert (wrong != 0).mean() < 1e-3


def test_jitter_draws_the_order_and_three_factors() -> None:
    pixels = np.asarray(photo(80, 60))
    bright, contrast, saturation = 0.6 + 0.8 * 0.25, 0.6 + 0.8 * 0.5, 0.6 + 0.8 * 0.75
    seen = jittered(pixels, 0.4, iter([0.0, 0.25, 0.5, 0.75]))  # brightness, contrast, saturation
    step = blend(pixels, 0.0, bright)
    step = blend(step, grey(step).mean(dtype=np.float64), contrast)
    assert np.array_equal(seen, blend(step, grey(step)[..., None].astype(np.float32), saturation))
    reverse = jittered(pixels, 0.4, iter([0.999, 0.25, 0.5, 0.75]))
    step = blend(pixels, grey(pixels)[..., None].astype(np.float32), saturation)
    step = blend(step, grey(step).mean(dtype=np.float64), contrast)
    assert np.array_equal(reverse, blend(step, 0.0, bright))
    assert np.array_equal(jittered(pixels, 1.0, iter([0.0, 0.0, 0.5, 0.5])), np.zeros_like(pixels))  # not below 0


def test_jitter_reaches_crops_and_photos() -> None:
    pixels = crops(2, (112, 96))
    seen = Views(jitter=0.4).of_crops(pixels.copy(), ALIGNED, whose(2))
    for i, who in enumerate(whose(2)):
        assert np.array_equal(seen[i], jittered(pixels[i], 0.4, who.lots("jitter")))
    assert not np.array_equal(seen, pixels)
    expected = jittered(fit(photo(300, 200), SCENE), 0.4, WHO.lots("jitter"))
    assert np.array_equal(Views(jitter=0.4).of_photo(photo(300, 200), SCENE, WHO), expected)


def test_one_kind_of_view_leaves_the_others_as_they_are() -> None:
    pixels = crops(40)
    flips = Views(flip=True, crop="random").of_crops(pixels.copy(), FACE, whose(40))
    plain = Views(crop="random").of_crops(pixels.copy(), FACE, whose(40))
    flipped = np.array([who.lot("flip") < 0.5 for who in whose(40)])
    assert np.array_equal(flips[flipped], plain[flipped][:, :, ::-1])
    assert np.array_equal(flips[~flipped], plain[~flipped])


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(SettingError, match=r"augment.crop is 'random'.*sphereface:20.*112x96.*'resized' or 'none'"):
        Views(crop="random").check_crops(ALIGNED)
    with pytest.raises(SettingError, match=r"augment.short_side is 256.*vgg19_44:emotion.*leave it out"):
        Views(crop="random", short_side=256).check_crops(FACE)
    with pytest.raises(SettingError, match=r"augment.short_side is 200.*224x224.*at least 224"):
        Views(crop="random", short_side=200).check_photos(SCENE)
    stretched = replace(SCENE, resize="stretch", resize_to=None)
    with pytest.raises(SettingError, match=r"resnet18.*set augment.short_side"):
        Views(crop="random").check_photos(stretched)
    for fine in (Views(), Views(crop="resized")):
        fine.check_crops(ALIGNED)
        fine.check_photos(stretched)
    Views(crop="random").check_crops(FACE)
    Views(crop="random").check_photos(SCENE)
    Views(crop="random", short_side=256).check_photos(stretched)
