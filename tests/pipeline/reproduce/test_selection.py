from __future__ import annotations

from typing import Any

import pytest

from pipeline.reproduce.selection import needed, selected
from stages.errors import SettingError


@pytest.fixture
def settings() -> dict[str, Any]:
    return {
        "data": {"adapter": "gaf"},
        "extract": {
            "dtype": "float16",
            "backbones": {
                "plain": {"taps": ["pooled"]},
                "tuned": {"backbone": "resnet29", "finetuned": "faces", "taps": ["embedding"]},
                "theirs": {"backbone": "resnet29", "finetuned": "folder:../other/artifacts/finetune/base"},
                "unused": {"taps": ["pooled"]},
            },
        },
        "finetune": {
            "faces": {"start": "folder:../first/artifacts/finetune/net"},
            "second": {"start": "finetune:faces", "answers": {"top3": {"largest": 3}}},
            "both": {"start": "finetune:faces", "photos": {"start": "finetune:photos"}},
            "photos": {"preset": "gupta-global"},
            "unused": {"preset": "gupta-global"},
        },
        "train": {
            "seeds": [0, 1],
            "heads": {
                "photo": {"kind": "a:b", "global": ["plain/pooled"]},
                "face": {"kind": "a:b", "faces": ["tuned/embedding"], "global": ["plain/pooled"]},
                "pixels": {"kind": "a:b", "inputs": {"x": ["theirs/embedding"], "y": ["person32/pixels"]}},
                "started": {"kind": "a:b", "faces": ["imported/mine"], "start": "finetune:photos"},
                "unused": {"kind": "a:b", "global": ["unused/pooled"]},
            },
        },
        "fuse": {"ensembles": {"two": {"members": ["photo-s1", "second.top3"]}, "all": {"members": ["two", "face"]}}},
    }


@pytest.mark.parametrize(
    ("member", "heads", "finetunes", "ensembles", "roles", "elsewhere"),
    [
        ("photo", {"photo"}, set(), set(), {"plain"}, {}),
        ("photo-s0", {"photo"}, set(), set(), {"plain"}, {}),
        ("photos", set(), {"photos"}, set(), set(), {}),
        ("face", {"face"}, {"faces"}, set(), {"plain", "tuned"}, {"first": {"net"}}),
        ("pixels", {"pixels"}, set(), set(), {"theirs"}, {"other": {"base"}}),
        ("started", {"started"}, {"photos"}, set(), set(), {}),
        ("second", set(), {"second", "faces"}, set(), set(), {"first": {"net"}}),
        ("second.top3", set(), {"second", "faces"}, set(), set(), {"first": {"net"}}),
        ("second-s0", set(), {"second", "faces"}, set(), set(), {"first": {"net"}}),
        ("both", set(), {"both", "faces", "photos"}, set(), set(), {"first": {"net"}}),
        ("two", {"photo"}, {"second", "faces"}, {"two"}, {"plain"}, {"first": {"net"}}),
        ("all", {"photo", "face"}, {"second", "faces"}, {"two", "all"}, {"plain", "tuned"}, {"first": {"net"}}),
    ],
)
def test_what_a_member_comes_of(
    settings: dict[str, Any],
    member: str,
    heads: set[str],
    finetunes: set[str],
    ensembles: set[str],
    roles: set[str],
    elsewhere: dict[str, set[str]],
) -> None:
    found = needed(settings, [member], "p")
    assert (found.heads, found.finetunes, found.ensembles, found.roles) == (heads, finetunes, ensembles, roles)
    assert found.elsewhere == elsewhere
    chosen = selected(settings, found)
    assert set(chosen["train"]["heads"]) == heads
    assert set(chosen["finetune"]) == finetunes
    assert set(chosen["fuse"]["ensembles"]) == ensembles
    assert set(chosen["extract"]["backbones"]) == roles
    assert (chosen["data"], chosen["extract"]["dtype"]) == ({"adapter": "gaf"}, "float16")
    assert chosen["train"]["seeds"] == [0, 1]


def test_what_several_come_of_is_there_once_in_the_order_of_the_settings(settings: dict[str, Any]) -> None:
    chosen = selected(settings, needed(settings, ["all", "both", "photo"], "p"))
    assert list(chosen["finetune"]) == ["faces", "second", "both", "photos"]
    assert list(chosen["train"]["heads"]) == ["photo", "face"]


@pytest.mark.parametrize("name", ["nobody", "nobody-s0", "nobody.top3"])
def test_an_unknown_member_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=r"^project p has no head, fine-tune or ensemble 'nobody"):
        needed(settings, [name], "p")


def test_settings_without_heads_or_roles_are_no_project(settings: dict[str, Any]) -> None:
    del settings["train"]["heads"]
    with pytest.raises(SettingError, match=r"^project p: train\.heads is missing"):
        needed(settings, ["faces"], "p")
    del settings["extract"]
    with pytest.raises(SettingError, match=r"^project p: extract\.backbones is missing"):
        needed(settings, ["faces"], "p")
