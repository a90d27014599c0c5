"""What every head must do, over all that are registered: to register a head is to have it tested here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from stages.heads import registry
from stages.heads.batch import HeadBatch

FACE_DIM, GLOBAL_DIM, CLASSES = 12, 20, 5
NAMES = registry.names()

ORDERED = {"gupta2018:attention_a_published", "gupta2018:attention_b_published", "aminbeidokhti2019:lstm"}
"""Gupta's authors' code reads a matrix of faces as one of another shape, so that a face's score mixes numbers of faces
by their places; an LSTM is there for the order of frames. Order matters, and cannot but matter."""

ROWS: dict[str, tuple[int, ...]] = {"vector": (9,), "map": (6, 3, 4), "features": (6, 3, 4), "pixels": (8, 8, 3)}
"""Shape of a row of an input, by its kind."""

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "meen": {"pixels": (44, 44, 3), "early": (8, 22, 22), "mid": (16, 11, 11), "late": (32, 5, 5)}
}
"""Those of a file whose heads take no others."""

SMALL = {"dagnet": {"width": 8}, "meen": {"width": 4}}
"""Options of a file's heads, where they have them, for tests in seconds."""

pytestmark = pytest.mark.parametrize("name", NAMES)


def needs(name: str) -> tuple[registry.Level, ...]:
    module, variant = registry.find(name)
    return module.NEEDS[variant]


def shape_of(name: str, wanted: str) -> tuple[int, ...]:
    """Of a row of one of a head's inputs."""
    own = SHAPES.get(name.split(":")[0], {})
    return own.get(wanted) or ROWS[registry.inputs_of(name)[wanted].kind]


def build(name: str, seed: int = 0, dropout: float = 0.5) -> nn.Module:
    """A head, told the shapes that it needs and 0 for the others."""
    torch.manual_seed(seed)
    inputs = {wanted: shape_of(name, wanted) for wanted in registry.inputs_of(name)}
    shapes = registry.Shapes(FACE_DIM * ("face" in needs(name)), GLOBAL_DIM * ("global" in needs(name)), inputs)
    wanted = SMALL.get(name.split(":")[0], {})
    options = {key: value for key, value in wanted.items() if key in type(registry.options_of(name, {})).model_fields}
    return registry.build(name, shapes, CLASSES, dropout, options)


@cache
def seasoned(name: str) -> nn.Module:
    """A head in eval mode whose batch norm has seen data. No test changes it."""
    head = build(name)
    for seed in range(3):
        head(make_batch(name, [1, 2, 3, 4], seed=seed))
    return head.eval()


def make_batch(
    name: str, counts: list[int], *, seed: int = 0, width: int | None = None, filler: float = 0.0
) -> HeadBatch:
    """Random features and boxes of different sizes, as many faces, frames and persons as `counts`; `filler` stands
    where there is none. Real values do not depend on `width` and `filler`."""
    noise = torch.Generator().manual_seed(seed)
    width = max(max(counts), 1) if width is None else width
    faces, boxes = torch.full((len(counts), width, FACE_DIM), filler), torch.full((len(counts), width, 4), filler)
    mask = torch.arange(width) < torch.tensor(counts)[:, None]
    for row, count in enumerate(counts):
        faces[row, :count] = torch.randn(count, FACE_DIM, generator=noise)
        corner, size = torch.rand(2, count, 2, generator=noise) / 2
        boxes[row, :count] = torch.cat([corner, corner + size], dim=-1)
    global_ = torch.randn(len(counts), GLOBAL_DIM, generator=noise)
    inputs = {}
    for wanted, told in registry.inputs_of(name).items():
        rows = torch.randn(sum(counts), *shape_of(name, wanted), generator=noise)
        if told.kind == "pixels":
            rows = (rows * 60 + 128).clamp(0, 255).to(torch.uint8)
        inputs[wanted] = torch.full((*mask.shape, *rows.shape[1:]), filler).to(rows.dtype)
        inputs[wanted][mask] = rows
    masks = {told.level: mask for told in registry.inputs_of(name).values()}
    return HeadBatch(faces, mask, boxes, global_, inputs, masks)


def answers(head: nn.Module, batch: HeadBatch) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        output = head(batch)
    return output.logits, output.attention


COUNTS = st.lists(st.integers(0, 5), min_size=2, max_size=6)


@settings(max_examples=15, deadline=None)
@given(counts=COUNTS, more=st.integers(1, 7), filler=st.sampled_from([0.0, 3.0, -1e4]))
def test_padding_changes_nothing(name: str, counts: list[int], more: int, filler: float) -> None:
    head = seasoned(name)
    logits, attention = answers(head, make_batch(name, counts))
    width = max(max(counts), 1)
    padded_logits, padded = answers(head, make_batch(name, counts, width=width + more, filler=filler))
    torch.testing.assert_close(padded_logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[:, :width], attention, atol=1e-5, rtol=0)
    assert not padded[:, width:].any()


@settings(max_examples=10, deadline=None)
@given(counts=COUNTS, more=st.integers(1, 4), filler=st.sampled_from([0.0, 3.0, -1e4]))
def test_what_is_shown_and_what_is_lost(name: str, counts: list[int], more: int, filler: float) -> None:
    """Looks, and what training makes small: nothing of padding, and weights of frames that sum to 1."""
    head, width = seasoned(name), max(max(counts), 1)
    with torch.inference_mode():
        plain = head(make_batch(name, counts))
        padded = head(make_batch(name, counts, width=width + more, filler=filler))
    real = torch.arange(width + more) < torch.tensor(counts)[:, None]
    for look, values in plain.looks.items():
        assert (values >= 0).all(), look
        assert not padded.looks[look][~real].any(), look
        torch.testing.assert_close(padded.looks[look][:, :width], values, atol=1e-5, rtol=0)
        if look == "frames":
            torch.testing.assert_close(values.sum(1), (torch.tensor(counts) > 0).float(), atol=1e-5, rtol=0)
    if plain.penalty is not None:
        assert plain.penalty.shape == (len(counts),)
        torch.testing.assert_close(padded.penalty, plain.penalty, atol=1e-5, rtol=0)
    if plain.answers is not None:
        losses = [torch.logsumexp(one.answers, -1) * one.shares for one in (plain, padded)]
        torch.testing.assert_close(losses[1].sum(1), losses[0].sum(1), atol=1e-5, rtol=0)


@settings(max_examples=15, deadline=None)
@given(counts=COUNTS)
def test_attention_is_a_distribution_over_the_real_faces(name: str, counts: list[int]) -> None:
    batch = make_batch(name, counts)
    logits, attention = answers(seasoned(name), batch)
    assert logits.shape == (len(counts), CLASSES)
    assert attention.shape == batch.face_mask.shape
    assert torch.isfinite(logits).all()
    assert (attention >= 0).all()
    assert not attention[~batch.face_mask].any()
    expected = torch.tensor([1.0 if count and "face" in needs(name) else 0.0 for count in counts])
    torch.testing.assert_close(attention.sum(1), expected, atol=1e-6, rtol=0)


def test_order_does_not_matter(name: str) -> None:
    head, batch = seasoned(name), make_batch(name, [5, 5, 5])
    order = torch.tensor([3, 0, 4, 1, 2])
    inputs = {wanted: rows[:, order] for wanted, rows in batch.inputs.items()}
    moved = HeadBatch(batch.faces[:, order], batch.face_mask, batch.boxes[:, order], batch.global_, inputs, batch.masks)
    logits, attention = answers(head, batch)
    moved_logits, moved_attention = answers(head, moved)
    if name in ORDERED:
        assert not torch.allclose(moved_logits, logits, atol=1e-3)
        return
    torch.testing.assert_close(moved_logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_attention, attention[:, order], atol=1e-6, rtol=0)
    with torch.inference_mode():
        looks, moved_looks = head(batch).looks, head(moved).looks
    for look, values in looks.items():
        torch.testing.assert_close(moved_looks[look], values[:, order], atol=1e-5, rtol=0)


def test_a_sample_is_answered_alike_whoever_comes_with_it(name: str) -> None:
    head, batch = seasoned(name), make_batch(name, [2, 0, 4])
    logits, _ = answers(head, batch)
    for row in range(3):
        alone = HeadBatch.of_parts({part: tensor[row : row + 1] for part, tensor in batch.parts().items()})
        torch.testing.assert_close(answers(head, alone)[0], logits[row : row + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("counts", [[0, 2, 0, 1], [0, 0, 0]], ids=["some without a face", "all without a face"])
def test_no_face_is_no_nan(name: str, counts: list[int]) -> None:
    """Nor on the way back, where a loss asks for attention too."""
    head = build(name)
    with torch.autograd.set_detect_anomaly(True):
        output = head(make_batch(name, counts))
        parts = (output.logits, output.attention, output.penalty, output.answers, *output.looks.values())
        torch.stack([part.square().sum() for part in parts if part is not None]).sum().backward()
    assert torch.isfinite(output.logits).all()
    assert torch.isfinite(output.attention).all()
    for parameter in head.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    assert all(torch.isfinite(value).all() for value in head.state_dict().values())
    assert torch.isfinite(answers(head.eval(), make_batch(name, counts, seed=1))[0]).all()


def test_gradients_reach_every_parameter(name: str) -> None:
    """Of what training makes small."""
    head = build(name)
    output = head(make_batch(name, [3, 4, 2, 5]))
    (output.logits if output.answers is None else output.answers).square().sum().backward()
    normalised = before_norm(head)
    for path, parameter in head.named_parameters():
        assert parameter.grad is not None, path
        # softmax does not change when every score grows by the same, nor batch norm when every row does
        if path != "score.bias" and path not in normalised:
            assert parameter.grad.abs().max() > 1e-6, path


def before_norm(head: nn.Module) -> set[str]:
    """Names of the biases that batch norm takes away again in training."""
    return {
        f"{path}.{place}.bias"
        for path, layers in head.named_modules()
        if isinstance(layers, nn.Sequential)
        for place, (one, after) in enumerate(pairwise(layers))
        if isinstance(one, (nn.Linear, nn.Conv2d)) and isinstance(after, (nn.BatchNorm1d, nn.BatchNorm2d))
    }


def test_the_state_survives_a_round_trip(name: str) -> None:
    head, other = seasoned(name), build(name, seed=9)
    other.load_state_dict(head.state_dict())
    batch = make_batch(name, [1, 0, 3])
    assert torch.equal(answers(other.eval(), batch)[0], answers(head, batch)[0])


def test_a_seed_decides_the_weights_and_the_dropout(name: str) -> None:
    one, same, other = build(name, 4), build(name, 4), build(name, 5)
    state, again = one.state_dict(), same.state_dict()
    assert state.keys() == again.keys() == other.state_dict().keys()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in state.items())
    batch = make_batch(name, [2, 3])
    torch.manual_seed(7)
    logits = one(batch).logits
    torch.manual_seed(7)
    assert torch.equal(same(batch).logits, logits)


def test_dropout_acts_in_training_only(name: str) -> None:
    head, batch = build(name), make_batch(name, [2, 3, 1])
    if registry.fitter(name) is not None:  # solved as a whole, without steps that dropout could act in
        assert torch.equal(head(batch).logits, head(batch).logits)
        return
    assert not torch.equal(head(batch).logits, head(batch).logits)
    head.eval()
    assert torch.equal(answers(head, batch)[0], answers(head, batch)[0])
    without = build(name, dropout=0.0)
    assert torch.equal(without(batch).logits, without(batch).logits)


def test_the_schedule_is_there(name: str) -> None:
    module, variant = registry.find(name)
    assert set(module.SCHEDULES[variant]) == {"epochs", "step"}
    assert 1 <= module.SCHEDULES[variant]["step"] <= module.SCHEDULES[variant]["epochs"]


def test_it_reads_what_it_says(name: str) -> None:
    """Both ways: what is named changes the answer, and what is not may be missing."""
    head, batch = seasoned(name), make_batch(name, [2, 3, 1])
    logits, _ = answers(head, batch)
    for level, part in (("face", "faces"), ("global", "global_")):
        if level in needs(name):
            changed = answers(head, replace(batch, **{part: getattr(batch, part) + 1}))[0]
            assert not torch.allclose(changed, logits, atol=1e-4)
        else:
            without = answers(head, replace(batch, **{part: getattr(batch, part)[..., :0]}))[0]
            assert torch.equal(without, logits)
    for wanted, rows in batch.inputs.items():
        changed = answers(head, replace(batch, inputs={**batch.inputs, wanted: rows.flip(-1) + 1}))[0]
        assert not torch.allclose(changed, logits, atol=1e-5)
    assert needs(name) or batch.inputs


def test_heads_stack(name: str) -> None:
    """Populations map a head over the parameters of many: no branch may hang on a number in a tensor."""
    if registry.alone(name):
        pytest.skip("trained one at a time")
    heads = [build(name, seed).eval() for seed in range(3)]
    batch, state = make_batch(name, [2, 0, 4]), stack_module_state(heads)

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(heads[0], (parameters, buffers), (batch,)).logits

    with torch.no_grad():
        stacked = vmap(one)(*state)
        torch.testing.assert_close(stacked, torch.stack([head(batch).logits for head in heads]), atol=1e-5, rtol=0)
