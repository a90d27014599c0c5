"""Tan et al. 2017: means of probabilities over all or the largest faces, worked out again in numpy."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.heads import gupta2018, tan2017
from stages.heads.batch import HeadBatch
from stages.heads.registry import NoOptions, Shapes

FACE_DIM, GLOBAL_DIM, CLASSES = 6, 7, 4
COUNTS = [5, 1, 0, 3, 4]


def build(variant: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(2)
    return tan2017.build(variant, Shapes(FACE_DIM, GLOBAL_DIM), CLASSES, dropout, NoOptions())


def boxes_of(sizes: list[float]) -> Tensor:
    """Squares, in (1, N, 4)."""
    side = torch.tensor(sizes)
    return torch.stack([0.1 * side, 0 * side, 1.1 * side, side], dim=-1)[None]


@pytest.fixture
def batch() -> HeadBatch:
    noise = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor(COUNTS)[:, None]
    corner, size = torch.rand(2, 5, 5, 2, generator=noise) / 2
    boxes = torch.cat([corner, corner + size], dim=-1) * mask[..., None]
    faces = torch.randn(5, 5, FACE_DIM, generator=noise) * mask[..., None]
    return HeadBatch(faces, mask, boxes, torch.randn(5, GLOBAL_DIM, generator=noise))


def probabilities(head: nn.Module, faces: Tensor) -> np.ndarray:
    """Of each of one sample's faces, (n, K)."""
    layer = cast(nn.Linear, head.get_submodule("classify"))
    scores = faces.double().numpy() @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    odds = np.exp(scores)
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize(("variant", "most"), [("all", 5), ("largest3", 3)])
def test_logits_are_the_log_of_the_mean_of_probabilities(variant: str, most: int, batch: HeadBatch) -> None:
    head = build(variant)
    output = head(batch)
    for row, count in enumerate(COUNTS):
        box = batch.boxes[row, :count].double().numpy()
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        kept = sorted(range(count), key=lambda face, area=area: -area[face])[:most]
        each = probabilities(head, batch.faces[row, :count])
        expected = each[kept].mean(0) if count else np.full(CLASSES, 1 / CLASSES)
        np.testing.assert_allclose(output.logits[row].detach().numpy(), np.log(expected), atol=1e-5)
        weights = np.zeros(5)
        weights[kept] = 1 / max(len(kept), 1)
        np.testing.assert_allclose(output.attention[row].numpy(), weights, atol=1e-6)


def test_cross_entropy_is_the_loss_of_the_mean(batch: HeadBatch) -> None:
    head, labels = build("all"), torch.tensor([0, 3, 1, 2, 2])
    loss = nn.functional.cross_entropy(head(batch).logits, labels).item()
    means = [probabilities(head, batch.faces[i, :n]).mean(0) if n else np.full(4, 0.25) for i, n in enumerate(COUNTS)]
    assert loss == pytest.approx(np.mean([-np.log(p[label]) for p, label in zip(means, labels, strict=True)]), abs=1e-5)


def test_a_mean_of_probabilities_is_not_one_of_scores(batch: HeadBatch) -> None:
    head, scores = build("all"), gupta2018.build("faces", Shapes(FACE_DIM, GLOBAL_DIM), CLASSES, 0.0, NoOptions())
    scores.load_state_dict(head.state_dict())
    with torch.inference_mode():
        ours, theirs = (torch.softmax(one(batch).logits, -1) for one in (head, scores))
    torch.testing.assert_close(ours[1:3], theirs[1:3])  # one face, and none
    assert not torch.allclose(ours[0], theirs[0], atol=1e-3)


def test_faces_that_are_sure_of_different_classes_stay_finite() -> None:
    head = build("all")
    faces = 1e4 * torch.randn(2, 3, FACE_DIM, generator=torch.Generator().manual_seed(0))
    batch = HeadBatch(faces, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, 4), torch.zeros(2, GLOBAL_DIM))
    logits = head(batch).logits
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([0.2, 0.5, 0.1, 0.4, 0.3], 5, [1, 3, 4]),
        ([0.2, 0.2, 0.2, 0.2, 0.2], 5, [0, 1, 2]),
        ([0.1, 0.2, 0.1, 0.3, 0.1], 5, [0, 1, 3]),
        ([0.0, 0.0, 0.0, 0.0, 0.1], 5, [0, 1, 4]),
        ([0.0, 0.3, 0.9, 0.9, 0.9], 2, [0, 1]),  # what stands where there is no face does not count
        ([0.9, 0.9, 0.9, 0.9, 0.9], 0, []),
    ],
)
def test_the_largest(sizes: list[float], count: int, expected: list[int]) -> None:
    mask = (torch.arange(5) < count)[None]
    found = tan2017.largest(boxes_of(sizes), mask, 3)
    assert found[0].nonzero().flatten().tolist() == expected


def test_a_box_turned_inside_out_is_no_area() -> None:
    boxes = torch.tensor([[[0.9, 0.9, 0.1, 0.1], [0.0, 0.0, 0.1, 0.1]]])
    found = tan2017.largest(boxes, torch.ones(1, 2, dtype=torch.bool), 1)
    assert found.tolist() == [[False, True]]


def test_the_photo_alone(batch: HeadBatch) -> None:
    head = build("global")
    layer = cast(nn.Linear, head.get_submodule("classify"))
    output = head(batch)
    torch.testing.assert_close(output.logits, layer(batch.global_))
    assert output.attention.shape == (5, 5)
    assert not output.attention.any()


def test_schedules_are_the_slides() -> None:
    assert {variant: {"epochs": 10, "step": 4} for variant in ("all", "largest3", "global")} == tan2017.SCHEDULES
