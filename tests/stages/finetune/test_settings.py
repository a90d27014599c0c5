"""Settings: what a preset fills in, what is refused, and that the papers' numbers are those of the papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.backbones import registry
from stages.finetune.network import choose_tap
from stages.finetune.presets import PRESETS, fill
from stages.finetune.schedule import factor
from stages.finetune.settings import AnswerSettings, AugmentSettings, FinetuneSettings, HeadChoice, ScheduleSettings
from stages.finetune.start import reads_of
from stages.heads import registry as heads
from stages.heads.margin_settings import MarginSettings

MODELS_1_AND_2 = ("model1-all", "model1-averaged", "model2-all", "model2-averaged")
MODEL_3 = ("facial", "emotion", "combination", "separately")
LEAST = {"backbone": "mini_xception", "unit": "face", "epochs": 2, "batch_size": 4, "learning_rate": 0.1}
HEADED = {"unit": "faces", "head": {"kind": "gupta2018:average"}}
SCENE = {"backbone": "effnet_lite0"}


def of(preset: str, **said: Any) -> FinetuneSettings:
    start: dict[str, Any] = {"start": "finetune:before"} if PRESETS[preset].get("start") == "finetune:" else {}
    if "photos" in PRESETS[preset]:
        start["photos"] = {"start": "finetune:scenes"}
    return FinetuneSettings.model_validate({"preset": preset} | start | said)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_whole_and_fits_its_backbone(name: str) -> None:
    settings = of(name)
    spec = registry.get_spec(settings.backbone)
    assert (spec.input == "image") == (settings.unit == "photo")
    assert choose_tap(spec, settings.tap) in spec.taps
    if settings.augment.crop == "random" and settings.unit != "photo":
        assert min(spec.edges) > 0
    if settings.photos is not None:
        assert registry.get_spec(settings.photos.backbone).input == "image"
    if settings.head is not None:
        heads.options_of(settings.head.kind, settings.head.options)
        reads_of(settings)
    assert FinetuneSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("name", "size", "rate", "epochs", "steps"),
    [
        ("gupta-global", 32, 0.001, 21, [7, 14]),
        ("gupta-global-emotic", 32, 0.001, 18, [6, 12]),
        ("gupta-local", 60, 0.01, 25, [7, 14, 21]),
        ("gupta-local-finetune", 32, 0.001, 12, [4, 8]),
        ("gupta-local-lsoftmax", 32, 0.001, 12, [4, 8]),
        ("gupta-attention", 32, 0.001, 27, [9, 18]),
        ("gupta-average", 32, 0.001, 16, [5, 10, 15]),
        ("tan-nonaligned-scratch", 128, 0.01, 10, [4, 8]),
        ("tan-nonaligned", 128, 0.001, 10, [4, 8]),
        ("meen", 128, 0.01, 200, [100, 150, 180]),
        *((f"meen-{row}", 128, 0.01, 200, [100, 150, 180]) for row in ("face", "vgg19", *MODELS_1_AND_2)),
        *((f"meen-model3-{row}", 16, 0.01, 200, [100, 150, 180]) for row in MODEL_3),
        ("dagnet", 32, 1e-4, 30, []),
    ],
)
def test_the_papers_steps(name: str, size: int, rate: float, epochs: int, steps: list[int]) -> None:
    settings = of(name)
    assert (settings.batch_size, settings.learning_rate, settings.epochs) == (size, rate, epochs)
    found = [factor(settings.schedule, epoch, 1, epochs) for epoch in range(epochs)]
    assert [i for i in range(1, epochs) if found[i] < found[i - 1]] == steps
    assert min(found) == pytest.approx(0.1 ** len(steps))


def test_the_papers_other_numbers() -> None:
    for name in ("tan-aligned", "tan-aligned-expw"):
        aligned = of(name)
        assert (aligned.iterations, aligned.schedule.unit, aligned.schedule.at) == (2200, "iteration", (1200, 1800))
        assert (aligned.learning_rate, aligned.dropout, aligned.classifier.kind) == (0.01, 0.0, "l_softmax")
    assert of("tan-nonaligned").dropout == 0.9
    glob = of("tan-global")
    assert (glob.dropout, glob.freeze_norm, glob.augment.short_side, glob.augment.crop) == (0.9, True, 256, "random")
    assert of("gupta-global").augment.short_side == 256
    lsoftmax = of("gupta-local-lsoftmax")
    assert (lsoftmax.classifier.kind, lsoftmax.classifier.margin, lsoftmax.unit) == ("l_softmax", 4, "faces")
    attention = of("gupta-attention")
    assert attention.head == HeadChoice(kind="gupta2018:attention_c", dropout=0.5)
    assert attention.photos is not None
    assert (attention.backbone, attention.photos.backbone) == ("sphereface:20", "torchvision:densenet161")
    assert (attention.previous, attention.photos.previous, attention.max_faces) == ("before", "scenes", 15)
    assert attention.photos.augment == of("gupta-global").augment
    clips = of("aminbeidokhti")
    assert (clips.learning_rate, clips.head_learning_rate, clips.weight_decay, clips.epochs) == (1e-5, 0.1, 5e-5, 30)
    assert (clips.schedule.kind, clips.max_faces, clips.frames) == ("restarts", 1, 16)
    assert factor(clips.schedule, 29, 1, 30) < 0.01  # a period ends with the training
    meen = of("meen")
    assert (meen.start, meen.momentum, meen.weight_decay, meen.augment.crop) == ("random", 0.9, 5e-4, "random")
    for row in ("vgg19", *MODELS_1_AND_2, *(f"model3-{one}" for one in MODEL_3)):
        model = of(f"meen-{row}")
        assert model.head is not None
        assert (model.augment, model.weight_decay, model.momentum) == (meen.augment, 5e-4, 0.9)
        frozen = row not in ("vgg19", "model3-emotion")
        assert (model.freeze, model.start) == ((True, "finetune:before") if frozen else (False, "none"))
        assert list(model.networks) == (["backbone"] if frozen else [])
    averaged = of("meen-model2-averaged").head
    assert averaged == HeadChoice(
        kind="meen:model2", dropout=0, options={"features": "averaged", "combine": "weighted"}
    )
    assert (of("dagnet").augment.jitter, of("dagnet").augment.flip) == (0.4, True)


def test_vgg19_has_the_slides_dropout_itself() -> None:
    with torch.device("meta"):
        net = registry.build(of("tan-global-vgg19").backbone)
    assert [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert of("tan-global-vgg19").dropout == 0.0


def test_what_is_said_wins_and_the_rest_is_the_presets() -> None:
    settings = of("meen", batch_size=8, augment={"flip": False}, schedule={"gamma": 0.5})
    assert (settings.batch_size, settings.weight_decay) == (8, 5e-4)
    assert (settings.augment.flip, settings.augment.crop) == (False, "random")
    assert (settings.schedule.gamma, settings.schedule.at) == (0.5, (0.5, 0.75, 0.9))


def test_what_rules_out_a_presets_value_replaces_it() -> None:
    assert (of("meen", iterations=9).iterations, of("meen", iterations=9).epochs) == (9, None)
    assert (of("tan-aligned", epochs=3).iterations, of("tan-aligned", epochs=3).epochs) == (None, 3)
    assert of("meen", schedule={"every": 3}).schedule == ScheduleSettings(kind="steps", every=3)
    assert of("meen", schedule={"kind": "restarts", "first": 2}).schedule == ScheduleSettings(kind="restarts", first=2)
    assert of("tan-aligned", classifier={"kind": "softmax"}).classifier == MarginSettings()
    assert of("tan-aligned", classifier={"margin": 2}).classifier == MarginSettings(kind="l_softmax", margin=2)
    assert of("meen", schedule=ScheduleSettings()).schedule.kind == "steps"  # nothing of it is said
    assert of("meen", augment=AugmentSettings(crop="none")).augment == AugmentSettings(flip=True)


def test_filling_changes_no_preset() -> None:
    filled = fill({"preset": "meen", "schedule": {"gamma": 0.5}})
    assert filled["schedule"] == {"kind": "steps", "at": (0.5, 0.75, 0.9), "gamma": 0.5}
    assert PRESETS["meen"]["schedule"] == {"kind": "steps", "at": (0.5, 0.75, 0.9)}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"preset": "meenn"}, "preset 'meenn' is unknown: choose one of aminbeidokhti, dagnet"),
        ({"preset": ["meen"]}, "is unknown: choose one of"),
        ({"preset": "gupta-local-finetune"}, "goes on from another fine-tune: name it, as start: finetune:NAME"),
        ({"preset": "gupta-attention", "start": "finetune:a"}, "name it, as photos: {start: finetune:NAME}"),
        ({"start": "finetune:a/b"}, "start is 'finetune:a/b': use weights, random, finetune:NAME or folder:PATH"),
        ({"start": "scratch"}, "use weights, random, finetune:NAME or folder:PATH"),
        ({"iterations": 3}, "give either epochs or iterations"),
        ({"epochs": None}, "give either epochs or iterations"),
        ({"start": "random", "freeze_norm": True}, "batch norm statistics that nothing measured"),
        ({"keep_last": True}, "keep_last is given and start is weights"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"dropout": 1.0}, "less than 1"),
        ({"lr": 0.1}, "Extra inputs"),
        ({"schedule": {"kind": "steps"}}, "kind steps needs either every or at"),
        ({"schedule": {"kind": "steps", "every": 2, "at": [3]}}, "kind steps needs either every or at"),
        ({"schedule": {"kind": "constant", "every": 2}}, "every is 2 and kind is constant, which has none"),
        ({"schedule": {"every": 2}}, "every is 2 and kind is constant"),
        ({"schedule": {"kind": "restarts", "gamma": 0.5}}, "gamma is 0.5 and kind is restarts"),
        ({"schedule": {"kind": "steps", "every": 2, "floor": 0.5}}, "floor is 0.5 and kind is steps"),
        ({"schedule": {"kind": "steps", "at": [3, 2]}}, "give ascending numbers"),
        ({"schedule": {"kind": "steps", "at": [0.5, 2]}}, "not both"),
        ({"schedule": {"kind": "steps", "at": [2.5]}}, "at has 2.5: use whole numbers"),
        ({"augment": {"area": [0.5, 0.9]}}, "only crop resized has an area"),
        ({"augment": {"crop": "resized", "area": [0.9, 0.5]}}, "give the smaller share first"),
        ({"augment": {"short_side": 256}}, "only crop random has one"),
        ({"photos": SCENE}, "photos is given, and there is no head that would join them"),
        (HEADED | {"unit": "photo", "photos": SCENE}, "photos is given, and unit is photo"),
        (HEADED | {"unit": "face"}, "unit is face, and a head sees a photo's faces together: use unit faces"),
        (HEADED | {"classifier": {"kind": "l_softmax"}}, "a head is given, which is the last: use softmax"),
        (HEADED | {"dropout": 0.5}, "dropout is 0.5, and a head has its own: use head.dropout"),
        (HEADED | {"answer": {"largest": 3}}, "answer.largest is 3, and a head answers for a photo"),
        (HEADED | {"answer": {"of": "logits"}}, "there is nothing to average; use probabilities"),
        (HEADED | {"head": {"dropout": 0.5}}, "head.kind"),
        (HEADED | {"photos": SCENE | {"start": "here"}}, "start is 'here': use weights, random, finetune:NAME"),
        (HEADED | {"photos": SCENE | {"start": "random", "freeze_norm": True}}, "statistics that nothing measured"),
        (HEADED | {"photos": SCENE | {"start": "random", "freeze": True}}, "would keep weights that nothing trained"),
        (HEADED | {"photos": SCENE | {"start": "none"}}, "photos.start is none: leave photos out"),
        ({"freeze": True, "start": "random"}, "freeze with start random would keep weights that nothing trained"),
        ({"freeze": True, "freeze_norm": True}, "freeze_norm is given, and freeze is true, which keeps batch norm"),
        ({"start": "none"}, "start is none, and there is no head: only one that reads pixels"),
        (HEADED | {"start": "none", "photos": SCENE}, "photos is given, and start is none"),
        (HEADED | {"start": "none", "freeze": True}, "freeze is given, and start is none: there is no network"),
        (HEADED | {"start": "none", "tap": "feature"}, "tap is given, and start is none: there is no network"),
        (HEADED | {"start": "none", "keep_last": True}, "keep_last is given and start is none"),
    ],
)
def test_what_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FinetuneSettings.model_validate(LEAST | said)
    assert words in str(caught.value)


def test_the_least_that_is_to_be_said() -> None:
    settings = FinetuneSettings.model_validate(LEAST)
    assert settings.previous is None
    assert FinetuneSettings.model_validate(LEAST | {"start": "finetune:a.b-c"}).previous == "a.b-c"
    for name in LEAST:
        with pytest.raises(ValidationError):
            FinetuneSettings.model_validate({key: value for key, value in LEAST.items() if key != name})


def test_a_head_leaves_the_rest_as_it_is() -> None:
    settings = FinetuneSettings.model_validate(LEAST | HEADED | {"photos": SCENE, "head_learning_rate": 1.0})
    assert list(settings.networks) == ["backbone", "photos"]
    assert settings.networks["photos"] is settings.photos
    mirrored = LEAST | HEADED | {"answer": {"of": "logits", "mirrored": True}}
    assert FinetuneSettings.model_validate(mirrored).answer.of == "logits", "of a photo and its mirror image"


def test_with_head_replaces_the_head_and_shows_all_faces_together() -> None:
    head = HeadChoice(kind="gupta2018:attention_b", dropout=0.25)
    plain = FinetuneSettings.model_validate(LEAST | {"augment": {"flip": True}})
    headed = plain.with_head(head)
    assert (headed.head, headed.unit, headed.augment.flip) == (head, "faces", True)
    other = of("gupta-attention", seed=3).with_head(head)
    assert other == of("gupta-attention", seed=3, head={"kind": "gupta2018:attention_b", "dropout": 0.25})
    for preset in ("gupta-local", "tan-nonaligned-scratch", "tan-aligned-expw"):  # of their last layers nothing stays
        before, made = of(preset), of(preset).with_head(head)
        assert (made.preset, made.dropout, made.answer, made.epochs) == (preset, 0.0, AnswerSettings(), before.epochs)
    with pytest.raises(ValidationError, match="unit is face"):
        FinetuneSettings.model_validate(LEAST | {"head": head})
