"""The layers of stacked forms: values and gradients are those of plain modules and autograd, one head at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.errors import SettingError
from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.train.features import Features
from stages.train.population import segments
from stages.train.population.minibatch import source_of, take
from stages.train.population.net import Net, Value
from stages.train.population.stack import Stack

CLASSES, WIDTH = 3, 5


class Everything(nn.Module):
    """Uses each layer, one of them twice, and some values twice."""

    def __init__(self) -> None:
        super().__init__()
        self.face = nn.Linear(8, WIDTH)
        self.photo = nn.Linear(6, WIDTH, bias=False)
        self.twice = nn.Linear(WIDTH, WIDTH)
        self.score = nn.Linear(WIDTH, 1)
        self.affine = nn.BatchNorm1d(WIDTH)
        self.plain = nn.BatchNorm1d(2 * WIDTH, eps=1e-3, momentum=0.3, affine=False)
        self.frozen = nn.Linear(3 * WIDTH, 4).requires_grad_(False)
        self.classify = nn.Linear(4, CLASSES)

    def forward(self, batch: HeadBatch, masks: Sequence[Tensor]) -> HeadOutput:
        faces, photo = self.face(batch.faces), self.photo(batch.global_)  # (B, N, W), (B, W)
        seen = self.twice(torch.tanh(self.twice(faces + photo[:, None])))
        seen = faces + torch.relu(seen) * torch.sigmoid(seen)
        query = photo * masks[0]
        scores = self.score(seen)[..., 0] + torch.einsum("bnw,bw->bn", seen, query)
        pooled = torch.einsum("bn,bnw->bw", masked_softmax(scores, batch.face_mask), faces)
        even = batch.face_mask / batch.face_mask.sum(1, keepdim=True).clamp(min=1)
        mean = torch.einsum("bn,bnw->bw", even.to(torch.float32), seen)
        plain = self.plain(torch.cat([mean, query + pooled], 1)) * masks[1]
        hidden = self.frozen(torch.cat([self.affine(pooled), plain], 1))
        dropped = torch.relu(hidden) * masks[2]
        return HeadOutput(self.classify(hidden) + self.classify(hidden * masks[3] + dropped), scores)

    def stacked(self, net: Net) -> Value:
        faces, photo = net.linear("face", net.faces), net.linear("photo", net.global_)
        seen = net.linear("twice", net.tanh(net.linear("twice", net.add(faces, photo))))
        seen = net.add(faces, net.product(net.relu(seen), net.sigmoid(seen)))
        query = net.dropout(photo, 0.5)
        scores = net.add(net.linear("score", seen), net.dot(seen, query))
        pooled = net.pool(net.softmax(scores), faces)
        mean = net.pool(net.mean_weights(), seen)
        plain = net.dropout(net.norm("plain", net.join(mean, net.add(query, pooled))), 0.5)
        hidden = net.linear("frozen", net.join(net.norm("affine", pooled), plain))
        dropped = net.dropout(net.relu(hidden), 0.5)
        first = net.linear("classify", hidden)
        return net.add(first, net.linear("classify", net.add(net.dropout(hidden, 0.5), dropped)))


@pytest.fixture
def heads() -> list[Everything]:
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        made.append(Everything())
        nn.init.normal_(made[-1].affine.weight)
        nn.init.normal_(made[-1].affine.bias)
    return made


@pytest.fixture(params=["loops", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "products":
        monkeypatch.setattr(segments, "installed", lambda: False)
    else:
        pytest.importorskip("numba")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients(heads: list[Everything], drawn: Callable[..., Features], training: bool) -> None:
    features = drawn(30)
    stack = Stack(heads)
    samples = np.random.default_rng(0).permutation(30)[:21].reshape(3, 7)
    coins = torch.Generator().manual_seed(0)
    given = [torch.randint(2, (3, 7, width), generator=coins).float() * 2 for width in (WIDTH, 2 * WIDTH, 4, 4)]
    gradient = torch.randn(3, 7, CLASSES, generator=torch.Generator().manual_seed(1))
    stack.gradient.fill_(torch.nan)  # every gradient is written, none added to
    asked: list[tuple[bool, int, float]] = []

    def masks(layer: int, of_faces: bool, width: int, rate: float) -> Tensor:
        assert layer == len(asked)
        asked.append((of_faces, width, rate))
        return given[layer]

    with torch.no_grad():
        net = Net(stack, heads[0], take(source_of(features), samples), masks if training else None)
        out = heads[0].stacked(net)
        if training:
            net.backward(out, gradient.clone())
    assert asked == ([(False, width, 0.5) for width in (WIDTH, 2 * WIDTH, 4, 4)] if training else [])
    for p, head in enumerate(heads):
        head.train(training)
        logits = head(features.batch(samples[p]), [mask[p] if training else torch.ones(1) for mask in given]).logits
        torch.testing.assert_close(out.data[p], logits, atol=1e-5, rtol=1e-4)
        state = stack.state(p)
        for name, buffer in head.named_buffers():
            torch.testing.assert_close(state[name], buffer, atol=1e-6, rtol=1e-5)
        if training:
            (logits * gradient[p]).sum().backward()
            for name, parameter in head.named_parameters():
                if parameter.requires_grad:
                    torch.testing.assert_close(stack.gradients[name][p], parameter.grad, atol=1e-4, rtol=1e-4)
    assert "frozen.weight" not in stack.gradients


@pytest.mark.usefixtures("way")
def test_samples_without_faces_pool_to_zero(drawn: Callable[..., Features]) -> None:
    torch.manual_seed(0)
    stack = Stack([nn.ModuleDict({"score": nn.Linear(8, 1)})])
    features = drawn(20)
    counts = np.diff(features.offsets)
    samples = np.array([[int(np.flatnonzero(counts == 0)[0]), int(np.flatnonzero(counts > 1)[0])]])
    with torch.no_grad():
        net = Net(stack, nn.Module(), take(source_of(features), samples), lambda *_: torch.ones(()))
        pooled = net.pool(net.softmax(net.linear("score", net.faces)), net.faces)
        assert not pooled.data[0, 0].any()
        assert pooled.data[0, 1].any()
        net.backward(pooled, torch.ones_like(pooled.data))
    assert torch.isfinite(stack.gradient).all()
    assert stack.gradients["score.weight"].any()


def test_what_was_written_over_is_not_used_again(heads: list[Everything], drawn: Callable[..., Features]) -> None:
    batch = take(source_of(drawn(5)), np.array([[0, 1]] * 3))
    with torch.no_grad():
        net = Net(Stack(heads), heads[0], batch, lambda *_: torch.ones(()))
        value = net.linear("face", net.faces)
        net.dropout(value, 0.5)
        with pytest.raises(RuntimeError, match="wrote over"):
            net.linear("score", value)


def test_a_layer_that_is_not_there_or_cannot_be_stacked(
    heads: list[Everything], drawn: Callable[..., Features]
) -> None:
    net = Net(Stack(heads), heads[0], take(source_of(drawn(5)), np.array([[0, 1]] * 3)), None)
    with pytest.raises(SettingError, match="nothing: a stacked form names a layer that Everything does not have"):
        net.linear("nothing", net.faces)
    with pytest.raises(SettingError, match=r"affine: .* is over samples"):
        net.norm("affine", net.linear("face", net.faces))
