"""Settings of training: unknown names and bad values are errors that name them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from stages.train.settings import HeadSettings, TrainSettings

HEAD = {"kind": "gupta2018:average", "faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled"]}


def test_defaults_are_the_papers() -> None:
    head = HeadSettings.model_validate(HEAD)
    assert (head.batch_size, head.learning_rate, head.gamma, head.dropout) == (32, 0.001, 0.1, 0.5)
    assert (head.epochs, head.step, head.max_faces, head.momentum, head.weight_decay) == (None, None, 15, 0.9, 0.0)
    assert head.model_dump(by_alias=True)["global"] == ("effnet_lite0/pooled",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("epochs", 0), ("epochs", 1.5), ("batch_size", 1), ("batch_size", "many"), ("step", 0), ("max_faces", 0)),
        *(("learning_rate", 0), ("learning_rate", -1), ("learning_rate", float("nan")), ("learning_rate", "inf")),
        *(("gamma", 0), ("gamma", 1.1), ("momentum", 1), ("momentum", -0.1), ("weight_decay", -1), ("dropout", 1)),
        *(("weight_decay", float("inf")), ("dropout", -0.1), ("faces", ["resnet29"]), ("global", ["x"])),
        *(("faces", "resnet29/embedding"), ("faces", ["a/b/c"]), ("global", ["a b/c"]), ("kind", None)),
        *(("learning_rte", 0.1), ("global_", ["effnet_lite0/pooled"])),
    ],
)
def test_a_bad_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        HeadSettings.model_validate({**HEAD, key: value})
    assert caught.value.errors()[0]["loc"][0] == key


@pytest.mark.parametrize("name", ["a b", "", ".a", "-a", "a/b", "é", "head-s0", "x-s12"])
def test_a_head_name_names_files(name: str) -> None:
    with pytest.raises(ValidationError, match="head name"):
        TrainSettings.model_validate({"heads": {name: HEAD}})


@pytest.mark.parametrize("name", ["a", "_x", "gupta_c.2", "A-s", "x-s1y", "3"])
def test_good_head_names(name: str) -> None:
    assert list(TrainSettings.model_validate({"heads": {name: HEAD}}).heads) == [name]


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [2**63], ["x"]])
def test_bad_seeds(seeds: Any) -> None:
    with pytest.raises(ValidationError, match="seeds"):
        TrainSettings.model_validate({"seeds": seeds, "heads": {"a": HEAD}})


def test_no_heads_and_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="heads"):
        TrainSettings.model_validate({"heads": {}})
    with pytest.raises(ValidationError, match="seed\n"):
        TrainSettings.model_validate({"heads": {"a": HEAD}, "seed": 1})


RESTARTS = {"schedule": {"kind": "restarts"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (RESTARTS | {"step": 5}, "step is 5, and schedule is given too: leave one of them out"),
        (RESTARTS | {"gamma": 0.5}, "gamma is 0.5, and schedule is given too"),
        ({"optimiser": "adam", "momentum": 0.5}, "momentum is 0.5 and optimiser is adam, which has none"),
    ],
)
def test_a_setting_that_would_do_nothing(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HeadSettings.model_validate(HEAD | changes)


def test_settings_are_read_again_as_they_were_written() -> None:
    """A model's file has every setting, also those that stay as they are."""
    for changes in (RESTARTS, {"optimiser": "adam"}, {"step": 3, "gamma": 0.5}):
        head = HeadSettings.model_validate(HEAD | changes)
        assert HeadSettings.model_validate(head.model_dump(mode="json", by_alias=True)) == head
