from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import SettingError
from stages.index.folds import NO_FOLD, folds_of
from stages.index.manifest import Sample


def sample(name: str, *labels: str, group: str = "", content: str = "") -> Sample:
    return Sample(name, f"{name}.jpg", "image", labels, "train", group, "", (), content or f"content of {name}")


def test_folds_are_of_one_size_and_hold_every_class() -> None:
    samples = [sample(f"{label}{i}", label) for label, count in (("happy", 100), ("sad", 25)) for i in range(count)]
    counts = Counter((fold, s.labels[0]) for s, fold in zip(samples, folds_of(samples, 5), strict=True))
    assert counts == {(fold, label): count for fold in range(5) for label, count in (("happy", 20), ("sad", 5))}


def test_pinned() -> None:
    # Other folds are other features and scores: it must be on purpose.
    samples = [sample(f"{i}", "ab"[i % 2], group=f"{i // 3}") for i in range(12)]
    assert folds_of(samples, 2) == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_a_class_of_one_group_is_never_held_out() -> None:
    samples = [sample(f"{i}", "a") for i in range(6)] + [sample(f"x{i}", "rare", group="one film") for i in range(3)]
    folds = folds_of(samples, 3)
    assert folds[6:] == [NO_FOLD] * 3
    assert sorted(folds[:6]) == [0, 0, 1, 1, 2, 2]


def test_samples_that_train_nothing_are_spread() -> None:
    labelled = [sample(f"{i}", "ab"[i % 2]) for i in range(20)]
    others = [sample(f"x{i}") for i in range(10)] + [sample(f"y{i}", "a", "b") for i in range(10)]
    counts = Counter(folds_of([*labelled, *others], 5)[20:])
    assert sorted(counts.values()) == [4] * 5


def test_a_sample_of_several_labels_holds_no_class() -> None:
    samples = [sample("z0", "z"), sample("z1", "z", "a"), *(sample(f"{i}", "ab"[i % 2]) for i in range(8))]
    assert folds_of(samples, 2)[0] == NO_FOLD, "nothing else would train z"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 20)), min_size=12, max_size=40),
    count=st.integers(2, 4),
    seed=st.integers(0, 5),
)
def test_groups_and_contents_stay_together_in_any_order(
    rows: list[tuple[str, int, int]], count: int, seed: int
) -> None:
    samples = [
        sample(f"{i:02}", label, group=f"g{group}" if group else "", content=f"c{content}")
        for i, (label, group, content) in enumerate(rows)
    ]
    try:
        folds = folds_of(samples, count)
    except SettingError:  # too few units that are free
        return
    for key in ("group", "content"):
        found: dict[str, set[int]] = {}
        for one, fold in zip(samples, folds, strict=True):
            if getattr(one, key):
                found.setdefault(getattr(one, key), set()).add(fold)
        assert all(len(some) == 1 for some in found.values())
    assert set(range(count)) <= set(folds)
    for fold in range(count):  # whatever is held out, every class is left
        left = {one.labels[0] for one, of in zip(samples, folds, strict=True) if of != fold}
        assert left == {one.labels[0] for one in samples}
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    assert folds_of([samples[i] for i in order], count) == [folds[i] for i in order]


def test_a_chain_of_groups_and_contents_is_one_unit() -> None:
    chain = [
        sample("p", "a", group="x", content="1"),
        sample("q", "a", group="y", content="1"),
        sample("r", "b", group="y", content="2"),
    ]
    others = [sample(f"{i}", "ab"[i % 2]) for i in range(8)]
    assert len(set(folds_of([*chain, *others], 3)[:3])) == 1


@pytest.mark.parametrize(
    ("samples", "count", "words"),
    [
        ([sample("a", "x"), sample("b", "y")], 1, "folds is 1: give at least 2"),
        ([sample(f"{i}", "x", group=f"{i % 3}") for i in range(9)], 4, "no more than the 3 groups"),
        ([sample("a", "x"), sample("b", "y"), sample("c", "z"), sample("d", "z")], 3, "fold 2 would be empty"),
        ([], 2, "no more than the 0 groups"),
    ],
)
def test_too_few_groups(samples: list[Sample], count: int, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        folds_of(samples, count)
