"""Where training starts: random weights, the catalogue's, another fine-tune's, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.backbones import registry, weights
from stages.errors import SettingError, WeightsError
from stages.finetune.checkpoint import save_parts
from stages.finetune.network import Finetuned
from stages.finetune.settings import FinetuneSettings
from stages.finetune.start import Started, describe, load_finetuned, start
from stages.heads.margins import LSoftmax

CLASSES = ("angry", "happy", "sad")
NAME = "vgg19_44:emotion"
SMALL = "mini_xception"


def asked(**said: Any) -> FinetuneSettings:
    values = {"backbone": SMALL, "unit": "face", "epochs": 1, "batch_size": 4, "learning_rate": 0.1, "start": "random"}
    return FinetuneSettings.model_validate(values | said)


def begin(settings: FinetuneSettings, folder: Path, classes: tuple[str, ...] = CLASSES) -> tuple[Finetuned, Started]:
    previous = folder / "backbone.safetensors" if settings.previous else None
    return start(settings, classes, weights_dir=folder, previous=previous)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The folder of a fine-tune."""
    settings = asked(classifier={"kind": "l_softmax"}, seed=7)
    made, _ = begin(settings, tmp_path)
    assert isinstance(made.last_layer, LSoftmax)
    made.last_layer.iteration += 50
    save_parts(tmp_path, made.parts(), describe(made, settings))
    return tmp_path


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_random_weights_follow_from_the_seed(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    one, how = begin(asked(seed=1), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(2)
    assert equal(one, begin(asked(seed=1), tmp_path)[0])
    assert not equal(one, begin(asked(seed=2), tmp_path)[0])
    assert how.said == ("mini_xception starts from random weights", "the last layer is new, for 3 classes")
    assert one.training
    assert all(parameter.requires_grad for parameter in one.parameters())


def test_the_catalogues_weights_are_trained_on() -> None:
    made, how = begin(asked(start="weights"), weights.weights_dir())
    assert equal(made.backbone.net, registry.load(SMALL, weights_dir=weights.weights_dir()))
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert how.said[0] == "mini_xception starts from the catalogue's weights"


def test_weights_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights add sphereface:20"):
        begin(asked(start="weights", backbone="sphereface:20"), tmp_path)


def test_another_fine_tune_with_the_same_classes_goes_on_whole(before: Path) -> None:
    first, _ = begin(asked(classifier={"kind": "l_softmax"}, seed=7), before)
    made, how = begin(asked(start="finetune:x", classifier={"kind": "l_softmax", "margin": 2}, seed=8), before)
    assert how == Started(True, ("mini_xception starts from fine-tune x", "the last layer is kept from fine-tune x"))
    assert equal(made, first)  # with lambda from its beginning: iteration is 0


@pytest.mark.parametrize(
    ("said", "classes", "why"),
    [
        ({}, ("angry", "happy"), "its classes was angry, happy, sad and is angry, happy"),
        ({}, ("happy", "angry", "sad"), "its classes was angry, happy, sad and is happy, angry, sad"),
        ({"classifier": {"kind": "softmax"}}, CLASSES, "its kind was l_softmax and is softmax"),
        ({"tap": "probabilities"}, CLASSES, "its tap was feature and is probabilities"),
    ],
)
def test_a_last_layer_that_does_not_fit(before: Path, said: dict[str, Any], classes: tuple[str, ...], why: str) -> None:
    settings: dict[str, Any] = {"start": "finetune:x", "classifier": {"kind": "l_softmax"}} | said
    made, how = begin(asked(**settings), before, classes)
    assert not how.kept
    assert how.said[1] == f"the last layer is new, for {len(classes)} classes: {why}"
    assert equal(made.backbone.net, load_finetuned(SMALL, before / "backbone.safetensors"))
    with pytest.raises(SettingError, match=f"keep_last is true, but the last layer of x does not fit: {why}"):
        begin(asked(**settings, keep_last=True), before, classes)


def test_a_last_layer_is_left_where_it_is_not_wanted(before: Path) -> None:
    settings = asked(start="finetune:x", classifier={"kind": "l_softmax"}, keep_last=False)
    made, how = begin(settings, before)
    first, _ = begin(asked(classifier={"kind": "l_softmax"}, seed=7), before)
    assert how == Started(False, (how.said[0], "the last layer is new, for 3 classes"))
    assert not equal(made.last_layer, first.last_layer)


def test_a_fine_tune_with_a_head_has_no_last_layer(before: Path) -> None:
    (before / "last_layer.safetensors").unlink()
    settings = asked(start="finetune:x", classifier={"kind": "l_softmax"})
    assert begin(settings, before)[1].said[1].endswith("that fine-tune had a head instead")
    with pytest.raises(SettingError, match="keep_last is true"):
        begin(asked(start="finetune:x", keep_last=True), before)


def test_weights_of_another_architecture(before: Path) -> None:
    with pytest.raises(WeightsError, match=r"\(of mini_xception\) does not fit VGG19: \d+ missing: .* unexpected: "):
        begin(asked(start="finetune:x", backbone=NAME), before)


def test_a_fine_tune_that_is_not_there_or_damaged(before: Path) -> None:
    with pytest.raises(SettingError, match="start is finetune:x, and that fine-tune is not there: run it first"):
        start(asked(start="finetune:x"), CLASSES, weights_dir=before)
    path = before / "backbone.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="run that fine-tune again"):
        begin(asked(start="finetune:x"), before)


def test_a_backbone_is_what_weights_add_takes(tmp_path: Path) -> None:
    """The file has the network's own keys, so that it can be vouched for as one's own."""
    made, _ = begin(asked(backbone=NAME), tmp_path)
    written = save_parts(tmp_path / "out", made.parts(), {"backbone": NAME})
    weights.add(NAME, written["backbone"], tmp_path / "weights", trust=True)
    assert equal(made.backbone.net, registry.load(NAME, weights_dir=tmp_path / "weights"))
