"""Crops: where pixels land, what lies outside, what shrinking leaves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stages.align.similarity import fit_box
from stages.align.templates import TEMPLATES, Template, find
from stages.align.warp import crop_matrix, warp
from stages.detect.faces import Faces
from stages.errors import SettingError
from stages.index.drawn.scenes import Scene

NO_LANDMARKS = np.full((5, 2), np.nan, np.float32)
POINTS = [template for template in TEMPLATES.values() if template.points]
BOXES = [template for template in TEMPLATES.values() if not template.points]


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def cut(image: Image.Image, box: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    return warp(image, fit_box(np.array(box), size), size)


def test_the_identity_leaves_the_image(noise: Image.Image) -> None:
    crop = cut(noise, (0, 0, 60, 40), (40, 60))
    assert crop.dtype == np.uint8
    assert np.array_equal(crop, np.asarray(noise))
    assert np.array_equal(cut(noise, (7, 3, 27, 13), (10, 20)), np.asarray(noise)[3:13, 7:27])


def test_outside_is_black(noise: Image.Image) -> None:
    crop = cut(noise, (-10, -5, 10, 5), (10, 20))
    assert not crop[:5].any()
    assert not crop[:, :10].any()
    assert np.array_equal(crop[5:, 10:], np.asarray(noise)[:5, :10])
    for box in ((100, 0, 120, 20), (-50, -50, -10, -10), (0, 45, 20, 65), (-1e6, -1e6, -9e5, -9e5)):
        assert not cut(noise, box, (24, 24)).any()
    assert cut(noise, (-1e6, -1e6, 1e6, 1e6), (24, 24)).shape == (24, 24, 3)


def test_whole_factors_average_whole_blocks(noise: Image.Image) -> None:
    pixels = np.asarray(noise).astype(float)
    blocks = pixels.reshape(10, 4, 20, 3, 3).mean(axis=(1, 3))  # 4 px down, 3 px across
    assert np.abs(cut(noise, (0, 0, 60, 40), (10, 20)) - blocks).max() <= 0.51


@pytest.mark.parametrize("factor", [2, 2.6, 3, 3.9, 7.5])
def test_shrinking_a_fine_checkerboard_gives_grey(factor: float) -> None:
    y, x = np.mgrid[:400, :400]
    board = Image.fromarray(np.repeat((((x + y) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2))
    side = int(400 / factor)
    inside = cut(board, (0, 0, side * factor, side * factor), (side, side))[1:-1, 1:-1]
    assert inside.min() >= 113  # 4 white px of a block of 9
    assert inside.max() <= 142


@pytest.mark.parametrize("factor", [1.25, 1.5, 1.9, 2.7])
def test_between_the_whole_factors_shrinking_is_close_to_an_antialiased_resize(factor: float) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    side = int(300 / factor)
    box = (0, 0, side * factor, side * factor)
    wanted = np.asarray(noise.resize((side, side), Image.Resampling.BILINEAR, box=box)).astype(float)
    error = cut(noise, box, (side, side)) - wanted
    assert np.sqrt((error**2).mean()) < 12  # plain bilinear sampling: up to 32


def test_an_upright_box_is_resized_and_agrees_with_sampling(noise: Image.Image) -> None:
    """Within the photo the neighbours of the box count as well; a turn by nearly nothing is sampled."""
    size = (50, 70)
    for box in ((10.25, 5.5, 40.75, 30.125), (0, 0, 60, 40), (3, 3, 3.5, 4)):
        resized = cut(noise, box, size)
        wanted = noise.resize((70, 50), Image.Resampling.BILINEAR, box=box)
        assert np.abs(resized.astype(int) - np.asarray(wanted)).max() <= 1
        matrix = fit_box(np.array(box), size)
        matrix[0, 1] = 1e-12
        assert np.abs(resized.astype(int) - warp(noise, matrix, size)).max() <= 2  # it cuts off, resizing rounds twice


def test_each_axis_is_shrunk_by_its_own_factor() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8)[None, :, None], (20, 200, 3)))
    crop = cut(stripes, (0, 0, 400, 20), (20, 50))  # 8 px across, 1 down
    assert crop.min() >= 126
    assert crop.max() <= 129


@pytest.mark.parametrize("template", POINTS, ids=lambda t: t.name)
@pytest.mark.parametrize("scale", [0.6, 1.0, 2.9])
def test_marks_land_on_the_templates_points(template: Template, scale: float) -> None:
    assert template.points is not None
    points = np.array(template.points)
    turn = np.deg2rad(20)
    back = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks = points @ back.T + [170, 60]
    y, x = np.mgrid[:520, :620] + 0.5  # centres of pixels
    for i, (mark_x, mark_y) in enumerate(landmarks):
        blob = 255 * np.exp(-((x - mark_x) ** 2 + (y - mark_y) ** 2) / (2 * (3 * scale) ** 2))
        image = Image.fromarray(blob.astype(np.uint8)).convert("RGB")
        crop = warp(image, crop_matrix(np.zeros(4), landmarks, template), template.size)[:, :, 0].astype(float)
        rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]] + 0.5
        centre = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
        assert np.abs(centre - points[i]).max() < 0.5


@pytest.mark.parametrize("template", POINTS, ids=lambda t: t.name)
def test_a_drawn_face_lands_on_the_template(template: Template, truth: Faces) -> None:
    for box, landmarks in zip(truth.boxes, truth.landmarks, strict=True):
        matrix = crop_matrix(box, landmarks, template)
        landed = landmarks @ matrix[:, :2].T + matrix[:, 2]
        error = np.linalg.norm(landed - np.array(template.points), axis=1)
        # a drawn face is no mean face: shares of the crop's width
        assert error.mean() < 0.05 * template.size[1]


@pytest.mark.parametrize("template", POINTS, ids=lambda t: t.name)
def test_without_landmarks_the_box_is_resized(template: Template) -> None:
    box = np.array([10, 20, 50, 90], np.float32)
    assert np.array_equal(crop_matrix(box, NO_LANDMARKS, template), fit_box(box, template.size))


@pytest.mark.parametrize("template", BOXES, ids=lambda t: t.name)
def test_box_templates(template: Template) -> None:
    box = np.array([10, 20, 50, 100], np.float32)  # 40 x 80, centre (30, 60)
    matrix = crop_matrix(box, NO_LANDMARKS, template)
    low, high = -matrix[:, 2] / np.diag(matrix), (np.array(template.size[::-1]) - matrix[:, 2]) / np.diag(matrix)
    sides = (40, 80) if template.name == "facenet160" else (88, 88)
    assert (high - low).tolist() == pytest.approx(sides, abs=1e-4)
    assert ((high + low) / 2).tolist() == pytest.approx([30, 60], abs=1e-4)
    exact = crop_matrix(box, NO_LANDMARKS, template, exact_box=True)
    assert np.array_equal(exact, fit_box(box, template.size))


def test_templates_have_points_inside() -> None:
    for name, template in TEMPLATES.items():
        assert template.name == name
        assert template.source
        height, width = template.size
        assert all(0 < x < width and 0 < y < height for x, y in template.points or ())
        assert find(name) is template
    with pytest.raises(SettingError, match=r"align template 'arc': use one of arc112, box112"):
        find("arc")


def test_a_face_of_no_size_is_still_a_crop(scene: Scene) -> None:
    for template in TEMPLATES.values():
        matrix = crop_matrix(np.array([50, 50, 50, 50], np.float32), NO_LANDMARKS, template)
        assert warp(scene.image, matrix, template.size).shape == (*template.size, 3)
