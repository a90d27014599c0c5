"""What every head is given: a padded batch of cached features with masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        inputs: what else a head names (`HeadFile.INPUTS`): name -> (B, R, *shape), R rows of each sample: frames, one
            face each, or persons. float32; of pixels uint8 (B, R, H, W, 3) RGB.
        masks: `frame`, `person` -> (B, R) bool, as `face_mask`, of the inputs of that level. A photo is one frame.
    """

    faces: Tensor
    face_mask: Tensor
    boxes: Tensor
    global_: Tensor
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.face_mask)

    def parts(self) -> dict[str, Tensor]:
        """Every tensor by a name; `of_parts` makes a batch of them again."""
        own = {name: getattr(self, name) for name in _OWN}
        return own | {f"{which}.{name}": t for which in _MAPS for name, t in getattr(self, which).items()}

    @classmethod
    def of_parts(cls, parts: Mapping[str, Tensor]) -> HeadBatch:
        """The batch of these tensors."""
        inputs, masks = ({n[len(w) + 1 :]: t for n, t in parts.items() if n.startswith(f"{w}.")} for w in _MAPS)
        return cls(parts["faces"], parts["face_mask"], parts["boxes"], parts["global_"], inputs, masks)


_OWN = ("faces", "face_mask", "boxes", "global_")
_MAPS = ("inputs", "masks")


@dataclass(frozen=True)
class HeadOutput:
    """A head's answer.

    Attributes:
        logits: (B, K).
        attention: (B, N) weight of each face, summing to 1 over a sample's real faces; all 0 without one, and of a head
            that reads no faces.
        looks: what else it weighs, for the report: name -> (B, R, ...) numbers of each frame or person, none negative;
            0 where padded. Among them what it weighs frames or persons with, of shape (B, R).
        penalty: (B,), added to each sample's loss in training; None: nothing.
        answers: (B, M, K) logits whose losses are what training makes small, in place of that of `logits`; None: it is
            that of `logits`.
        shares: (B, M), what each of `answers` counts: a sample's loss is the sum of shares times losses.
    """

    logits: Tensor
    attention: Tensor
    looks: Mapping[str, Tensor] = field(default_factory=dict)
    penalty: Tensor | None = None
    answers: Tensor | None = None
    shares: Tensor | None = None


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of (B, N) scores over the entries where mask is True; rows without one are all 0, never NaN."""
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf).masked_fill(~mask.any(-1, keepdim=True), 0), dim=-1)
    return weights * mask
