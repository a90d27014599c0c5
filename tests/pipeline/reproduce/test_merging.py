from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reproduce.merging import REMOVE, Loader, Replace, filled, joined, laid_over
from stages.errors import SettingError

VALUES = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    lambda below: st.dictionaries(st.sampled_from("abc"), VALUES | below, max_size=3),
    max_leaves=12,
)


def read(text: str) -> Any:
    return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader


def test_mappings_are_joined_and_all_else_is_replaced() -> None:
    under = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    over = {"a": {"c": [3], "f": None}, "d": 5, "g": {"h": 1}}
    before = deepcopy((under, over))
    assert laid_over(under, over) == {"a": {"b": 1, "c": [3], "f": None}, "d": 5, "g": {"h": 1}}
    assert (under, over) == before


def test_replace_takes_the_place_of_the_whole_and_remove_takes_away() -> None:
    under = {"heads": {"a": {"x": 1}, "b": {"x": 2}}, "more": {"p": 1, "q": 2}}
    over = read("heads: !replace {c: {x: 3}}\nmore: {p: !remove }\n")
    merged = laid_over(under, over)
    assert merged == {"heads": {"c": {"x": 3}}, "more": {"q": 2}}
    assert type(merged["heads"]) is dict
    assert yaml.safe_dump(merged) == "heads:\n  c:\n    x: 3\nmore:\n  q: 2\n"


def test_what_lies_in_a_list_is_plain_as_well() -> None:
    merged = laid_over({}, read("a: [!replace {b: 1}, [!replace {c: 2}]]"))
    assert merged == {"a": [{"b": 1}, [{"c": 2}]]}
    assert not isinstance(merged["a"][0], Replace)
    with pytest.raises(SettingError, match=r"p\.a: !remove stands in a list; write the list without it"):
        laid_over({}, read("a: [1, !remove ]"), "p")


@pytest.mark.parametrize("over", ["a: {c: !remove }", "b: {c: !remove }", "a: !replace {c: !remove }"])
def test_nothing_to_remove_is_an_error(over: str) -> None:
    with pytest.raises(SettingError, match=r"project x\.[ab]\.c is !remove: there is nothing to remove"):
        laid_over({"a": {"b": 1}}, read(over), "project x")


def test_replace_stands_before_a_mapping_and_a_key_is_there_once() -> None:
    with pytest.raises(yaml.YAMLError, match="!replace stands before a mapping"):
        read("a: !replace [1]")
    for text in ("a: 1\na: 2", "b: !replace {a: 1, a: 2}"):
        with pytest.raises(yaml.YAMLError, match="key 'a' occurs twice"):
            read(text)


@given(TREES, TREES)
def test_laid_over_itself_and_nothing_it_is_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert laid_over(one, {}) == one == laid_over({}, one) == laid_over(one, one)
    merged = laid_over(one, other)
    assert laid_over(merged, other) == merged
    replacing = {key: Replace(value) if isinstance(value, dict) else value for key, value in other.items()}
    assert laid_over(one, replacing) == one | other


@given(TREES, TREES)
def test_joined_has_both_or_says_where_they_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    if laid_over(one, other) == laid_over(other, one):
        assert joined(one, other) == joined(other, one) == laid_over(one, other)
    else:
        with pytest.raises(SettingError, match=r"^[abc.]+ is .* and "):
            joined(one, other)


def test_joined_names_the_place() -> None:
    with pytest.raises(SettingError, match=r"recipes p and q\.train\.heads\.a is 1 and 2"):
        joined({"train": {"heads": {"a": 1}}}, {"train": {"heads": {"a": 2, "b": 1}}}, "recipes p and q")
    assert repr(REMOVE) == "!remove"


def test_places_are_filled_where_a_text_begins_with_them() -> None:
    settings = {"a": "{x}", "b": ["{x}/Train", "see {x}", "{y}"], "c": {"d": 1, "e": "{x"}}
    assert filled(settings, {"x": "/data"}) == {
        "a": "/data",
        "b": ["/data/Train", "see {x}", "{y}"],
        "c": {"d": 1, "e": "{x"},
    }
