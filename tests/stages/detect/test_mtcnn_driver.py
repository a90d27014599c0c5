"""Our driver of MTCNN: the faces that facenet-pytorch finds in a single photo, whatever photos are beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import facenet_pytorch
import numpy as np
import pytest
import torch
from facenet_pytorch.models.utils import detect_face
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from stages.detect import mtcnn
from stages.detect.cascade import boxes as arithmetic
from stages.detect.cascade import driver, nets, pixels
from stages.detect.cascade.pixels import CompiledTable, PixelTable, TorchTable, pixel_table
from stages.detect.faces import Faces, iou
from stages.detect.settings import DetectSettings
from stages.engines import EngineName
from stages.index.drawn.scenes import draw_scene
from stages.loops import Loops

CPU = torch.device("cpu")

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "large faces": {"min_face_size": 120},
    "eager": {"thresholds": (0.4, 0.3, 0.2)},
    "strict": {"thresholds": (0.9, 0.95, 0.9999)},
    "fine": {"factor": 0.85},
    "coarse": {"factor": 0.4},
}


@cache
def _photos() -> dict[str, Image.Image]:
    """Photos of many sizes, with and without faces."""
    scenes = {f"scene{index}": draw_scene(3, index).image for index in (0, 1, 2, 7)}
    crowd = scenes["scene1"]
    found = {
        **scenes,
        "odd": crowd.resize((401, 303), Image.Resampling.BICUBIC),
        "half": crowd.resize((crowd.width // 2, crowd.height // 2)),
        "larger": scenes["scene2"].resize((901, 700), Image.Resampling.BICUBIC),
        "strip": scenes["scene0"].crop((0, 100, scenes["scene0"].width, 190)),
        "black": Image.new("RGB", (120, 90)),
        "noise": Image.fromarray(np.random.default_rng(1).integers(0, 256, (130, 170, 3), dtype=np.uint8)),
        "line": Image.new("RGB", (1, 2000), "white"),
        "small": Image.new("RGB", (19, 19), "white"),
    }
    data = pytest.importorskip("skimage.data")
    astronaut = Image.fromarray(data.astronaut())
    found |= {"astronaut": astronaut, "portrait": astronaut.crop((150, 0, 331, 240)).rotate(8)}
    return found | {"coffee": Image.fromarray(data.coffee()).resize((211, 140))}


NAMES = (
    *("scene0", "scene1", "scene2", "scene7", "odd", "half", "larger", "strip"),
    *("black", "noise", "line", "small", "astronaut", "portrait", "coffee"),
)


_engine: list[EngineName] = ["torch"]
both = pytest.mark.usefixtures("each_engine")


@pytest.fixture(scope="module", params=["torch", "openvino"])
def each_engine(request: pytest.FixtureRequest) -> None:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    _engine[0] = request.param


def _own(name: str = "default") -> mtcnn.Mtcnn:
    return _loaded(name, _engine[0])


@cache
def _loaded(name: str, engine: EngineName) -> mtcnn.Mtcnn:
    return mtcnn.load(DetectSettings(device="cpu", engine=engine, **SETTINGS[name]), "cpu")


def _alone(name: str) -> np.ndarray:
    return _found_alone(name, _engine[0])


@cache
def _found_alone(name: str, engine: EngineName) -> np.ndarray:
    return _loaded("default", engine).detect(_photos()[name]).to_rows()


@cache
def _expected(name: str, changed: str = "default") -> Faces:
    """What facenet-pytorch finds in one photo."""
    image = _photos()[name]
    net = facenet_pytorch.MTCNN(keep_all=True, **SETTINGS[changed])
    found = net.detect(image, landmarks=True)
    if found[0] is None:
        return Faces.none(image.size)
    boxes, scores, points = (np.asarray(list(part), np.float32) for part in found)
    return Faces(boxes, scores, points, image.size)


def _same(found: Faces, expected: Faces) -> None:
    """The same faces in the same order."""
    assert found.size == expected.size
    assert len(found) == len(expected)
    for one, other in zip(found.boxes.tolist(), expected.boxes.tolist(), strict=True):
        assert iou(one, other) >= 0.99
    assert np.abs(found.landmarks - expected.landmarks).max(initial=0) <= 0.1
    assert np.abs(found.scores - expected.scores).max(initial=0) <= 1e-4


@both
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("line", "small")])
def test_the_faces_of_facenet_pytorch(name: str) -> None:
    found, expected = _own().detect(_photos()[name]), _expected(name)
    _same(found, expected)
    if name.startswith(("scene", "astro", "portrait", "odd", "larger")):
        assert len(expected)


@both
@pytest.mark.parametrize("changed", [name for name in SETTINGS if name != "default"])
@pytest.mark.parametrize("name", ["scene1", "astronaut", "noise"])
def test_the_faces_of_facenet_pytorch_with_other_settings(name: str, changed: str) -> None:
    _same(_own(changed).detect(_photos()[name]), _expected(name, changed))


@both
def test_settings_change_what_is_found() -> None:
    counts = {changed: len(_own(changed).detect(_photos()["half"])) for changed in SETTINGS}
    assert counts["large faces"] < counts["default"]
    assert counts["strict"] < counts["default"]
    eager, default = (_own(changed).detect(_photos()["astronaut"]) for changed in ("eager", "default"))
    assert len(eager) > len(default)


@both
def test_photos_of_mixed_sizes_together() -> None:
    assert len(NAMES) > driver.PHOTOS
    found = _own().detect_many([_photos()[name] for name in NAMES])
    for name, faces in zip(NAMES, found, strict=True):
        if name in ("line", "small"):  # facenet-pytorch fails on these
            assert len(faces) == 0
        else:
            _same(faces, _expected(name))
    assert sum(len(faces) for faces in found) > 12


@both
def test_a_face_at_the_same_place_of_another_photo_hides_none() -> None:
    """facenet-pytorch's last suppression moves each photo's boxes aside by too little for boxes left of the edge."""
    image = _photos()["portrait"].crop((40, 30, 150, 190))
    twins = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image, _photos()["scene1"], image]
    found = _own().detect_many(twins)
    assert len(found[0]) == 1
    for image, faces in zip(twins, found, strict=True):
        assert np.array_equal(faces.to_rows(), _own().detect(image).to_rows())


@both
@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([name for name in NAMES if name not in ("larger", "astronaut")]), max_size=9))
def test_alone_as_in_any_batch_and_order(names: list[str]) -> None:
    found = _own().detect_many([_photos()[name] for name in names])
    assert len(found) == len(names)
    for name, faces in zip(names, found, strict=True):
        assert np.array_equal(faces.to_rows(), _alone(name)), name


@both
@pytest.mark.parametrize("bucket", ["refine", "output"])
def test_a_crop_gives_the_same_bits_at_any_place_of_a_bucket(bucket: str) -> None:
    cascade = _own()._cascade
    net = cascade._refine if bucket == "refine" else cascade._output
    size = getattr(cascade._pace, bucket)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(size, net.side, net.side, 3, generator=generator) * 2 - 1
    expected = net(pixels)
    for shift in range(size):
        assert torch.equal(net(pixels.roll(shift, 0)).roll(-shift, 0), expected)
        beside = torch.zeros_like(pixels)
        beside[shift] = pixels[shift]
        assert torch.equal(net(beside)[shift], expected[shift])


@both
@pytest.mark.parametrize("size", [(1, 1), (19, 19), (19, 500), (1, 2000), (2000, 1), (12, 12), (20, 20), (21, 3000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_photos_that_facenet_pytorch_fails_on(size: tuple[int, int], mode: str) -> None:
    for color in (0, 255):
        faces = _own().detect(Image.new("L", size, color).convert(mode))
        assert len(faces) == 0
        assert faces.size == size
        assert faces.to_rows().shape == (0, 15)


@both
def test_a_grey_photo_has_the_faces_of_the_same_photo_in_colour() -> None:
    grey = _photos()["astronaut"].convert("L")
    found = _own().detect(grey)
    assert len(found)
    assert np.array_equal(found.to_rows(), _own().detect(grey.convert("RGB")).to_rows())


@both
def test_no_photo_at_all() -> None:
    assert _own().detect_many([]) == []


@both
def test_boxes_are_of_the_photo_before_it_was_shrunk() -> None:
    image = _photos()["scene2"].resize((1300, 900), Image.Resampling.BICUBIC)
    own = mtcnn.load(DetectSettings(device="cpu", engine=_engine[0], max_side=650), "cpu")
    small = own.detect(image.resize((650, 450), Image.Resampling.BILINEAR, reducing_gap=2.0))
    large, same = own.detect_many([image, image])
    assert len(large)
    assert np.allclose(large.boxes, small.boxes * 2)
    assert np.allclose(large.landmarks, small.landmarks * 2)
    assert np.array_equal(large.to_rows(), same.to_rows())


@both
def test_a_level_in_strips_is_the_level() -> None:
    cascade = _own()._cascade
    for name in ("odd", "scene0"):
        table = TorchTable(_photos()[name], CPU)
        for width, height in ((101, 77), (90, 64), (40, 26), (30, 13), (25, 12)):
            found = []
            for strip in (1, 40 * 60, 1 << 20):
                own = _with_pace(cascade, strip=strip)
                found.append(own._level_outputs(table, width, height))
            assert found[0].shape[:2] == (-(-(height - 10) // 2), -(-(width - 10) // 2))
            for other in found[1:]:
                assert torch.allclose(found[0], other, atol=1e-4, rtol=1e-5)


def _with_pace(cascade: driver.Cascade, **changes: int) -> driver.Cascade:
    own = object.__new__(driver.Cascade)
    own.__dict__.update(cascade.__dict__)
    own._pace = replace(cascade._pace, **changes)
    return own


@both
def test_crops_in_parts_are_the_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [_photos()[name] for name in ("scene1", "noise", "odd")]
    few = _with_pace(_own()._cascade, crops=5)
    for found, name in zip(few.detect_many(images), ("scene1", "noise", "odd"), strict=True):
        assert np.array_equal(found.boxes, _alone(name)[:, :4])


def _area(image: Image.Image, box: Sequence[int], height: int, width: int) -> np.ndarray:
    """facenet-pytorch's crop and resizing, in double precision."""
    x1, y1, x2, y2 = box
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None, :, y1:y2, x1:x2].double()
    found = (functional.interpolate(pixels, size=(height, width), mode="area") - 127.5) * 0.0078125
    return found[0].permute(1, 2, 0).numpy()


def _torch_table(image: Image.Image) -> PixelTable:
    return TorchTable(image, CPU)


def _compiled_table(image: Image.Image) -> PixelTable:
    return CompiledTable(image, pytest.importorskip("stages.detect.cascade.pixel_loops"))


tables = pytest.mark.parametrize("table", [_torch_table, _compiled_table])


@tables
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_means_are_those_of_interpolate_area(table: Callable[[Image.Image], PixelTable], data: st.DataObject) -> None:
    image = _photos()["noise"]
    box = []
    for length in image.size:
        start = data.draw(st.integers(0, length - 1))
        box.append((start, data.draw(st.integers(start + 1, length))))
    rectangle = [box[0][0], box[1][0], box[0][1], box[1][1]]
    height, width = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    found = table(image).means(torch.tensor([rectangle]), height, width)
    assert found.shape == (1, height, width, 3)
    assert np.abs(found[0].numpy() - _area(image, rectangle, height, width)).max() < 1e-6


@tables
def test_means_of_bins_that_do_not_fit_the_tables_bits(table: Callable[[Image.Image], PixelTable]) -> None:
    rng = np.random.default_rng(2)
    for size in ((1900, 1500), (1, 30_000), (30_000, 2)):
        pixels = np.full((size[1], size[0], 3), 255, np.uint8)
        pixels[rng.integers(0, size[1], 500), rng.integers(0, size[0], 500)] = (3, 0, 250)
        image = Image.fromarray(pixels)
        for height, width in ((12, 15), (1, 4)):
            found = table(image).means(torch.tensor([[0, 0, *size]]), height, width)
            assert np.abs(found[0].numpy() - _area(image, (0, 0, *size), height, width)).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 50), st.integers(1, 50), st.data())
def test_compiled_means_have_the_bits_of_torchs(
    seed: int, count: int, height: int, width: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    columns, rows = (int(side) for side in rng.integers(1, 90, 2))
    image = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
    corner = rng.integers(0, (columns, rows), (count, 2))
    boxes = torch.from_numpy(np.concatenate([corner, rng.integers(corner, (columns, rows)) + 1], axis=1))
    start = data.draw(st.integers(0, height))
    part = slice(start, data.draw(st.integers(start, height + 5)))
    expected = _torch_table(image).means(boxes, height, width, part)
    found = _compiled_table(image).means(boxes, height, width, part)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_photos_are_the_same_before_and_after_the_loops_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(pixels, "_LOOPS", Loops("stages.detect.cascade.pixel_loops", after=1))
    image = _photos()["scene0"].convert("L")  # made RGB for the table
    first, second = (pixel_table(image, CPU) for _ in range(2))
    assert (type(first), type(second)) == (TorchTable, CompiledTable)
    whole = torch.tensor([[0, 0, image.width, image.height]])
    assert torch.equal(first.means(whole, 31, 47), second.means(whole, 31, 47))


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 30), st.integers(4, 30), st.sampled_from([2, 3]), st.integers(0, 1000))
def test_maxima_are_those_of_max_pool2d(height: int, width: int, size: int, seed: int) -> None:
    x = torch.randn(2, 16, height, width, generator=torch.Generator().manual_seed(seed))
    x = x.contiguous(memory_format=torch.channels_last)
    found = nets._maxima(nets._maxima(x, 2, size), 3, size)
    assert torch.equal(found, functional.max_pool2d(x, size, 2, ceil_mode=True))


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 0.3, 0.6, 0.999999, 0.99999999, 1.0])
def test_what_may_reach_a_threshold_holds_all_that_do(threshold: float) -> None:
    logits = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * 12
    reached = torch.nonzero(torch.softmax(logits, 1)[:, 1] >= threshold)[:, 0]
    likely = arithmetic.likely(logits, threshold)
    assert len(reached)
    assert set(reached.tolist()) <= set(likely.tolist())
    assert len(likely) <= len(reached) * 1.5 + 10


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 10_000))
def test_faces_in_better_faces_go_as_in_facenet_pytorch(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 100, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 80, (count, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(count).astype(np.float32)
    found = arithmetic.distinct(boxes, scores, 0.7)
    expected = detect_face.nms_numpy(boxes, scores, 0.7, "Min")
    assert found.tolist() == (expected.tolist() if count else [])


def test_a_box_outside_the_photo_has_no_crop() -> None:
    boxes = [[-5.5, -3.2, 8.9, 9.9], [30, 2, 60, 32], [19.2, 3, 25, 40], [-9, -9, 0.5, 0.5], [20, 0, 21, 3]]
    rectangles, kept = arithmetic.within(torch.tensor(boxes), 20, 10)
    assert rectangles.tolist() == [[0, 0, 8, 9], [18, 2, 20, 10], [19, 0, 20, 3]]
    assert kept.tolist() == [0, 2, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_faces_of_facenet_pytorch_on_a_gpu() -> None:
    own = mtcnn.load(DetectSettings(device="cuda"), "cuda")
    for name, faces in zip(NAMES, own.detect_many([_photos()[name] for name in NAMES]), strict=True):
        if name not in ("line", "small"):
            _same(faces, _expected(name))


def test_the_detector_is_a_detector(noise: Callable[[int], Image.Image]) -> None:
    own = _own()
    one, two = own.detect(noise(1)), own.detect_many([noise(1)])[0]
    assert one.size == two.size == (24, 24)
    assert np.array_equal(one.to_rows(), two.to_rows())
