"""What every head is given: a padded batch of cached features with masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadBatch:
    """Features of B samples, padded to the largest number of faces N among them.

    Attributes:
        faces: (B, N, D) float32 features of faces; D is 0 for a head without faces.
        face_mask: (B, N) bool, True = a real face; those come first in a row. A sample without a face has a row of
            False.
        boxes: (B, N, 4) float32 x1 y1 x2 y2 relative to the photo's width and height, 0 where padded.
        global_: (B, G) float32 features of the whole photo; G is 0 for a head without them.
    """

    faces: Tensor
    face_mask: Tensor
    boxes: Tensor
    global_: Tensor

    def __len__(self) -> int:
        return len(self.face_mask)


@dataclass(frozen=True)
class HeadOutput:
    """A head's answer.

    Attributes:
        logits: (B, K).
        attention: (B, N) weight of each face, summing to 1 over a sample's real faces; all 0 without one, and of a head
            that reads no faces.
    """

    logits: Tensor
    attention: Tensor


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of (B, N) scores over the entries where mask is True; rows without one are all 0, never NaN."""
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf).masked_fill(~mask.any(-1, keepdim=True), 0), dim=-1)
    return weights * mask
