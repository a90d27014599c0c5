"""The real detector on drawn scenes: the truth must be what MTCNN would say of a photo."""

import numpy as np
import pytest
from PIL import Image

from stages.index.drawn.scenes import Scene, draw_scene


@pytest.fixture(scope="module")
def found() -> list[tuple[Scene, np.ndarray, np.ndarray]]:
    """Twelve scenes (each subset and label once) with MTCNN's boxes (n, 4) and landmarks (n, 5, 2)."""
    torch = pytest.importorskip("torch")
    facenet = pytest.importorskip("facenet_pytorch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    detector = facenet.MTCNN(keep_all=True)
    results = []
    for index in range(12):
        scene = draw_scene(0, index)
        assert isinstance(scene.image, Image.Image)
        boxes, _, landmarks = detector.detect(scene.image, landmarks=True)
        assert boxes is not None
        results.append((scene, np.asarray(boxes, dtype=float), np.asarray(landmarks, dtype=float)))
    torch.set_num_threads(threads)
    return results


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of (n, 4) boxes with one."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared)


def test_mtcnn_finds_the_drawn_faces_where_the_truth_says(found: list[tuple[Scene, np.ndarray, np.ndarray]]) -> None:
    best, errors, extra = [], [], 0
    for scene, boxes, landmarks in found:
        for face in scene.faces:
            box = np.array(face.truth.box)
            agreement = overlaps(boxes, box)
            best.append(float(agreement.max()))
            if best[-1] >= 0.4:
                distance = np.linalg.norm(landmarks[agreement.argmax()] - np.array(face.truth.landmarks), axis=1)
                errors.append(float(distance.mean() / (box[2] - box[0])))
        everyone = np.array([face.truth.box for face in scene.faces])
        extra += sum(overlaps(everyone, box).max() < 0.4 for box in boxes)
    assert np.mean([value >= 0.4 for value in best]) >= 0.95
    assert np.mean([value for value in best if value >= 0.4]) >= 0.8
    assert np.mean(errors) <= 0.06
    assert max(errors) <= 0.2
    assert extra <= 1
