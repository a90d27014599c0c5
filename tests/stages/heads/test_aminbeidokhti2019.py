"""Aminbeidokhti et al. 2019: the equations, worked out again in numpy."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.errors import SettingError
from stages.heads import aminbeidokhti2019 as paper
from stages.heads import registry
from stages.heads.batch import HeadBatch
from stages.heads.registry import Shapes

MAP, CLASSES = (6, 3, 4), 5
COUNTS = [4, 1, 0, 3]
LABELS = torch.tensor([0, 3, 1, 2])


def build(variant: str, shape: tuple[int, ...] = MAP, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    return registry.build(f"aminbeidokhti2019:{variant}", Shapes(inputs={"frames": shape}), CLASSES, 0.0, options)


def batch_of(counts: list[int] = COUNTS, shape: tuple[int, ...] = MAP, seed: int = 1) -> HeadBatch:
    noise, size, width = torch.Generator().manual_seed(seed), len(counts), max(*counts, 1)
    mask = torch.arange(width) < torch.tensor(counts)[:, None]
    frames = torch.randn(size, width, *shape, generator=noise)
    nobody = torch.zeros(size, 1, 0), torch.zeros(size, 1, dtype=torch.bool), torch.zeros(size, 1, 4)
    return HeadBatch(*nobody, torch.zeros(size, 0), {"frames": frames}, {"frame": mask})


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def weights(head: nn.Module, name: str) -> np.ndarray:
    return array(dict(head.named_parameters())[name])


def scores(head: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """o (T, K) of frames' vectors."""
    return vectors @ weights(head, "classify.weight").T + weights(head, "classify.bias")


def softmax(values: np.ndarray, axis: int | None = -1) -> np.ndarray:
    odds = np.exp(values - values.max())
    return odds / odds.sum(axis=axis, keepdims=True)


def frames_of(batch: HeadBatch, row: int) -> np.ndarray:
    """(T, ...) the real frames of a sample."""
    return array(batch.inputs["frames"][row][batch.masks["frame"][row]])


def means(frames: np.ndarray) -> np.ndarray:
    """(T, D): vectors as they are, maps' means over places."""
    return frames.mean((2, 3)) if frames.ndim == 4 else frames


def joint(o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p(c) and p(f) of equation 5."""
    both = softmax(o, axis=None)
    return both.sum(0), both.sum(1)


@pytest.mark.parametrize("shape", [MAP, (6,)], ids=["maps", "vectors"])
def test_one_softmax_over_frames_and_classes(shape: tuple[int, ...]) -> None:
    head, batch = build("temporal", shape), batch_of(shape=shape)
    output = head(batch)
    found = array(torch.softmax(output.logits, -1))
    losses = array(nn.functional.cross_entropy(output.logits, LABELS, reduction="none"))
    for row, count in enumerate(COUNTS):
        if not count:
            np.testing.assert_allclose(found[row], 1 / CLASSES, atol=1e-6)
            assert not output.looks["frames"][row].any()
            continue
        frames = frames_of(batch, row)
        of_class, of_frame = joint(scores(head, means(frames)))
        np.testing.assert_allclose(found[row], of_class, atol=1e-6)
        np.testing.assert_allclose(array(output.looks["frames"][row])[:count], of_frame, atol=1e-6)
        np.testing.assert_allclose(losses[row], -np.log(of_class[LABELS[row]]), atol=1e-5)  # equation 6


def test_one_frame_is_a_softmax() -> None:
    head, batch = build("temporal"), batch_of([1, 1])
    for row, found in enumerate(array(torch.softmax(head(batch).logits, -1))):
        [o] = scores(head, means(frames_of(batch, row)))
        np.testing.assert_allclose(found, softmax(o), atol=1e-6)


def test_independent_frames_are_the_mean_of_scores() -> None:
    """Equation 7: the product of the frames' probabilities, made to sum to one, is the softmax of the summed scores;
    the likeliest class is that of their mean."""
    head, batch = build("independent"), batch_of()
    output = head(batch)
    losses = nn.functional.cross_entropy(output.answers.flatten(0, 1), LABELS.repeat_interleave(4), reduction="none")
    losses = array((losses.view(4, 4) * output.shares).sum(1))
    for row, count in enumerate(COUNTS):
        o = scores(head, means(frames_of(batch, row)))
        np.testing.assert_allclose(array(output.logits[row]), o.sum(0) / max(count, 1), atol=1e-5)
        np.testing.assert_allclose(losses[row], sum(-np.log(softmax(one)[LABELS[row]]) for one in o) / max(count, 1))
        if count:
            product = softmax(o).prod(0)
            np.testing.assert_allclose(product / product.sum(), softmax(o.sum(0)), atol=1e-12)
            assert product.argmax() == output.logits[row].argmax()
    assert not output.shares[2].any()


def test_the_average_is_trained_by_the_loss_of_the_mean() -> None:
    batch = batch_of()
    average, independent = build("average")(batch), build("independent")(batch)
    assert average.answers is None
    assert torch.equal(average.logits, independent.logits)
    of_mean = nn.functional.cross_entropy(average.logits[:1], LABELS[:1])
    of_frames = nn.functional.cross_entropy(independent.answers[0], LABELS[:1].repeat(4))
    assert of_mean < of_frames  # Jensen; equal only where the frames agree


def attentions(head: nn.Module, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R (L, C) and A (N, L) of a frame: equation 4."""
    places = frame.reshape(len(frame), -1).T
    return places, softmax(weights(head, "score.weight") @ np.tanh(weights(head, "score_hidden.weight") @ places.T))


@pytest.mark.parametrize("variant", ["attention", "shift"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_spatial_attention(variant: str, number: int) -> None:
    head, batch = build(variant, attentions=number, hidden=7), batch_of()
    output = head(batch)
    assert output.looks["regions"].shape == (4, 4, number, 3, 4)
    assert weights(head, "score_hidden.weight").shape == (7, 6)
    for row, count in enumerate(COUNTS):
        seen, norms = [], []
        for number_of_frame, frame in enumerate(frames_of(batch, row)):
            places, a = attentions(head, frame)
            shown = array(output.looks["regions"][row, number_of_frame]).reshape(number, -1)
            np.testing.assert_allclose(shown, a / a.sum(1, keepdims=True), atol=1e-6)
            v = a / a.sum(1, keepdims=True) @ places
            if variant == "shift":
                v = v * weights(head, "shift_weight")[:, None] + weights(head, "shift_bias")[:, None]
                v /= np.sqrt(number) * np.linalg.norm(v, axis=1, keepdims=True)
            seen.append(v.reshape(-1))
            norms.append(np.linalg.norm(shown @ shown.T - np.eye(number)))
        if variant == "attention":
            np.testing.assert_allclose(
                array(cast(Tensor, output.penalty)[row]), np.mean(norms) if count else 0, atol=1e-6
            )
        else:
            assert output.penalty is None
        if count:
            of_class, of_frame = joint(scores(head, np.array(seen)))
            np.testing.assert_allclose(array(torch.softmax(output.logits[row], -1)), of_class, atol=1e-6)
            np.testing.assert_allclose(array(output.looks["frames"][row, :count]), of_frame, atol=1e-6)
        assert not output.looks["regions"][row, count:].any()


def test_orthonormal_attentions_have_no_penalty() -> None:
    """Each looks at one place of its own; and the way back from there is finite."""
    looks = torch.eye(5)[[3, 1]].requires_grad_()
    norm = paper.alikeness(looks)
    assert norm.item() == 0
    norm.backward()
    assert torch.isfinite(cast(Tensor, looks.grad)).all()
    assert paper.alikeness(torch.eye(5)[[3, 3]]).item() == pytest.approx(2**0.5)  # both at one place
    assert paper.alikeness(torch.full((2, 3, 4), 0.25)).shape == (2,)


def test_the_penalty_is_scaled_or_left_out() -> None:
    batch = batch_of()
    whole, tenth, none = (build("attention", penalty=p)(batch) for p in (1.0, 0.1, 0.0))
    torch.testing.assert_close(tenth.penalty, 0.1 * whole.penalty)
    assert none.penalty is None
    assert torch.equal(none.logits, whole.logits)


def test_an_attention_without_a_preference_is_the_mean() -> None:
    head, plain, batch = build("attention", attentions=1), build("temporal"), batch_of()
    with torch.no_grad():
        dict(head.named_parameters())["score.weight"].zero_()
    for name in ("classify.weight", "classify.bias"):
        head.load_state_dict({name: plain.state_dict()[name]}, strict=False)
    torch.testing.assert_close(head(batch).logits, plain(batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [MAP, (6,)], ids=["maps", "vectors"])
def test_an_lstm_is_torchs(shape: tuple[int, ...]) -> None:
    """Its gates stand in the order input, forget, output, new; torch's as input, forget, new, output."""
    head, batch = build("lstm", shape, hidden=3), batch_of(shape=shape)
    theirs = nn.LSTM(6, 3, batch_first=True)
    order = [0, 1, 2, 3, 4, 5, 9, 10, 11, 6, 7, 8]
    state = head.state_dict()
    ours = {"weight_ih": "frame.weight", "weight_hh": "state.weight", "bias_ih": "frame.bias"}
    given = {f"{name}_l0": state[mine][order] for name, mine in ours.items()}
    theirs.load_state_dict({**given, "bias_hh_l0": torch.zeros(12)})
    logits = head(batch).logits
    for row, count in enumerate(COUNTS):
        frames = torch.from_numpy(means(frames_of(batch, row))).float()
        if count:
            _, (last, _) = theirs(frames[None])
            expected = last[0, 0] @ state["classify.weight"].T + state["classify.bias"]
            torch.testing.assert_close(logits[row], expected)
    assert not logits[2].any()


def test_an_lstm_sees_order_and_has_no_weights_to_show() -> None:
    head, batch = build("lstm"), batch_of([3, 3])
    turned = HeadBatch.of_parts({**batch.parts(), "inputs.frames": batch.inputs["frames"].flip(1)})
    assert not torch.allclose(head(batch).logits, head(turned).logits, atol=1e-4)
    assert not head(batch).looks


def test_a_forget_gate_starts_open() -> None:
    assert weights(build("lstm", hidden=3), "frame.bias")[3:6].tolist() == [1, 1, 1]


@pytest.mark.parametrize("variant", ["attention", "shift"])
def test_vectors_have_no_places(variant: str) -> None:
    with pytest.raises(SettingError, match=rf"{variant}: frames have rows of shape \(6,\); give it a block of maps"):
        build(variant, (6,))


@pytest.mark.parametrize(
    ("variant", "options", "said"),
    [
        ("attention", {"attentions": 0}, "options.attentions"),
        ("attention", {"penalty": -1}, "options.penalty"),
        ("shift", {"penalty": 1}, "it has attentions, hidden"),
        ("lstm", {"hidden": 0}, "options.hidden"),
        ("temporal", {"hidden": 2}, "it has none"),
    ],
)
def test_options_that_make_no_sense(variant: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        build(variant, **options)


@pytest.mark.parametrize("variant", paper.VARIANTS)
def test_sure_frames_stay_finite(variant: str) -> None:
    head, batch = build(variant), batch_of()
    loud = HeadBatch.of_parts({**batch.parts(), "inputs.frames": 1e4 * batch.inputs["frames"]})
    output = head(loud)
    loss = nn.functional.cross_entropy(output.logits, LABELS)
    loss.backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_schedules_are_the_papers() -> None:
    assert {variant: {"epochs": 30, "step": 30} for variant in paper.VARIANTS} == paper.SCHEDULES
