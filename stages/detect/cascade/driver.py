"""MTCNN's cascade over photos of any sizes: P-Net photo by photo, R-Net and O-Net over the crops of all.

Faces of a photo do not depend on the photos beside it. Everything but R-Net and O-Net works on one photo at a time, and
these two always see a full bucket of crops, the last one filled up with zeros: one shape, one kernel, and a crop's
result does not depend on its place in the bucket (checked by tests on a CPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import nms

from stages.detect.cascade import boxes as arithmetic
from stages.detect.cascade.nets import OUTPUTS, CropNet, ProposalNet, State
from stages.detect.cascade.pixels import PixelTable, pixel_table
from stages.engines import Engine

PHOTOS = 8
"""Photos that are worked on together at most: their tables (8 bytes a px) are what is held in memory."""


@dataclass(frozen=True)
class _Pace:
    """How much is worked on at a time.

    Attributes:
        strip: px of a level of the pyramid.
        crops: cut out of one photo.
        refine, output: crops through R-Net and O-Net, a full bucket.
    """

    strip: int
    crops: int
    refine: int
    output: int


_PACES = {
    "torch-cpu": _Pace(32_768, 128, 16, 8),
    "openvino-cpu": _Pace(131_072, 128, 16, 8),
    "torch-cuda": _Pace(1 << 24, 1024, 512, 128),
}
"""On a CPU a layer's features stay within about 2 MB: they fit its cache, and the allocator keeps them instead of
giving them back. In a fresh process four times as many crops took twice as long each."""

_LEVEL_IOU, _PHOTO_IOU, _SAME_FACE = 0.5, 0.7, 0.7  # facenet-pytorch's


@dataclass(frozen=True)
class Found:
    """Faces of one photo, the largest first: boxes (n, 4), scores (n,), landmarks (n, 5, 2), float32."""

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray


class _CropNet(Protocol):
    """R-Net or O-Net: a full bucket of crops of `side` px (n, side, side, 3) float32 -> (n, OUTPUTS) float32."""

    side: int

    def __call__(self, pixels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _Photo:
    """A photo on its way through the cascade, and the boxes (n, 4) that are left of it."""

    table: PixelTable
    boxes: Tensor


@dataclass(frozen=True)
class _Judged:
    """Boxes (n, 4) that passed a net, their scores (n,) and the net's other outputs (n, OUTPUTS - 2)."""

    boxes: Tensor
    scores: Tensor
    rest: Tensor


class Cascade:
    """The three nets on an engine, and what is looked for."""

    def __init__(
        self,
        states: Sequence[State],
        engine: Engine,
        *,
        min_face_size: int,
        thresholds: tuple[float, float, float],
        factor: float,
    ) -> None:
        """Set up the nets.

        Args:
            states: facenet-pytorch's state dicts of P-Net, R-Net and O-Net.
            engine: that computes.
            min_face_size: px, the smallest face looked for.
            thresholds: of the three nets, 0..1.
            factor: from one level of the pyramid to the next, below 1.
        """
        self._device = torch.device(engine.device)
        self._pace = _PACES[engine.name]
        first, second, third = ({name: value.to(self._device) for name, value in state.items()} for state in states)
        if engine.runtime == "openvino":
            from stages.detect.cascade.graphs import CropGraph, ProposalGraph

            self._proposal = ProposalGraph(first)
            self._refine = CropGraph(second, "refine", self._pace.refine)
            self._output = CropGraph(third, "output", self._pace.output)
        else:
            self._proposal = ProposalNet(first)
            self._refine, self._output = CropNet(second, "refine"), CropNet(third, "output")
        self._min_face_size, self._thresholds, self._factor = min_face_size, thresholds, factor

    @torch.inference_mode()
    def detect_many(self, images: Sequence[Image.Image]) -> list[Found]:
        """Faces of each photo, in px of the photo as it was given."""
        return [
            found
            for start in range(0, len(images), PHOTOS)
            for found in self._detect_together(images[start : start + PHOTOS])
        ]

    def _detect_together(self, images: Sequence[Image.Image]) -> list[Found]:
        photos = [self._proposed(image) for image in images]
        judged = self._judged(photos, self._refine, self._thresholds[1], self._pace.refine)
        photos = [replace(photo, boxes=_refined(some)) for photo, some in zip(photos, judged, strict=True)]
        return [_finished(some) for some in self._judged(photos, self._output, self._thresholds[2], self._pace.output)]

    def _proposed(self, image: Image.Image) -> _Photo:
        """P-Net over the pyramid: squares where a face may be."""
        table = pixel_table(image, self._device)
        levels = arithmetic.scales(*image.size, self._min_face_size, self._factor)
        if not levels:
            return _Photo(table, torch.zeros(0, 4, device=self._device))
        found = [self._level(table, scale) for scale in levels]
        boxes, scores, correction = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nms(boxes, scores, _PHOTO_IOU)
        return _Photo(table, arithmetic.squared(arithmetic.moved(boxes[kept], correction[kept], pixel=0)))

    def _level(self, table: PixelTable, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4), scores (n,) and corrections (n, 4) of one level of the pyramid."""
        outputs = self._level_outputs(table, int(table.width * scale + 1), int(table.height * scale + 1))
        columns = outputs.shape[1]
        outputs = outputs.view(-1, outputs.shape[2])
        positions = arithmetic.likely(outputs, self._thresholds[0])
        outputs = outputs[positions]
        scores = arithmetic.probabilities(outputs[:, :2])
        passed = torch.nonzero(scores >= self._thresholds[0])[:, 0]
        boxes, scores = arithmetic.cells(positions[passed], columns, scale), scores[passed]
        kept = nms(boxes, scores, _LEVEL_IOU)
        return boxes[kept], scores[kept], outputs[passed[kept], 2:6]

    def _level_outputs(self, table: PixelTable, width: int, height: int) -> Tensor:
        """P-Net's outputs (rows, columns, OUTPUTS) for a photo of this size, strip by strip.

        An output sees 12 rows of px and the next begins two below it, so a strip begins at an even row and goes ten
        rows into the next: the outputs are those of the whole level.
        """
        whole = torch.tensor([[0, 0, table.width, table.height]], device=self._device)
        rows = 2 * max(8, self._pace.strip // width // 2)
        starts = range(0, max(1, height - 10), rows)
        found = [
            self._proposal(table.means(whole, height, width, slice(start, min(start + rows + 10, height))))
            for start in starts
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _judged(self, photos: Sequence[_Photo], net: _CropNet, threshold: float, bucket: int) -> list[_Judged]:
        """Of each photo those boxes that the net takes for a face."""
        seen = [arithmetic.within(photo.boxes, photo.table.width, photo.table.height) for photo in photos]
        crops = [(photo.table, rectangles) for photo, (rectangles, _) in zip(photos, seen, strict=True)]
        outputs = self._outputs(net, crops, bucket).split([len(positions) for _, positions in seen])
        judged = []
        for photo, (_, positions), values in zip(photos, seen, outputs, strict=True):
            scores = arithmetic.probabilities(values[:, :2])
            passed = torch.nonzero(scores > threshold)[:, 0]
            judged.append(_Judged(photo.boxes[positions[passed]], scores[passed], values[passed, 2:]))
        return judged

    def _outputs(self, net: _CropNet, crops: Sequence[tuple[PixelTable, Tensor]], bucket: int) -> Tensor:
        """The net's outputs (n, OUTPUTS) for the rectangles of all photos in turn, `bucket` crops at a time."""
        found = []
        pixels = torch.zeros(0, net.side, net.side, 3, device=self._device)
        for table, rectangles in crops:
            for part in rectangles.split(self._pace.crops):
                pixels = torch.cat([pixels, table.means(part, net.side, net.side)])
                full = len(pixels) // bucket * bucket
                found += [net(batch) for batch in pixels[:full].split(bucket)] if full else []
                pixels = pixels[full:]
        if len(pixels):
            filled = torch.cat([pixels, pixels.new_zeros(bucket - len(pixels), *pixels.shape[1:])])
            found.append(net(filled)[: len(pixels)])
        return torch.cat(found) if found else torch.zeros(0, OUTPUTS, device=self._device)


def _refined(judged: _Judged) -> Tensor:
    """Squares (n, 4) for O-Net from what R-Net left."""
    kept = nms(judged.boxes, judged.scores, _PHOTO_IOU)
    return arithmetic.squared(arithmetic.moved(judged.boxes[kept], judged.rest[kept, :4], pixel=1))


def _finished(judged: _Judged) -> Found:
    """The faces of a photo from what O-Net left."""
    points = arithmetic.landmarks(judged.boxes, judged.rest[:, 4:])
    moved = arithmetic.moved(judged.boxes, judged.rest[:, :4], pixel=1)
    boxes, scores, points = (part.cpu().numpy() for part in (moved, judged.scores, points))
    kept = arithmetic.distinct(boxes, scores, _SAME_FACE)
    kept = kept[arithmetic.by_size(boxes[kept])]
    return Found(boxes[kept], scores[kept], points[kept])
