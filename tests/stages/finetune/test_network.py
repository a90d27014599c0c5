"""What is trained: units, frozen batch norm, heads end to end, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.backbones import registry
from stages.backbones.spec import BackboneSpec, Tap
from stages.errors import SettingError
from stages.finetune.batch import PixelBatch
from stages.finetune.network import Backbone, EndToEnd, Finetuned, choose_tap
from stages.finetune.settings import Unit
from stages.heads import registry as heads
from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.margin_settings import Kind, LambdaSchedule
from stages.heads.margins import classifier

CLASSES = ("a", "b", "c")
WIDTH = 5
FACE = BackboneSpec(
    name="tiny",
    family="tiny",
    weights="tiny",
    licence="none",
    paper="none",
    input="face",
    template="box48",
    input_size=(8, 6),
    crop_size=(10, 8),
    colour="RGB",
    mean=(127.5,) * 3,
    std=(127.5,) * 3,
    taps=(Tap("map", "face", (WIDTH, 6, 4)), Tap("pooled", "face", (WIDTH,))),
)
PHOTO = replace(FACE, input="image", template=None, crop_size=None, taps=(Tap("pooled", "global", (WIDTH,)),))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.norm(self.conv(x))
        return {"map": found, "pooled": found.relu().mean((2, 3))}


def backbone(spec: BackboneSpec = FACE, tap: str | None = None, *, freeze_norm: bool = False) -> Backbone:
    torch.manual_seed(0)
    return Backbone(Tiny(), spec, choose_tap(spec, tap), freeze_norm=freeze_norm)


def batch(faces_of: tuple[int, ...] = (2, 0, 1, 3), photos: bool = False) -> PixelBatch:
    noise = torch.Generator().manual_seed(3)
    count, faces = len(faces_of), sum(faces_of)
    return PixelBatch(
        torch.randint(256, (faces, 8, 6, 3), generator=noise, dtype=torch.uint8),
        torch.repeat_interleave(torch.arange(count), torch.tensor(faces_of)),
        torch.randint(256, (count if photos else 0, 8, 6, 3), generator=noise, dtype=torch.uint8),
        torch.arange(count) % len(CLASSES),
        torch.arange(count),
        torch.rand(faces, 4, generator=noise),
    )


def finetuned(unit: Unit, kind: Kind = "softmax", spec: BackboneSpec = FACE) -> Finetuned:
    below = backbone(spec)
    schedule = LambdaSchedule(base=0, floor=0) if kind != "softmax" else None
    return Finetuned(below, classifier(kind, below.width, len(CLASSES), schedule=schedule), unit, CLASSES)


def test_a_face_is_an_answer_with_its_photos_label() -> None:
    made, shown = finetuned("face"), batch()
    labels, counts = made.targets(shown)
    assert made(shown).shape == (6, 3)
    assert labels.tolist() == [0, 0, 2, 0, 0, 0]
    assert counts.all()


def test_a_photos_answer_is_the_mean_of_its_faces() -> None:
    made, single, shown = finetuned("faces").eval(), finetuned("face").eval(), batch()
    each = single(shown)
    got = made(shown)
    expected = torch.stack([each[:2].mean(0), torch.zeros(3), each[2], each[3:].mean(0)])
    torch.testing.assert_close(got, expected)
    labels, counts = made.targets(shown)
    assert labels.tolist() == [0, 1, 2, 0]
    assert counts.tolist() == [True, False, True, True]


def test_with_a_margin_each_face_has_one_and_then_comes_the_mean() -> None:
    made, shown = finetuned("faces", "l_softmax").train(), batch()
    vectors = made.backbone(shown.faces)
    harder = made.last_layer(vectors, shown.labels[shown.owner])
    got = made(shown, shown.labels)
    torch.testing.assert_close(got[0], harder[:2].mean(0))
    plain = made(shown)
    assert (got[[0, 2, 3], [0, 2, 0]] < plain[[0, 2, 3], [0, 2, 0]]).all()


def test_a_batch_without_a_face_has_answers_that_do_not_count() -> None:
    made, shown = finetuned("faces"), batch((0, 0))
    assert torch.equal(made(shown), torch.zeros(2, 3))
    assert not made.targets(shown)[1].any()


def test_one_face_alone_does_not_count_while_batch_norm_is_trained() -> None:
    made, shown = finetuned("faces"), batch((0, 1))
    assert not made.train().targets(shown)[1].any()
    assert made.eval().targets(shown)[1].tolist() == [False, True]
    frozen = Finetuned(backbone(freeze_norm=True), classifier("softmax", WIDTH, 3), "faces", CLASSES).train()
    assert frozen.targets(shown)[1].tolist() == [False, True]


def test_photos_are_answers() -> None:
    made, shown = finetuned("photo", spec=PHOTO), batch((0, 0, 0), photos=True)
    assert made(shown).shape == (3, 3)
    assert made.targets(shown)[1].all()


def test_larger_crops_are_cut_as_in_extraction() -> None:
    made = backbone().eval()
    crops = torch.randint(256, (3, 10, 8, 3), dtype=torch.uint8)
    assert torch.equal(made(crops), made(crops[:, 1:9, 1:7]))


@pytest.mark.parametrize("size", [(6, 8), (9, 7), (112, 96)])
def test_crops_of_another_size_are_refused(size: tuple[int, int]) -> None:
    wrong = f"backbone tiny sees pictures of 10x8 .*, and these have {size[0]}x{size[1]}: use crops of template box48"
    with pytest.raises(SettingError, match=wrong):
        backbone()(torch.zeros(2, *size, 3, dtype=torch.uint8))


@pytest.mark.parametrize(("unit", "spec"), [("photo", FACE), ("face", PHOTO), ("faces", PHOTO)])
def test_a_unit_that_the_backbone_does_not_see(unit: Unit, spec: BackboneSpec) -> None:
    with pytest.raises(SettingError, match=f"unit is {unit}, and backbone tiny sees {spec.input}s: use"):
        finetuned(unit, spec=spec)


def test_the_tap_is_the_first_of_one_dimension() -> None:
    assert choose_tap(FACE, None).name == "pooled"
    assert choose_tap(FACE, "map").name == "map"
    assert choose_tap(registry.get_spec("vgg_face"), None).name == "conv5_3"
    with pytest.raises(SettingError, match="tap is 'deep', and tiny has map, pooled"):
        choose_tap(FACE, "deep")


def test_a_map_is_averaged_over_its_places() -> None:
    made, shown = backbone(tap="map").eval(), batch()
    pixels = (shown.faces.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    torch.testing.assert_close(made(shown.faces), made.net(pixels)["map"].mean((2, 3)))
    assert made.width == WIDTH


def test_networks_with_auxiliary_classifiers_give_their_main_output() -> None:
    class Aided(Tiny):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            found = super().forward(x)["pooled"]
            return {"pooled": (found, found[:, :1]) if self.training else found}  # type: ignore[dict-item]

    torch.manual_seed(0)
    made = Backbone(Aided(), FACE, FACE.taps[1])
    assert made.train()(batch().faces).shape == (6, WIDTH)


@pytest.mark.parametrize("name", ["mini_xception", "resnet_small:18"])
def test_networks_are_given_planes_on_a_cpu(name: str) -> None:
    """In the layout of `preprocess`, the backward of mini_xception's shortcut ends the process."""
    spec = registry.get_spec(name)
    made = Backbone(registry.build(name), spec, choose_tap(spec, None)).train()
    strides = []
    made.net.register_forward_pre_hook(lambda _, given: strides.append(given[0].stride()))
    high, wide = spec.input_size
    made(torch.randint(256, (8, high, wide, 3), dtype=torch.uint8)).sum().backward()
    assert strides == [(spec.channels * high * wide, high * wide, wide, 1)]


def test_frozen_batch_norm_ignores_training_mode() -> None:
    made = backbone(freeze_norm=True).train()
    assert made.net.training
    assert not made.net.get_submodule("norm").training
    assert not any(p.requires_grad for p in made.net.get_submodule("norm").parameters())
    faces = batch().faces
    torch.testing.assert_close(made(faces[:1]), made(faces)[:1])  # a batch has no statistics of its own
    assert float(made.net.get_buffer("norm.running_mean").abs().max()) == 0


def test_two_groups_of_parameters() -> None:
    made = finetuned("face")
    below, above = made.groups()
    assert {id(p) for p in above} == {id(p) for p in made.last_layer.parameters()}
    assert {id(p) for p in below} == {id(p) for p in made.backbone.parameters()}
    assert list(made.parts()) == ["backbone", "last_layer"]
    assert set(made.parts()["backbone"].state_dict()) == set(Tiny().state_dict())


def test_last_layers_stay_in_float32_under_autocast() -> None:
    for kind in ("softmax", "l_softmax"):
        made = finetuned("faces", kind).eval()
        with torch.autocast("cpu", torch.bfloat16):
            found = made(batch())
            vectors = made.backbone(batch().faces)
        assert found.dtype == vectors.dtype == torch.float32
        each = made.last_layer(vectors)
        torch.testing.assert_close(found[2], each[2])


def end_to_end(variant: str = "attention_a") -> EndToEnd:
    torch.manual_seed(1)
    head = heads.build(f"gupta2018:{variant}", heads.Shapes(WIDTH, WIDTH), len(CLASSES), 0.0)
    return EndToEnd(head, backbone(), backbone(PHOTO), CLASSES)


@pytest.mark.parametrize("variant", ["average", "attention_a", "attention_b", "attention_c"])
def test_a_head_end_to_end_teaches_both_networks(variant: str) -> None:
    made, shown = end_to_end(variant).train(), batch(photos=True)
    nn.functional.cross_entropy(made(shown), shown.labels).backward()
    for part in (made.faces, made.photos, made.head):
        assert part is not None
        assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in part.parameters())
    below, above = made.groups()
    assert {id(p) for p in above} == {id(p) for p in made.head.parameters()}
    assert len(below) == 2 * len(list(Tiny().parameters()))
    assert list(made.parts()) == ["backbone", "photos", "head"]
    assert list(EndToEnd(made.head, None, made.photos, CLASSES).parts()) == ["backbone", "head"]


def test_end_to_end_is_the_head_on_the_backbones_vectors() -> None:
    made, shown = end_to_end().eval(), batch(photos=True)
    found = made.answer(shown)
    assert found.attention.shape == (4, 3)
    torch.testing.assert_close(found.attention.sum(1), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    alone = batch(photos=True)
    last = replace(
        alone, faces=alone.faces[3:], owner=torch.zeros(3, dtype=torch.int64), photos=alone.photos[3:],
        labels=alone.labels[3:], rows=alone.rows[3:], boxes=alone.boxes[3:],
    )  # fmt: skip
    torch.testing.assert_close(made(last)[0], found.logits[3])
    assert made.targets(shown)[1].all()


class Boxes(nn.Module):
    """Answers with the mean box."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, given: HeadBatch) -> HeadOutput:
        return HeadOutput(given.boxes.sum(1) * self.scale, given.face_mask.float())


def test_boxes_are_where_their_faces_are() -> None:
    boxes = torch.arange(24.0).reshape(6, 4)
    made, shown = EndToEnd(Boxes(), backbone(), None, CLASSES), replace(batch(), boxes=boxes)
    found = made.answer(shown)
    expected = torch.stack([boxes[:2].sum(0), torch.zeros(4), boxes[2], boxes[3:].sum(0)])
    torch.testing.assert_close(found.logits, expected)


def test_end_to_end_without_a_face_or_with_one_sample() -> None:
    made, none = end_to_end(), batch((0, 0), photos=True)
    assert made.train()(none).isfinite().all()
    assert made.targets(none)[1].all()
    one = batch((3,), photos=True)
    assert not made.targets(one)[1].any()  # the head's batch norm
    assert made.eval().targets(one)[1].all()
    assert not made.train().targets(batch((0, 1), photos=True))[1].any()
