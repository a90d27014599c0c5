"""Meen et al.: the equations, how many channels the first convolution has, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.backbones import registry as backbones
from stages.backbones.preprocess import preprocess
from stages.errors import SettingError
from stages.heads import meen, registry
from stages.heads.batch import HeadBatch

WIDTH = 4
SHAPES = {"pixels": (44, 44, 3), "early": (8, 22, 22), "mid": (16, 11, 11), "late": (32, 5, 5)}
FULL = {"pixels": (48, 48, 3), "early": (128, 22, 22), "mid": (256, 11, 11), "late": (512, 5, 5)}


def build(variant: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES, **options: Any) -> Any:
    torch.manual_seed(0)
    read = {name: shapes[name] for name in meen.INPUTS[variant]}
    said = {"width": WIDTH} | options
    return registry.build(f"meen:{variant}", registry.Shapes(inputs=read), 7, 0.0, said)


def batch(
    counts: list[int], given: Mapping[str, Tensor] | None = None, *, width: int | None = None, **one: Tensor
) -> HeadBatch:
    """Frames of noise, but for the inputs that are given."""
    noise = torch.Generator().manual_seed(0)
    size = (len(counts), width or max(counts))
    mask = torch.arange(size[1]) < torch.tensor(counts)[:, None]
    rows = {name: torch.rand(*size, *shape, generator=noise) for name, shape in SHAPES.items()}
    rows["pixels"] = (rows["pixels"] * 255).to(torch.uint8)
    none = torch.zeros(len(counts), 0)
    return HeadBatch(
        none[:, :, None],
        none.bool(),
        torch.zeros(len(counts), 0, 4),
        none,
        rows | dict(given or {}) | one,
        {"frame": mask},
    )


def image_of(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2) / 255


def first_convolution(head: nn.Module) -> nn.Conv2d:
    return next(
        one for name, one in head.named_modules() if name == "network.features.0" and isinstance(one, nn.Conv2d)
    )


def what_the_network_sees(head: nn.Module, of: HeadBatch) -> Tensor:
    """The input of its first convolution."""
    seen: list[Tensor] = []
    hook = first_convolution(head).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        head.eval()(of)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("variant", ["model1", "model2"])
@pytest.mark.parametrize("features", ["averaged", "convolved"])
def test_equations_1_and_2_of_one_map(variant: str, features: str) -> None:
    """With no features equation 2 is the image, and with features of one equation 1; model 2's weights sum to 1."""
    for combine, value in (("weighted", 0.0), ("product", 1.0)):
        head = build(variant, features=features, combine=combine)
        if features == "convolved":  # as a mean of the features; of what model 2 weighted a sum
            nn.init.constant_(head.convolve.weight, 1 / 32 if variant == "model1" else 1.0)
            nn.init.zeros_(head.convolve.bias)
        given = batch([1, 1], late=torch.full((2, 1, 32, 5, 5), value))
        torch.testing.assert_close(what_the_network_sees(head, given), image_of(given.inputs["pixels"][:, 0]))


def test_equations_1_and_2_of_all_maps() -> None:
    """Each map times the grey image: as many channels as maps."""
    given = batch([1, 1])
    grey = image_of(given.inputs["pixels"][:, 0]).mean(1, keepdim=True)
    for combine, value, expected in (("weighted", 0.0, grey), ("product", 1.0, grey), ("weighted", 0.5, 1.5 * grey)):
        head = build("model1", features="all", combine=combine)
        seen = what_the_network_sees(head, batch([1, 1], late=torch.full((2, 1, 32, 5, 5), value)))
        torch.testing.assert_close(seen, expected.expand(-1, 32, -1, -1))


def test_a_place_of_a_map_is_a_place_of_the_image() -> None:
    late = torch.zeros(1, 1, 32, 5, 5)
    late[..., 0, 4] = 32.0  # the upper right corner
    given = batch([1], late=late)
    seen = what_the_network_sees(build("model1", features="averaged", combine="product"), given)
    image = image_of(given.inputs["pixels"][:, 0])
    torch.testing.assert_close(seen[..., :4, -4:], 32 * image[..., :4, -4:])
    assert not seen[..., 14:, :].any()
    assert not seen[..., :30].any()


@pytest.mark.parametrize(
    ("features", "combine", "channels"),
    [
        *(("all", "concatenate", 3 + 512), ("all", "product", 512), ("all", "weighted", 512)),
        *(("averaged", "concatenate", 3 + 1), ("averaged", "product", 3), ("averaged", "weighted", 3)),
        *(("convolved", "concatenate", 3 + 1), ("convolved", "product", 3), ("convolved", "weighted", 3)),
    ],
)
@pytest.mark.parametrize("variant", ["model1", "model2"])
def test_channels_of_the_first_convolution(variant: str, features: str, combine: str, channels: int) -> None:
    with torch.device("meta"):
        head = build(variant, FULL, width=64, features=features, combine=combine)
    assert first_convolution(head).weight.shape == (64, channels, 3, 3)
    assert head.classify.weight.shape == (7, 512)


def test_concatenation_has_the_image_and_the_maps_as_they_are() -> None:
    given = batch([1, 1])
    seen = what_the_network_sees(build("model1", features="all", combine="concatenate"), given)
    grown = nn.functional.interpolate(given.inputs["late"][:, 0], [44, 44], mode="bilinear")
    torch.testing.assert_close(seen, torch.cat([image_of(given.inputs["pixels"][:, 0]), grown], 1))


def test_equal_weights_are_model_1() -> None:
    """Of the average it is the same, and all maps are divided by their number."""
    late = batch([2]).inputs["late"][0]
    for features, factor in (("averaged", 1.0), ("all", 32.0)):
        one, two = (build(variant, features=features) for variant in ("model1", "model2"))
        assert not torch.allclose(factor * two.attention(late), one.attention(late), atol=1e-3)
        nn.init.zeros_(two.weigh.score.weight)
        nn.init.constant_(two.weigh.score.bias, 3.0)
        torch.testing.assert_close(factor * two.attention(late), one.attention(late))


def test_weights_hang_on_the_features_and_sum_to_one() -> None:
    weigh = meen.Weigh(32)
    maps = batch([3]).inputs["late"][0] + 0.1
    weights = (weigh(maps) / maps)[:, :, 0, 0]
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert not torch.allclose(weights[0], weights[1])


def at_the_end(head: nn.Module, of: HeadBatch) -> tuple[Tensor, Tensor]:
    """What the emotion network's last convolution gives (after ReLU), and what is classified."""
    last: list[Tensor] = []
    classified: list[Tensor] = []
    network: Any = head.network
    hooks = [
        network.features[-2].register_forward_hook(lambda *args: last.append(args[2])),
        head.get_submodule("classify").register_forward_pre_hook(lambda _, args: classified.append(args[0])),
    ]
    with torch.inference_mode():
        head.eval()(of)
    for hook in hooks:
        hook.remove()
    return last[0], classified[0]


@pytest.mark.parametrize(
    ("combine", "value", "times"), [("product", 1.0, 1), ("weighted", 0.0, 1), ("weighted", 1.0, 2)]
)
def test_model_3_changes_the_last_output_by_the_map_of_each_layer(combine: str, value: float, times: int) -> None:
    maps = {name: torch.full((2, 1, *SHAPES[name]), value) for name in meen.LAYERS}
    last, classified = at_the_end(build("model3_facial", combine=combine), batch([1, 1], maps))
    assert last.shape == (2, 8 * WIDTH, 2, 2)
    torch.testing.assert_close(classified, times * last.amax((2, 3)).repeat(1, 3))


def test_model_3_concatenates_three_maps() -> None:
    maps = {name: torch.full((1, 1, *SHAPES[name]), float(i)) for i, name in enumerate(meen.LAYERS)}
    last, classified = at_the_end(build("model3_facial", combine="concatenate"), batch([1], maps))
    torch.testing.assert_close(classified, torch.cat([last.amax((2, 3)), torch.tensor([[0.0, 1.0, 2.0]])], 1))


def test_model_3_sees_the_features_that_the_variation_names() -> None:
    given = batch([1, 1])
    zeros = {name: torch.zeros_like(given.inputs[name]) for name in meen.LAYERS}
    for variant, alone in (("facial", True), ("emotion", False), ("combination", True), ("separately", True)):
        head = build(f"model3_{variant}").eval()
        with torch.inference_mode():
            plain, without = head(given), head(batch([1, 1], zeros))
        assert torch.equal(plain.logits, without.logits) != alone, variant
        assert set(plain.looks) - {"frames"} == {
            *meen.LAYERS,
            *(f"image_{name}" for name in meen.LAYERS if variant == "separately"),
        }
    combined = build("model3_combination", join="concatenate")
    assert combined.weigh["late"].score.in_features == 2 * 32
    assert build("model3_combination").weigh["late"].score.in_features == 32


@pytest.mark.parametrize(("combine", "channels"), [("product", 9), ("weighted", 9), ("concatenate", 6)])
def test_separately_changes_the_image_first(combine: str, channels: int) -> None:
    ones = {name: torch.full((1, 1, *SHAPES[name]), 1.0 if combine == "product" else 0.0) for name in meen.LAYERS}
    given = batch([1], ones)
    seen = what_the_network_sees(build("model3_separately", combine=combine), given)
    image = image_of(given.inputs["pixels"][0])
    assert seen.shape[1] == channels
    if combine == "concatenate":
        assert torch.equal(seen[:, :3], image)
        assert not seen[:, 3:].any()
    else:
        torch.testing.assert_close(seen, image.repeat(1, 3, 1, 1))


def test_maps_that_shrink_are_means_of_areas() -> None:
    maps = torch.rand(2, 1, 22, 22)
    found = meen.resized(maps, torch.zeros(2, 8, 2, 2))
    torch.testing.assert_close(found, maps.unflatten(3, (2, 11)).unflatten(2, (2, 11)).mean((3, 5)))


def test_the_baseline_is_the_backbone_of_that_name() -> None:
    """On the middle of 48x48 crops, with the same weights and a linear layer."""
    head = build("vgg19", FULL, width=64).eval()
    net = backbones.build("vgg19_44:emotion").eval()
    net.load_state_dict(head.network.state_dict())
    pixels = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    spec = backbones.get_spec("vgg19_44:emotion")
    with torch.inference_mode():
        expected = head.classify(net(preprocess(pixels[:, 2:46, 2:46], spec))["pooled"])
        found = head(batch([1, 1], pixels=pixels[:, None])).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_answer_is_the_mean_of_the_frames() -> None:
    head = build("model1").eval()
    given = batch([3, 1])
    with torch.inference_mode():
        found = head(given)
        alone = [
            head(batch([1], {name: rows[:1, i : i + 1] for name, rows in given.inputs.items()})).logits
            for i in range(3)
        ]
    torch.testing.assert_close(found.logits[:1], torch.stack(alone).mean(0))
    torch.testing.assert_close(found.looks["frames"], torch.tensor([[1 / 3] * 3, [1.0, 0.0, 0.0]]))
    late = given.inputs["late"].mean(2)
    late[1, 1:] = 0
    torch.testing.assert_close(found.looks["attention"], late)


def test_batch_norm_measures_real_frames_only() -> None:
    """Padding leaves its statistics as they are, and so does a batch without a frame."""
    few, padded = build("model2").train(), build("model2").train()
    few(batch([2, 2]))
    wide = {name: torch.cat([rows, 77 + 0 * rows], 1) for name, rows in batch([2, 2]).inputs.items()}
    padded(batch([2, 2], wide, width=4))
    for (name, one), two in zip(few.state_dict().items(), padded.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    before = {name: value.clone() for name, value in few.state_dict().items()}
    empty = few(batch([0, 0], width=1))
    assert not empty.logits.any()
    assert all(torch.equal(before[name], value) for name, value in few.state_dict().items())


@pytest.mark.parametrize(
    ("variant", "shapes", "options", "words"),
    [
        (
            "model1",
            {"pixels": (64, 64, 3)},
            {},
            r"sees faces of \(44, 44, 3\) or \(48, 48, 3\).*use crops of template box48",
        ),
        (
            "model3_combination",
            {"mid": (16, 9, 9)},
            {},
            r"mid has the shape \(16, 9, 9\).*use the maps of vgg19_44:face",
        ),
        ("model3_combination", {"late": (8, 5, 5)}, {"join": "product"}, r"late has the shape \(8, 5, 5\)"),
        ("model1", {}, {"features": "some"}, r"options\.features of head meen:model1"),
        ("vgg19", {}, {"combine": "product"}, r"options\.combine of head meen:vgg19: .*it has width"),
        ("model3_facial", {}, {"join": "product"}, r"it has width, combine"),
    ],
)
def test_what_is_refused(variant: str, shapes: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        build(variant, SHAPES | shapes, **options)


def test_features_of_another_number_may_be_concatenated() -> None:
    assert build("model3_combination", SHAPES | {"late": (8, 5, 5)}, join="concatenate")
