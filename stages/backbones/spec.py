"""What a backbone eats and gives: a frozen description that imports no deep-learning library."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

CHANNELS = {"RGB": 3, "BGR": 3, "grey": 1}
LEVELS = ("face", "global")
INPUTS = ("face", "image")
RESIZES = ("stretch", "shortest_side_center_crop")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Tap:
    """One output of a backbone.

    Attributes:
        name: key of the dict that the network's forward returns.
        level: `face` (a row per face crop) or `global` (a row per image).
        shape: shape of one row, without the batch; float32.
    """

    name: str
    level: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"tap {self.name!r} has level {self.level!r}, not one of {LEVELS}")


@dataclass(frozen=True)
class BackboneSpec:
    """A frozen backbone: its input, its taps, where its weights and its right to use them come from.

    Attributes:
        name: `family` or `family:variant`.
        family: the file of this folder that builds it.
        weights: name in the weights catalogue.
        licence: of the weights, as their publisher states it.
        paper: citation of the network.
        input: `face` (an aligned crop) or `image` (the whole photo).
        template: name of the align template of the crops; None for images.
        input_size: (H, W) in px.
        colour: `RGB`, `BGR` or `grey` (ITU-R BT.601 luma).
        mean: per channel, in the order of `colour`, on the 0..255 scale.
        std: as `mean`; the network sees (value - mean) / std.
        resize: how `preprocess.fit` reaches `input_size`.
        resize_to: px of the shortest side before the centre crop; None for `stretch`.
        interpolation: of that resizing; both kinds are antialiased.
        crop_size: (H, W) of the template's crops where they are larger than the input, which is their middle (training
            may take other parts of them); None: they have the input's size.
        taps: what forward returns.
        extractor_version: raised when the same weights and pixels would give other values.
        stand_in: name of the backbone this one stands in for where that one's weights cannot be had.
    """

    name: str
    family: str
    weights: str
    licence: str
    paper: str
    input: str
    template: str | None
    input_size: tuple[int, int]
    colour: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    taps: tuple[Tap, ...]
    resize: str = "stretch"
    resize_to: int | None = None
    interpolation: str = "bilinear"
    crop_size: tuple[int, int] | None = None
    extractor_version: int = 1
    stand_in: str | None = None

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("input", self.input, INPUTS),
            ("colour", self.colour, tuple(CHANNELS)),
            ("resize", self.resize, RESIZES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"backbone {self.name!r} has {field} {value!r}, not one of {allowed}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"backbone {self.name!r} needs {self.channels} means and stds for {self.colour}")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"backbone {self.name!r} has a std that is not positive: {self.std}")
        if (self.input == "face") != (self.template is not None):
            raise ValueError(f"backbone {self.name!r} eats {self.input}s, its template is {self.template!r}")
        crops = self.resize == "shortest_side_center_crop"
        if crops != (self.resize_to is not None) or (
            self.resize_to is not None and self.resize_to < max(self.input_size)
        ):
            raise ValueError(f"backbone {self.name!r} has resize {self.resize!r} with resize_to {self.resize_to}")
        if self.crop_size is not None and (self.input != "face" or min(self.edges) < 0 or not any(self.edges)):
            raise ValueError(f"backbone {self.name!r} has crop_size {self.crop_size} for an input of {self.input_size}")
        if not self.taps or len({tap.name for tap in self.taps}) != len(self.taps):
            raise ValueError(f"backbone {self.name!r} needs taps with names of their own")

    @property
    def channels(self) -> int:
        """Channels of the network's input: 3, or 1 for grey."""
        return CHANNELS[self.colour]

    @property
    def pixels_size(self) -> tuple[int, int]:
        """(H, W) of the pixels that come in: of the template's crops, or of fitted images."""
        return self.crop_size or self.input_size

    @property
    def edges(self) -> tuple[int, int]:
        """How many px the pixels that come in have more than the input, (in height, in width)."""
        return self.pixels_size[0] - self.input_size[0], self.pixels_size[1] - self.input_size[1]

    def tap(self, name: str) -> Tap:
        """The tap of that name.

        Raises:
            KeyError: when there is none.
        """
        return {tap.name: tap for tap in self.taps}[name]

    def only(self, taps: Collection[str]) -> BackboneSpec:
        """The same with no taps but these.

        Raises:
            KeyError: when it does not have one of them.
        """
        wanted = {self.tap(name).name for name in taps}
        return replace(self, taps=tuple(tap for tap in self.taps if tap.name in wanted))

    def describe(self) -> dict[str, object]:
        """The facts of the preprocessing that change values, JSON-able: what belongs in the key of a cached block."""
        facts: dict[str, object] = {
            "input": self.input,
            "template": self.template,
            "input_size": list(self.input_size),
            "colour": self.colour,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            "resize_to": self.resize_to,
            "interpolation": self.interpolation,
        }
        # only where there is one: the keys of the others stay what they were
        return facts | ({"crop_size": list(self.crop_size)} if self.crop_size else {})
