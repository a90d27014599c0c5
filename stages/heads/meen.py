"""Heads of Meen et al., "Facial Emotion Recognition using Facial Features as an Attention Mechanism".

A VGG-19 for 44x44 faces is trained from scratch, and maps F (its features, C of them) of a second network, which was
trained to tell faces from other images and is frozen, are its attention. The head is all that is trained: the emotion
network and what joins the maps. It reads `pixels`, and the face network's maps of the same view of them: `late`
(C, h, w), and in model 3 `early` and `mid` as well.

- vgg19: the paper's baseline, pixels alone
- model1 (section 3.1): the maps change the image that the emotion network sees
- model2 (3.2): as model 1, with weighted features
- model3_facial, model3_emotion, model3_combination (3.3): maps of three layers of the face network, of the emotion
  network, or of both, change what the emotion network's last convolution gives
- model3_separately (3.3): the face network's change the image, the emotion network's what its last convolution gives

Options. `features` (models 1 and 2): `all`; `averaged` to one map (model 2: their weighted sum); `convolved` to one map
by a 1x1 convolution. `combine`, of maps f and image x, resized to the image's places (bilinear, as for all that grows):

    concatenate   [x, f]
    product       f x          (equation 1)
    weighted      (1 + f) x    (equation 2)

The defaults are the rows of the paper's table, the better one where it has two: model 1 averaged, equation 2; model 2
all, concatenated; model 3 equation 1.

Where the text is silent:
- With `all`, the product of 512 maps and an image of three colours is taken with the mean of the colours: 512 channels.
  The faces of FER2013 are grey, so nothing is lost, and 1,536 channels would be three times the same.
- The softmax (model 2) is over the features: w = softmax(W m + b), m the means of the features' maps, and feature c is
  w_c F_c. "Weights given by the facial features" needs scores that depend on them, and b lets some features count more
  in every image. With equal scores all maps are divided by C, so `averaged` is model 1's, and `all` a C-th of it.
- No non-linearity after the 1x1 convolution to one map.
- Model 3 weighs a layer's features in the same way, and their sum is one map. The "last layer output" of figure 2 is
  that of the last convolution, (512, 2, 2). Maps are brought to that size by means of areas. Each layer's map gives a
  changed copy, and the three are pooled, joined and classified, as in the paper's reference 6 (Jetley et al. 2018);
  `concatenate` joins the output and the three maps once.
- `combination`: `join` says how the two networks' features of one layer come together, `product`, or `concatenate`.
- `separately`: each of the three maps gives a changed image, and these are joined: nine channels, or with `concatenate`
  the image and three maps, six.
- The middle 44x44 of a 48x48 crop answers. Dropout is not mentioned; it comes before the last layer.

One face a frame; a photo is one frame. A sample's logits are the mean of its frames'. Batch norm sees real frames only,
which depends on the batch, so these heads are trained one at a time (`ALONE`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from stages.backbones import vgg19_44
from stages.backbones.networks import vgg19_44 as networks
from stages.backbones.preprocess import preprocess
from stages.errors import SettingError
from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.registry import Input, Level, Shapes
from stages.settings import Settings

Features = Literal["all", "averaged", "convolved"]
Combine = Literal["concatenate", "product", "weighted"]


class NetworkOptions(Settings):
    """Of every variant.

    Attributes:
        width: filters of the emotion network's first stage; the others have 2, 4, 8 and 8 times as many.
    """

    width: int = Field(default=networks.WIDTH, ge=1)


class Model1Options(NetworkOptions):
    """See the text above."""

    features: Features = "averaged"
    combine: Combine = "weighted"


class Model2Options(NetworkOptions):
    """See the text above."""

    features: Features = "all"
    combine: Combine = "concatenate"


class Model3Options(NetworkOptions):
    """See the text above."""

    combine: Combine = "product"


class CombinationOptions(Model3Options):
    """See the text above."""

    join: Literal["concatenate", "product"] = "product"


LAYERS = tuple(vgg19_44.TAPPED)
_FACIAL = ("model3_facial", "model3_combination", "model3_separately")
VARIANTS = ("vgg19", "model1", "model2", "model3_facial", "model3_emotion", "model3_combination", "model3_separately")
ALONE = VARIANTS
NEEDS: dict[str, tuple[Level, ...]] = dict.fromkeys(VARIANTS, ())

_PIXELS, _MAP = Input("frame", "pixels"), Input("frame", "map")
INPUTS: dict[str, dict[str, Input]] = {
    variant: {"pixels": _PIXELS}
    | ({"late": _MAP} if variant in ("model1", "model2") else {})
    | (dict.fromkeys(LAYERS, _MAP) if variant in _FACIAL else {})
    for variant in VARIANTS
}
OPTIONS: dict[str, type[Settings]] = {
    "vgg19": NetworkOptions,
    "model1": Model1Options,
    "model2": Model2Options,
    "model3_facial": Model3Options,
    "model3_emotion": Model3Options,
    "model3_combination": CombinationOptions,
    "model3_separately": Model3Options,
}
SCHEDULES = {variant: {"epochs": 200, "step": 100} for variant in VARIANTS}
"""150 to 300 epochs, says the text, and a tenth of the rate after 50, 75 and 90 % of them: `schedule: {kind: steps, at:
[0.5, 0.75, 0.9]}`. `step` has the first of the three."""

SOURCES = {
    "vgg19": "Meen et al., table 1, VGG19",
    "model1": "Meen et al., 3.1, equations 1, 2",
    "model2": "Meen et al., 3.2",
    "model3_facial": "Meen et al., 3.3, facial features",
    "model3_emotion": "Meen et al., 3.3, emotion features",
    "model3_combination": "Meen et al., 3.3, combination",
    "model3_separately": "Meen et al., 3.3, separately",
}


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """A head of this paper; see `FrameHead`.

    Raises:
        SettingError: pixels are of another size than the network's, or maps do not fit together.
    """
    seen = vgg19_44.spec("emotion")
    sizes = [(*size, 3) for size in (seen.input_size, seen.pixels_size)]
    if shapes.inputs["pixels"] not in sizes:
        raise SettingError(
            f"head meen:{variant} sees faces of {sizes[0]} or {sizes[1]}, and pixels has rows of "
            f"{shapes.inputs['pixels']}: use crops of template {seen.template}"
        )
    if isinstance(options, (Model1Options, Model2Options)):
        return AtInput(shapes.inputs["late"], classes, dropout, options)
    if isinstance(options, Model3Options):
        facial = {name: shapes.inputs[name] for name in LAYERS} if variant in _FACIAL else {}
        return AtEnd(variant.removeprefix("model3_"), facial, classes, dropout, options)
    assert isinstance(options, NetworkOptions)  # noqa: S101 - OPTIONS has no others
    return Plain(classes, dropout, options)


class FrameHead(nn.Module):
    """Real frames through `vectors`, a linear layer and the mean over a sample's frames.

    A sample without a frame has logits 0.

    Args:
        width: of a frame's vector.
        classes: K.
        dropout: probability before the linear layer.
        looks: name -> height and width of an attention map that `vectors` tells.
    """

    def __init__(self, width: int, classes: int, dropout: float, looks: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.looks = dict(looks)
        self.dropout, self.classify = nn.Dropout(dropout), nn.Linear(width, classes)

    def vectors(self, image: Tensor, maps: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors (n, width) of n frames, and their attention maps, (n, h, w).

        Args:
            image: (n, 3, 44, 44), 0..1.
            maps: name -> (n, C, h, w) of the face network.
        """
        raise NotImplementedError

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), weights of 0 (B, N), and looks: `frames` (B, T), and attention maps (B, T, h, w); a map's
        numbers below 0 are shown as 0."""
        mask = batch.masks["frame"]
        looks = {name: torch.zeros(*mask.shape, *size, device=mask.device) for name, size in self.looks.items()}
        if bool(mask.any()):
            maps = {name: rows[mask] for name, rows in batch.inputs.items() if name in LAYERS}
            vectors, found = self.vectors(_image(batch.inputs["pixels"][mask]), maps)
            for name, look in looks.items():
                look[mask] = found[name].detach().clamp_min(0).to(look.dtype)
        else:
            vectors = torch.zeros(0, self.classify.in_features, device=mask.device)
        frames = mask / mask.sum(1, keepdim=True).clamp_min(1)  # (B, T)
        answers = self.classify(self.dropout(vectors))  # (n, K)
        logits = answers.new_zeros(*mask.shape, answers.shape[1]).index_put(torch.where(mask), answers)
        logits = (logits * frames.to(logits).unsqueeze(-1)).sum(1)
        attention = torch.zeros_like(batch.face_mask, dtype=logits.dtype)
        return HeadOutput(logits, attention, {"frames": frames, **looks})


class Plain(FrameHead):
    """The emotion network alone."""

    def __init__(self, classes: int, dropout: float, options: NetworkOptions) -> None:
        super().__init__(_last(options), classes, dropout, {})
        self.network = networks.VGG19(width=options.width)

    def vectors(self, image: Tensor, maps: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `FrameHead`."""
        return self.network(image)["pooled"], {}


class AtInput(FrameHead):
    """Models 1 and 2: the emotion network sees what the face network's late maps make of the image.

    Args:
        late: (C, h, w) of the maps.
        options: those of model 2 weigh the features.
    """

    def __init__(
        self, late: tuple[int, ...], classes: int, dropout: float, options: Model1Options | Model2Options
    ) -> None:
        count, height, width = late
        looks = {} if options.features == "all" else {"attention": (height, width)}
        super().__init__(_last(options), classes, dropout, looks)
        self.features = options.features
        self.combine: Combine = options.combine
        self.weigh = Weigh(count) if isinstance(options, Model2Options) else None
        self.convolve = nn.Conv2d(count, 1, 1) if options.features == "convolved" else None
        inputs = channels(count if options.features == "all" else 1, options.combine)
        self.network = networks.VGG19(inputs, options.width)

    def vectors(self, image: Tensor, maps: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `FrameHead`."""
        attention = self.attention(maps["late"])
        found = self.network(combined(image, resized(attention, image), self.combine))["pooled"]
        return found, {} if self.features == "all" else {"attention": attention[:, 0]}

    def attention(self, late: Tensor) -> Tensor:
        """The features that are joined with the image, (n, C or 1, h, w), of the maps (n, C, h, w)."""
        if self.weigh is not None:
            late = self.weigh(late)
        if self.convolve is not None:
            return self.convolve(late)
        if self.features == "all":
            return late
        # weights sum to 1, so a sum of what is weighted is a mean
        return late.mean(1, keepdim=True) if self.weigh is None else late.sum(1, keepdim=True)


class AtEnd(FrameHead):
    """Model 3: attention maps of three layers change what the emotion network's last convolution gives.

    Args:
        variation: `facial`, `emotion`, `combination` or `separately`.
        facial: layer -> (C, h, w) of the face network's maps; empty where they are not read.

    Raises:
        SettingError: `combination`, and the two networks' maps differ in what must be the same.
    """

    def __init__(
        self,
        variation: str,
        facial: Mapping[str, tuple[int, ...]],
        classes: int,
        dropout: float,
        options: Model3Options,
    ) -> None:
        own, last = _own_shapes(options), _last(options)
        read = dict(facial) if variation == "facial" else own
        looks = {name: (shape[1], shape[2]) for name, shape in read.items()}
        if variation == "separately":
            looks |= {f"image_{name}": (shape[1], shape[2]) for name, shape in facial.items()}
        together = options.combine == "concatenate"
        super().__init__(last + len(LAYERS) if together else last * len(LAYERS), classes, dropout, looks)
        self.variation = variation
        self.combine: Combine = options.combine
        self.join = options.join if isinstance(options, CombinationOptions) else None
        counts = {name: read[name][0] for name in LAYERS}
        if self.join is not None:
            _require_fit(facial, own, self.join)
        if self.join == "concatenate":
            counts = {name: count + facial[name][0] for name, count in counts.items()}
        self.weigh = nn.ModuleDict({name: Weigh(count) for name, count in counts.items()})
        self.weigh_image, inputs = None, 3
        if variation == "separately":
            self.weigh_image = nn.ModuleDict({name: Weigh(facial[name][0]) for name in LAYERS})
            inputs = 3 + len(LAYERS) if together else 3 * len(LAYERS)
        self.network = networks.VGG19(inputs, options.width)

    def vectors(self, image: Tensor, maps: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `FrameHead`."""
        looks: dict[str, Tensor] = {}
        if self.weigh_image is not None:
            before = {name: _one_map(self.weigh_image[name], maps[name]) for name in LAYERS}
            looks |= {f"image_{name}": one[:, 0] for name, one in before.items()}
            image = self._changed(image, before)
        own = self.network.maps(image)
        attention = {name: _one_map(self.weigh[name], self._features(name, maps, own)) for name in LAYERS}
        looks |= {name: one[:, 0] for name, one in attention.items()}
        return self.network.pool(self._changed(own[networks.LAST], attention)), looks

    def _features(self, name: str, maps: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor:
        """A layer's features, which are weighted, (n, C, h, w)."""
        if self.variation == "facial":
            return maps[name]
        if self.variation == "combination":
            return torch.cat([maps[name], own[name]], 1) if self.join == "concatenate" else maps[name] * own[name]
        return own[name]

    def _changed(self, values: Tensor, attention: Mapping[str, Tensor]) -> Tensor:
        """What the three maps make of (n, C, H, W), joined: (n, 3C, H, W), or (n, C + 3, H, W) concatenated."""
        maps = [resized(one, values) for one in attention.values()]
        if self.combine == "concatenate":
            return torch.cat([values, *maps], 1)
        return torch.cat([combined(values, one, self.combine) for one in maps], 1)


class Weigh(nn.Module):
    """Features times their weights, which a softmax over them gives (section 3.2).

    Args:
        features: C.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, features)

    def forward(self, maps: Tensor) -> Tensor:
        """w_c F_c, (n, C, h, w), of maps (n, C, h, w)."""
        weights = torch.softmax(self.score(maps.mean((2, 3))), dim=1)
        return weights[:, :, None, None] * maps


def channels(maps: int, combine: Combine) -> int:
    """Of what `combined` makes of an image of three colours."""
    if combine == "concatenate":
        return 3 + maps
    return maps if maps > 1 else 3


def combined(values: Tensor, maps: Tensor, combine: Combine) -> Tensor:
    """Equations 1 and 2, or both joined.

    Args:
        values: (n, C, H, W): the image, or what a layer gives. Several maps are multiplied with the mean of its
            channels.
        maps: (n, M, H, W).

    Returns:
        (n, C + M, H, W) concatenated; else (n, C, H, W) of one map, (n, M, H, W) of several.
    """
    if combine == "concatenate":
        return torch.cat([values, maps], 1)
    if maps.shape[1] > 1:
        values = values.mean(1, keepdim=True)
    return (maps if combine == "product" else 1 + maps) * values


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps (n, M, h, w) with the height and width of (n, C, H, W): bilinear where they grow, else means of areas."""
    size = like.shape[2:]
    if maps.shape[2] > size[0] or maps.shape[3] > size[1]:
        return F.interpolate(maps, list(size), mode="area")
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)


def _image(pixels: Tensor) -> Tensor:
    """What the network sees of uint8 (n, 44 or 48, 44 or 48, 3): (n, 3, 44, 44), 0..1."""
    # As in fine-tuning: on a CPU channels last is no faster, and crashes in some layers' backward.
    return preprocess(pixels, vgg19_44.spec("emotion")).clone(memory_format=torch.contiguous_format)


def _last(options: NetworkOptions) -> int:
    """Maps of the last convolution."""
    return networks.STAGES[-1][1] * options.width


def _own_shapes(options: NetworkOptions) -> dict[str, tuple[int, int, int]]:
    """Layer -> (C, h, w) of the emotion network's maps: each stage's are half as large as those before."""
    side = vgg19_44.spec("emotion").input_size[0]
    return {
        name: (networks.STAGES[stage - 1][1] * options.width, side >> (stage - 1), side >> (stage - 1))
        for name, stage in vgg19_44.TAPPED.items()
    }


def _one_map(weigh: nn.Module, maps: Tensor) -> Tensor:
    """The weighted sum of features (n, C, h, w): (n, 1, h, w)."""
    return cast(Tensor, weigh(maps)).sum(1, keepdim=True)


def _require_fit(facial: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]], join: str) -> None:
    for name in LAYERS:
        theirs, ours = facial[name], own[name]
        if theirs[1:] != ours[1:] or (join == "product" and theirs != ours):
            raise SettingError(
                f"head meen:model3_combination: {name} has the shape {theirs}, and the emotion network's is {ours}: "
                "use the maps of vgg19_44:face"
            )
