"""Drawn features, and a plain training loop that shares no code with populations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch, HeadOutput
from stages.index.manifest import Sample
from stages.train.answering import one_thread
from stages.train.features import Features
from stages.train.inputs import InputRows, Level, LevelName

ORDER, VIEWS, DROPOUT, FRAMES = 1, 2, 3, 4


def draw(
    n: int,
    widths: tuple[int, int] = (8, 6),
    most: int = 4,
    views: int = 1,
    seed: int = 0,
    inputs: Mapping[str, tuple[LevelName, tuple[int, ...]]] | None = None,
    frames: tuple[int | None, int | None] = (3, None),
) -> Features:
    """n samples with 0 to `most` faces each.

    Args:
        inputs: name -> level and shape of a row of what else is read, of which each sample has 0 to 6.
        frames: how many training and answers see.
    """
    noise = np.random.default_rng(seed)
    others: dict[str, InputRows] = {}
    levels: dict[LevelName, Level] = {}
    offsets = np.concatenate([[0], np.cumsum(np.random.default_rng(seed + 1).integers(0, 7, n))])
    values = np.random.default_rng(seed + 2)
    for name, (level, shape) in (inputs or {}).items():
        rows = values.normal(size=(views * offsets[-1], *shape)).astype(np.float32)
        others[name] = InputRows(level, rows)
        choice = frames if level == "frame" else (None, None)
        levels[level] = Level(offsets, np.zeros((offsets[-1], 2), np.int64), *choice)
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
        inputs=others,
        levels=levels,
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
        self.step, self.layer, self.real = step, 0, next(iter(batch.masks.values()), batch.face_mask)

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


def frames_of(seed: int, epoch: int, counts: Sequence[int], number: int) -> np.ndarray:
    """As `draws.py` says it, by Floyd's algorithm one sample after another."""
    numbers = np.random.Generator(philox(seed, FRAMES, epoch)).random((len(counts), number))
    found = np.full((len(counts), number), -1)
    for sample, count in enumerate(counts):
        chosen = set(range(count)) if count <= number else set()
        for place in range(number if count > number else 0):
            last = count - number + place
            drawn = int(numbers[sample, place] * (last + 1))
            chosen.add(last if drawn in chosen else drawn)
        found[sample, : len(chosen)] = sorted(chosen)
    return found


def loss_of(output: HeadOutput, targets: Tensor) -> Tensor:
    """As `HeadOutput` says it, sample by sample."""
    losses = []
    for i, target in enumerate(targets):
        if output.answers is None or output.shares is None:
            loss = nn.functional.cross_entropy(output.logits[i], target)
        else:
            each = [nn.functional.cross_entropy(one, target) for one in output.answers[i]]
            loss = (torch.stack(each) * output.shares[i]).sum()
        losses.append(loss if output.penalty is None else loss + output.penalty[i])
    return torch.stack(losses).mean()


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
        level = features.levels.get("frame")
        counts = [] if level is None else np.diff(level.offsets)[order].tolist()
        frames = None
        if level is not None:
            frames = frames_of(seed, epoch, counts, max(counts) if level.train is None else level.train)
        start = 0
        while start < len(rows):
            stop = len(rows) if len(rows) - start <= size + 1 else start + size
            picked = order[start:stop]
            seen = None if frames is None else frames[start:stop]
            batch = features.batch(picked, views[start:stop] if features.views > 1 else None, seen)
            given.begin(step, batch)
            loss = loss_of(head(batch), torch.from_numpy(labels[picked]))
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
def chosen() -> Callable[..., np.ndarray]:
    return frames_of


@pytest.fixture
def numbers() -> Callable[..., np.random.Philox]:
    return philox
