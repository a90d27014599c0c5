"""Parts of the training split that are left out."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from stages.errors import DataError, SettingError
from stages.index.manifest import Sample
from stages.index.subsets import Subsets, require_subsets, without

SAMPLES = [Sample(str(i), str(i), "image", ("calm",), "train", "", of, (), "0" * 64) for i, of in enumerate("ab ")]


def test_what_is_left() -> None:
    assert [s.sample_id for s in without(SAMPLES, ("b",), "here")] == ["0", "2"]
    assert without(SAMPLES, (), "here") == SAMPLES
    assert without([], ("b",), "here") == [], "there was nothing to leave out"
    with pytest.raises(DataError, match="here leaves out all 2 training samples: name fewer subsets"):
        without(SAMPLES[:2], ("a", "b"), "here")


def test_a_subset_that_there_is_not() -> None:
    require_subsets(SAMPLES, ("b", "a"), "here")
    with pytest.raises(
        SettingError, match=r"^here has 'c', and no training sample is of such a subset: there are a, b$"
    ):
        require_subsets(
            [*SAMPLES, Sample("3", "3", "image", (), "train", "", "", (), "0" * 64)][:2], ("a", "c"), "here"
        )
    with pytest.raises(SettingError, match="there are none"):
        require_subsets([], ("c",), "here")


def test_their_order_is_nothing() -> None:
    read = TypeAdapter(Subsets).validate_python
    assert read(["b", "a"]) == read(["a", "b"]) == ("a", "b")
    for wrong, said in ((["a", "a"], "a subset occurs twice"), ([""], "at least 1 character")):
        with pytest.raises(ValidationError, match=said):
            read(wrong)
