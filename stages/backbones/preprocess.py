"""Pixels to network input: `fit` resizes on PIL images, `preprocess` does colour and scale on tensors of any device.

Importing this does not import torch: `fit` is for decoding processes, which do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    import torch

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# BT.601 luma (0.299, 0.587, 0.114) in 14 bits, as OpenCV rounds it: whole numbers give the same bits on each device.
_LUMA = (4899, 9617, 1868)
_LUMA_BITS = 14
_LONGEST = 64  # times the shortest side


def fit(image: Image.Image, spec: BackboneSpec) -> NDArray[np.uint8]:
    """Bring an image to the spec's input size.

    `stretch` resizes both sides on their own; `shortest_side_center_crop` resizes the shortest side to
    `spec.resize_to` and cuts out the middle, with torchvision's rounding.

    Returns:
        uint8 (H, W, 3) RGB, C-contiguous, writable.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    height, width = spec.input_size
    kernel = _FILTERS[spec.interpolation]
    if spec.resize_to is None:
        if image.size != (width, height):
            image = image.resize((width, height), kernel)
        return np.array(image, dtype=np.uint8)
    image = _within(image, spec)
    short, long = sorted(image.size)
    other = max(spec.resize_to, int(spec.resize_to * long / short))
    size = (spec.resize_to, other) if image.width <= image.height else (other, spec.resize_to)
    if image.size != size:
        image = image.resize(size, kernel)
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)


def _within(image: Image.Image, spec: BackboneSpec) -> Image.Image:
    """Without the ends of a strip so long that resizing it would take gigabytes; the centre crop never sees them."""
    short = min(image.size)
    most = max(1, short * _LONGEST)
    if max(image.size) <= most:
        return image
    left, top = ((side - min(side, most)) // 2 for side in image.size)
    return image.crop((left, top, left + min(image.width, most), top + min(image.height, most)))


def preprocess(pixels: torch.Tensor, spec: BackboneSpec) -> torch.Tensor:
    """Colour order and scale: (value - mean) / std.

    Args:
        pixels: uint8 (B, H, W, 3) RGB on any device, of the spec's input size, or of its crop size: then the middle.
        spec: whose colour, mean and std are used.

    Returns:
        float32 (B, C, H, W) on the device of `pixels`, in memory as they are: channels last.

    Raises:
        ValueError: for another dtype or shape (a caller's mistake, not a user's).
    """
    import torch

    height, width = spec.input_size
    if spec.crop_size is not None and tuple(pixels.shape[1:3]) == spec.crop_size:
        top, left = (edge // 2 for edge in spec.edges)
        pixels = pixels[:, top : top + height, left : left + width]
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != (height, width, 3):
        raise ValueError(f"{spec.name} eats uint8 (B, {height}, {width}, 3), got {pixels.dtype} {tuple(pixels.shape)}")
    planes = pixels.permute(0, 3, 1, 2)  # (B, 3, H, W)
    if spec.colour == "grey":
        red, green, blue = planes.to(torch.int32).unbind(1)
        luma = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + (1 << (_LUMA_BITS - 1))
        planes = (luma >> _LUMA_BITS).unsqueeze(1)  # (B, 1, H, W), 0..255
    elif spec.colour == "BGR":
        planes = planes.flip(1)
    values = planes.to(torch.float32, memory_format=torch.channels_last)
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
    std = torch.tensor(spec.std, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
    return values.sub_(mean).div_(std)
