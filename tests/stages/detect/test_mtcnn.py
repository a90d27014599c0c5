"""The real MTCNN: the same boxes as facenet-pytorch gives, at every size and kind of photo."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import facenet_pytorch
import numpy as np
import pytest
from PIL import Image

from stages import device
from stages.detect import mtcnn, registry
from stages.detect.faces import iou
from stages.detect.run import boxes_spec
from stages.detect.settings import DetectSettings
from stages.engines import installed
from stages.errors import SettingError, WeightsError
from stages.index.drawn.scenes import draw_scene
from stages.index.manifest import Sample
from stages.index.samples import open_sample


@pytest.fixture(scope="module")
def detector() -> registry.Detector:
    return mtcnn.load(DetectSettings(device="cpu"), "cpu")


def test_finds_what_facenet_pytorch_finds(detected: Any) -> None:
    direct = facenet_pytorch.MTCNN(keep_all=True)
    for name, scene in detected.scenes.items():
        boxes, scores, points = direct.detect(scene.image, landmarks=True)  # pyright: ignore[reportAssignmentType]
        faces = detected.detections.faces(name)
        assert np.abs(faces.boxes - np.asarray(boxes, np.float32)).max() < 0.01
        assert np.abs(faces.scores - np.asarray(list(scores), np.float32)).max() < 1e-5
        assert np.abs(faces.landmarks - np.asarray(list(points), np.float32)).max() < 0.01
        assert faces.size == scene.image.size
        assert len(faces) == len(scene.faces)
        area = np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1)
        assert (np.diff(area) <= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (19, 400), (400, 19), (20, 20), (3, 3), (2000, 1)])
def test_a_photo_smaller_than_a_face_has_none(detector: registry.Detector, size: tuple[int, int]) -> None:
    faces = detector.detect(Image.new("RGB", size, "white"))
    assert len(faces) == 0
    assert faces.size == size
    assert faces.to_rows().shape == (0, 15)


@pytest.mark.parametrize("least", [47, 94, 173])  # where least * (12 / least) rounds to under 12
def test_a_photo_of_just_the_smallest_face(least: int) -> None:
    own = mtcnn.load(DetectSettings(min_face_size=least, device="cpu"), "cpu")
    assert len(own.detect(Image.new("RGB", (least, least), "white"))) == 0


def test_a_large_photo_is_shrunk_and_its_boxes_scaled_back(
    detector: registry.Detector, detected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = detected.scenes["scene11.png"]
    small = detected.detections.faces("scene11.png")
    large = scene.image.resize((scene.image.width * 3, scene.image.height * 3 + 1), Image.Resampling.BICUBIC)
    seen: list[tuple[int, int]] = []
    inner = detector._cascade.detect_many  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(
        detector._cascade,  # pyright: ignore[reportAttributeAccessIssue]
        "detect_many",
        lambda images: seen.extend(image.size for image in images) or inner(images),
    )
    faces = detector.detect(large)
    assert seen == [(1600, round(large.height * 1600 / large.width))]
    assert faces.size == large.size
    for box, points in zip(small.boxes, small.landmarks, strict=True):
        overlap = [iou(box * 3, other) for other in faces.boxes]
        assert max(overlap) > 0.75
        assert np.abs(faces.landmarks[int(np.argmax(overlap))] - points * 3).max() < 12


def test_each_axis_has_its_own_factor() -> None:
    small, back = mtcnn._shrink(Image.new("RGB", (3001, 7)), 1000)
    assert small.size == (1000, 2)
    assert back.tolist() == pytest.approx([3.001, 3.5])
    same, one = mtcnn._shrink(small, 1000)
    assert same is small
    assert one.tolist() == [1, 1]
    assert mtcnn._shrink(Image.new("RGB", (3001, 7)), 0)[0].size == (3001, 7)


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _wide(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _cmyk(image: Image.Image) -> Image.Image:
    return image.convert("CMYK")


def _alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGBA")


@pytest.mark.parametrize(("change", "ending"), [(_grey, "png"), (_wide, "png"), (_cmyk, "jpg"), (_alpha, "png")])
def test_photos_of_every_mode(
    detector: registry.Detector,
    detected: Any,
    sample_of: Callable[..., Sample],
    tmp_path: Path,
    change: Callable,
    ending: str,
) -> None:
    scene = detected.scenes["scene11.png"]
    change(scene.image).save(tmp_path / f"photo.{ending}")
    faces = detector.detect(open_sample(sample_of(tmp_path, f"photo.{ending}"), tmp_path))
    assert len(faces) >= 2
    reference = detected.detections.faces("scene11.png").boxes
    assert all(max(iou(box, other) for other in reference) > 0.5 for box in faces.boxes)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: DetectSettings) -> None:
    shutil.copytree(Path(facenet_pytorch.__file__).parent / "data", tmp_path / "data")
    moved = ModuleSpec("facenet_pytorch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(mtcnn, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: moved)))
    assert boxes_spec(settings).weights == mtcnn.WEIGHTS
    with open(tmp_path / "data" / "rnet.pt", "ab") as handle:
        handle.write(b"\0")
    with pytest.raises(WeightsError, match=r"rnet\.pt hashes to [0-9a-f]{12}, expected bbb937de72ef; run pip"):
        boxes_spec(settings)
    with pytest.raises(WeightsError, match=r"rnet\.pt"):
        mtcnn.load(settings, "cpu")
    (tmp_path / "data" / "pnet.pt").unlink()
    with pytest.raises(WeightsError, match=r"pnet\.pt hashes to nothing"):
        boxes_spec(settings)
    monkeypatch.setattr(mtcnn, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    with pytest.raises(WeightsError, match="not installed"):
        boxes_spec(settings)


def test_an_unknown_detector_is_named_with_those_there_are() -> None:
    assert registry.names() == ["mtcnn"]
    with pytest.raises(SettingError, match=r"detect\.detector is 'haar': use one of mtcnn"):
        boxes_spec(DetectSettings(detector="haar"))


def test_the_key_is_of_what_changes_values(settings: DetectSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [
        {"min_face_size": 21},
        {"thresholds": (0.6, 0.7, 0.8)},
        {"factor": 0.7},
        {"max_side": 0},
        {"device": "cuda"},
        {"engine": "torch" if installed() else "openvino"},
    ]
    keys = [boxes_spec(settings.model_copy(update=change)).key for change in changes]
    assert len({boxes_spec(settings).key, *keys}) == 7
    assert boxes_spec(settings.model_copy(update={"faces": "given"})).key == boxes_spec(settings).key
    for devices, name in ((0, "cpu"), (1, "cuda"), (8, "cuda")):
        monkeypatch.setattr(device, "cuda_devices", lambda count=devices: count)
        auto = boxes_spec(DetectSettings(device="auto"))
        assert auto.key == boxes_spec(settings.model_copy(update={"device": name})).key
        runtime = "openvino" if name == "cpu" and installed() else "torch"
        assert auto.numerics["engine"] == f"{runtime}-{name}"
    monkeypatch.setattr(mtcnn, "VERSION", 99)
    assert boxes_spec(settings).extractor_version == 99


def test_detection_does_not_depend_on_the_photo_before(detector: registry.Detector, detected: Any) -> None:
    image = draw_scene(0, 1).image
    detector.detect(Image.new("RGB", (64, 64), "red"))
    assert np.array_equal(detector.detect(image).to_rows(), detected.detections.faces("scene1.png").to_rows())
