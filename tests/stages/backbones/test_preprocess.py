"""Pixels to network input, against torchvision's own transforms and against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.backbones import registry
from stages.backbones.preprocess import fit, preprocess
from stages.backbones.spec import BackboneSpec


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _tiny(**changes: object) -> BackboneSpec:
    spec = dataclasses.replace(
        registry.get_spec("effnet_lite0"), input_size=(1, 2), mean=(1.0, 2.0, 3.0), std=(2.0,) * 3
    )
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


@settings(max_examples=15, deadline=None)
@given(width=st.integers(10, 500), height=st.integers(10, 500), model=st.sampled_from(["resnet18", "efficientnet_b2"]))
def test_torchvision_models_see_what_their_transform_makes(width: int, height: int, model: str) -> None:
    spec = registry.get_spec(f"torchvision:{model}")
    image = _noise(width, height, width * height)
    mine = preprocess(torch.from_numpy(fit(image, spec))[None], spec)[0]
    torch.testing.assert_close(mine, tv.get_model_weights(model)["DEFAULT"].transforms()(image), rtol=0, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), name=st.sampled_from(registry.names()))
def test_fit_reaches_the_input_size(width: int, height: int, name: str) -> None:
    spec = registry.get_spec(name)
    pixels = fit(_noise(width, height), spec)
    assert pixels.shape == (*spec.input_size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_fit_leaves_a_fitting_crop_alone() -> None:
    image = _noise(150, 150)
    np.testing.assert_array_equal(fit(image, registry.get_spec("resnet29")), np.asarray(image))


def test_fit_keeps_the_edges_of_a_wide_photo_when_it_stretches() -> None:
    wide = np.zeros((100, 400, 3), dtype=np.uint8)
    wide[:, :50] = 255
    image = Image.fromarray(wide)
    assert fit(image, registry.get_spec("effnet_lite0"))[:, :20].min() > 250
    assert fit(image, registry.get_spec("torchvision:resnet18")).max() == 0  # the centre crop has cut them off


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_fit_takes_other_modes(mode: str) -> None:
    spec = registry.get_spec("mini_xception")
    assert fit(_noise(80, 90).convert(mode), spec).shape == (64, 64, 3)


def test_fit_of_one_colour_is_that_colour() -> None:
    for name in (*registry.names(), "torchvision:resnet18"):
        pixels = fit(Image.new("RGB", (333, 217), (10, 20, 30)), registry.get_spec(name))
        assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[10, 20, 30]]


def test_colour_and_scale_by_hand() -> None:
    pixels = torch.tensor([[[[11, 22, 33], [255, 0, 128]]]], dtype=torch.uint8)  # (1, 1, 2, 3)
    rgb = preprocess(pixels, _tiny())
    assert rgb.tolist() == [[[[5.0, 127.0]], [[10.0, -1.0]], [[15.0, 62.5]]]]
    bgr = preprocess(pixels, _tiny(colour="BGR"))
    assert bgr.tolist() == [[[[16.0, 63.5]], [[10.0, -1.0]], [[4.0, 126.0]]]]
    grey = preprocess(pixels, _tiny(colour="grey", mean=(0.0,), std=(1.0,)))
    # round(0.299 R + 0.587 G + 0.114 B): 19.965 and 90.837
    assert grey.tolist() == [[[[20.0, 91.0]]]]
    assert pixels.tolist() == [[[[11, 22, 33], [255, 0, 128]]]]


@given(level=st.integers(0, 255))
def test_grey_of_a_grey_pixel_is_its_level(level: int) -> None:
    pixels = torch.full((1, 1, 2, 3), level, dtype=torch.uint8)
    assert preprocess(pixels, _tiny(colour="grey", mean=(0.0,), std=(1.0,))).unique().tolist() == [level]


@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.integers(0, 255), min_size=6, max_size=6))
def test_grey_is_the_rounded_luma(values: list[int]) -> None:
    pixels = torch.tensor(values, dtype=torch.uint8).view(1, 1, 2, 3)
    found = preprocess(pixels, _tiny(colour="grey", mean=(0.0,), std=(1.0,)))[0, 0, 0].numpy()
    exact = np.array(values).reshape(2, 3) @ [0.299, 0.587, 0.114]
    assert np.all(np.abs(found - exact) <= 0.51)


def test_output_is_float32_with_channels_last() -> None:
    for colour, channels in (("RGB", 3), ("BGR", 3)):
        out = preprocess(torch.zeros((4, 1, 2, 3), dtype=torch.uint8), _tiny(colour=colour))
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert out.dtype == torch.float32
        assert out.shape == (4, channels, 1, 2)
    assert preprocess(torch.zeros((0, 1, 2, 3), dtype=torch.uint8), _tiny()).shape == (0, 3, 1, 2)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros((1, 1, 2, 3)),
        torch.zeros((1, 2, 3), dtype=torch.uint8),
        torch.zeros((1, 3, 1, 2), dtype=torch.uint8),
        torch.zeros((1, 2, 1, 3), dtype=torch.uint8),
        torch.zeros((1, 1, 2, 1), dtype=torch.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="effnet_lite0 eats uint8"):
        preprocess(pixels, _tiny())


def test_the_middle_of_a_larger_crop() -> None:
    spec = _tiny(input="face", template="box64", crop_size=(4, 5), resize="stretch", resize_to=None)
    whole = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)
    found = preprocess(whole, spec)  # one row of four, two columns of five: an odd px more is left out after them
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, preprocess(whole[:, 1:2, 1:3].contiguous(), spec))
    with pytest.raises(ValueError, match="eats uint8"):
        preprocess(torch.zeros((1, 5, 4, 3), dtype=torch.uint8), spec)


def test_a_long_strip_costs_no_gigabytes() -> None:
    """1 x 60,000 px would be resized to 232 x 13,920,000 px; only its middle is looked at."""
    import tracemalloc

    spec = registry.get_spec("torchvision:resnet18")
    strip = Image.new("RGB", (1, 60_000), (10, 20, 30))
    tracemalloc.start()
    pixels = fit(strip, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 20, 30)).all()
    assert peak < 50_000_000
