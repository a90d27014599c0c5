"""What the code of Gupta et al. 2018 does otherwise than their text, worked out again in numpy photo by photo."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from stages.heads import gupta2018
from stages.heads.batch import HeadBatch
from stages.heads.registry import NoOptions, Shapes

FACE_DIM, GLOBAL_DIM, CLASSES = 10, 14, 3
VARIANTS = ("attention_a_published", "attention_b_published")


def build(variant: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return gupta2018.build(variant, Shapes(FACE_DIM, GLOBAL_DIM), CLASSES, dropout, NoOptions())


def make_batch(counts: list[int], width: int | None = None) -> HeadBatch:
    noise = torch.Generator().manual_seed(1)
    width = max(counts) if width is None else width
    mask = torch.arange(width) < torch.tensor(counts)[:, None]
    faces = torch.zeros(len(counts), width, FACE_DIM)
    for row, count in enumerate(counts):
        faces[row, :count] = torch.randn(count, FACE_DIM, generator=noise)
    boxes = torch.zeros(len(counts), width, 4)
    return HeadBatch(faces, mask, boxes, torch.randn(len(counts), GLOBAL_DIM, generator=noise))


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def weights_of(head: gupta2018.GuptaHead, faces: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Of one photo's faces (n, D): all rows as one list of numbers, cut into lines of as many numbers as rows."""
    rows = max(len(faces), 15)
    filled = np.zeros((rows, FACE_DIM))
    filled[: len(faces)] = faces
    matrix = linear(head.face, filled)  # (rows, width)
    query = linear(head.global_, photo)
    if head.variant == "attention_b":
        query = linear(head.intermediate, query)
    scores = query @ matrix.reshape(matrix.shape[1], rows)
    odds = np.exp(scores[: len(faces)] - scores[: len(faces)].max(initial=-np.inf)) if len(faces) else np.zeros(0)
    return odds / odds.sum() if len(faces) else odds


@pytest.mark.parametrize("counts", [[15, 15], [3, 1, 0, 4], [16, 2, 19, 0, 15]], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_those_of_the_reshaped_matrix(variant: str, counts: list[int]) -> None:
    head, batch = cast(gupta2018.GuptaHead, build(variant).eval()), make_batch(counts)
    with torch.inference_mode():
        found = head(batch).attention.numpy()
    for row, count in enumerate(counts):
        faces, photo = batch.faces[row, :count].double().numpy(), batch.global_[row].double().numpy()
        np.testing.assert_allclose(found[row, :count], weights_of(head, faces, photo), atol=2e-5)
        assert not found[row, count:].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_else_is_the_texts(variant: str) -> None:
    """The same parameters; and with the text's scores the same answer."""
    head, text = build(variant).eval(), build(variant.removesuffix("_published")).eval()
    text.load_state_dict(head.state_dict())
    batch, one = make_batch([3, 2, 15]), make_batch([1, 1])
    with torch.inference_mode():
        assert not torch.allclose(head(batch).attention, text(batch).attention, atol=1e-3)
        torch.testing.assert_close(head(one).logits, text(one).logits)  # one face has weight 1, whatever its score


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [20, 40])
def test_padding_beyond_the_code_s_15_rows_changes_nothing(variant: str, width: int) -> None:
    head, counts = build(variant).eval(), [3, 17, 0, 15]
    with torch.inference_mode():
        plain, padded = head(make_batch(counts)), head(make_batch(counts, width))
    torch.testing.assert_close(padded.logits, plain.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.attention[:, :17], plain.attention, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("variant", "calls"), [("attention_a_published", 3), ("attention_b_published", 4)])
def test_empty_rows_have_dropout_too(variant: str, calls: int) -> None:
    head, shapes = build(variant, dropout=0.5), []
    head.get_submodule("dropout").register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    head(make_batch([2, 3]))
    width = gupta2018.FACE_DIMS[variant.removesuffix("_published")]
    assert len(shapes) == calls
    assert (2, 15 * width) in shapes


@pytest.mark.parametrize("training", [False, True])
def test_the_average_has_one_linear_layer(training: bool) -> None:
    head, counts = build("average_published").train(training), [3, 1, 0, 4]
    batch = make_batch(counts)
    assert {name: tuple(value.shape) for name, value in head.named_parameters()} == {
        "classify.weight": (CLASSES, FACE_DIM + GLOBAL_DIM),
        "classify.bias": (CLASSES,),
    }
    faces, photo = batch.faces.double().numpy(), batch.global_.double().numpy()
    mean = np.stack([faces[i, :n].sum(0) / max(n, 1) for i, n in enumerate(counts)])
    if training:
        mean, photo = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (mean, photo))
    else:
        mean, photo = mean / np.sqrt(1 + 1e-5), photo / np.sqrt(1 + 1e-5)
    expected = linear(cast(nn.Linear, head.get_submodule("classify")), np.concatenate([mean, photo], axis=1))
    np.testing.assert_allclose(head(batch).logits.detach().numpy(), expected, atol=1e-4)


def test_the_mean_of_the_faces_scores() -> None:
    head, counts = build("faces"), [3, 1, 0, 4]
    batch = make_batch(counts)
    layer = cast(nn.Linear, head.get_submodule("classify"))
    output = head(batch)
    for row, count in enumerate(counts):
        scores = linear(layer, batch.faces[row, :count].double().numpy())
        np.testing.assert_allclose(
            output.logits[row].detach().numpy(), scores.mean(0) if count else np.zeros(CLASSES), atol=1e-5
        )
        np.testing.assert_allclose(output.attention[row, :count].numpy(), np.full(count, 1 / max(count, 1)), rtol=1e-6)
