"""Heads trained dozens at once, beside a loop that trains one after the other, and beside a DataLoader over HDF5.

    python -m benchmarks.heads                 about five minutes on two cores
    python -m benchmarks.heads --only small    one of small, large, gupta

10,000 drawn samples with 1 to 6 faces, batches of 32, and three heads:

- `small`: 8,387 parameters, 64 features; faces weighted by a layer of 32 units, another of 32 behind them. Adam.
- `large`: 98,947 parameters, 256 features; the same with 64 and 128 units. Adam.
- `gupta`: attention C of Gupta et al. 2018 on 256 features, with dropout and batch norm. SGD with momentum.

The loop is a plain one over tensors in memory that are padded beforehand: index_select, forward, backward, the fused
optimiser of torch. The DataLoader reads each sample from an HDF5 file when it is asked for, in this process: from a
group of its own, or (`flat`) from one dataset of all rows. The population is `train_population` with 64 heads (16 of
the large ones and of Gupta's), from the heads as they are made to the heads as they are trained, each with its own
learning rate, seed and shuffle; starting the second process is left out, which is done once. It sees as many steps as
the loop, in one epoch.

Every round runs every way once, in an order that turns. Times are per head and step, of one thread: CPU seconds, so
that other work on the machine counts less; of two processes those of the one that took longer. Ratios are of medians:
the loop's time over the population's. `_one` is the population in one process, `_wall` of wall times, for a machine
that is otherwise idle.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import h5py
import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import machine
from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.heads.gupta2018 import GuptaHead
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Plan
from stages.train.population.minibatch import Held
from stages.train.population.net import Net, Value
from stages.train.population.processes import Processes

SAMPLES, FACES, CLASSES, BATCH = 10_000, 6, 3, 32
CASES = ("small", "large", "gupta")
HEADS = {"small": 64, "large": 16, "gupta": 16}
Item = tuple[Tensor, Tensor, Tensor, int]


class PairHead(nn.Module):
    """Faces weighted by a layer that sees each face and the photo; what they come to is classified with the photo.

    Args:
        features: of a face, and of the photo.
        attention, hidden: units of the two layers.
    """

    def __init__(self, features: int, attention: int, hidden: int) -> None:
        super().__init__()
        self.face = nn.Linear(features, attention)
        self.photo = nn.Linear(features, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.hidden = nn.Linear(2 * features, hidden)
        self.classify = nn.Linear(hidden, CLASSES)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, 3) and the faces' weights."""
        seen = torch.tanh(self.face(batch.faces) + self.photo(batch.global_).unsqueeze(1))  # (B, N, A)
        weights = masked_softmax(self.score(seen).squeeze(-1), batch.face_mask)  # (B, N)
        pooled = (weights.unsqueeze(1) @ batch.faces).squeeze(1)  # (B, D)
        return HeadOutput(self.classify(torch.relu(self.hidden(torch.cat([pooled, batch.global_], 1)))), weights)

    def stacked(self, net: Net) -> Value:
        """`forward` of many."""
        seen = net.tanh(net.add(net.linear("face", net.faces), net.linear("photo", net.global_)))
        pooled = net.pool(net.softmax(net.linear("score", seen)), net.faces)
        return net.linear("classify", net.relu(net.linear("hidden", net.join(pooled, net.global_))))


def make(case: str, seed: int) -> nn.Module:
    """A head with its own start."""
    torch.manual_seed(seed)
    if case == "gupta":
        return GuptaHead("attention_c", 256, 256, CLASSES, dropout=0.5)
    return PairHead(64, 32, 32) if case == "small" else PairHead(256, 64, 128)


@dataclass
class Data:
    """Drawn features of samples with 1 to 6 faces.

    Attributes:
        rows: (F, D) float32; sample i has rows[offsets[i]:offsets[i + 1]].
        global_: (n, D) float32.
        labels: (n,) int64.
        padded, mask: the same faces (n, 6, D), and which of them are real.
    """

    rows: np.ndarray
    offsets: np.ndarray
    global_: np.ndarray
    labels: np.ndarray
    padded: Tensor
    mask: Tensor


def draw(samples: int, width: int) -> Data:
    """Noise about a mean of the class."""
    noise = np.random.default_rng(0)
    labels = noise.integers(0, CLASSES, samples)
    counts = noise.integers(1, FACES + 1, samples)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    means = 0.12 * noise.standard_normal((CLASSES, width), np.float32)
    rows = noise.standard_normal((int(offsets[-1]), width), np.float32) + means[np.repeat(labels, counts)]
    mask = np.arange(FACES) < counts[:, None]
    padded = np.zeros((samples, FACES, width), np.float32)
    padded[mask] = rows
    global_ = noise.standard_normal((samples, width), np.float32) + means[labels]
    return Data(rows, offsets, global_, labels, torch.from_numpy(padded), torch.from_numpy(mask))


class FileItems(Dataset[Item]):
    """Samples read from an HDF5 file one by one.

    Args:
        path: of the file, which is written.
        data: what to write.
        samples: how many of them.
        grouped: one HDF5 group a sample, as such files mostly are; else all rows in one dataset.
    """

    def __init__(self, path: Path, data: Data, samples: int, grouped: bool) -> None:
        self.samples, self.offsets, self.labels, self.grouped = samples, data.offsets, data.labels, grouped
        with h5py.File(path, "w") as file:
            if grouped:
                for i in range(samples):
                    file[f"{i:06d}/faces"] = data.rows[data.offsets[i] : data.offsets[i + 1]]
                    file[f"{i:06d}/global"] = data.global_[i]
            else:
                file["rows"], file["global"] = data.rows, data.global_
        self.file = h5py.File(path, "r")
        self.tables: list[Any] = [] if grouped else [self.file["rows"], self.file["global"]]

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Item:
        if self.grouped:
            group: Any = self.file[f"{index:06d}"]
            rows, global_ = group["faces"][()], group["global"][()]
        else:
            rows = self.tables[0][self.offsets[index] : self.offsets[index + 1]]
            global_ = self.tables[1][index]
        padded = torch.zeros(FACES, rows.shape[1])
        padded[: len(rows)] = torch.from_numpy(rows)
        return padded, torch.arange(FACES) < len(rows), torch.from_numpy(global_), int(self.labels[index])


def train(head: nn.Module, batches: Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
    """A plain loop of one head."""
    if isinstance(head, GuptaHead):
        optimiser: torch.optim.Optimizer = torch.optim.SGD(head.parameters(), 1e-3, momentum=0.9, fused=True)
    else:
        optimiser = torch.optim.Adam(head.parameters(), 1e-3, fused=True)
    boxes = torch.zeros(0, FACES, 4)
    head.train()
    for faces, mask, global_, labels in batches:
        loss = nn.functional.cross_entropy(head(HeadBatch(faces, mask, boxes, global_)).logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def in_memory(data: Data, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches of shuffled samples, by index_select."""
    global_, labels = torch.from_numpy(data.global_), torch.from_numpy(data.labels)
    order = torch.randperm(len(labels))[: steps * BATCH]
    for picked in order.split(BATCH):
        yield tuple(t.index_select(0, picked) for t in (data.padded, data.mask, global_, labels))  # pyright: ignore


@dataclass
class Way:
    """One way to train.

    Attributes:
        run: trains for `steps` steps and `heads` heads; gives the CPU seconds of its longest process.
        cpu, wall: seconds of a head's step, of each round.
    """

    run: Callable[[], float]
    heads: int
    steps: int
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def time(self) -> None:
        """One round."""
        start = time.perf_counter()
        cpu = self.run()
        self.wall.append((time.perf_counter() - start) / self.heads / self.steps)
        self.cpu.append(cpu / self.heads / self.steps)


def ways(case: str, data: Data, folder: Path, steps: int, heads: int, processes: Processes) -> dict[str, Way]:
    """All ways to train one case."""
    source = Held(data.rows, data.offsets, np.zeros((len(data.rows), 4), np.float32), data.global_)
    optimiser: Literal["sgd", "adam"] = "sgd" if case == "gupta" else "adam"
    rows = np.random.default_rng(1).permutation(len(data.labels))[: steps * BATCH]
    looped, read = 4, max(steps // 10, 2)

    def loop() -> float:
        start = time.process_time()
        for seed in range(looped):
            train(make(case, seed), in_memory(data, steps))
        return time.process_time() - start

    def population(spread: Processes | None) -> float:
        rates = np.geomspace(1e-4, 1e-3, heads).tolist()
        members = [Member(make(case, seed), seed, rate, rows) for seed, rate in enumerate(rates)]
        before = [psutil.Process(pid).cpu_times() for pid in (spread.others if spread else ())]
        start = time.process_time()
        train_population(members, source, data.labels, Plan(BATCH, optimiser), spread)
        took = [time.process_time() - start]
        after = [psutil.Process(pid).cpu_times() for pid in (spread.others if spread else ())]
        took += [b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True)]
        return max(took)

    found = {
        "loop": Way(loop, looped, steps),
        "population, one process": Way(lambda: population(None), heads, steps),
        "population, two processes": Way(lambda: population(processes), heads, steps),
    }
    if case != "gupta":
        for name, grouped in (("DataLoader", True), ("DataLoader, one dataset", False)):
            items = FileItems(folder / f"{case}-{grouped}.h5", data, read * BATCH, grouped)
            found[name] = Way(partial(_read, make(case, 0), items), 1, read)
    return found


def _read(head: nn.Module, items: FileItems) -> float:
    start = time.process_time()
    train(head, iter(DataLoader(items, BATCH, shuffle=True)))
    return time.process_time() - start


def compare(case: str, samples: int, steps: int, heads: int, rounds: int, processes: Processes) -> dict[str, float]:
    """Time all ways of a case, print them; the ratios by name."""
    with tempfile.TemporaryDirectory() as folder:
        data = draw(max(samples, steps * BATCH), 64 if case == "small" else 256)
        some = ways(case, data, Path(folder), steps, heads, processes)
        names = list(some)
        for number in range(rounds + 1):  # the first one warms up
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                some[name].time()
        size = sum(p.numel() for p in make(case, 0).parameters())
        print(f"{case}: {size:,} parameters, {heads} heads, {steps} steps of {BATCH}, {rounds} rounds")
        for name, way in some.items():
            cpu, wall = (1e3 * median(seconds[1:]) for seconds in (way.cpu, way.wall))
            print(f"  {name:<28}{cpu:>10.4f} ms of CPU a head and step{wall:>10.4f} wall", flush=True)
    return _ratios(case, some)


def _ratios(case: str, ways: dict[str, Way]) -> dict[str, float]:
    def over(one: str, other: str, what: str) -> float:
        return median(getattr(ways[one], what)[1:]) / median(getattr(ways[other], what)[1:])

    one, two = "population, one process", "population, two processes"
    found = {f"population_{case}": over("loop", two, "cpu"), f"population_{case}_one": over("loop", one, "cpu")}
    found[f"population_{case}_wall"] = over("loop", two, "wall")
    if "DataLoader" in ways:
        found[f"dataloader_{case}"] = over("DataLoader", two, "cpu")
        found[f"dataloader_{case}_flat"] = over("DataLoader, one dataset", two, "cpu")
    return found


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=CASES, help="one case (default all)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in memory (default %(default)s)")
    parser.add_argument("--steps", type=int, default=150, help="of a round (default %(default)s)")
    parser.add_argument("--heads", type=int, help="at once (default 64 small ones, 16 of the others)")
    parser.add_argument("--rounds", type=int, default=5, help="of each way (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    found: dict[str, float] = {}
    with Processes(2) as processes:
        processes.start()
        for case in [options.only] if options.only else CASES:
            heads = options.heads or HEADS[case]
            found |= compare(case, options.samples, options.steps, heads, options.rounds, processes)
    for name, ratio in found.items():
        print(f"ratio: {name} {ratio:.2f}")


if __name__ == "__main__":
    from benchmarks import heads  # its classes have to be found by the other process, whose __main__ is not this

    heads.main()
