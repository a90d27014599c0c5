"""What index warns of: labels that look misspelt."""

from __future__ import annotations

from stages.index.manifest import Manifest, Sample
from stages.index.summary import summarise


def corpus(labels: list[str]) -> Manifest:
    return Manifest(
        tuple(
            Sample(f"{i:03d}", f"{i}.jpg", "image", (label,), "train", "", "", (), f"{i:064x}")
            for i, label in enumerate(labels)
        )
    )


def test_labels_that_look_misspelt() -> None:
    found = summarise(corpus(["happy"] * 10 + ["neutral"] * 10 + ["hapiness", "Neutral"])).warnings
    assert found == [
        "labels of a single sample of train: 'Neutral', 'hapiness': are they misspelt?",
        "classes 'Neutral' and 'neutral' differ by capitals or blanks alone: data.labels can join them",
    ]


def test_few_samples_say_nothing_of_a_single_one() -> None:
    assert summarise(corpus(["happy"] * 10 + ["sad"])).warnings == []
