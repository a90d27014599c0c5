"""Random views of crops and photos: which part is shown, mirrored or not, in which colours.

What is drawn for a picture follows from the seed, the epoch, the sample and the number of the face alone, by a hash in
counter mode: batches, their order, the number of processes and a training that goes on in the middle of an epoch change
nothing. Each kind of view has numbers of its own, so one that is switched on leaves the others as they are.

This runs in decoding processes: no torch here, nor in what it imports.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from stages.backbones.preprocess import fit
from stages.backbones.spec import BackboneSpec
from stages.errors import SettingError

if TYPE_CHECKING:
    from stages.finetune.settings import AugmentSettings

PHOTO = -1
"""In the place of a face's number: the whole photo or frame."""

ASPECT = (3 / 4, 4 / 3)
"""Width by height of what `resized` shows, as in torchvision's RandomResizedCrop."""

_TRIES = 10  # as there
_LUMA = (0.2989, 0.587, 0.114)  # torchvision's, which rounds them so
_ORDERS = tuple(permutations(range(3)))


class Who(NamedTuple):
    """Whose random view it is.

    Attributes:
        seed, epoch: see `stages.finetune.batch.Draw`.
        sample_id: in the manifest.
        face: which of the sample's stored faces; `PHOTO`: the photo.
    """

    seed: int
    epoch: int
    sample_id: str
    face: int

    def lots(self, purpose: str) -> Iterator[float]:
        """Numbers in [0, 1), without end: 53 bits each of a hash of this, the purpose and a counter."""
        name = "\x1f".join((str(self.seed), str(self.epoch), self.sample_id, str(self.face), purpose))
        begun = hashlib.blake2b(name.encode())
        counter = 0
        while True:
            block = begun.copy()
            block.update(counter.to_bytes(8, "big"))
            digest = block.digest()
            for start in range(0, len(digest), 8):
                yield (int.from_bytes(digest[start : start + 8], "big") >> 11) * 2.0**-53
            counter += 1

    def lot(self, purpose: str) -> float:
        """The first of `lots`."""
        return next(self.lots(purpose))


@dataclass(frozen=True)
class Views:
    """What is drawn: the values of `AugmentSettings`, which says what they mean."""

    flip: bool = False
    crop: str = "none"
    short_side: int | None = None
    area: tuple[float, float] = (0.08, 1.0)
    jitter: float = 0.0

    @classmethod
    def of(cls, settings: AugmentSettings) -> Views:
        """From the settings."""
        return cls(settings.flip, settings.crop, settings.short_side, settings.area, settings.jitter)

    def check_crops(self, spec: BackboneSpec) -> None:
        """Refuse what cannot be drawn of face crops.

        Raises:
            SettingError: a random place is asked for where the crops are no larger than the input, or photos' sizes.
        """
        if self.short_side is not None:
            raise SettingError(
                f"augment.short_side is {self.short_side}, but {spec.name} sees crops of faces, which have their size: "
                "leave it out"
            )
        if self.crop == "random" and not any(spec.edges):
            raise SettingError(
                f"augment.crop is 'random', but the crops of {spec.name} have just the size of its input "
                f"({_size(spec.input_size)}): use 'resized' or 'none'"
            )

    def check_photos(self, spec: BackboneSpec) -> None:
        """Refuse what cannot be drawn of whole photos.

        Raises:
            SettingError: a random place is asked for in a photo that is smaller than the input.
        """
        if self.crop != "random":
            return
        side = self.short_side or spec.resize_to
        if side is None:
            raise SettingError(
                f"augment.crop is 'random', and {spec.name} does not say how large a photo is: set augment.short_side"
            )
        if side < max(spec.input_size):
            raise SettingError(
                f"augment.short_side is {side}, but {spec.name} sees {_size(spec.input_size)}: "
                f"use at least {max(spec.input_size)}"
            )

    def mirrors(self, who: Who) -> bool:
        """Whether this random view is mirrored."""
        return self.flip and who.lot("flip") < 0.5

    def of_photo(self, image: Image.Image, spec: BackboneSpec, who: Who | None) -> np.ndarray:
        """A photo as the network sees it.

        Args:
            image: RGB, upright.
            spec: of the network.
            who: None: the plain view, which is what extraction sees.

        Returns:
            uint8 (H, W, 3) of the spec's input size.
        """
        if who is None or self.crop == "none":
            pixels = fit(image, spec)
        elif self.crop == "random":
            pixels = self._place_of(image, spec, who)
        else:
            pixels = self._part_of(image, spec, who)
        if who is None:
            return pixels
        if self.mirrors(who):
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return jittered(pixels, self.jitter, who.lots("jitter")) if self.jitter else pixels

    def of_crops(self, crops: np.ndarray, spec: BackboneSpec, whose: Sequence[Who] | None) -> np.ndarray:
        """Face crops as the network sees them.

        Args:
            crops: uint8 (n, h, w, 3) of the size of the template's crops.
            whose: n; None: the plain views, which are what extraction sees: the crops' middle.

        Returns:
            uint8 (n, H, W, 3) of the spec's input size. It may share memory with `crops`, which may be changed.
        """
        (height, width), (free_y, free_x) = spec.input_size, spec.edges
        middle = crops[:, free_y // 2 : free_y // 2 + height, free_x // 2 : free_x // 2 + width]
        if whose is None or self.crop == "none":
            out = np.ascontiguousarray(middle)
        else:
            out = np.empty((len(crops), height, width, 3), np.uint8)
            for i, who in enumerate(whose):
                if self.crop == "random":
                    lots = who.lots("crop")
                    top, left = _place(next(lots), free_y), _place(next(lots), free_x)
                    out[i] = crops[i, top : top + height, left : left + width]
                else:
                    out[i] = self._part_of(Image.fromarray(crops[i]), spec, who)
        if whose is None:
            return out
        if self.flip:
            mirror(out, np.array([self.mirrors(who) for who in whose], bool))
        if self.jitter:
            for i, who in enumerate(whose):
                out[i] = jittered(out[i], self.jitter, who.lots("jitter"))
        return out

    def _place_of(self, image: Image.Image, spec: BackboneSpec, who: Who) -> np.ndarray:
        """A random place of the input's size, in the photo resized to its shortest side.

        Only that place is resized, from the pixels around it: the same as resizing all, however long the photo is.
        """
        (height, width), side = spec.input_size, self.short_side or spec.resize_to or 0
        short, long = sorted(image.size)
        other = max(side, int(side * long / short))  # torchvision's rounding, as in `fit`
        whole = (side, other) if image.width <= image.height else (other, side)
        lots = who.lots("crop")
        top, left = _place(next(lots), whole[1] - height), _place(next(lots), whole[0] - width)
        across, down = image.width / whole[0], image.height / whole[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        part = image.resize((width, height), _kernel(spec), box=box)  # box is float32 there: no ulp beyond the edge
        return np.array(part, dtype=np.uint8)

    def _part_of(self, image: Image.Image, spec: BackboneSpec, who: Who) -> np.ndarray:
        """A random part, resized to the input's size."""
        height, width = spec.input_size
        part = image.crop(part_of(image.width, image.height, self.area, who.lots("crop")))
        return np.array(part.resize((width, height), _kernel(spec)), dtype=np.uint8)


def part_of(width: int, height: int, area: tuple[float, float], lots: Iterator[float]) -> tuple[int, int, int, int]:
    """Which part torchvision's RandomResizedCrop would show: x1, y1, x2, y2 in whole px.

    Ten tries at an area, evenly spread over `area`, and an aspect, evenly spread over the logarithms of `ASPECT`; where
    none fits, the middle with the nearest aspect that does.

    Args:
        area: shares of the picture's area, 0..1.
        lots: numbers in [0, 1).
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(_TRIES):
        pixels = width * height * (area[0] + (area[1] - area[0]) * next(lots))
        aspect = math.exp(low + (high - low) * next(lots))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = _place(next(lots), height - h), _place(next(lots), width - w)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < ASPECT[0]:
        h = min(round(width / ASPECT[0]), height)
    elif width / height > ASPECT[1]:
        w = min(round(height * ASPECT[1]), width)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def mirror(pixels: np.ndarray, which: np.ndarray) -> None:
    """Mirror those of uint8 (n, H, W, 3) at which (n,) bool is True, in place."""
    numbers = np.flatnonzero(which)
    if len(numbers):
        some = pixels[numbers]
        for channel in range(some.shape[-1]):  # by channels: four times as fast as pixels of three bytes
            pixels[numbers, :, :, channel] = some[:, :, ::-1, channel]


def mirrored_boxes(boxes: np.ndarray) -> np.ndarray:
    """Relative boxes (n, 4) x1 y1 x2 y2 in the mirrored photo."""
    return np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)


def jittered(pixels: np.ndarray, amount: float, lots: Iterator[float]) -> np.ndarray:
    """Brightness, contrast and saturation each times 1 - amount (not below 0) to 1 + amount, in a random order.

    As torchvision's ColorJitter on uint8: after each step values are cut to 0..255 and the fraction is dropped.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        lots: numbers in [0, 1).
    """
    order = _ORDERS[int(next(lots) * len(_ORDERS))]
    least = max(0.0, 1 - amount)
    factors = [least + (1 + amount - least) * next(lots) for _ in range(3)]
    for step in order:
        other: np.ndarray | float = 0.0
        if step == 1:
            other = grey(pixels).mean(dtype=np.float64)
        elif step == 2:
            other = grey(pixels)[..., None].astype(np.float32)
        pixels = blend(pixels, other, factors[step])
    return pixels


def grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) RGB to uint8 (...), the fraction dropped."""
    red, green, blue = (pixels[..., i].astype(np.float32) * np.float32(_LUMA[i]) for i in range(3))
    return (red + green + blue).astype(np.uint8)


def blend(pixels: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    """factor * pixels + (1 - factor) * other, uint8."""
    values = pixels.astype(np.float32)
    values *= np.float32(factor)
    values += np.float32(1 - factor) * np.asarray(other, np.float32)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _place(lot: float, free: int) -> int:
    """A whole number 0..free."""
    return int(lot * (free + 1))


def _kernel(spec: BackboneSpec) -> Image.Resampling:
    return Image.Resampling[spec.interpolation.upper()]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
