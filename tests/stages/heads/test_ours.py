"""Heads beyond the papers: their equations worked out again in numpy, face by face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.heads import ours
from stages.heads.batch import HeadBatch

FACE_DIM, GLOBAL_DIM, CLASSES = 6, 7, 4
COUNTS = [3, 1, 0, 4]


@pytest.fixture
def batch() -> HeadBatch:
    noise = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor(COUNTS)[:, None]
    corner, size = torch.rand(2, 4, 4, 2, generator=noise) / 2
    boxes = torch.cat([corner, corner + size], dim=-1) * mask[..., None]
    faces = torch.randn(4, 4, FACE_DIM, generator=noise) * mask[..., None]
    return HeadBatch(faces, mask, boxes, torch.randn(4, GLOBAL_DIM, generator=noise))


def gated(dropout: float = 0.0) -> ours.GatedHead:
    torch.manual_seed(4)
    return ours.GatedHead(FACE_DIM, GLOBAL_DIM, CLASSES, dropout)


def transformer(dropout: float = 0.0) -> ours.TransformerHead:
    torch.manual_seed(4)
    return ours.TransformerHead(FACE_DIM, GLOBAL_DIM, CLASSES, dropout)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ array(layer.weight).T + (array(layer.bias) if layer.bias is not None else 0)


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def test_gated_attention_is_equation_9(batch: HeadBatch) -> None:
    head = gated()
    output = head(batch)
    for row, count in enumerate(COUNTS):
        photo = np.maximum(linear(head.global_, array(batch.global_[row])), 0)
        faces = np.maximum(linear(head.face, array(batch.faces[row, :count])), 0)
        weights, pooled = np.zeros(4), np.zeros(ours.EMBEDDED)
        if count:
            gate = 1 / (1 + np.exp(-linear(head.gate, faces)))
            weights[:count] = softmax((np.tanh(linear(head.content, faces)) * gate) @ array(head.score.weight)[0])
            pooled = weights[:count] @ faces
        np.testing.assert_allclose(array(output.attention[row]), weights, atol=1e-6)
        expected = linear(head.classify, np.concatenate([pooled, photo]))
        np.testing.assert_allclose(array(output.logits[row]), expected, atol=1e-5)


def test_a_closed_gate_gives_every_face_the_same(batch: HeadBatch) -> None:
    head = gated()
    with torch.no_grad():
        head.content.weight.zero_()
    expected = batch.face_mask / batch.face_mask.sum(1, keepdim=True).clamp_min(1)
    torch.testing.assert_close(head(batch).attention, expected)


def norm(layer: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return scaled * array(layer.weight) + array(layer.bias)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * array(torch.special.ndtr(torch.from_numpy(x)))


def by_hand(head: ours.TransformerHead, batch: HeadBatch, row: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and weights of a sample's faces, with every layer's every token, and each attention head by itself."""
    box = array(batch.boxes[row, :count])
    place = np.stack([box[:, [0, 2]].mean(1), box[:, [1, 3]].mean(1), box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]], 1)
    faces = linear(head.face, array(batch.faces[row, :count])) + linear(head.box, place)
    tokens = np.concatenate([linear(head.global_, array(batch.global_[row]))[None], faces])
    looks = np.zeros((ours.ASKING, count + 1))
    for layer in head.layers:
        assert isinstance(layer, ours._Layer)
        seen = norm(layer.attention_norm, tokens)
        query, key, value = (linear(part, seen) for part in (layer.query, layer.key, layer.value))
        mixed, wide = np.zeros_like(tokens), ours.WIDTH // ours.ASKING
        for i in range(ours.ASKING):
            mine = slice(i * wide, (i + 1) * wide)
            weights = np.stack([softmax(q @ key[:, mine].T / np.sqrt(wide)) for q in query[:, mine]])
            mixed[:, mine] = weights @ value[:, mine]
            looks[i] = weights[0]
        tokens = tokens + linear(layer.out, mixed)
        tokens = tokens + linear(layer.outer, gelu(linear(layer.inner, norm(layer.inner_norm, tokens))))
    at_faces = looks.mean(0)[1:]
    return linear(head.classify, norm(head.norm, tokens[0])), at_faces / at_faces.sum() if count else at_faces


def test_the_transformer_by_hand(batch: HeadBatch) -> None:
    head = transformer()
    output = head(batch)
    for row, count in enumerate(COUNTS):
        logits, weights = by_hand(head, batch, row, count)
        np.testing.assert_allclose(array(output.logits[row]), logits, atol=2e-5)
        np.testing.assert_allclose(array(output.attention[row, :count]), weights, atol=1e-5)


def test_where_a_face_is_matters(batch: HeadBatch) -> None:
    head = transformer().eval()
    moved = HeadBatch(batch.faces, batch.face_mask, batch.boxes * 0.5, batch.global_)
    with torch.inference_mode():
        change = (head(moved).logits - head(batch).logits).abs().amax(1)
    assert [bool(one > 1e-4) for one in change] == [count > 0 for count in COUNTS]


def test_weights_among_faces_are_exact_however_small() -> None:
    """Where the photo token looks at itself only, nothing of the faces' weights is left in float32."""
    looks = torch.tensor([[[-300.0, -301.0, 0.0], [-302.0, -300.0, 0.0]], [[-1.0, -2.0, -3.0], [-2.0, -2.0, -2.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    shares = np.exp(array(looks) + np.array([300.0, 0.0])[:, None, None]).mean(1) * mask.numpy()
    expected = shares / shares.sum(1, keepdims=True)
    np.testing.assert_allclose(array(ours.among_faces(looks, mask)), expected, atol=1e-5)


def test_dropout_follows_the_first_layers_and_each_half_of_a_layer(batch: HeadBatch) -> None:
    """On faces and photo token apart; at the end on the token alone."""
    head, shapes = transformer(0.5), []
    head.dropout.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    head(batch)
    photo, faces = (4, ours.WIDTH), (4, 4, ours.WIDTH)
    assert shapes == [photo, faces, photo, faces, photo, faces, photo, photo]


def test_centre_and_size() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.4], [0.0, 0.0, 1.0, 1.0]])
    expected = torch.tensor([[0.3, 0.3, 0.4, 0.2], [0.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(ours.centre_and_size(boxes), expected)
