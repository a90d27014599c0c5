"""Small manifests and predictions made from plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from stages.index.manifest import Manifest, Sample
from stages.predictions import Kind, Predictions, split_name

MakeManifest = Callable[..., Manifest]
MakeMember = Callable[..., Predictions]


@pytest.fixture
def manifest() -> MakeManifest:
    """manifest(train="aab", test="ab", groups="xy", subsets="pp"): a label per letter, `-` none, `+` both a and b."""

    def make(groups: Sequence[str] = (), subsets: Sequence[str] = (), **splits: str) -> Manifest:
        samples = []
        for split, letters in splits.items():
            for i, letter in enumerate(letters):
                of_test = split == "test"
                samples.append(
                    Sample(
                        sample_id=f"{split}{i:03d}",
                        path=f"{split}{i:03d}.png",
                        media="image",
                        labels={"-": (), "+": ("a", "b")}.get(letter, (letter,)),
                        split=split,
                        group=groups[i] if groups and of_test else "",
                        subset=subsets[i] if subsets and of_test else "",
                        boxes=(),
                        content=f"{len(samples):064x}",
                    )
                )
        return Manifest(tuple(samples))

    return make


@pytest.fixture
def member() -> MakeMember:
    """member(manifest, "abba", name="mean-s0"): sure answers to the samples of test, in order; `.` for no answer."""

    def make(
        manifest: Manifest,
        answers: str,
        *,
        name: str = "mean-s0",
        kind: Kind = "head",
        classes: str = "ab",
        split: str = "test",
    ) -> Predictions:
        samples = [sample for sample in manifest.samples if sample.split == split]
        pairs = [pair for pair in zip(samples, answers, strict=True) if pair[1] != "."]
        head, seed = split_name(name, kind)
        return Predictions(
            name=name,
            kind=kind,
            head=head,
            seed=seed,
            sample_ids=tuple(sample.sample_id for sample, _ in pairs),
            splits=tuple(sample.split for sample, _ in pairs),
            labels=tuple(sample.labels for sample, _ in pairs),
            classes=tuple(classes),
            probabilities=np.array([[float(c == said) for c in classes] for _, said in pairs]).reshape(
                len(pairs), len(classes)
            ),
        )

    return make
