"""How far L-Softmax and A-Softmax push classes apart, beside softmax, on drawn sets: `python -m benchmarks.margins`.

    python -m benchmarks.margins                 seeds 0 to 9, about five minutes
    python -m benchmarks.margins --seeds 3       seeds 0 to 2

Three classes in eight dimensions: normal with deviation 1, about means that are normal with deviation 1 (`overlapping`)
or 3 (`apart`). A small network makes a vector of two numbers, as in L-Softmax's plots of MNIST, and the last layer
classifies it. Per set and seed, all start from one network and one weight of the last layer (softmax's bias is 0), and
see the same batches. Angles are taken between vectors, seen from the origin: `between` is the mean over pairs of two
classes, `within` over pairs of one class, `gap` the difference, all in degrees and of new samples; `trained` is the gap
of the samples that were trained on. A larger gap is what the margin is for.

A loss with margin 1 has no margin: l_softmax is softmax without bias then, a_softmax has weights of length 1. `fading`
is a lambda that goes to 0 (0.27 after 500 steps, 0.02 at the end); else it is SphereFace's, which ends at 5.

Differences are paired by seed: the mean gap less that of softmax, or of the same loss with margin 1, with its 95 %
interval (Student's t), and in how many seeds it is above 0. No seed is left out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from benchmarks.common import machine
from stages.heads.margin_settings import Kind, LambdaSchedule
from stages.heads.margins import classifier

CLASSES, INPUTS, HIDDEN, FEATURES = 3, 8, 32, 2
TRAIN, TEST = 300, 300  # samples of each class
STEPS, BATCH, LEARNING_RATE, MOMENTUM = 2000, 64, 0.01, 0.9
SETS = {"overlapping": 1.0, "apart": 3.0}
"""Standard deviation of the classes' means."""
SPHEREFACE, FADING = LambdaSchedule(), LambdaSchedule(power=2, floor=0)


@dataclass(frozen=True)
class Loss:
    """One row of the table."""

    name: str
    kind: Kind
    margin: int | None = None
    schedule: LambdaSchedule | None = None


SOFTMAX = Loss("softmax", "softmax")
LOSSES = (
    SOFTMAX,
    Loss("l_softmax m=1", "l_softmax", 1, SPHEREFACE),
    Loss("l_softmax m=4", "l_softmax", 4, SPHEREFACE),
    Loss("l_softmax m=4 fading", "l_softmax", 4, FADING),
    Loss("a_softmax m=1", "a_softmax", 1, SPHEREFACE),
    Loss("a_softmax m=4", "a_softmax", 4, SPHEREFACE),
    Loss("a_softmax m=4 fading", "a_softmax", 4, FADING),
)


@dataclass(frozen=True)
class Angles:
    """What one training came to.

    Attributes:
        between, within: mean angles in degrees, of new samples.
        trained: `gap` of the samples that were trained on.
        accuracy: share in [0, 1] of the new samples whose largest logit is their class's.
    """

    between: float
    within: float
    trained: float
    accuracy: float

    @property
    def gap(self) -> float:
        """Degrees by which two classes lie further apart than one is wide."""
        return self.between - self.within


def draw(noise: torch.Generator, means: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """(K * each, D) samples with standard deviation 1 about (K, D) means, and their labels."""
    labels = torch.arange(len(means)).repeat_interleave(each)
    return means[labels] + torch.randn(len(labels), means.shape[1], generator=noise), labels


def angles(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean angle in degrees over pairs of (N, D) vectors of two classes, and over pairs of one class."""
    directions = nn.functional.normalize(features.double())
    degrees = (directions @ directions.T).clamp(-1, 1).acos() * (180 / math.pi)
    same = labels[:, None] == labels
    apart = ~torch.eye(len(labels), dtype=torch.bool)
    return float(degrees[~same].mean()), float(degrees[same & apart].mean())


def measure(loss: Loss, spread: float, seed: int, steps: int = STEPS) -> Angles:
    """Train one network with one loss, on classes whose means have deviation `spread`.

    Equal arguments give equal bits on one thread of one machine.
    """
    noise = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(CLASSES, INPUTS, generator=noise)
    samples, labels = draw(noise, means, TRAIN)
    new, new_labels = draw(noise, means, TEST)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.PReLU(), nn.Linear(HIDDEN, FEATURES))
    start = torch.randn(CLASSES, FEATURES)
    last = classifier(loss.kind, FEATURES, CLASSES, loss.margin, loss.schedule)
    with torch.no_grad():
        last.weight.copy_(start)
        if isinstance(last, nn.Linear):
            last.bias.zero_()
    optimizer = torch.optim.SGD([*network.parameters(), *last.parameters()], LEARNING_RATE, MOMENTUM)
    for _ in range(steps):
        batch = torch.randint(len(labels), (BATCH,), generator=noise)
        optimizer.zero_grad()
        nn.functional.cross_entropy(last(network(samples[batch]), labels[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.inference_mode():
        features = network(new)
        right = last(features).argmax(-1) == new_labels
        between, within = angles(network(samples), labels)
        return Angles(*angles(features, new_labels), between - within, float(right.float().mean()))


def interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean difference of at least two pairs, and half of its 95 % interval."""
    differences = [one - other for one, other in pairs]
    half = float(student.ppf(0.975, len(pairs) - 1)) * stdev(differences) / math.sqrt(len(pairs))
    return mean(differences), half


def difference(pairs: Sequence[tuple[float, float]]) -> str:
    """The interval as text, and how many are above 0."""
    by, half = interval(pairs)
    return f"{by:+.2f} +- {half:.2f} degrees, above 0 in {sum(a > b for a, b in pairs)} of {len(pairs)} seeds"


def row(angles: Sequence[Angles]) -> str:
    """Means as text."""
    names = ("between", "within", "gap", "trained")
    degrees = "  ".join(f"{name} {mean(getattr(one, name) for one in angles):6.2f}" for name in names)
    return f"{degrees}  accuracy {mean(one.accuracy for one in angles):.3f}"


def compare(name: str, seeds: int, steps: int = STEPS) -> dict[str, list[Angles]]:
    """Train every loss with every seed on one of `SETS` and print each; then the means and differences."""
    found: dict[str, list[Angles]] = {loss.name: [] for loss in LOSSES}
    for seed in range(seeds):
        for loss in LOSSES:
            one = measure(loss, SETS[name], seed, steps)
            found[loss.name].append(one)
            print(f"{name} seed {seed}  {loss.name:20}  {row([one])}", flush=True)
    for loss in LOSSES:
        print(f"{name} mean    {loss.name:20}  {row(found[loss.name])}")
    for loss in LOSSES[1:]:
        for other in (SOFTMAX.name, f"{loss.kind} m=1"):
            if loss.name != other:
                pairs = list(zip(found[loss.name], found[other], strict=True))
                new = difference([(one.gap, plain.gap) for one, plain in pairs])
                trained = difference([(one.trained, plain.trained) for one, plain in pairs])
                print(f"difference: {name}: {loss.name} less {other}: {new}; trained {trained}")
    return found


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0; at least 2")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; {arguments.steps} steps of {BATCH}, {CLASSES * TRAIN} samples, {CLASSES * TEST} new ones")
    for name in SETS:
        compare(name, arguments.seeds, arguments.steps)


if __name__ == "__main__":
    main()
