"""Fusion: means worked out by hand, what an ensemble may name, and members that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages import predictions
from stages.errors import DataError, MissingInputError, SettingError
from stages.fuse.run import mean_of, members_of, require_current, run
from stages.fuse.settings import EnsembleSettings, FuseSettings
from stages.predictions import Kind, Predictions, split_name

MEMBERS = ("a-s0", "a-s1", "b-s0", "b-s1", "net-s0")


def member(name: str, n: int = 6, kind: Kind = "head") -> Predictions:
    head, seed = split_name(name, kind)
    values = np.random.default_rng(MEMBERS.index(name)).dirichlet(np.ones(3), n)
    ids = tuple(f"s{i}" for i in range(n))
    labels = tuple(((), ("x",), ("x", "y"))[i % 3] for i in range(n))
    return Predictions(name, kind, head, seed, ids, ("test",) * n, labels, ("x", "y", "z"), values)


HEADS = [member(name) for name in MEMBERS[:4]]
TUNED = member("net-s0", kind="finetuned")


def ensemble(members: Sequence[str], weights: Sequence[float] | None = None) -> EnsembleSettings:
    return EnsembleSettings.model_validate({"members": members, "weights": weights})


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    for one in HEADS:
        predictions.write(tmp_path / "predictions" / "heads" / f"{one.name}.csv", one)
    return tmp_path


def fuse(artifacts: Path, **ensembles: Any) -> list[Predictions]:
    return run(FuseSettings.model_validate({"ensembles": ensembles}), artifacts)


@pytest.mark.parametrize(
    ("members", "weights", "expected"),
    [
        (["a", "b"], None, [0.25, 0.25, 0.25, 0.25]),
        (["a-s0", "b"], None, [1 / 3, 0, 1 / 3, 1 / 3]),
        (["a", "b"], [3, 1], [0.375, 0.375, 0.125, 0.125]),
        (["a", "b-s0"], [1, 1], [0.25, 0.25, 0.5, 0]),
        (["b-s1", "a-s0"], [0.2, 0.6], [0.75, 0, 0, 0.25]),
        (["b", "a-s1"], [0, 5], [0, 1, 0, 0]),
        (["a-s1"], None, [0, 1, 0, 0]),
    ],
)
def test_means_by_hand(artifacts: Path, members: list[str], weights: list[float] | None, expected: list[float]) -> None:
    [fused] = fuse(artifacts, mix={"members": members, "weights": weights})
    by_hand = sum(w * one.probabilities for w, one in zip(expected, HEADS, strict=True))
    np.testing.assert_allclose(fused.probabilities, by_hand, atol=1e-7)
    written = predictions.read(artifacts / "predictions" / "fused" / "mix.csv")
    np.testing.assert_allclose(written.probabilities, by_hand, atol=2e-7)
    assert (written.name, written.kind, written.head, written.seed) == ("mix", "fused", "mix", None)
    first = HEADS[0]
    assert (written.sample_ids, written.splits, written.labels, written.classes) == (
        *(first.sample_ids, first.splits, first.labels, first.classes),
    )


@given(weights=st.lists(st.floats(0, 1e6), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-3))
def test_a_mean_lies_between_its_members(weights: list[float]) -> None:
    fused = mean_of("e", HEADS, weights).probabilities
    stacked = np.stack([one.probabilities for one in HEADS])
    assert (fused >= stacked.min(0) - 1e-9).all()
    assert (fused <= stacked.max(0) + 1e-9).all()
    np.testing.assert_allclose(fused, mean_of("e", HEADS, [3 * w for w in weights]).probabilities, atol=1e-12)


def test_weights_sum_to_one() -> None:
    members, weights = members_of("e", ensemble(["b", "a-s0"], [5, 2]), HEADS)
    assert [one.name for one in members] == ["a-s0", "b-s0", "b-s1"]
    np.testing.assert_allclose(weights, [2 / 7, 2.5 / 7, 2.5 / 7])


@pytest.mark.parametrize("members", [["a", "a"], ["a", "a-s1"], ["b-s0", "b-s0"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_member_named_twice(members: list[str], weighted: bool) -> None:
    with pytest.raises(SettingError, match=r"^fuse\.ensembles\.e\.members: [ab]-s\d is named twice, .* name it once$"):
        members_of("e", ensemble(members, [1, 2] if weighted else None), HEADS)


@pytest.mark.parametrize("name", ["c", "a-s7", "a-s", "A"])
def test_an_unknown_member(artifacts: Path, name: str) -> None:
    with pytest.raises(
        SettingError, match=rf"fuse\.ensembles\.e\.members: no head or fine-tune '{name}'; there are a, b"
    ):
        fuse(artifacts, e={"members": ["a", name]})


CHANGED = {
    "classes": {"classes": ("x", "z", "y")},
    "one sample fewer": {
        "sample_ids": HEADS[0].sample_ids[:5],
        "splits": ("test",) * 5,
        "labels": HEADS[0].labels[:5],
        "probabilities": HEADS[2].probabilities[:5],
    },
    "another sample": {"sample_ids": ("other", *HEADS[0].sample_ids[1:])},
    "order": {"sample_ids": HEADS[0].sample_ids[::-1]},
    "splits": {"splits": ("train", *("test",) * 5)},
    "labels": {"labels": (("z",), *HEADS[0].labels[1:])},
}


@pytest.mark.parametrize("what", CHANGED)
def test_members_that_do_not_fit(what: str) -> None:
    other = replace(HEADS[2], **CHANGED[what])
    with pytest.raises(DataError, match=r"ensemble 'e': b-s0 (has|and)") as caught:
        mean_of("e", [HEADS[0], other], [1, 1])
    assert "\n" not in str(caught.value)
    assert ("s5" in str(caught.value)) == (what == "one sample fewer")


def test_members_on_disk_that_do_not_fit_leave_the_earlier_run(artifacts: Path) -> None:
    fuse(artifacts, e={"members": ["a", "b"]})
    before = (artifacts / "predictions" / "fused" / "e.csv").read_bytes()
    shorter = replace(HEADS[2], **CHANGED["one sample fewer"])
    predictions.write(artifacts / "predictions" / "heads" / "b-s0.csv", shorter)
    with pytest.raises(DataError, match=r"different samples \(1, such as 's5'\)"):
        fuse(artifacts, e={"members": ["a", "b"]})
    assert (artifacts / "predictions" / "fused" / "e.csv").read_bytes() == before


def test_an_earlier_ensemble_goes(artifacts: Path) -> None:
    fuse(artifacts, one={"members": ["a"]}, two={"members": ["b"]})
    fuse(artifacts, two={"members": ["b"]})
    assert [path.name for path in (artifacts / "predictions" / "fused").glob("*.csv")] == ["two.csv"]
    assert fuse(artifacts) == []
    assert list((artifacts / "predictions" / "fused").iterdir()) == []


def test_no_predictions(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="run kuleshov train"):
        fuse(tmp_path, e={"members": ["a"]})


def test_the_model_folder_has_members_and_weights(artifacts: Path) -> None:
    for one in HEADS[:3]:
        folder = artifacts / "models" / "heads" / one.name
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(f'{{"name": "{one.name}"}}')
    fuse(artifacts, whole={"members": ["a", "b-s0"], "weights": [1, 3]}, part={"members": ["b"]})
    fused = artifacts / "models" / "fused"
    assert [path.name for path in fused.iterdir()] == ["whole"]  # b-s1 has no model
    copied = fused / "whole" / "members" / "b-s0" / "model.json"
    assert copied.read_text() == '{"name": "b-s0"}'
    about = (fused / "whole" / "model.json").read_text()
    assert '"a-s0": 0.125' in about
    assert '"b-s0": 0.75' in about


@pytest.mark.parametrize(
    "values",
    [
        *({"members": []}, {}, {"members": "a"}, {"members": ["a"], "weight": [1]}, {"members": ["a"], "weights": []}),
        *({"members": ["a", "b"], "weights": [1]}, {"members": ["a"], "weights": [-1]}),
        *({"members": ["a"], "weights": [0]}, {"members": ["a"], "weights": [float("inf")]}),
        {"members": ["a"], "weights": [float("nan")]},
    ],
    ids=str,
)
def test_bad_ensembles(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EnsembleSettings.model_validate(values)


@pytest.mark.parametrize("name", ["", ".x", "-x", "a b", "a/b"])
def test_an_ensembles_name_names_files(name: str) -> None:
    with pytest.raises(ValidationError):
        FuseSettings.model_validate({"ensembles": {name: {"members": ["a"]}}})
    with pytest.raises(ValidationError):
        FuseSettings.model_validate({"ensemble": {}})


def add_tuned(artifacts: Path, member: Predictions = TUNED) -> None:
    predictions.write(artifacts / "predictions" / "finetuned" / f"{member.name}.csv", member)


def test_a_fine_tuned_network_is_a_member_without_attention_or_model(artifacts: Path) -> None:
    add_tuned(artifacts)
    attention = artifacts / "attention" / "heads" / "a-s0.csv"
    attention.parent.mkdir(parents=True)
    attention.write_text("sample_id,frame,face,weight\ns0,0,0,1.0\n")
    folder = artifacts / "models" / "heads" / "a-s0"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    fuse(artifacts, mix={"members": ["a-s0", "net"], "weights": [1, 3]}, alone={"members": ["net-s0"]})
    mix, alone = (predictions.read(artifacts / "predictions" / "fused" / f"{name}.csv") for name in ("mix", "alone"))
    by_hand = 0.25 * HEADS[0].probabilities + 0.75 * TUNED.probabilities
    np.testing.assert_allclose(mix.probabilities, by_hand, atol=2e-7)
    np.testing.assert_allclose(alone.probabilities, TUNED.probabilities, atol=2e-7)
    for kind in ("attention", "models"):
        assert list((artifacts / kind / "fused").iterdir()) == []


def test_a_project_of_fine_tunes_alone(tmp_path: Path) -> None:
    add_tuned(tmp_path)
    assert [one.name for one in fuse(tmp_path, e={"members": ["net"]})] == ["e"]


def test_samples_that_a_fine_tune_does_not_answer_are_left_out(artifacts: Path) -> None:
    few = member("net-s0", 5, "finetuned")
    add_tuned(artifacts, few)
    [fused] = fuse(artifacts, e={"members": ["a-s0", "net"]})
    assert fused.sample_ids == few.sample_ids
    [head] = [one for one in HEADS if one.name == "a-s0"]
    assert fused.probabilities == pytest.approx((head.probabilities[:5] + few.probabilities) / 2)


def seen_by(member: Predictions, rows: Sequence[int], split: str) -> Predictions:
    """The member, two of whose samples are of another split, and some of which were seen."""
    splits = (split, split, *member.splits[2:])
    return replace(member, splits=splits, seen=np.isin(np.arange(len(splits)), rows))


def test_what_one_member_has_seen_is_seen_in_the_ensemble(artifacts: Path) -> None:
    for one in HEADS:
        predictions.write(artifacts / "predictions" / "heads" / f"{one.name}.csv", seen_by(one, [], "train"))
    add_tuned(artifacts, seen_by(TUNED, [1], "train"))
    [fused] = fuse(artifacts, e={"members": ["a", "net"]})
    assert fused.seen.tolist() == [False, True, False, False, False, False]
    seen = artifacts / "predictions" / "fused" / "seen" / "e.csv"
    assert seen.read_text() == "sample_id\ns1\n"
    fuse(artifacts, e={"members": ["a"]})
    assert not seen.exists()


def test_a_member_that_has_seen_what_is_judged_is_refused(artifacts: Path) -> None:
    fuse(artifacts, e={"members": ["a"]})
    before = (artifacts / "predictions" / "fused" / "e.csv").read_bytes()
    add_tuned(artifacts, seen_by(TUNED, [0, 3, 4], "val"))
    for one in HEADS:
        predictions.write(artifacts / "predictions" / "heads" / f"{one.name}.csv", seen_by(one, [], "val"))
    settings = FuseSettings.model_validate({"ensembles": {"e": {"members": ["a-s0", "net"]}}})
    where = r"^fuse\.ensembles\.e: fine-tune net-s0 has seen"
    with pytest.raises(DataError, match=rf"{where} 2 of the 4 samples of split test, .* \(first s3\)"):
        run(settings, artifacts)
    with pytest.raises(DataError, match=rf"{where} 1 of the 2 samples of split val, .* \(first s0\)"):
        run(settings, artifacts, "val")
    assert (artifacts / "predictions" / "fused" / "e.csv").read_bytes() == before
    assert run(settings, artifacts, "train")[0].seen.tolist() == [True, False, False, True, True, False]


def of_several(name: str, scores: np.ndarray) -> Predictions:
    return replace(member(name, len(scores)), probabilities=scores, several=True)


def test_scores_of_several_labels_have_a_mean_that_need_not_sum_to_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ones = [of_several(name, rng.random((6, 3)) * share) for name, share in zip(MEMBERS[:3], (1, 1, 0.1), strict=True)]
    for one in ones:
        predictions.write(tmp_path / "predictions" / "heads" / f"{one.name}.csv", one)
    [fused] = fuse(tmp_path, mix={"members": ["a", "b"], "weights": [3, 1]})
    by_hand = 0.375 * (ones[0].probabilities + ones[1].probabilities) + 0.25 * ones[2].probabilities
    np.testing.assert_allclose(fused.probabilities, by_hand, atol=1e-12)
    written = predictions.read(tmp_path / "predictions" / "fused" / "mix.csv")
    assert fused.several
    assert written.several
    assert (written.probabilities == fused.probabilities).all()
    full = [of_several(name, np.ones((6, 3))) for name in MEMBERS[:3]]
    assert mean_of("e", full, [0.1, 0.2, 0.4]).probabilities == pytest.approx(1)
    zero = [of_several(name, np.zeros((6, 3))) for name in MEMBERS[:2]]
    assert (mean_of("e", zero, [1, 1]).probabilities == 0).all()


@pytest.mark.parametrize("first", [False, True])
def test_members_of_several_labels_and_of_one_have_no_mean(first: bool) -> None:
    pair = [of_several("a-s0", np.full((6, 3), 0.5)), HEADS[2]]
    with pytest.raises(DataError, match=r"'e': a-s0 answers with several labels and b-s0 with one: .* fuse them apart"):
        mean_of("e", pair if first else pair[::-1], [1, 1])


def test_an_ensemble_of_answers_that_are_gone_is_refused(artifacts: Path) -> None:
    fused = fuse(artifacts, both={"members": ["a"]})
    require_current(artifacts, fused)
    path = artifacts / "predictions" / "heads" / "a-s1.csv"
    predictions.write(path, replace(HEADS[1], probabilities=HEADS[0].probabilities))
    with pytest.raises(DataError, match=r"ensemble both was fused of other answers than .*a-s1\.csv has now"):
        require_current(artifacts, fused)
    path.unlink()
    with pytest.raises(DataError, match=r"a-s1\.csv has now: run kuleshov fuse again"):
        require_current(artifacts, fused)
    predictions.write(path, HEADS[1])
    require_current(artifacts, fused)
