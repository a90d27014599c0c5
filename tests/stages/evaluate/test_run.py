"""metrics.json: what is counted, what is compared, what is said about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.errors import DataError, MissingInputError, SettingError
from stages.evaluate.plots import ACCURACY_COLUMNS, accuracy_rows, confusion_rows
from stages.evaluate.run import evaluate, headline, write_metrics
from stages.index.manifest import Manifest
from stages.predictions import Kind, Predictions
from stages.tables import write_csv
from stages.train.choosing import Chosen

MakeManifest = Callable[..., Manifest]
MakeMember = Callable[..., Predictions]


def test_everything_that_is_counted(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="aaab+-", val="ab", test="aabb-+b")
    mean0, mean1 = member(corpus, "abbbaa."), member(corpus, "aabaaa.", name="mean-s1")
    both = member(corpus, "aabbaaa", name="both", kind="fused")
    found = evaluate([both, mean1, mean0], corpus, split="test")
    assert (found["split"], found["n"], found["n_unscored"], found["n_failed"]) == ("test", 5, 2, 0)
    assert found["classes"] == ["a", "b"]
    assert found["classes_without_training"] == []
    assert found["baseline"]["class"] == "a"
    assert found["baseline"]["n_train"] == 3
    assert found["baseline"]["accuracy"]["value"] == 0.4
    assert found["baseline"]["accuracy"]["n"] == 5
    assert found["baseline"]["balanced_accuracy"]["value"] == 0.5
    head = found["heads"]["mean"]
    assert list(head["seeds"]) == ["0", "1"]
    assert [seed["accuracy"]["value"] for seed in head["seeds"].values()] == [0.75, 0.75]
    assert head["accuracy"]["mean"] == 0.75
    assert head["accuracy"]["sd"] == 0.0
    assert (head["accuracy"]["n_seeds"], head["accuracy"]["n"], head["n"], head["n_missing"]) == (2, 4, 4, 1)
    assert head["confusion"] == [[3, 1], [1, 3]]
    assert head["over_baseline"]["value"] == 0.25
    fused = found["fused"]["both"]
    assert fused["accuracy"]["value"] == 0.8
    assert fused["confusion"] == [[2, 0], [1, 2]]
    assert fused["over_baseline"]["value"] == 0.4
    assert fused["recall"]["b"]["n"] == 3
    assert found["subsets"] == {}
    assert found["note"] == "Scored on split 'test'. Nothing was trained, chosen or fitted on it."
    assert found["interval"]["unit"] == "sample"


def test_spread_over_seeds(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", test="aaaabbbb")
    answers = {"s2": "aaaabbbb", "s10": "aaaaaaaa", "s0": "aaaabbaa"}
    members = [member(corpus, said, name=f"mean-{seed}") for seed, said in answers.items()]
    accuracy = evaluate(members, corpus, split="test")["heads"]["mean"]["accuracy"]
    assert accuracy["mean"] == 0.75
    assert accuracy["sd"] == 0.25
    assert accuracy["low"] < 0.75 < accuracy["high"]
    assert list(evaluate(members, corpus, split="test")["heads"]["mean"]["seeds"]) == ["0", "2", "10"]
    assert evaluate(members[:1], corpus, split="test")["heads"]["mean"]["accuracy"]["sd"] is None


def test_seeds_are_compared_on_what_all_of_them_have(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", test="aabb")
    members = [member(corpus, "aab.", name="mean-s0"), member(corpus, ".abb", name="mean-s1")]
    head = evaluate(members, corpus, split="test")["heads"]["mean"]
    assert (head["n"], head["n_missing"]) == (2, 2)
    assert [seed["n"] for seed in head["seeds"].values()] == [2, 2]
    lack = "of 4 samples lack an answer: heads are scored without them, the baseline with"
    assert f"2 {lack}" in evaluate(members, corpus, split="test")["warnings"]
    assert f"1 {lack}" in evaluate(members[:1], corpus, split="test")["warnings"]
    assert not any("lack" in w for w in evaluate([member(corpus, "aabb")], corpus, split="test")["warnings"])
    assert evaluate(members, corpus, split="test")["n_failed"] == 0
    assert evaluate(members[:1], corpus, split="test")["n_failed"] == 1


def test_groups_are_resampled_and_said(manifest: MakeManifest, member: MakeMember) -> None:
    test = "ab" * 20
    said = "".join("a" if i % 10 < 5 else letter for i, letter in enumerate(test))
    alone = manifest(train="ab", test=test)
    grouped = manifest(train="ab", test=test, groups=[f"g{i // 5}" for i in range(40)])
    wide = evaluate([member(grouped, said)], grouped, split="test")
    narrow = evaluate([member(alone, said)], alone, split="test")
    assert (wide["interval"]["unit"], wide["interval"]["n_units"]) == ("group", 8)
    assert (narrow["interval"]["unit"], narrow["interval"]["n_units"]) == ("sample", 40)
    assert wide["heads"]["mean"]["accuracy"]["mean"] == narrow["heads"]["mean"]["accuracy"]["mean"]
    width = [
        one["heads"]["mean"]["accuracy"]["high"] - one["heads"]["mean"]["accuracy"]["low"] for one in (wide, narrow)
    ]
    assert width[0] != width[1]
    assert wide["warnings"] == ["only 8 groups are resampled: the intervals are rough, probably too narrow"]
    # Groups of one sample each are samples.
    single = manifest(train="ab", test="abab", groups=["p", "q", "", "r"])
    assert evaluate([member(single, "abab")], single, split="test")["interval"]["unit"] == "sample"


def test_subsets(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="aab", test="aabbab", subsets=["p", "p", "p", "q", "q", ""])
    members = [member(corpus, "abbbbb"), member(corpus, "aabbab", name="all", kind="fused")]
    found = evaluate(members, corpus, split="test")["subsets"]
    assert list(found) == ["", "p", "q"]
    assert [one["n"] for one in found.values()] == [1, 3, 2]
    assert [one["heads"]["mean"]["value"] for one in found.values()] == [1.0, 0.666667, 0.5]
    assert [one["fused"]["all"]["value"] for one in found.values()] == [1.0, 1.0, 1.0]
    assert [one["baseline"]["value"] for one in found.values()] == [0.0, 0.666667, 0.5]
    assert found["p"]["fused"]["all"]["low"] == round(0.025 ** (1 / 3), 6)


def test_a_class_that_only_test_has(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", test="abc")
    found = evaluate([member(corpus, "aba", name="all", kind="fused")], corpus, split="test")
    assert found["classes"] == ["a", "b", "c"]
    assert found["classes_without_training"] == ["c"]
    assert found["fused"]["all"]["recall"]["c"]["value"] == 0.0
    assert found["fused"]["all"]["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert "classes without a training sample, recall 0: c" in found["warnings"]


def test_nothing_to_learn_from_and_nothing_to_score(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="--", test="ab")
    found = evaluate([member(corpus, "ab", name="all", kind="fused")], corpus, split="test")
    assert found["baseline"]["class"] is None
    assert found["baseline"]["accuracy"]["value"] is None
    assert found["fused"]["all"]["over_baseline"]["value"] is None
    unlabelled = manifest(train="ab", test="--")
    members = [member(unlabelled, "ab"), member(unlabelled, "ab", name="all", kind="fused")]
    found = evaluate(members, unlabelled, split="test")
    assert (found["n"], found["n_unscored"]) == (0, 2)
    assert found["heads"]["mean"]["accuracy"]["mean"] is None
    assert "no sample of test has exactly one label: nothing is scored" in found["warnings"]
    json.dumps(found, allow_nan=False)


def test_leaks_are_said(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", test="ab")
    train, test = corpus.samples[3], corpus.samples[0]
    samples = [replace(s, group="film") if s is train else s for s in corpus.samples]
    samples = [replace(s, group="film", content=samples[2].content) if s is test else s for s in samples]
    found = evaluate([member(corpus, "ab")], Manifest(tuple(samples)), split="test")
    assert found["warnings"][:2] == [
        "groups in both train and test: 1; the scores flatter",
        "files of the same content in both train and test: 1; the scores flatter",
    ]
    samples = [replace(s, subset="web") if s.split == "train" else s for s in samples]
    for untrained, count in ((["web"], 0), (["other"], 2)):
        found = evaluate([member(corpus, "ab")], Manifest(tuple(samples)), split="test", untrained=untrained)
        assert sum("the scores flatter" in warning for warning in found["warnings"]) == count


def test_scores_on_val_and_train_are_called_flattering(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", val="ab", test="ab")
    for split, word in (("val", "flatter"), ("train", "trained on")):
        assert word in evaluate([member(corpus, "ab", split=split)], corpus, split=split)["note"]


def test_mistakes_are_named(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", test="ab")
    good = member(corpus, "ab")
    with pytest.raises(DataError, match="split 'val' is not in the manifest; choose one of those present: test, train"):
        evaluate([good], corpus, split="val")
    with pytest.raises(MissingInputError, match="run `kuleshov train` first"):
        evaluate([], corpus, split="test")
    with pytest.raises(SettingError, match="resamples is 0"):
        evaluate([good], corpus, split="test", resamples=0)
    with pytest.raises(DataError, match="'mean-s0' are given 2 times"):
        evaluate([good, good], corpus, split="test")
    with pytest.raises(DataError, match="'mean-s1' have classes a, b, c but 'mean-s0' has a, b"):
        evaluate([good, member(corpus, "ab", name="mean-s1", classes="abc")], corpus, split="test")
    with pytest.raises(DataError, match="sample 'test001' is test/b here and test/a in the manifest"):
        evaluate([good], manifest(train="ab", test="aa"), split="test")
    with pytest.raises(DataError, match="sample 'test001' is not in the manifest"):
        evaluate([good], manifest(train="ab", test="a"), split="test")


def test_equal_inputs_are_equal_bytes(manifest: MakeManifest, member: MakeMember, tmp_path: Path) -> None:
    corpus = manifest(train="aab", test="abab" * 10)
    rng = np.random.default_rng(0)
    said = ["".join(rng.choice(["a", "b"], 40)) for _ in range(3)]
    members = [member(corpus, answers, name=f"mean-s{i}") for i, answers in enumerate(said)]
    for name, given in (("one", members), ("two", members[::-1])):
        write_metrics(evaluate(given, corpus, split="test", seed=4), tmp_path / name / "metrics.json")
    first = (tmp_path / "one" / "metrics.json").read_bytes()
    assert first == (tmp_path / "two" / "metrics.json").read_bytes()
    assert json.loads(first)["interval"]["seed"] == 4
    other = evaluate(members, corpus, split="test", seed=5)
    assert other["heads"]["mean"]["accuracy"]["mean"] == json.loads(first)["heads"]["mean"]["accuracy"]["mean"]
    with pytest.raises(ValueError, match="Out of range float"):
        write_metrics({"x": float("nan")}, tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()


def test_rows_for_plots(manifest: MakeManifest, member: MakeMember, tmp_path: Path) -> None:
    corpus = manifest(train="aab", test="aabb")
    members = [
        member(corpus, "abbb"),
        member(corpus, "abaa", name="mean-s1"),
        member(corpus, "aabb", name="zed", kind="fused"),
        member(corpus, "bbbb", name="all", kind="fused"),
    ]
    found = evaluate(members, corpus, split="test")
    rows = accuracy_rows(found)
    assert [row[:2] for row in rows] == [("all", 0.5), ("zed", 1.0), ("mean", 0.5), ("baseline", 0.5)]
    write_csv(tmp_path / "plots" / "accuracy.csv", ACCURACY_COLUMNS, [*rows[:0], ("x", 0.5, None, 1 / 3)])
    text = (tmp_path / "plots" / "accuracy.csv").read_text()
    assert text == "name,accuracy,low,high\nx,0.5,,0.3333333333333333\n"
    assert confusion_rows(members, corpus, split="test") == [("a", "b"), ("a", "b"), ("b", "b"), ("b", "b")]
    assert confusion_rows(members, corpus, split="test", member="mean-s1")[3] == ("b", "a")
    assert confusion_rows(members[:2], corpus, split="test")[0] == ("a", "a")
    with pytest.raises(SettingError, match="'best' has no predictions; choose one of all, zed, mean-s0, mean-s1"):
        confusion_rows(members, corpus, split="test", member="best")


def test_the_headlines_are_numbers_of_the_full_metrics(manifest: MakeManifest, member: MakeMember) -> None:
    samples = manifest(train="aab", test="abba")
    heads = [member(samples, "abab", name="mean-s0"), member(samples, "abbb", name="mean-s1")]
    fused = member(samples, "abba", name="all", kind="fused")
    metrics = evaluate([*heads, fused], samples, split="test", resamples=200)
    scores = headline(metrics)
    assert list(scores) == ["n", "all", "mean", "baseline"]
    assert scores["n"] == 4
    assert scores["all"]["accuracy"] == 1.0
    assert scores["mean"]["accuracy"] == pytest.approx((0.5 + 0.75) / 2)
    assert scores["baseline"]["accuracy"] == 0.5
    assert scores["mean"]["low"] == metrics["heads"]["mean"]["accuracy"]["low"]


def test_fine_tuned_networks_are_scored_as_heads_are(
    manifest: MakeManifest, member: MakeMember, tmp_path: Path
) -> None:
    corpus = manifest(train="aab", test="aabbab", subsets=["p", "p", "p", "q", "q", ""])
    said = {0: "abbbbb", 1: "aabbab"}
    heads = [member(corpus, text, name=f"mean-s{seed}") for seed, text in said.items()]
    nets = [member(corpus, text, name=f"net-s{seed}", kind="finetuned") for seed, text in said.items()]
    fused = member(corpus, "aabbab", name="all", kind="fused")
    found = evaluate([*nets, fused, *heads], corpus, split="test")
    assert found["finetuned"] == {"net": found["heads"]["mean"]}
    assert all(one["finetuned"]["net"] == one["heads"]["mean"] for one in found["subsets"].values())
    assert [name for name, *_ in accuracy_rows(found)] == ["all", "mean", "net", "baseline"]
    assert list(headline(found)) == ["n", "all", "mean", "net", "baseline"]
    assert headline(found)["net"] == headline(found)["mean"]
    only = evaluate(nets, corpus, split="test")
    assert (only["heads"], only["fused"], list(only["finetuned"]["net"]["seeds"])) == ({}, {}, ["0", "1"])
    lacking = member(corpus, "aabba.", name="net-s2", kind="finetuned")
    assert any(
        "heads and fine-tunes are scored without" in text
        for text in evaluate([lacking], corpus, split="test")["warnings"]
    )
    assert evaluate(heads, corpus, split="test")["finetuned"] == {}


def test_confusion_rows_are_of_an_ensemble_or_else_of_a_head(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", test="ab")
    net = member(corpus, "bb", name="a-s0", kind="finetuned")
    head = member(corpus, "aa", name="b-s0")
    assert confusion_rows([net, head], corpus, split="test") == [("a", "a"), ("b", "a")]
    assert confusion_rows([net], corpus, split="test") == [("a", "b"), ("b", "b")]
    assert confusion_rows([net, head], corpus, split="test", member="a-s0") == [("a", "b"), ("b", "b")]


@pytest.mark.parametrize(("kind", "word"), [("head", "head"), ("finetuned", "fine-tune"), ("fused", "ensemble")])
def test_a_member_that_has_seen_what_is_judged_is_never_scored(
    manifest: MakeManifest, member: MakeMember, kind: Kind, word: str
) -> None:
    corpus = manifest(train="ab", test="aabb")
    one = member(corpus, "aabb", name="net-s0", kind=kind)
    knows = replace(one, seen=np.array([False, False, True, True]))
    good = member(corpus, "abab", name="other-s0")
    words = rf"^{word} net-s0 has seen 2 of the 4 samples of split test, by content or group \(first test002\)"
    for score in (evaluate, confusion_rows):
        with pytest.raises(DataError, match=words):
            score([good, knows], corpus, split="test")
    on_train = member(corpus, "ab", name="net-s0", kind=kind, split="train")
    both = replace(
        one,
        sample_ids=(*one.sample_ids, *on_train.sample_ids),
        splits=(*one.splits, *on_train.splits),
        labels=(*one.labels, *on_train.labels),
        probabilities=np.concatenate([one.probabilities, on_train.probabilities]),
        seen=np.array([False] * 4 + [True] * 2),
    )
    assert evaluate([both], corpus, split="test")["n"] == 4  # what it was trained on does not judge it


def test_predictions_of_another_manifest_name_the_command_that_wrote_them(
    manifest: MakeManifest, member: MakeMember
) -> None:
    corpus = manifest(train="ab", test="ab")
    net = member(manifest(train="ab", test="ba"), "ab", name="net-s0", kind="finetuned")
    with pytest.raises(DataError, match="run `kuleshov finetune` again"):
        evaluate([net], corpus, split="test")


def test_how_a_head_was_chosen_is_told(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", val="ab", test="aabb")
    given = {
        "mean": Chosen(12, "accuracy on split val", 2, {"learning_rate": "0.01"}),
        "other": Chosen(1, "", 0, {}),
    }
    found = evaluate([member(corpus, "aabb")], corpus, split="test", chosen=given)
    told = {"candidates": 12, "by": "accuracy on split val", "n": 2, "values": {"learning_rate": "0.01"}}
    assert found["chosen"] == {"mean": told}
    assert "chosen" not in evaluate([member(corpus, "aabb")], corpus, split="test", chosen={"other": given["other"]})


def test_a_head_that_was_chosen_by_what_is_scored_is_refused(manifest: MakeManifest, member: MakeMember) -> None:
    corpus = manifest(train="ab", val="aab", test="ab")
    by_val = {"mean": Chosen(12, "accuracy on split val", 3, {})}
    with pytest.raises(DataError, match=r"head mean is the best of 12 candidates by accuracy on split val: .*flatters"):
        evaluate([member(corpus, "aab", split="val")], corpus, split="val", chosen=by_val)
    by_folds = {"mean": Chosen(12, "accuracy on 5 folds of split train", 2, {})}
    assert "chosen" in evaluate([member(corpus, "ab", split="train")], corpus, split="train", chosen=by_folds)
