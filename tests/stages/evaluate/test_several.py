"""Members that answer with several labels: what metrics.json, scores.json and the plots have of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from stages.errors import DataError
from stages.evaluate.plots import accuracy_rows, confusion_rows, precision_rows
from stages.evaluate.run import evaluate, headline
from stages.index.manifest import Manifest, Sample
from stages.predictions import Kind, Predictions, split_name

MakeManifest = Callable[..., Manifest]
MakeMember = Callable[..., Predictions]
TRAIN, TEST = ["a", "b", "abc"], ["ab", "b", "", "a", "b", "ab", "", "a"]


def corpus(train: Sequence[str] = TRAIN, test: Sequence[str] = TEST, **columns: Sequence[str]) -> Manifest:
    """A sample for each word, whose letters are its labels. `columns`: `group` or `subset` of the samples of test."""
    samples = []
    for split, words in (("train", train), ("test", test)):
        for i, word in enumerate(words):
            content = f"{len(samples):064x}"
            more = {name: column[i] for name, column in columns.items() if split == "test"}
            sample = Sample(f"{split}{i:03d}", f"{i}.png", "image", tuple(word), split, "", "", (), content)
            samples.append(replace(sample, **more))
    return Manifest(tuple(samples))


def scored(
    manifest: Manifest, name: str = "dag-s0", kind: Kind = "head", skill: float = 0.3, lacking: Sequence[str] = ()
) -> Predictions:
    """Scores of several labels, higher for those that a sample has the more `skill` there is."""
    head, seed = split_name(name, kind)
    samples = [s for s in manifest.samples if s.split == "test" and s.sample_id not in lacking]
    classes = manifest.classes
    actual = np.array([[c in s.labels for c in classes] for s in samples], float)
    noise = np.random.default_rng([seed or 99, len(name)]).random(actual.shape)
    return Predictions(
        name=name,
        kind=kind,
        head=head,
        seed=seed,
        sample_ids=tuple(s.sample_id for s in samples),
        splits=tuple(s.split for s in samples),
        labels=tuple(s.labels for s in samples),
        classes=classes,
        probabilities=(noise + skill * actual) / (1 + skill),
        several=True,
    )


def by_scikit_learn(p: Predictions, name: str) -> float:
    rows = [i for i, labels in enumerate(p.labels) if labels]
    actual = np.array([name in p.labels[i] for i in rows])
    return round(float(average_precision_score(actual, p.probabilities[rows, p.classes.index(name)])), 6)


def test_everything_that_is_counted() -> None:
    given = corpus()
    members = [
        scored(given),
        scored(given, "dag-s1"),
        scored(given, "all", "fused"),
        scored(given, "net-s4", "finetuned"),
    ]
    metrics = evaluate(members, given, split="test", resamples=200)
    assert (metrics["heads"], metrics["finetuned"], metrics["fused"], metrics["n"]) == ({}, {}, {}, 0)
    assert metrics["baseline"]["class"] is None
    found = metrics["several"]
    assert (found["n"], found["n_unscored"], found["n_failed"]) == (6, 2, 0)
    assert (found["classes"], found["undefined"]) == (["a", "b", "c"], ["c"])
    assert found["interval"]["unit"] == "sample"
    base = found["baseline"]
    assert [one["value"] for one in base["average_precision"].values()] == [0.666667, 0.666667, None]
    assert base["mean_average_precision"]["value"] == 0.666667
    fused = found["fused"]["all"]
    expected = {name: by_scikit_learn(members[2], name) for name in "ab"}
    assert {name: fused["average_precision"][name]["value"] for name in "ab"} == expected
    assert fused["average_precision"]["c"] == {"value": None, "low": None, "high": None, "n": 0}
    assert fused["average_precision"]["a"]["n"] == 4
    assert fused["mean_average_precision"]["value"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    gain = fused["mean_average_precision"]["value"] - base["mean_average_precision"]["value"]
    assert fused["over_baseline"]["value"] == pytest.approx(gain, abs=2e-6)
    head = found["heads"]["dag"]
    assert list(head["seeds"]) == ["0", "1"]
    each = [by_scikit_learn(one, "b") for one in members[:2]]
    assert [seed["average_precision"]["b"]["value"] for seed in head["seeds"].values()] == each
    b = head["average_precision"]["b"]
    assert b["mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert b["sd"] == pytest.approx(np.std(each, ddof=1), abs=2e-6)
    assert (b["n_seeds"], b["n"], head["n"], head["n_missing"]) == (2, 4, 6, 0)
    mean = head["mean_average_precision"]
    assert mean["low"] <= mean["mean"] <= mean["high"]
    assert list(found["finetuned"]["net"]["seeds"]) == ["4"]
    assert found["finetuned"]["net"]["mean_average_precision"]["sd"] is None
    json.dumps(metrics, allow_nan=False)


def test_what_is_said_of_it() -> None:
    given = corpus(train=["a", "ac"])
    members = [scored(given, lacking=["test001"]), scored(given, "dag-s1", lacking=["test005"])]
    metrics = evaluate(members, given, split="test", resamples=50)
    assert metrics["warnings"] == [
        "only 6 samples are resampled: the intervals are rough, probably too narrow",
        "1 of 3 classes have no sample in test, no average precision, and are left out of its mean: c",
        "classes without a training sample, ranked by nothing: b",
        "1 of 6 samples lack an answer with several labels: members are scored without them, the baseline with",
    ]
    head = metrics["several"]["heads"]["dag"]
    assert (head["n"], head["n_missing"]) == (4, 2)
    assert [seed["n"] for seed in head["seeds"].values()] == [4, 4]
    assert metrics["several"]["n_failed"] == 0
    assert evaluate(members[:1], given, split="test", resamples=50)["several"]["n_failed"] == 1
    nothing = corpus(test=["", ""])
    metrics = evaluate([scored(nothing)], nothing, split="test", resamples=50)
    assert metrics["warnings"] == ["no sample of test has a label: nothing is scored"]
    assert metrics["several"]["heads"]["dag"]["mean_average_precision"]["mean"] is None
    json.dumps(metrics, allow_nan=False)


def test_leaks_are_said() -> None:
    given = corpus(group=["film"] * 8)
    samples = [replace(s, group="film") if s.split == "train" else s for s in given.samples]
    leaking = Manifest(tuple(samples))
    metrics = evaluate([scored(leaking)], leaking, split="test", resamples=50)
    assert metrics["warnings"][0] == "groups in both train and test: 1; the scores flatter"


def test_groups_and_subsets() -> None:
    words = ["ab", "b", "c", "a", "ac", "bc", "a", "abc"] * 3
    given = corpus(test=words, group=[f"g{i // 4}" for i in range(24)], subset=["p", "q"] * 12)
    members = [scored(given), scored(given, "dag-s1"), scored(given, "all", "fused")]
    found = evaluate(members, given, split="test", resamples=200)["several"]
    assert (found["interval"]["unit"], found["interval"]["n_units"]) == ("group", 6)
    assert list(found["subsets"]) == ["p", "q"]
    only = [s.sample_id for s in given.samples if s.subset == "p"]
    inside = members[2].picked([name in only for name in members[2].sample_ids])
    expected = np.mean([by_scikit_learn(inside, name) for name in "abc"])
    assert found["subsets"]["p"]["n"] == 12
    assert found["subsets"]["p"]["fused"]["all"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["subsets"]["p"]["heads"]["dag"]["n"] == 12
    assert found["subsets"]["q"]["baseline"]["value"] is not None
    assert found["subsets"]["q"]["finetuned"] == {}
    alone = corpus(test=words)
    apart = evaluate([scored(alone)], alone, split="test", resamples=200)["several"]["heads"]["dag"]
    assert apart["mean_average_precision"]["low"] != found["heads"]["dag"]["mean_average_precision"]["low"]


def test_members_of_one_label_beside_them_are_scored_as_before(manifest: MakeManifest, member: MakeMember) -> None:
    given = manifest(train="aab+", test="aabb-+b")
    ones = [member(given, "abbbaa."), member(given, "aabbaaa", name="both", kind="fused")]
    before = evaluate(ones, given, split="test", resamples=100)
    assert "several" not in before
    metrics = evaluate([*ones, scored(given)], given, split="test", resamples=100)
    found = metrics.pop("several")
    assert metrics.pop("warnings") == [
        *before["warnings"],
        "only 6 samples are resampled: the intervals are rough, probably too narrow",
    ]
    assert metrics == {key: value for key, value in before.items() if key != "warnings"}
    assert (found["n"], before["n"], before["n_unscored"]) == (6, 5, 2)
    assert accuracy_rows({**metrics, "several": found}) == accuracy_rows(before)
    assert confusion_rows([*ones, scored(given)], given, split="test") == confusion_rows(ones, given, split="test")


def test_headlines_and_plots() -> None:
    given = corpus()
    members = [scored(given), scored(given, "dag-s1"), scored(given, "all", "fused")]
    metrics = evaluate(members, given, split="test", resamples=100)
    found, scores = metrics["several"], headline(metrics)
    assert list(scores) == ["n", "all", "dag", "baseline"]
    assert scores["n"] == 6
    mean = found["heads"]["dag"]["mean_average_precision"]
    assert scores["dag"] == {
        "mean_average_precision": mean["mean"],
        "low": mean["low"],
        "high": mean["high"],
        "n": 6,
    }
    assert scores["baseline"] == {"mean_average_precision": 0.666667}
    assert accuracy_rows(metrics) == []
    assert confusion_rows(members, given, split="test") == []
    rows = precision_rows(metrics)
    assert [row[0] for row in rows] == ["all", "dag", "baseline"]
    assert rows[1][1:] == (mean["mean"], mean["low"], mean["high"])


def test_headlines_of_both_kinds(manifest: MakeManifest, member: MakeMember) -> None:
    given = manifest(train="aab+", test="aabb-+b")
    alone = [member(given, "abbbaa.")]
    metrics = evaluate([*alone, scored(given)], given, split="test", resamples=100)
    scores, before = headline(metrics), headline(evaluate(alone, given, split="test", resamples=100))
    assert list(scores) == ["n", "mean", "dag", "baseline"]
    assert scores["mean"] == before["mean"]
    assert {**before["baseline"], "mean_average_precision": 0.583333} == scores["baseline"]
    assert precision_rows(evaluate(alone, given, split="test", resamples=100)) == []


def test_a_class_without_a_column_is_ranked_by_nothing() -> None:
    given = corpus(test=["a", "b", "d", "ab"])
    short = scored(given)
    keep = [short.classes.index(name) for name in "abc"]
    short = replace(short, classes=("a", "b", "c"), probabilities=short.probabilities[:, keep])
    found = evaluate([short], given, split="test", resamples=50)["several"]
    assert found["classes"] == ["a", "b", "c", "d"]
    assert found["heads"]["dag"]["average_precision"]["d"]["mean"] == 0.25


def test_what_has_seen_the_samples_is_never_scored() -> None:
    given = corpus()
    knows = scored(given)
    knows = replace(knows, seen=np.arange(len(knows)) < 3)
    with pytest.raises(DataError, match="head dag-s0 has seen 3 of the 8 samples of split test"):
        evaluate([knows], given, split="test")
    twice = [scored(given), scored(given)]
    with pytest.raises(DataError, match="'dag-s0' are given 2 times"):
        evaluate(twice, given, split="test")


def test_equal_inputs_are_equal_whatever_their_order() -> None:
    given = corpus(test=["ab", "b", "c", "a", "ac", "bc", "a", "abc"])
    members = [scored(given, f"dag-s{seed}") for seed in range(3)]
    one, two = (evaluate(some, given, split="test", resamples=100, seed=4) for some in (members, members[::-1]))
    assert json.dumps(one) == json.dumps(two)
    other = evaluate(members, given, split="test", resamples=100, seed=5)["several"]["heads"]["dag"]
    mine = one["several"]["heads"]["dag"]
    assert other["mean_average_precision"]["mean"] == mine["mean_average_precision"]["mean"]
    assert other["mean_average_precision"]["low"] != mine["mean_average_precision"]["low"]


def test_many_classes_and_samples_take_seconds() -> None:
    rng = np.random.default_rng(0)
    names = "abcdefghijklmnopqrstuvwxyz"
    share = rng.uniform(0.01, 0.3, 26)
    words = ["".join(np.array(list(names))[row]) for row in rng.random((2000, 26)) < share]
    given = corpus(train=[names], test=words)
    start = time.perf_counter()
    found = evaluate([scored(given)], given, split="test")["several"]["heads"]["dag"]
    assert time.perf_counter() - start < 20  # about 1 on one core; a resample at a time, and a class, takes minutes
    assert found["mean_average_precision"]["low"] < found["mean_average_precision"]["mean"]
