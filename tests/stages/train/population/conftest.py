"""Drawn features, and a plain training loop that shares no code with populations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch
from stages.index.manifest import Sample
from stages.train.answering import one_thread
from stages.train.features import Features

ORDER, VIEWS, DROPOUT = 1, 2, 3


def draw(n: int, widths: tuple[int, int] = (8, 6), most: int = 4, views: int = 1, seed: int = 0) -> Features:
    """n samples with 0 to `most` faces each."""
    noise = np.random.default_rng(seed)
    counts = noise.integers(0, most + 1, n)
    total = int(counts.sum())
    return Features(
        samples=tuple(Sample(f"{i:04d}", "x", "image", (), "train", "", "", (), "0" * 64) for i in range(n)),
        faces=noise.normal(size=(views * total, widths[0])).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        face_index=np.concatenate([np.arange(c) for c in counts]),
        places=np.zeros((total, 2), np.int64),
        boxes=noise.random((total, 4)).astype(np.float32),
        global_=noise.normal(size=(views * n, widths[1])).astype(np.float32),
        views=views,
    )


def philox(seed: int, purpose: int, step: int, layer: int = 0) -> np.random.Philox:
    """As `draws.py` says it."""
    words = np.array([0, layer, step, 0], np.uint64)
    return np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=words)


class GivenDropout(nn.Module):
    """Dropout of rate 1/2 or 1/4 with the masks that `draws.py` describes, over a padded batch."""

    def __init__(self, seed: int, rate: float) -> None:
        super().__init__()
        self.seed, self.rate, self.p = seed, rate, rate
        self.step, self.layer, self.real = 0, 0, torch.zeros(0)

    def begin(self, step: int, batch: HeadBatch) -> None:
        self.step, self.layer, self.real = step, 0, batch.face_mask

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape)
        rows = x[self.real] if x.dim() == 3 else x
        words = philox(self.seed, DROPOUT, self.step, self.layer).random_raw(rows.numel() // 8 + 1)
        if self.rate == 0.5:
            kept = np.unpackbits(words.view(np.uint8))
        else:
            kept = (words.view(np.uint8) >= 64).astype(np.uint8)
        found = torch.from_numpy(kept[: rows.numel()]).float().view(rows.shape) / (1 - self.rate)
        if x.dim() == 3:
            mask[self.real] = found
        else:
            mask = found
        self.layer += 1
        return x * mask


def plain_loop(
    head: nn.Module,
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    seed: int,
    rates: Sequence[float],
    size: int,
    decay: float,
    adam: bool,
) -> None:
    """Train a head with a dropout module named `dropout`, a learning rate an epoch, in batches of at most size + 1."""
    given = GivenDropout(seed, head.get_submodule("dropout").p)  # pyright: ignore[reportArgumentType]
    head.add_module("dropout", given)
    if adam:
        optimiser: torch.optim.Optimizer = torch.optim.Adam(head.parameters(), weight_decay=decay)
    else:
        optimiser = torch.optim.SGD(head.parameters(), momentum=0.9, weight_decay=decay)
    head.train()
    step = 0
    for epoch, rate in enumerate(rates):
        optimiser.param_groups[0]["lr"] = rate
        order = np.random.Generator(philox(seed, ORDER, epoch)).permutation(rows)
        views = np.random.Generator(philox(seed, VIEWS, epoch)).integers(features.views, size=len(rows))
        start = 0
        while start < len(rows):
            stop = len(rows) if len(rows) - start <= size + 1 else start + size
            picked = order[start:stop]
            batch = features.batch(picked, views[start:stop] if features.views > 1 else None)
            given.begin(step, batch)
            loss = nn.functional.cross_entropy(head(batch).logits, torch.from_numpy(labels[picked]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            start, step = stop, step + 1
    head.eval()


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Small matrices on several threads wait for each other, most where the machine has other work."""
    with one_thread():
        yield


@pytest.fixture
def drawn() -> Callable[..., Features]:
    return draw


@pytest.fixture
def loop() -> Callable[..., None]:
    return plain_loop


@pytest.fixture
def numbers() -> Callable[..., np.random.Philox]:
    return philox
