"""Gupta et al. 2018: sizes, schedules and equations of section 2.4 and 3.2.3, worked out again in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stages.errors import SettingError
from stages.heads import gupta2018, registry
from stages.heads.batch import HeadBatch, masked_softmax

FACE_DIM, GLOBAL_DIM, CLASSES = 10, 14, 3
COUNTS = [3, 1, 0, 4]


def head_of(variant: str, dropout: float = 0.5) -> gupta2018.GuptaHead:
    torch.manual_seed(3)
    return gupta2018.GuptaHead(variant, FACE_DIM, GLOBAL_DIM, CLASSES, dropout)


@pytest.fixture
def batch() -> HeadBatch:
    noise = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor(COUNTS)[:, None]
    faces = torch.randn(4, 4, FACE_DIM, generator=noise) * mask[..., None]
    return HeadBatch(faces, mask, torch.zeros(4, 4, 4), torch.randn(4, GLOBAL_DIM, generator=noise))


def arrays(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    weight, bias = arrays(layer)
    return x @ weight.T + bias


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
    return odds / odds.sum()


def by_hand(head: gupta2018.GuptaHead, batch: HeadBatch, *, training: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits and attention of a head without dropout, sample by sample, in float64."""
    photo = linear(head.global_, batch.global_.double().numpy())
    pooled, weights = [], []
    for row, count in enumerate(COUNTS):
        faces = linear(head.face, batch.faces[row, :count].double().numpy())
        if head.variant == "average":
            share = np.full(count, 1 / max(count, 1))
        elif head.variant == "attention_a":
            share = softmax(faces @ photo[row]) if count else np.zeros(0)
        elif head.variant == "attention_b":
            share = softmax(faces @ linear(head.intermediate, photo[row])) if count else np.zeros(0)
        else:
            share = softmax(linear(head.score, linear(head.score_hidden, faces))[:, 0]) if count else np.zeros(0)
        weights.append(share)
        pooled.append(share @ faces)
    stacked = np.stack(pooled)
    if training:  # batch norm without affine parameters, biased variance
        stacked, photo = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (stacked, photo))
    else:  # running mean 0 and variance 1, as they start
        stacked, photo = stacked / np.sqrt(1 + 1e-5), photo / np.sqrt(1 + 1e-5)
    return linear(head.classify, np.concatenate([stacked, photo], axis=1)), weights


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", gupta2018.FACE_DIMS)
def test_equations(variant: str, training: bool, batch: HeadBatch) -> None:
    head = head_of(variant, dropout=0.0).train(training)
    logits, weights = by_hand(head, batch, training=training)
    output = head(batch)
    np.testing.assert_allclose(output.logits.detach().numpy(), logits, atol=2e-4)
    for row, count in enumerate(COUNTS):
        found = output.attention[row].detach().numpy()
        np.testing.assert_allclose(found[:count], weights[row], atol=1e-5)
        assert not found[count:].any()


def test_attention_c_with_constant_scores_is_the_average(batch: HeadBatch) -> None:
    c, average = head_of("attention_c").eval(), head_of("average").eval()
    average.load_state_dict({k: v for k, v in c.state_dict().items() if not k.startswith("score")})
    with torch.inference_mode():
        assert not torch.allclose(c(batch).logits, average(batch).logits)
        c.score.weight.zero_()
        c.score.bias.fill_(2.5)
        torch.testing.assert_close(c(batch).logits, average(batch).logits)
        torch.testing.assert_close(c(batch).attention, average(batch).attention)


SHAPES = {
    "average": {"face": (256, 10), "global_": (256, 14), "classify": (3, 512)},
    "attention_a": {"face": (256, 10), "global_": (256, 14), "classify": (3, 512)},
    "attention_b": {"face": (64, 10), "global_": (256, 14), "intermediate": (64, 256), "classify": (3, 320)},
    "attention_c": {
        "face": (256, 10),
        "global_": (256, 14),
        "score_hidden": (64, 256),
        "score": (1, 64),
        "classify": (3, 512),
    },
}


@pytest.mark.parametrize("variant", gupta2018.FACE_DIMS)
def test_parameters_are_the_papers(variant: str) -> None:
    found = {name: tuple(value.shape) for name, value in head_of(variant).named_parameters()}
    expected = {f"{name}.weight": shape for name, shape in SHAPES[variant].items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in SHAPES[variant].items()}
    assert found == expected  # so batch norm has no parameters
    norms = [module for module in head_of(variant).modules() if isinstance(module, nn.BatchNorm1d)]
    assert [norm.num_features for norm in norms] == [SHAPES[variant]["face"][0], 256]


def test_weights_start_as_in_the_authors_code() -> None:
    head = gupta2018.GuptaHead("attention_c", 512, 1280, 3)
    for layer in (head.face, head.global_, head.classify, head.score_hidden):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.1)
        assert (layer.bias == 0.01).all()


@pytest.mark.parametrize(("variant", "linears"), [("average", 2), ("attention_a", 2), ("attention_b", 3)])
def test_dropout_follows_every_linear_layer_but_the_last(variant: str, linears: int, batch: HeadBatch) -> None:
    """Dropout of nearly 1 leaves a layer's output 0: the logits are then those of zeros."""
    head = head_of(variant, dropout=1.0)
    calls: list[tuple[int, ...]] = []
    head.dropout.register_forward_hook(lambda module, args, output: calls.append(tuple(output.shape)))
    logits = head(batch).logits
    assert len(calls) == linears
    torch.testing.assert_close(logits, head.classify.bias.expand(4, 3))


def test_dropout_of_attention_c_is_on_faces_photo_and_hidden_scores(batch: HeadBatch) -> None:
    head = head_of("attention_c")
    calls: list[tuple[int, ...]] = []
    head.dropout.register_forward_hook(lambda module, args, output: calls.append(tuple(output.shape)))
    head(batch)
    assert sorted(calls) == [(4, 4, 64), (4, 4, 256), (4, 256)]


def test_schedules_are_the_papers() -> None:
    for variant in ("average", "average_published"):
        assert gupta2018.SCHEDULES[variant] == {"epochs": 16, "step": 5}
    for variant in ("attention_a", "attention_b", "attention_c", "attention_a_published", "attention_b_published"):
        assert gupta2018.SCHEDULES[variant] == {"epochs": 27, "step": 9}
    assert gupta2018.SCHEDULES["faces"] == {"epochs": 12, "step": 4}


def test_registry_names_and_finds() -> None:
    found = [name for name in registry.names() if name.startswith("gupta2018:")]
    assert found == [f"gupta2018:{variant}" for variant in gupta2018.VARIANTS]
    assert len(set(registry.names())) == len(registry.names())
    module, variant = registry.find("gupta2018:attention_b")
    assert (module, variant) == (gupta2018, "attention_b")


@pytest.mark.parametrize("name", ["gupta2018", "gupta2018:d", "batch:x", "registry:names", "../index/run:x", "", ":"])
def test_an_unknown_head_is_one_line_that_names_the_known(name: str) -> None:
    known = "gupta2018:attention_c" if name.startswith("gupta2018") else r"gupta2018:\.\.\., .*tan2017:\.\.\."
    with pytest.raises(SettingError, match=known) as caught:
        registry.find(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masked_softmax_by_hand() -> None:
    scores = torch.tensor([[0.0, 1.0, 50.0], [3.0, 3.0, 3.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    e = torch.tensor(1.0).exp()
    expected = torch.stack([torch.stack([1 / (1 + e), e / (1 + e), torch.tensor(0.0)]), torch.zeros(3)])
    torch.testing.assert_close(masked_softmax(scores, mask), expected)
