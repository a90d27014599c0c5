"""Heads as scikit-learn estimators: its own checks, and what is trained is what `train` trains."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from stages.errors import DataError, SettingError
from stages.finetune.settings import ScheduleSettings
from stages.heads import registry
from stages.ledger import Ledger
from stages.train.estimator import HeadClassifier
from stages.train.feature_table import FeatureTable
from stages.train.features import HELD_BYTES, gather
from stages.train.inputs import InputRows, Level
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Plan

CLASSES = np.array(["calm", "glad", "angry"])
NOT_EQUAL = "check_sample_weight_equivalence_on_dense_data"
QUICK: dict[str, Any] = {"epochs": 8, "learning_rate": 0.05, "batch_size": 8}


def photos_of(table: FeatureTable) -> np.ndarray:
    return np.asarray(table.features.global_)


def copied(head: HeadClassifier) -> HeadClassifier:
    found = clone(head)
    assert isinstance(found, HeadClassifier)
    return found


def table_of(n: int = 60, seed: int = 0) -> tuple[FeatureTable, np.ndarray]:
    """Samples of 0 to 3 faces, whose features lie about their class's."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    counts = rng.integers(0, 4, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    corners = rng.uniform(0, 0.5, (offsets[-1], 2))
    return (
        FeatureTable.of_arrays(
            global_=rng.normal(size=(n, 5)) + 2 * np.eye(3, 5)[labels],
            faces=rng.normal(size=(offsets[-1], 4)) + 3 * np.eye(3, 4)[np.repeat(labels, counts)],
            offsets=offsets,
            boxes=np.concatenate([corners, corners + 0.3], axis=1),
        ),
        CLASSES[labels],
    )


@pytest.mark.parametrize(
    ("estimator", "reasons"),
    [
        (
            HeadClassifier(learning_rate=0.1, dropout=0.0),
            {NOT_EQUAL: "a sample that is there twice is in two minibatches, one of weight 2 in one"},
        ),
        (HeadClassifier("baselines:logistic_photo", standardize=False), {}),
        (
            HeadClassifier("baselines:svm_photo", standardize=False),
            {NOT_EQUAL: "liblinear stops at a tolerance of 1e-4, the check's is 1e-7"},
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, HeadClassifier) else "",
)
def test_scikit_learns_own_checks(estimator: HeadClassifier, reasons: dict[str, str]) -> None:
    """All of them, and those that are expected to fail do."""
    results = check_estimator(estimator, expected_failed_checks=reasons, on_skip=None)
    found = {status: {r["check_name"] for r in results if r["status"] == status} for status in ("passed", "xfail")}
    assert found["xfail"] == set(reasons)
    assert len(found["passed"]) > 40
    assert {r["status"] for r in results} <= {"passed", "xfail", "skipped"}
    for result in results:
        if result["status"] == "skipped":
            assert any(word in str(result["exception"]) for word in ("pandas", "SCIPY_ARRAY_API")), result


def test_a_table_is_indexed_as_an_array() -> None:
    table, _ = table_of(10)
    assert table.shape == (10,)
    for index in (slice(2, 7, 2), [4, 0], np.array([4, 4]), np.arange(10) % 3 == 0, (np.array([1, 2]), ...), -1):
        plain = index[0] if isinstance(index, tuple) else index
        assert table[index].rows.tolist() == np.atleast_1d(np.arange(10)[plain]).tolist()
    assert table[2:][np.array([True] + [False] * 7)].rows.tolist() == [2]
    with pytest.raises(IndexError):
        table[10]


@pytest.mark.parametrize("kind", ["gupta2018:attention_c", "tan2017:all", "baselines:svm", "ours:gated"])
def test_it_learns_from_ragged_samples(kind: str) -> None:
    table, labels = table_of()
    head = HeadClassifier(kind, **QUICK)
    scores = cross_val_score(head, table, labels, cv=3)
    assert scores.mean() > 0.6  # 1/3 by chance; a quarter of the samples has no face
    found = head.fit(table, labels).predict_proba(table[:7])
    assert found.shape == (7, 3)
    np.testing.assert_allclose(found.sum(1), 1)
    assert head.classes_.tolist() == sorted(CLASSES)
    assert (head.predict(table[:7]) == head.classes_[found.argmax(1)]).all()
    assert head.score(table, labels) > 0.7
    assert head.predict_proba(table[:0]).shape == (0, 3)


def test_scikit_learn_searches_and_predicts_with_it() -> None:
    table, labels = table_of()
    grid = {"learning_rate": [1e-6, 0.05], "kind": ["tan2017:global", "gupta2018:average"]}
    search = GridSearchCV(HeadClassifier(epochs=4), grid, cv=3).fit(table, labels)
    assert search.best_params_["learning_rate"] == 0.05
    assert np.asarray(search.predict(table)).shape == (60,)
    found = cross_val_predict(HeadClassifier("gupta2018:average", **QUICK), table, labels, cv=3, method="predict_proba")
    assert np.asarray(found).shape == (60, 3)
    pipeline = Pipeline([("head", HeadClassifier("gupta2018:average"))]).set_params(head__epochs=2)
    assert len(pipeline.fit(table, labels).named_steps["head"].losses_) == 2
    photos = photos_of(table)
    scaled = make_pipeline(StandardScaler(), HeadClassifier(standardize=False, **QUICK)).fit(photos, labels)
    assert scaled.score(photos, labels) > 0.7


def test_an_array_is_a_table_of_photos() -> None:
    table, labels = table_of()
    photos = photos_of(table)
    ours, plain = HeadClassifier(**QUICK).fit(table, labels), HeadClassifier(**QUICK).fit(photos, labels)
    assert np.array_equal(plain.predict_proba(photos), ours.predict_proba(table))
    assert vars(plain)["n_features_in_"] == 5


def test_it_is_trained_as_train_trains_a_population_of_one() -> None:
    """With the same bits."""
    table, labels = table_of()
    rows = np.arange(0, 60, 2)
    head = HeadClassifier("gupta2018:average", epochs=4, step=2, learning_rate=0.02, random_state=7)
    head.fit(table[rows], labels[rows])
    features = table.features.scaled(*table.features.scales(rows))
    torch.manual_seed(7)
    module = registry.build("gupta2018:average", registry.Shapes(4, 5), 3, 0.5)
    schedule = ScheduleSettings(kind="steps", every=2, gamma=0.1)
    targets = np.searchsorted(np.unique(labels), labels)
    [outcome] = train_population([Member(module, 7, 0.02, rows, 4, schedule)], features, targets, Plan())
    assert head.losses_ == outcome.losses
    for name, value in module.state_dict().items():
        assert torch.equal(head.head_.state_dict()[name], value), name


def test_what_is_held_out_has_no_part_in_fit() -> None:
    """Not even in the means that features are standardized with."""
    table, labels = table_of()
    rows = np.arange(40)
    first = HeadClassifier("gupta2018:average", **QUICK).fit(table[rows], labels[rows]).head_.state_dict()
    photos_of(table)[40:] += 100
    again = HeadClassifier("gupta2018:average", **QUICK).fit(table[rows], labels[rows]).head_.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_seed_decides_and_torchs_own_numbers_go_on() -> None:
    table, labels = table_of()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    same = [HeadClassifier("gupta2018:average", random_state=5, **QUICK).fit(table, labels) for _ in range(2)]
    assert torch.equal(torch.rand(1), expected)
    one, two = (head.predict_proba(table) for head in same)
    assert np.array_equal(one, two)
    other = HeadClassifier("gupta2018:average", random_state=6, **QUICK).fit(table, labels)
    assert not np.array_equal(one, other.predict_proba(table))
    drawn = [HeadClassifier(random_state=np.random.RandomState(1), epochs=1).fit(table, labels).seed_ for _ in range(2)]
    assert drawn[0] == drawn[1] != 1


def test_features_of_the_cache_are_samples(populated: Any) -> None:
    """In memory or in the store, with the same answers."""
    inputs = populated.inputs()
    given = (inputs.manifest.samples, inputs.store, inputs.detections)
    blocks = [inputs.plans["resnet29"].blocks["embedding"]], [inputs.plans["effnet_lite0"].blocks["pooled"]]
    answers = []
    for held in (HELD_BYTES, 0):
        features = gather(*given, *blocks, max_faces=15, ledger=Ledger("train"), held_bytes=held)
        assert isinstance(features.faces, np.ndarray) == (held > 0)
        labels = [sample.labels[0] for sample in features.samples]
        head = HeadClassifier("gupta2018:attention_c", **QUICK)
        answers.append(cross_val_predict(head, FeatureTable(features), labels, cv=3, method="predict_proba"))
        assert (np.array(["calm", "glad"])[answers[-1].argmax(1)] == labels).mean() > 0.8
    assert np.array_equal(*answers)


def test_fit_leaves_what_it_is_given() -> None:
    table, labels = table_of()
    features = table.features
    arrays = [np.asarray(one) for one in (features.faces, features.global_, features.boxes, features.offsets, labels)]
    before = [one.copy() for one in (*arrays, table.rows)]
    options = {"C": 0.5}
    for head in (HeadClassifier("gupta2018:average", **QUICK), HeadClassifier("baselines:svm", options=options)):
        head.fit(table, labels).predict(table)
    assert all(np.array_equal(one, other) for one, other in zip((*arrays, table.rows), before, strict=True))
    assert options == {"C": 0.5}


def test_clones_have_the_parameters_alone_and_pickles_answer_alike() -> None:
    table, labels = table_of()
    head = HeadClassifier("baselines:logistic", options={"C": 0.1}).fit(table, labels)
    assert copied(head).get_params() == head.get_params()
    assert not hasattr(clone(head), "head_")
    again = pickle.loads(pickle.dumps(head))  # noqa: S301 - our own
    assert np.array_equal(again.predict_proba(table), head.predict_proba(table))


@pytest.mark.parametrize("kind", ["tan2017:global", "baselines:logistic_photo"])
def test_a_sample_of_weight_zero_teaches_nothing(kind: str) -> None:
    table, labels = table_of()
    wrong = np.where(np.arange(60) < 30, "calm", labels)
    weights = np.where(np.arange(60) < 30, 0.0, 2.0)
    head = HeadClassifier(kind, **(QUICK if kind.startswith("tan") else {}))
    assert copied(head).fit(table, wrong).score(table, labels) < 0.7
    fitted = copied(head).fit(table, wrong, sample_weight=weights)
    assert fitted.score(table, labels) > 0.7
    if kind.startswith("tan"):  # trained by steps: their mean is nothing
        again = copied(head).fit(table, wrong, sample_weight=weights * 8)
        assert np.array_equal(again.predict_proba(table), fitted.predict_proba(table))


def test_balanced_classes_count_alike() -> None:
    table, labels = table_of(90)
    rows = np.concatenate([np.arange(0, 90, 3), np.arange(1, 90, 3)[:3]])
    rare = []
    for changes in ({}, {"class_weights": "balanced"}, {"sampling": "balanced"}):
        given: dict[str, Any] = {**QUICK, "learning_rate": 0.01, **changes}
        head = HeadClassifier(**given).fit(table[rows], labels[rows])
        assert head.classes_.tolist() == ["calm", "glad"]
        rare.append(head.predict_proba(table[rows])[:, 1].mean())
    assert min(rare[1:]) > rare[0] + 0.02


def with_inputs(table: FeatureTable, name: str, level: Any, rows: np.ndarray) -> FeatureTable:
    """As many rows as samples, in the same order: one each."""
    n, features = len(table), table.features
    of = Level(np.arange(n + 1), np.zeros((n, 2), np.int64))
    inputs = {**features.inputs, name: InputRows(level, rows)}
    return FeatureTable(type(features)(**{**vars(features), "inputs": inputs, "levels": {level: of}}))


def test_frames_and_persons_are_features_too() -> None:
    table, labels = table_of()
    vectors = np.random.default_rng(2).normal(size=(60, 6)).astype(np.float32)
    vectors[:, 0] += 4 * (labels == "calm")
    frames = with_inputs(table, "frames", "frame", vectors)
    head = HeadClassifier("aminbeidokhti2019:temporal", epochs=10, learning_rate=0.1, dropout=0.0).fit(frames, labels)
    assert ((head.predict(frames) == "calm") == (labels == "calm")).mean() > 0.9
    pixels = np.random.default_rng(2).integers(0, 256, (60, 6, 6, 3)).astype(np.uint8)
    persons = with_inputs(with_inputs(table, "body", "person", vectors), "body_pixels", "person", pixels)
    bodies = HeadClassifier("dagnet:bam", epochs=10, learning_rate=0.1, dropout=0.0).fit(persons, labels)
    assert ((bodies.predict(persons) == "calm") == (labels == "calm")).mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gupta2018:none"}, "head kind 'gupta2018:none': use one of"),
        ({"learning_rate": -1.0}, "learning_rate: Input should be greater than 0"),
        ({"options": {"C": 1.0}}, r"options\.C of head tan2017:global: .*it has none"),
        ({"loss": {"kind": "kl"}}, r"loss\.kind is kl, which is for samples of several labels"),
        ({"kind": "aminbeidokhti2019:temporal"}, "reads frames, and X has none"),
        ({"learning_rate": 1e38}, r"the loss of tan2017:global is (nan|inf) in epoch \d; lower its learning_rate"),
    ],
)
def test_what_cannot_be_trained_says_why(changes: dict[str, Any], message: str) -> None:
    table, labels = table_of()
    with pytest.raises(SettingError, match=message):
        HeadClassifier(**changes).fit(table, labels)


def test_samples_that_do_not_fit_are_refused() -> None:
    table, labels = table_of()
    with pytest.raises(SettingError, match="X must be a FeatureTable, not ndarray"):
        HeadClassifier("tan2017:all").fit(table.features.global_, labels)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        HeadClassifier().fit(table, labels[:-1])
    with pytest.raises(ValueError, match="requires y to be passed"):
        HeadClassifier().fit(table, None)
    with pytest.raises(ValueError, match=r"one class only \(calm\)"):
        HeadClassifier().fit(table[::3], labels[::3])
    fitted = HeadClassifier(**QUICK).fit(table, labels)
    narrow = FeatureTable.of_arrays(global_=photos_of(table)[:, :4])
    with pytest.raises(DataError, match=r"X has features of .*and tan2017:global was fitted on"):
        fitted.predict(narrow)
    with pytest.raises(DataError, match="a sample twice, with two labels"):
        HeadClassifier().fit(table[[0, 0, 1, 2]], ["calm", "glad", "glad", "angry"])


def test_what_is_no_number_is_refused_where_it_is_asked_for() -> None:
    table, labels = table_of()
    np.asarray(table.features.faces)[-1, 0] = np.nan
    HeadClassifier("tan2017:all", **QUICK).fit(table[:30], labels[:30])
    with pytest.raises(ValueError, match="NaN or infinite"):
        HeadClassifier("tan2017:all").fit(table, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": [0, 2, 1]}, "never fall"),
        ({"offsets": [0, 1]}, "end with the number of faces"),
        ({"boxes": np.zeros((3, 4))}, r"use \(n, G\), \(F, D\)"),
        ({"global_": np.zeros((3, 2))}, "one number more than there are samples"),
        ({"offsets": None, "global_": None}, "neither global_ nor offsets"),
    ],
)
def test_arrays_that_do_not_fit_each_other_make_no_table(changes: dict[str, Any], message: str) -> None:
    arrays = {"global_": np.zeros((2, 3)), "faces": np.zeros((2, 3)), "offsets": [0, 1, 2]} | changes
    with pytest.raises(DataError, match=message):
        FeatureTable.of_arrays(**arrays)
