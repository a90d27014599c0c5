"""Which photos the gallery shows: a fixed mix of wrong, uncertain and right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.index.manifest import Manifest, Sample
from stages.predictions import Predictions


@dataclass(frozen=True)
class Case:
    """One sample with what a member says of it.

    Attributes:
        sample: the sample.
        predicted: the most probable class.
        probability: its probability, in [0, 1].
        second: the next class and its probability; None with one class.
        hit: whether the label was met; None where the sample has no label or several, or the answer has several.
        why: `wrong`, `uncertain`, `right`, `ranked` or `unscored`: why it was chosen.
        ranked: whether the sample has labels and the answer several, which is neither right nor wrong.
    """

    sample: Sample
    predicted: str
    probability: float
    second: tuple[str, float] | None
    hit: bool | None
    why: str = ""
    ranked: bool = False

    @property
    def outcome(self) -> str:
        """`right`, `wrong`, `ranked` or `not scored`."""
        if self.hit is None:
            return "ranked" if self.ranked else "not scored"
        return "right" if self.hit else "wrong"

    @property
    def margin(self) -> float:
        """Probability of the first class less that of the second."""
        return self.probability - (self.second[1] if self.second else 0.0)


def cases(member: Predictions, manifest: Manifest, split: str) -> list[Case]:
    """All photos and clips of a split that a member has an answer to, by sample_id."""
    place = {sample_id: i for i, sample_id in enumerate(member.sample_ids)}
    found = []
    for sample in manifest.samples:
        if sample.split != split or sample.sample_id not in place:
            continue
        row = member.probabilities[place[sample.sample_id]]
        order = np.argsort(-row, kind="stable")
        first = int(order[0])
        second = (member.classes[int(order[1])], float(row[order[1]])) if len(order) > 1 else None
        scored = len(sample.labels) == 1 and not member.several
        hit = member.classes[first] == sample.labels[0] if scored else None
        ranked = member.several and bool(sample.labels)
        found.append(Case(sample, member.classes[first], float(row[first]), second, hit, ranked=ranked))
    return found


def choose(found: Sequence[Case], size: int) -> list[Case]:
    """At most `size` cases, a third of each kind as far as there are any: wrong, uncertain, right.

    Wrong and right ones are taken class by class, the surest first; uncertain ones by the smallest margin. Ranked ones
    are taken class by class as well, the highest scores first. What is none of these fills what is left. The same cases
    in any order give the same choice.
    """
    sure = sorted(found, key=lambda case: (-case.probability, case.sample.sample_id))
    unsure = sorted(found, key=lambda case: (case.margin, case.sample.sample_id))
    queues = {
        "wrong": _by_class([case for case in sure if case.hit is False]),
        "uncertain": [case for case in unsure if case.hit is not None],
        "right": _by_class([case for case in sure if case.hit is True]),
        "ranked": _by_class([case for case in sure if case.ranked]),
    }
    chosen: dict[str, Case] = {}
    while len(chosen) < size and any(queues.values()):
        for why, queue in queues.items():
            while queue and queue[0].sample.sample_id in chosen:
                queue.pop(0)
            if queue and len(chosen) < size:
                case = queue.pop(0)
                chosen[case.sample.sample_id] = _because(case, why)
    rest = [_because(case, "unscored") for case in unsure if case.outcome == "not scored"]
    picked = [*chosen.values(), *rest[: size - len(chosen)]]
    order = ("wrong", "uncertain", "right", "ranked", "unscored")
    return sorted(picked, key=lambda case: order.index(case.why))


def _because(case: Case, why: str) -> Case:
    return replace(case, why=why)


def _by_class(ordered: Sequence[Case]) -> list[Case]:
    """The first of each class, then the second of each, and so on; classes by name. A ranked one is of the class that
    has its highest score."""
    rank: dict[str, int] = {}
    keyed = []
    for case in ordered:
        label = case.predicted if case.ranked else case.sample.labels[0]
        rank[label] = rank.get(label, 0) + 1
        keyed.append((rank[label], label, case))
    return [case for _, _, case in sorted(keyed, key=lambda one: one[:2])]
