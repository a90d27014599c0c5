"""Means over rectangles of a photo from one summed-area table: the resizing of MTCNN's pyramid and crops.

A bin's edges are those of `adaptive_avg_pool2d`, which is what facenet-pytorch resizes with (`interpolate` with
`mode="area"`): bin i of n over a length L goes from floor(i L / n) up to ceil((i + 1) L / n). Sums are of integers and
exact; a mean costs four look-ups, however large its bin is.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.loops import Loops

_LOOPS = Loops("stages.detect.cascade.pixel_loops", after=16)
"""A photo of 640 x 480 takes 10 ms less with them, and importing them 0.4 s more."""

_BITS = 21
"""The three channels share an int64, this many bits each: a table of one number a pixel instead of three. Totals run
over and wrap around, yet their differences are right as long as the bin's own sums fit."""

_MASK = (1 << _BITS) - 1
_LARGEST_BIN = _MASK // 255
"""Pixels of a bin whose sums always fit; larger ones are summed in strips."""


class PixelTable(Protocol):
    """The summed-area table of one RGB photo.

    Attributes:
        width, height: px.
    """

    width: int
    height: int

    def means(self, boxes: Tensor, height: int, width: int, rows: slice = ...) -> Tensor:
        """Resize rectangles of the photo.

        Args:
            boxes: (n, 4) int64, x1 y1 x2 y2 in px, within the photo, x2 and y2 exclusive.
            height, width: of the result, px. A rectangle is at most 8,000 times as wide (no face is).
            rows: those of the result that are wanted.

        Returns:
            (n, rows, width, 3) float32: means of 0..255 taken to -1..1 as MTCNN's nets want it.
        """
        ...


def pixel_table(image: Image.Image, device: torch.device) -> PixelTable:
    """Sum up a photo; one that is not RGB is converted."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    loops = _LOOPS.get() if device.type == "cpu" else None
    return TorchTable(rgb, device) if loops is None else CompiledTable(rgb, loops)


class CompiledTable:
    """A table in this machine's memory, read by compiled loops; the bits are those of `TorchTable`."""

    def __init__(self, image: Image.Image, loops: Any) -> None:
        """Sum up an RGB photo.

        Args:
            loops: the module `pixel_loops`.
        """
        self.width, self.height = image.size
        self._loops = loops
        self._sums: np.ndarray = loops.table(np.asarray(image))

    def means(self, boxes: Tensor, height: int, width: int, rows: slice = slice(None)) -> Tensor:
        """See `PixelTable`."""
        start, stop, _ = rows.indices(height)
        return torch.from_numpy(
            self._loops.means(self._sums, boxes.contiguous().numpy(), height, width, start, max(start, stop))
        )


class TorchTable:
    """A table on any device, read by torch."""

    def __init__(self, image: Image.Image, device: torch.device) -> None:
        """Sum up an RGB photo."""
        self.width, self.height = image.size
        # Pillow's own layout, four bytes a pixel: a plain copy
        pixels = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.int32)
        wide = pixels.to(device).view(self.height, self.width).to(torch.int64)
        packed = wide & 0xFF
        packed |= (wide & 0xFF00) << (_BITS - 8)
        packed |= (wide & 0xFF0000) << (2 * _BITS - 16)
        sums = torch.zeros(self.height + 1, self.width + 1, dtype=torch.int64, device=device)
        torch.cumsum(torch.cumsum(packed, 0), 1, out=sums[1:, 1:])
        self._sums = sums.view(-1)

    def means(self, boxes: Tensor, height: int, width: int, rows: slice = slice(None)) -> Tensor:
        """See `PixelTable`."""
        x, x_end = _edges(boxes[:, 0:1], boxes[:, 2:3], width)
        y, y_end = (edge[:, rows] for edge in _edges(boxes[:, 1:2], boxes[:, 3:4], height))
        fitting = max(1, _LARGEST_BIN // (self.width // width + 2))
        strips = -(-(self.height // height + 2) // fitting)
        out = torch.empty(len(boxes), y.shape[1], width, 3, device=boxes.device)
        # (sum / area - 127.5) / 128, to the bit, as 128 is a power of two and the sides' product is rounded once
        tall, wide = (y_end - y).to(torch.float32).mul_(128), (x_end - x).to(torch.float32)
        area = tall[:, :, None] * wide[:, None, :]
        for channel, sums in enumerate(self._sums_of(x, x_end, y, y_end, strips)):
            torch.sub(sums.to(torch.float32).div_(area), 127.5 / 128, out=out[..., channel])
        return out

    def _sums_of(self, x: Tensor, x_end: Tensor, y: Tensor, y_end: Tensor, strips: int) -> list[Tensor]:
        """Sums (n, height, width) int64 of each channel, bins cut into strips of rows that fit."""
        total: list[Tensor] = []
        for strip in range(strips):
            top = y + (y_end - y) * strip // strips if strip else y
            bottom = y + (y_end - y) * (strip + 1) // strips if strip + 1 < strips else y_end
            packed = self._rectangles(x, x_end, top, bottom)
            parts = [packed & _MASK, (packed >> _BITS) & _MASK, packed >> (2 * _BITS)]
            total = [a.add_(b) for a, b in zip(total, parts, strict=True)] if total else parts
        return total

    def _rectangles(self, x: Tensor, x_end: Tensor, y: Tensor, y_end: Tensor) -> Tensor:
        """Packed sums (n, height, width) over columns x..x_end (n, width) and rows y..y_end (n, height)."""
        shape = (len(x), y.shape[1], x.shape[1])
        stride = self.width + 1
        # half as many bytes of positions to write and read, where they fit
        integer = torch.int32 if len(self._sums) < 1 << 31 else torch.int64
        upper, lower = ((edge * stride).to(integer)[:, :, None] for edge in (y, y_end))
        left, right = (edge.to(integer)[:, None, :] for edge in (x, x_end))

        def look_up(row: Tensor, column: Tensor) -> Tensor:
            return self._sums.index_select(0, (row + column).view(-1))

        found = look_up(lower, right).sub_(look_up(lower, left))
        return found.sub_(look_up(upper, right)).add_(look_up(upper, left)).view(shape)


def _edges(start: Tensor, end: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """First and one past the last px (n, bins) of each bin of the lengths start..end (n, 1)."""
    length = end - start
    index = torch.arange(bins, device=start.device)
    first = start + torch.div(index * length, bins, rounding_mode="floor")
    last = start - torch.div(-(index + 1) * length, bins, rounding_mode="floor")
    return first, last
