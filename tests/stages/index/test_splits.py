from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import SettingError
from stages.index.raw import RawSample
from stages.index.splits import assign_splits


def sample(name: str, *labels: str, group: str = "") -> RawSample:
    return RawSample(name, f"{name}.jpg", "image", labels, group=group)


def many(counts: dict[str, int]) -> list[RawSample]:
    return [sample(f"{label}{i}", label) for label, count in counts.items() for i in range(count)]


def test_shares_are_exact_for_every_label() -> None:
    samples = many({"happy": 1000, "sad": 200, "angry": 40})
    splits = assign_splits(samples, val=0.15, test=0.15, seed=0)
    counts = Counter((s.labels[0], split) for s, split in zip(samples, splits, strict=True))
    assert [counts["happy", split] for split in ("train", "val", "test")] == [700, 150, 150]
    assert [counts["sad", split] for split in ("train", "val", "test")] == [140, 30, 30]
    assert [counts["angry", split] for split in ("train", "val", "test")] == [28, 6, 6]


def test_pinned() -> None:
    # A changed split changes every score: it must be on purpose.
    splits = assign_splits(many({"a": 12, "b": 6}), val=0.2, test=0.2, seed=0)
    assert "".join(split[1] for split in splits) == PINNED


PINNED = "aerrrraerrarearrrr"


def test_the_seed_matters_and_the_order_does_not() -> None:
    samples = many({"a": 60, "b": 30})
    first = assign_splits(samples, val=0.2, test=0.2, seed=1)
    assert first != assign_splits(samples, val=0.2, test=0.2, seed=2)
    order = list(range(len(samples)))
    random.Random(0).shuffle(order)
    shuffled = assign_splits([samples[i] for i in order], val=0.2, test=0.2, seed=1)
    assert shuffled == [first[i] for i in order]


def test_groups_of_unequal_size_come_close_to_the_shares() -> None:
    rng = random.Random(3)
    samples = []
    for g in range(120):
        mix = rng.choices(["a", "b", "c"], weights=[rng.random() for _ in range(3)], k=rng.randint(1, 40))
        samples += [sample(f"{g}-{i}", label, group=f"film {g}") for i, label in enumerate(mix)]
    splits = assign_splits(samples, val=0.15, test=0.15, seed=0)
    totals = Counter(s.labels[0] for s in samples)
    counts = Counter((s.labels[0], split) for s, split in zip(samples, splits, strict=True))
    for label, total in totals.items():
        for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert counts[label, split] / total == pytest.approx(share, abs=0.01)


def test_a_label_of_one_goes_to_train() -> None:
    samples = [*many({"a": 30}), sample("rare", "rare"), *(sample(f"f{i}", "film", group="f") for i in range(9))]
    for seed in range(8):
        splits = assign_splits(samples, val=0.3, test=0.3, seed=seed)
        assert splits[30] == "train"
        assert set(splits[31:]) == {"train"}


def test_small_corpora_still_have_something_on_every_side() -> None:
    assert sorted(assign_splits(many({"a": 2, "b": 2}), val=0.15, test=0.15, seed=0)) == [
        "test",
        "train",
        "train",
        "val",
    ]
    groups = [sample(f"{g}{i}", "a", group=g) for g in "xyz" for i in range(5)]
    assert set(assign_splits(groups, val=0.15, test=0.15, seed=0)) == {"train", "val", "test"}


def test_the_unlabelled_go_to_test_and_do_not_count() -> None:
    samples = [
        *many({"a": 20}),
        *(sample(f"u{i}") for i in range(50)),
        sample("with", group="g"),
        sample("g", "a", group="g"),
    ]
    splits = assign_splits(samples, val=0.2, test=0.2, seed=0)
    assert set(splits[20:70]) == {"test"}
    assert splits[70] == splits[71]
    assert Counter(splits[:20])["test"] == 4
    assert assign_splits([sample("u")], val=0.0, test=0.0, seed=0) == ["test"]
    assert assign_splits([], val=0.1, test=0.1, seed=0) == []


def test_a_share_of_nothing_is_nothing() -> None:
    assert set(assign_splits(many({"a": 40}), val=0.0, test=0.0, seed=0)) == {"train"}
    assert set(assign_splits(many({"a": 40}), val=0.0, test=0.25, seed=0)) == {"train", "test"}


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (float("nan"), 0.1), (2, 0)])
def test_shares_out_of_range(val: float, test: float) -> None:
    with pytest.raises(SettingError, match=r"data\.split\.val is .* and data\.split\.test"):
        assign_splits(many({"a": 4}), val=val, test=test, seed=0)


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcd"), max_size=3), st.sampled_from(["", "", "g", "h", "i"]))),
    st.floats(0, 0.49),
    st.floats(0, 0.49),
    st.integers(0, 99),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_properties(drawn: list[tuple[set[str], str]], val: float, test: float, seed: int, rng: random.Random) -> None:
    samples = [sample(str(i), *sorted(labels), group=group) for i, (labels, group) in enumerate(drawn)]
    splits = assign_splits(samples, val=val, test=test, seed=seed)
    assert len(splits) == len(samples)
    assert set(splits) <= {"train", "val", "test"}
    sides = defaultdict(set)
    holders = defaultdict(set)
    for s, split in zip(samples, splits, strict=True):
        sides[s.group or s.sample_id].add(split)
        for label in s.labels:
            holders[label].add((s.group or s.sample_id, split))
    assert all(len(found) == 1 for found in sides.values())
    assert all({split for _, split in held} == {"train"} for held in holders.values() if len(held) == 1)
    order = rng.sample(range(len(samples)), len(samples))
    assert assign_splits([samples[i] for i in order], val=val, test=test, seed=seed) == [splits[i] for i in order]
