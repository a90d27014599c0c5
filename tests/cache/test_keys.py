from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.keys import FACES, KEY_BYTES, WHOLE, BlockSpec, box_region, item_key, item_keys, key_array, key_hex

CHANGES = [
    {"source": "other"},
    {"tap": "pooled"},
    {"level": "global"},
    {"shape": (5,)},
    {"extractor_version": 2},
    {"weights": {"net.pt": "cd" * 32}},
    {"preprocessing": {"size": [96, 112]}},
    {"inputs": {"detector": "k"}},
    {"numerics": {"engine": "torch-cpu", "dtype": "float32"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_every_field_of_the_allow_list_changes_the_key(spec: BlockSpec, change: dict[str, object]) -> None:
    assert replace(spec, **change).key != spec.key  # pyright: ignore[reportArgumentType]


def test_the_list_above_covers_every_field() -> None:
    assert {next(iter(change)) for change in CHANGES} == set(BlockSpec.__dataclass_fields__)


def test_the_order_of_a_mapping_does_not_matter(spec: BlockSpec) -> None:
    turned = replace(spec, numerics={"dtype": "float16", "engine": "torch-cpu"})
    assert turned.key == spec.key


def test_a_spec_survives_its_own_json(spec: BlockSpec) -> None:
    again = BlockSpec.from_dict(spec.as_dict())
    assert again == spec
    assert again.key == spec.key


def test_an_unknown_level_is_refused(spec: BlockSpec) -> None:
    with pytest.raises(ValueError, match="planet"):
        replace(spec, level="planet")


def test_keys_are_stable_across_versions() -> None:
    # Changing this constant makes every user's store miss: raise the schema instead.
    assert item_key("00" * 32).hex() == "26364a582b2eca4398e3c59fe83f8535"


@given(
    st.lists(
        st.tuples(st.text("0123456789abcdef", min_size=1, max_size=4), st.sampled_from(["whole", FACES])), unique=True
    )
)
def test_item_keys_differ_and_survive_an_array(parts: list[tuple[str, str]]) -> None:
    keys = [item_key(content, region=region) for content, region in parts]
    assert len(set(keys)) == len(parts)
    assert [key_hex(k) for k in key_array(keys)] == [k.hex() for k in keys]


def test_frame_region_and_view_are_in_the_item_key() -> None:
    base = item_key("aa")
    others = [
        item_key("ab"),
        item_key("aa", frame_s=0.0),
        item_key("aa", frame_s=0.04),
        item_key("aa", region=FACES),
        item_key("aa", region=box_region(1, 2, 3, 4)),
        item_key("aa", region=box_region(1, 2, 3, 4.5)),
        item_key("aa", view="flip"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_key_hex_restores_trailing_zeros() -> None:
    key = b"a" * (KEY_BYTES - 1) + b"\0"
    assert key_hex(key_array([key])[0]) == key.hex()
    assert np.array_equal(key_array([key]) == key_array([key]), [True])


@pytest.mark.parametrize("region", [WHOLE, FACES, box_region(1, 2, 3, 4)])
def test_many_keys_are_those_of_one_by_one(region: str) -> None:
    contents = [f"{i:064x}" for i in range(20)]
    assert item_keys(contents, region=region) == [item_key(content, region=region) for content in contents]
