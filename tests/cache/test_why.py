from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import MissingRowsError
from cache.keys import BlockSpec, item_key
from cache.store import Store
from cache.why import Absent, Difference, differences, flat, names_block, nearest, select, shown

ABSENT = Absent.ABSENT
NAMES = st.text("abc.", min_size=1, max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5]) | st.text("xy", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
SPECS = st.builds(
    BlockSpec,
    source=st.sampled_from(["net", "other"]),
    tap=st.sampled_from(["embedding", "pooled"]),
    level=st.sampled_from(["face", "global"]),
    shape=st.sampled_from([(4,), (2, 2)]),
    extractor_version=st.integers(1, 2),
    preprocessing=st.dictionaries(NAMES, VALUES, max_size=3),
    inputs=st.dictionaries(NAMES, st.sampled_from(["a" * 64, "b" * 64]), max_size=2),
)


@given(a=SPECS, b=SPECS)
def test_no_difference_exactly_when_the_keys_are_equal(a: BlockSpec, b: BlockSpec) -> None:
    assert differences(a, a) == []
    assert (differences(a, b) == []) == (a.key == b.key)


@given(a=SPECS, b=SPECS)
def test_differences_mirror(a: BlockSpec, b: BlockSpec) -> None:
    mirrored = [Difference(d.field, d.there, d.here) for d in differences(b, a)]
    assert differences(a, b) == mirrored


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"min": 20}, {"min": 40}, [Difference("preprocessing.min", 20, 40)]),
        ({"min": 20}, {}, [Difference("preprocessing.min", 20, Absent.ABSENT)]),
        ({"n": 1}, {"n": 1.0}, [Difference("preprocessing.n", 1, 1.0)]),
        ({"n": 1}, {"n": True}, [Difference("preprocessing.n", 1, True)]),
        ({"size": (112, 96)}, {"size": [112, 96]}, []),
        ({"size": [112, 96]}, {"size": [150, 150]}, [Difference("preprocessing.size", [112, 96], [150, 150])]),
        ({"p": [[1, 2], [3, 4]]}, {"p": [[1, 2], [3, 5]]}, [Difference("preprocessing.p.1", [3, 4], [3, 5])]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, [Difference("preprocessing.a.c", 2, 3)]),
        (
            {"a": 1, "b": 1},
            {"a": 2, "b": 2},
            [Difference("preprocessing.a", 1, 2), Difference("preprocessing.b", 1, 2)],
        ),
    ],
)
def test_the_field_is_named_by_its_path(
    spec: BlockSpec, a: dict[str, Any], b: dict[str, Any], expected: list[Difference]
) -> None:
    assert differences(replace(spec, preprocessing=a), replace(spec, preprocessing=b)) == expected


def test_a_line_names_both_values_and_the_block() -> None:
    line = Difference("preprocessing.min_face_size", 20, 40).line("mtcnn-boxes-face-ab")
    assert line == "preprocessing.min_face_size: 20 here, 40 in block mtcnn-boxes-face-ab"
    absent = Difference("inputs.crops", Absent.ABSENT, "c" * 64).line("B", {"c" * 64: "dlib150/pixels"})
    assert absent == f"inputs.crops: not there here, dlib150/pixels {'c' * 12} in block B"


def test_what_differs_only_beyond_the_cut_is_shown_whole() -> None:
    a, b = "x" * 80 + "1", "x" * 80 + "2"
    assert shown(a).endswith("...")
    line = Difference("preprocessing.note", a, b).line("B")
    assert a in line
    assert b in line


def test_the_nearest_has_fewest_differences_and_is_the_newest_of_equals(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    far = replace(spec, preprocessing={"size": [1, 1]}, extractor_version=2)
    old, new = (replace(spec, preprocessing={"size": [i, i]}) for i in (2, 3))
    other_tap = replace(spec, tap="pooled")
    for age, one in enumerate((spec, far, new, old, other_tap)):
        with store.writer(one) as writer:
            writer.add(item_key("aa"), np.zeros((1, 4)))
        for record in (store.place(one) / "journal").glob("*.json"):
            os.utime(record, (1_000_000 - age, 1_000_000 - age))
    ranked = nearest(spec, store.blocks())
    assert [info.spec.key for info, _ in ranked] == [new.key, old.key, far.key]
    assert [len(found) for _, found in ranked] == [1, 1, 2]


def test_a_block_is_named_by_folder_name_or_key(tmp_path: Path, spec: BlockSpec) -> None:
    folder, key = Store(tmp_path).place(spec).name, spec.key
    for name in (folder, "net/embedding", key, key[:4], key[:4].upper(), f"net/embedding@{key[:8]}"):
        assert names_block(name, spec, folder), name
    other = "0000" if key[:4] != "0000" else "1111"
    for name in ("net", "embedding", key[:3], "", f"net/embedding@{other}", f"x/y@{key[:8]}", "net/embedding@"):
        assert not names_block(name, spec, folder), name


def test_selecting_blocks(tmp_path: Path, spec: BlockSpec) -> None:
    store = Store(tmp_path)
    other = replace(spec, tap="pooled")
    for one in (spec, other):
        with store.writer(one) as writer:
            writer.add(item_key("aa"), np.zeros((1, 4)))
    assert [info.spec.tap for info in select(store, [])] == ["embedding", "pooled"]
    assert [info.spec.tap for info in select(store, ["net/pooled", other.key[:8]])] == ["pooled"]
    with pytest.raises(MissingRowsError, match=r"'net/other'.*cache ls"):
        select(store, ["net/pooled", "net/other"])


def test_flat_holds_every_leaf_once(spec: BlockSpec) -> None:
    fields = dict(flat(spec))
    assert fields["preprocessing.size"] == [112, 96]
    assert fields["weights.net.pt"] == "ab" * 32
    assert "inputs" not in fields
    assert list(fields) == sorted(fields)
