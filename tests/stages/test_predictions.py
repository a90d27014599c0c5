"""Predictions on disk: exact bytes, a faithful round trip, and every kind of damage named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import DataError, MissingInputError
from stages.predictions import Kind, Predictions, read, read_all, require_held_out, scores_of, split_name, write


def make(
    rows: list[list[float]],
    *,
    name: str = "mean-s3",
    kind: Kind = "head",
    ids: tuple[str, ...] | None = None,
    labels: tuple[tuple[str, ...], ...] | None = None,
    classes: tuple[str, ...] = ("glad", "sad"),
) -> Predictions:
    head, seed = split_name(name, kind)
    return Predictions(
        name=name,
        kind=kind,
        head=head,
        seed=seed,
        sample_ids=ids or tuple(f"s{i}" for i in range(len(rows))),
        splits=("test",) * len(rows),
        labels=labels or (("glad",),) * len(rows),
        classes=classes,
        probabilities=np.array(rows, dtype=np.float64).reshape(len(rows), len(classes)),
    )


def test_bytes_are_sorted_rounded_and_short(tmp_path: Path) -> None:
    path = tmp_path / "heads" / "mean-s3.csv"
    labels = (("glad",), (), ("glad", "sad"))
    rows = [[1 / 3, 2 / 3], [1.0, 0.0], [0.1 + 0.2, 0.7]]
    write(path, make(rows, ids=("b", "c, d", "a"), labels=labels))
    assert path.read_bytes() == (
        b"sample_id,split,label,glad,sad\n"
        b"a,test,glad;sad,0.3,0.7\n"
        b"b,test,glad,0.3333333,0.6666667\n"
        b'"c, d",test,,1.0,0.0\n'
    )
    assert [one.name for one in path.parent.iterdir()] == ["mean-s3.csv"]


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "heads" / "gupta_c-v2-s11.csv"
    write(path, make([[0.25, 0.75], [0.5, 0.5]], name="gupta_c-v2-s11", labels=((), ("glad", "sad"))))
    found = read(path)
    assert (found.name, found.kind, found.head, found.seed) == ("gupta_c-v2-s11", "head", "gupta_c-v2", 11)
    assert (found.sample_ids, found.splits) == (("s0", "s1"), ("test", "test"))
    assert found.labels == ((), ("glad", "sad"))
    assert found.probabilities.dtype == np.float64
    assert found.probabilities.tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_columns_go_by_place(tmp_path: Path) -> None:
    path = tmp_path / "fused" / "all.csv"
    write(path, make([[0.25, 0.75]], name="all", kind="fused", classes=("label", "split")))
    found = read(path)
    assert found.classes == ("label", "split")
    assert (found.head, found.seed, found.labels) == ("all", None, (("glad",),))


def test_no_rows_is_legal(tmp_path: Path) -> None:
    path = tmp_path / "fused" / "all.csv"
    write(path, make([], name="all", kind="fused"))
    assert read(path).probabilities.shape == (0, 2)


@given(st.lists(st.lists(st.floats(1e-6, 1), min_size=3, max_size=3), max_size=8), st.data())
def test_round_trip_is_close_then_exact(tmp_path_factory: pytest.TempPathFactory, raw, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("round") / "heads"
    rows = [[value / sum(row) for value in row] for row in raw]
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
    ids = tuple(data.draw(st.lists(text, min_size=len(rows), max_size=len(rows), unique=True)))
    member = make(rows, name="a-s0", ids=ids, classes=("x", "y", "z"))
    write(folder / "a-s0.csv", member)
    once = read(folder / "a-s0.csv")
    assert once.sample_ids == tuple(sorted(ids))
    order = [member.sample_ids.index(one) for one in once.sample_ids]
    np.testing.assert_allclose(once.probabilities, member.probabilities[order], rtol=5.1e-7)
    before = (folder / "a-s0.csv").read_bytes()
    write(folder / "a-s0.csv", once)
    assert (folder / "a-s0.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.5, 0.5], [float("nan"), 1.0]], "sample 's1' has a probability that is NaN or infinite"),
        ([[0.5, 0.5], [0.5, 0.502]], r"sample 's1' has probabilities that do not sum to 1 \(sum 1.002\)"),
        ([[-0.1, 1.1]], "sample 's0' has a negative probability"),
    ],
)
def test_impossible_numbers_are_named(rows: list[list[float]], words: str) -> None:
    with pytest.raises(DataError, match=f"predictions 'mean-s3': {words}.*run `kuleshov train` again"):
        make(rows)


def test_a_sum_within_the_tolerance_passes() -> None:
    assert len(make([[0.5, 0.5009]])) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": ("a", "a")}, "sample_id 'a' occurs more than once"),
        ({"ids": ("a", "b", "c")}, r"expected float64 \(3, 2\)"),
        ({"labels": (("glad",),)}, "2 sample ids, but 2 splits and 1 labels"),
        ({"classes": ("x", "x")}, "class 'x' occurs more than once"),
        ({"classes": ("x", "y;z")}, "class name 'y;z'"),
    ],
)
def test_contradictions_are_named(change: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make([[0.5, 0.5], [0.5, 0.5]], **change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected sample_id,split,label"),
        ("sample_id,label,glad\n", "expected sample_id,split,label"),
        ("sample_id,split,label\n", "no class column"),
        ("sample_id,split,label,glad\na,test,glad,1.0,0\n", "row 2 has 5 columns, the header 4"),
        ("sample_id,split,label,glad\na,test,glad,1.0\nb,test,glad,one\n", r"row 3 \(sample 'b'\).*'one'"),
        ("sample_id,split,label,glad\na,test,glad,nan\n", "sample 'a'.*NaN"),
    ],
)
def test_damaged_files_name_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "heads" / "mean-s0.csv"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DataError, match=rf"mean-s0\.csv: .*{words}"):
        read(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "heads" / "mean-s0.csv"
    path.parent.mkdir()
    path.write_bytes(b"sample_id,split,label,\xff\n")
    with pytest.raises(DataError, match=r"mean-s0\.csv"):
        read(path)


def test_names_and_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'mean': a head's file is named HEAD-sSEED\.csv"):
        split_name("mean", "head")
    with pytest.raises(DataError, match="folder named heads, finetuned, fused"):
        read(tmp_path / "mean-s0.csv")
    with pytest.raises(DataError, match=r"'mean': a fine-tune's file is named NAME-sSEED\.csv"):
        split_name("mean", "finetuned")
    with pytest.raises(MissingInputError, match="run `kuleshov finetune` first"):
        read(tmp_path / "finetuned" / "net-s0.csv")
    with pytest.raises(MissingInputError, match="run `kuleshov fuse` first"):
        read(tmp_path / "fused" / "all.csv")
    with pytest.raises(MissingInputError, match="run `kuleshov train` first"):
        read_all(tmp_path)


def test_read_all_is_in_order(tmp_path: Path) -> None:
    for name in ("b-s10", "b-s9", "a-s0"):
        write(tmp_path / "heads" / f"{name}.csv", make([[0.5, 0.5]], name=name))
    for name in ("d-s1", "c-s2"):
        tuned = make([[0.5, 0.5]], name=name, kind="finetuned")
        write(tmp_path / "finetuned" / f"{name}.csv", replace(tuned, seen=np.array([True])))
    write(tmp_path / "fused" / "a.csv", make([[0.5, 0.5]], name="a", kind="fused"))
    members = read_all(tmp_path)
    assert [p.name for p in members] == ["a-s0", "b-s9", "b-s10", "c-s2", "d-s1", "a"]
    assert [p.kind for p in members[3:]] == ["finetuned", "finetuned", "fused"]
    assert (members[3].head, members[3].seed) == ("c", 2)


def test_what_was_seen_lies_beside_and_the_columns_stay(tmp_path: Path) -> None:
    path, beside = tmp_path / "finetuned" / "net-s0.csv", tmp_path / "finetuned" / "seen" / "net-s0.csv"
    member = make([[0.5, 0.5]] * 3, name="net-s0", kind="finetuned", ids=("c", "a, b", "b"))
    write(path, member)
    plain = path.read_bytes()
    assert not beside.parent.exists()
    write(path, replace(member, seen=np.array([True, True, False])))
    assert path.read_bytes() == plain
    assert beside.read_bytes() == b'sample_id\n"a, b"\nc\n'
    found = read(path)
    assert dict(zip(found.sample_ids, found.seen.tolist(), strict=True)) == {"a, b": True, "b": False, "c": True}
    write(path, member)  # what an earlier run left there is no longer so
    assert not beside.exists()
    assert not read(path).seen.any()


@given(st.lists(st.booleans(), max_size=6))
def test_what_was_seen_is_read_back(tmp_path_factory: pytest.TempPathFactory, seen: list[bool]) -> None:
    path = tmp_path_factory.mktemp("seen") / "heads" / "a-s0.csv"
    write(path, replace(make([[0.5, 0.5]] * len(seen), name="a-s0"), seen=np.array(seen, bool)))
    assert read(path).seen.tolist() == seen


def test_seen_is_none_where_it_is_left_out_and_fits_the_samples() -> None:
    member = make([[0.5, 0.5]] * 2)
    assert (member.seen.dtype, member.seen.tolist()) == (np.bool_, [False, False])
    with pytest.raises(DataError, match=r"seen is bool \(3,\), expected bool \(2,\)"):
        replace(member, seen=np.ones(3, bool))
    with pytest.raises(DataError, match=r"seen is int64 \(2,\)"):
        replace(member, seen=np.ones(2, np.int64))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample_id\ns0\nother\n", "has sample 'other', which was not predicted; run `kuleshov train` again"),
        ("id\ns0\n", "seen/a-s0.csv has the header 'id'; run `kuleshov train` again"),
        ("", "cannot be read"),
    ],
)
def test_a_damaged_file_of_seen_samples_is_never_nothing_seen(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "heads" / "a-s0.csv"
    write(path, replace(make([[0.5, 0.5]], name="a-s0"), seen=np.array([True])))
    (path.parent / "seen" / "a-s0.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read(path)


def test_members_that_have_seen_what_judges_them_are_refused() -> None:
    ids, splits = ("d", "c", "b", "a"), ("test", "test", "test", "train")
    seen = np.array([True, False, True, True])
    words = r"^head x has seen 2 of the 3 samples of split test, by content or group \(first b\): they are not held out"
    with pytest.raises(DataError, match=words):
        require_held_out("head x", ids, splits, seen, "test")
    with pytest.raises(DataError, match=r"1 of the 1 samples of split train, .* \(first a\)"):
        require_held_out("head x", ids, splits, seen, "train")
    require_held_out("head x", ids, splits, seen, "val")
    require_held_out("head x", ids, splits, np.array([False, False, False, True]), "test")


# Several labels


def scored(rows: list[list[float]], **fields: Any) -> Predictions:
    """Scores of a head of several labels, which need not sum to 1."""
    sure = make([[0.5, 0.5]] * len(rows), **fields)
    return replace(sure, probabilities=np.array(rows), several=True)


def test_scores_of_several_labels_have_a_header_of_their_own_and_all_digits(tmp_path: Path) -> None:
    path = tmp_path / "heads" / "mean-s3.csv"
    labels = (("glad", "sad"), (), ("sad",))
    member = scored([[0.9, 1 / 3], [0.0, 1.0], [1 - 2**-52, 1e-300]], labels=labels)
    write(path, member)
    assert path.read_bytes() == (
        b"sample_id,split,labels,glad,sad\n"
        b"s0,test,glad;sad,0.9,0.3333333333333333\n"
        b"s1,test,,0.0,1.0\n"
        b"s2,test,sad,0.9999999999999998,1e-300\n"
    )
    found = read(path)
    assert found.several
    assert found.labels == labels
    assert (found.probabilities == member.probabilities).all()
    assert found.picked([False, True, True]).several
    write(path, make([[0.5, 0.5]]))
    assert not read(path).several


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.5, 0.9], [float("nan"), 1.0]], "sample 's1' has a score that is NaN or infinite, as do 0 more"),
        ([[0.5, 1.01], [0.5, 2.0]], "sample 's0' has a score above 1, as do 1 more"),
        ([[-0.1, 0.1]], "sample 's0' has a negative score"),
    ],
)
def test_impossible_scores_are_named(rows: list[list[float]], words: str) -> None:
    with pytest.raises(DataError, match=f"predictions 'mean-s3': {words}.*run `kuleshov train` again"):
        scored(rows)


@given(st.lists(st.floats(-1000, 1000, width=32).filter(lambda x: abs(x) > 1e-8), min_size=2, unique=True))
def test_scores_on_disk_are_in_the_order_of_the_logits(tmp_path_factory: pytest.TempPathFactory, raw) -> None:
    """To the last bit of float32, but for those so near 0 that they are one in any sense."""
    logits = np.array(raw, np.float32)
    path = tmp_path_factory.mktemp("order") / "heads" / "a-s0.csv"
    columns = np.stack([logits, -logits], axis=1)
    ids = tuple(f"{i:03d}" for i in range(len(logits)))
    write(path, scored(scores_of(columns).tolist(), name="a-s0", ids=ids))
    found = read(path).probabilities
    assert len(np.unique(found[:, 0])) == len(np.unique(logits))
    assert np.argsort(found[:, 0]).tolist() == np.argsort(logits).tolist()
    assert np.argsort(-found[:, 1]).tolist() == np.argsort(logits).tolist()


def test_neighbours_among_float32_logits_stay_apart() -> None:
    for start in (0.5, 5, 10, 15.999, 16, 17, 40, 300, 1000, -15.999, -16, -20, -80, -1000):
        first = np.float32(start)
        pair = scores_of(np.array([first, np.nextafter(first, np.float32(np.inf))]))
        assert 0 < pair[0] < pair[1] < 1, start
    assert scores_of(np.array([0.0, -np.inf, np.inf])).tolist() == [0.5, 0.0, 1.0]
    assert np.isnan(scores_of(np.array([np.nan])))


@given(st.floats(-16, 16))
def test_scores_are_the_sigmoid_where_it_tells_apart(logit: float) -> None:
    assert scores_of(np.array(logit)) == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-12)


@given(st.floats(0, 1e6))
def test_scores_are_symmetric_and_beyond_within_a_ten_millionth_of_the_end(logit: float) -> None:
    high, low = scores_of(np.array([logit, -logit]))
    assert high + low == pytest.approx(1, abs=1e-15)
    assert logit < 16 or 1 - 1.2e-7 < high < 1
