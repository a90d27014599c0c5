"""Numbers of a table against scikit-learn's, and two of them paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, recall_score

from stages.errors import DataError
from stages.evaluate.cells import Judged, Metric, Question, ask, less, same_answers
from stages.index.manifest import Manifest, Sample
from stages.predictions import Predictions

CLASSES = ("a", "b", "c")
ACCURACY = Question("test", "accuracy")
MAP = Question("test", "mean_average_precision")
RESAMPLES = 300


def corpus(labels: Sequence[str], groups: Sequence[str] = (), subsets: Sequence[str] = ()) -> Manifest:
    """A sample of test for each word, whose letters are its labels, and one of train."""
    samples = [
        Sample(
            sample_id=f"s{i:03d}",
            path=f"s{i:03d}.png",
            media="image",
            labels=tuple(word),
            split="test",
            group=groups[i] if groups else "",
            subset=subsets[i] if subsets else "",
            boxes=(),
            content=f"{i:064x}",
        )
        for i, word in enumerate(labels)
    ]
    return Manifest((*samples, replace(samples[0], sample_id="t000", path="t.png", split="train", content="f" * 64)))


def member(
    manifest: Manifest, scores: np.ndarray, *, seed: int = 0, classes: Sequence[str] = CLASSES, head: str = "net"
) -> Predictions:
    """Answers to the first samples of test, in order, by scores (n, K) in [0, 1], and to the one of train."""
    test = [one for one in manifest if one.split == "test"][: len(scores)]
    known = [*test, *(one for one in manifest if one.split == "train")]
    several = any(len(one.labels) > 1 for one in manifest)
    whole = np.vstack([scores, scores[:1]]).astype(np.float64)
    return Predictions(
        name=f"{head}-s{seed}",
        kind="head",
        head=head,
        seed=seed,
        sample_ids=tuple(one.sample_id for one in known),
        splits=tuple(one.split for one in known),
        labels=tuple(one.labels for one in known),
        classes=tuple(classes),
        probabilities=whole if several else whole / whole.sum(axis=1, keepdims=True),
        several=several,
    )


def drawn(n: int, seed: int, *, several: bool = False, seeds: int = 2) -> tuple[Manifest, list[Predictions]]:
    """Labels, and members that know something of them."""
    rng = np.random.default_rng(seed)
    if several:
        words = ["".join(c for c in CLASSES if rng.random() < 0.5) or "a" for _ in range(n)]
    else:
        words = [str(one) for one in rng.choice(CLASSES, n)]
    manifest = corpus([*words[:-1], "ab"] if several else words)
    actual = np.array([[c in one.labels for c in CLASSES] for one in manifest if one.split == "test"])
    return manifest, [member(manifest, (rng.random((n, 3)) + 0.4 * actual + 0.01) / 2, seed=s) for s in range(seeds)]


def ids(manifest: Manifest) -> list[str]:
    return [one.sample_id for one in manifest if one.split == "test"]


@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_accuracy_is_scikit_learns_mean_over_seeds(n: int, seed: int, seeds: int) -> None:
    manifest, members = drawn(n, seed, seeds=seeds)
    found = ask(Judged(members, manifest, ACCURACY), RESAMPLES)
    actual = [one.labels[0] for one in manifest if one.split == "test"]
    alone = [accuracy_score(actual, [CLASSES[c] for c in one.probabilities[:n].argmax(axis=1)]) for one in members]
    assert found.value == pytest.approx(np.mean(alone), abs=1e-6)
    assert (found.n, found.seeds) == (n, seeds)
    assert found.sd == (pytest.approx(np.std(alone, ddof=1), abs=1e-6) if seeds > 1 else None)
    if found.value is not None and found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.integers(4, 40), st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_recall_is_of_the_samples_of_one_class(n: int, seed: int) -> None:
    manifest, members = drawn(n, seed)
    actual = [one.labels[0] for one in manifest if one.split == "test"]
    if "b" not in actual:
        with pytest.raises(DataError, match="net answers no sample of class 'b' of split test"):
            Judged(members, manifest, Question("test", "recall", "b"))
        return
    found = ask(Judged(members, manifest, Question("test", "recall", "b")), RESAMPLES)
    answers = [[CLASSES[c] for c in one.probabilities[:n].argmax(axis=1)] for one in members]
    expected = [recall_score(actual, one, labels=["b"], average=None, zero_division=0.0) for one in answers]  # pyright: ignore[reportArgumentType]
    assert found.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.n == actual.count("b")


@given(st.integers(3, 40), st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_average_precisions_are_scikit_learns(n: int, seed: int, seeds: int) -> None:
    manifest, members = drawn(n, seed, several=True, seeds=seeds)
    actual = np.array([[c in one.labels for c in CLASSES] for one in manifest if one.split == "test"])
    each = np.array(
        [
            [
                average_precision_score(actual[:, c], one.probabilities[:n, c]) if actual[:, c].any() else np.nan
                for c in range(3)
            ]
            for one in members
        ]
    )
    found = ask(Judged(members, manifest, MAP), RESAMPLES)
    assert found.value == pytest.approx(np.nanmean(each, axis=1).mean(), abs=1e-6)
    assert found.n == n
    assert found.low is None or found.value is None or found.low <= found.value + 1e-6
    for c, name in enumerate(CLASSES):
        of_class = ask(Judged(members, manifest, Question("test", "average_precision", name)), RESAMPLES)
        if np.isnan(each[0, c]):
            assert (of_class.value, of_class.low, of_class.high, of_class.sd, of_class.n) == (None, None, None, None, n)
        else:
            assert of_class.value == pytest.approx(each[:, c].mean(), abs=1e-6)
            assert (of_class.sd is None) == (seeds == 1)


@pytest.mark.parametrize(
    ("metric", "label"),
    [("accuracy", None), ("recall", "a"), ("average_precision", "b"), ("mean_average_precision", None)],
)
def test_a_difference_is_that_of_the_values_and_turns_round(metric: Metric, label: str | None) -> None:
    several = metric.endswith("precision")
    manifest, (first, second, third) = drawn(120, 4, several=several, seeds=3)
    question = Question("test", metric, label)
    one, other = Judged([first, second], manifest, question), Judged([third], manifest, question)
    there, back = less(one, other, 2000), less(other, one, 2000)
    values = [ask(of, RESAMPLES).value or 0.0 for of in (one, other)]
    assert there.value is not None
    assert there.low is not None
    assert there.high is not None
    assert there.value == pytest.approx(values[0] - values[1], abs=2e-6)
    assert there.value == pytest.approx(-(back.value or 0.0), abs=2e-6)
    assert there.low < there.value < there.high
    assert there.n == back.n == len(one.samples)
    assert (back.low, back.high) == (pytest.approx(-there.high, abs=0.04), pytest.approx(-there.low, abs=0.04))
    same = less(one, one, RESAMPLES)
    assert (same.value, same.low, same.high) == (0, None, None)


def test_two_members_are_compared_on_what_both_answer_whatever_the_order() -> None:
    manifest, (first, second) = drawn(20, 1)
    part = second.picked([int(one[1:]) % 2 == 0 for one in second.sample_ids])
    found = less(Judged([first], manifest, ACCURACY), Judged([part], manifest, ACCURACY), RESAMPLES)
    even = corpus([one.labels[0] for one in manifest][:20:2])
    assert found.n == 10
    alone = [ask(Judged([one], Manifest(manifest.samples[:20:2]), ACCURACY), 10).value or 0 for one in (first, part)]
    assert len(even) == 11
    assert found.value == pytest.approx(alone[0] - alone[1], abs=2e-6)
    turned = Manifest(tuple(reversed(manifest.samples)))
    assert less(Judged([first], manifest, ACCURACY), Judged([part], turned, ACCURACY), RESAMPLES) == found


def test_classes_in_another_order_are_the_same_classes() -> None:
    manifest, (first, _) = drawn(25, 8, several=True)
    turned = replace(first, classes=CLASSES[::-1], probabilities=np.ascontiguousarray(first.probabilities[:, ::-1]))
    question = Question("test", "average_precision", "a")
    found = less(Judged([first], manifest, question), Judged([turned], manifest, question), RESAMPLES)
    assert (found.value, found.low, found.high) == (0, None, None)


def test_groups_are_resampled_whole() -> None:
    manifest, members = drawn(40, 3)
    grouped = Manifest(tuple(replace(one, group=f"g{int(one.sample_id[1:]) // 10}") for one in manifest))
    alone, together = (ask(Judged(members, of, ACCURACY), 2000) for of in (manifest, grouped))
    assert alone.value == together.value
    assert (alone.low, alone.high) != (together.low, together.high)


def test_a_subset_and_samples_without_one_label_are_left_out() -> None:
    manifest = corpus(["a", "b", "", "ab", "c", "a"], subsets=["p", "q", "p", "p", "p", "p"])
    known = [replace(member(manifest, np.tile([0.8, 0.1, 0.1], (6, 1))), several=False)]
    assert ask(Judged(known, manifest, ACCURACY), 10).n == 4
    found = ask(Judged(known, manifest, Question("test", "accuracy", subset="p")), 10)
    assert (found.n, found.value) == (3, pytest.approx(2 / 3, abs=1e-6))
    assert ask(Judged(known, manifest, Question("test", "recall", "a", "p")), 10).n == 2
    with pytest.raises(DataError, match="net answers no labelled sample of subset 'z' of split test"):
        Judged(known, manifest, Question("test", "accuracy", subset="z"))


def test_seeds_are_judged_on_what_all_of_them_answer() -> None:
    manifest, (first, second) = drawn(20, 6)
    part = second.picked([one != "s003" for one in second.sample_ids])
    found = Judged([first, part], manifest, ACCURACY)
    assert list(found.samples) == [one for one in ids(manifest) if one != "s003"]


def test_a_class_that_a_member_does_not_know_is_always_wrong_and_cannot_be_asked_for() -> None:
    manifest = corpus(["a", "b", "d"])
    known = [member(manifest, np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]), classes="ab")]
    assert ask(Judged(known, manifest, ACCURACY), 10).value == pytest.approx(2 / 3, abs=1e-6)
    with pytest.raises(DataError, match="net has no class 'd': it answers a, b"):
        Judged(known, manifest, Question("test", "recall", "d"))


def test_seen_samples_are_refused() -> None:
    manifest, (first, second) = drawn(10, 2)
    seen = replace(second, seen=np.array([one == "s004" for one in second.sample_ids]))
    with pytest.raises(DataError, match="net in split test has seen 1 of the 10 samples of split test"):
        Judged([first, seen], manifest, ACCURACY)
    of_train = replace(second, seen=np.array([one == "t000" for one in second.sample_ids]))
    assert ask(Judged([of_train], manifest, ACCURACY), 10).n == 10


@pytest.mark.parametrize("metric", ["accuracy", "mean_average_precision"])
def test_a_constant_is_seen(metric: Metric) -> None:
    manifest, (one, other) = drawn(12, 5, several=metric != "accuracy")
    question = Question("test", metric)
    row = np.array([0.5, 0.3, 0.2])
    constant = replace(other, probabilities=np.tile(row, (len(other), 1)))
    assert ask(Judged([constant], manifest, question), 10).constant
    assert not ask(Judged([one], manifest, question), 10).constant
    assert not ask(Judged([one, constant], manifest, question), 10).constant
    moved = constant.probabilities.copy()
    moved[3] = row[::-1]
    assert not ask(Judged([replace(constant, probabilities=moved)], manifest, question), 10).constant


def test_one_class_may_have_one_answer_and_one_sample_tells_nothing() -> None:
    manifest = corpus(["a", "a", "b"])
    known = [member(manifest, np.eye(3)[[0, 0, 1]] + 0.01)]
    found = ask(Judged(known, manifest, Question("test", "recall", "a")), 10)
    assert (found.value, found.constant) == (1, False)
    single = corpus(["a"])
    assert not ask(Judged([member(single, np.eye(3)[[0]] + 0.01)], single, ACCURACY), 10).constant


def test_a_copy_has_the_very_same_numbers() -> None:
    manifest, (first, second) = drawn(12, 7)

    def judged(*members: Predictions) -> Judged:
        return Judged(members, manifest, ACCURACY)

    copy = replace(first, name="copy-s0", head="copy", probabilities=first.probabilities.copy())
    assert same_answers(judged(first, second), judged(copy, second))
    assert not same_answers(judged(first), judged(second))
    assert not same_answers(judged(first, second), judged(second, first))
    assert not same_answers(judged(first), judged(first, second))
    near = copy.probabilities.copy()
    near[2, 0], near[2, 1] = near[2, 0] + 1e-6, near[2, 1] - 1e-6
    assert not same_answers(judged(first), judged(replace(copy, probabilities=near)))
    assert not same_answers(judged(first), judged(copy.picked([one != "s001" for one in copy.sample_ids])))


def test_what_cannot_be_compared() -> None:
    manifest, (first, second) = drawn(10, 2)
    with pytest.raises(DataError, match="cannot be compared"):
        less(Judged([first], manifest, ACCURACY), Judged([first], manifest, Question("test", "recall", "a")), 10)
    halves = [
        one.picked([(int(i[1:]) < 5) == low for i in one.sample_ids]) for one, low in ((first, True), (second, False))
    ]
    with pytest.raises(DataError, match="net and net answer no sample in common"):
        less(Judged([halves[0]], manifest, ACCURACY), Judged([halves[1]], manifest, ACCURACY), 10)
