"""Heads of Tan et al. 2017, "Group Emotion Recognition with Individual Facial Emotion CNNs and Global Image based
CNNs", a talk's slides.

The slides' networks answer for each face, or for the whole photo, and scores are averaged:

- all: the mean of the scores of all faces
- largest3: of the three largest faces, by the area of their boxes
- global: the photo's vector alone

A face's scores are softmax(W x + b) of its vector x, so what is averaged are probabilities:

    p(k) = 1/n * sum over the n faces i of softmax(W x_i + b)[k]

The logits are log p, so they are log-probabilities: their softmax is p itself, and cross entropy of them is the loss of
the mean, -log p(label). `gupta2018:faces` averages W x_i + b instead. `global` has W x + b as logits.

Dropout comes before the linear layer, where the slides have it: after their networks' average pooling, with
probability 0.9 for the networks of faces without alignment and for two of the networks of photos. That the scores of a
photo and of its mirror image are averaged is not done here: features of the plain view answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.heads.registry import Level, Shapes
from stages.settings import Settings

VARIANTS = ("all", "largest3", "global")
NEEDS: dict[str, tuple[Level, ...]] = {"all": ("face",), "largest3": ("face",), "global": ("global",)}

SCHEDULES = {variant: {"epochs": 10, "step": 4} for variant in VARIANTS}
"""The slides' for faces without alignment: divided by 10 every 4 epochs, 10 epochs. They name none for photos, and
iterations for aligned faces."""

SOURCES = {
    "all": "Tan et al. 2017, all faces",
    "largest3": "Tan et al. 2017, top 3 faces",
    "global": "Tan et al. 2017, global image",
}

LARGEST = 3


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """A head of these slides; see `FaceScores` and `PhotoScores`."""
    if variant == "global":
        return PhotoScores(shapes.global_, classes, dropout)
    return FaceScores(shapes.faces, classes, dropout, LARGEST if variant == "largest3" else None)


class FaceScores(nn.Module):
    """Log of the mean of the faces' probabilities; without a face, that of 1 / K for every class.

    Args:
        face_dim: D of the batch's faces, at least 1.
        classes: K.
        dropout: probability before the linear layer.
        largest: how many faces count, the largest; None: all. Of faces of the same area the first count. A box whose
            right edge is not to the right of the left one, or the lower not below the upper, has area 0.
    """

    def __init__(self, face_dim: int, classes: int, dropout: float = 0.5, largest: int | None = None) -> None:
        super().__init__()
        self.largest = largest
        self.classify = nn.Linear(face_dim, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Log-probabilities (B, K); weights (B, N), the same for each face that counts and 0 for the others."""
        counted = batch.face_mask if self.largest is None else largest(batch.boxes, batch.face_mask, self.largest)
        scores = torch.log_softmax(self.classify(self.dropout(batch.faces)), dim=-1)  # (B, N, K)
        weights = masked_softmax(torch.zeros_like(counted, dtype=scores.dtype), counted)
        return HeadOutput(_log_mean(scores, counted), weights)


class PhotoScores(nn.Module):
    """Scores of the photo's vector; faces have no weight.

    Args:
        global_dim: G of the batch's global features, at least 1.
        classes: K.
        dropout: probability before the linear layer.
    """

    def __init__(self, global_dim: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.classify = nn.Linear(global_dim, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), and weights of 0 (B, N)."""
        logits = self.classify(self.dropout(batch.global_))
        return HeadOutput(logits, torch.zeros_like(batch.face_mask, dtype=logits.dtype))


def largest(boxes: Tensor, mask: Tensor, most: int) -> Tensor:
    """Which faces are among the `most` largest of their sample, (B, N) bool; see `FaceScores`.

    Args:
        boxes: (B, N, 4) x1 y1 x2 y2.
        mask: (B, N) bool, True = a real face.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    area = (sides[..., 0] * sides[..., 1]).masked_fill(~mask, -1)  # what is no face comes last
    order = torch.argsort(area, dim=-1, descending=True, stable=True)
    return (torch.argsort(order, dim=-1) < most) & mask


def _log_mean(scores: Tensor, counted: Tensor) -> Tensor:
    """Log of the mean of the probabilities of those that count, (B, K); where none does, of 1 / K.

    Args:
        scores: (B, N, K) log-probabilities.
        counted: (B, N) bool.
    """
    some = counted.any(-1, keepdim=True)  # (B, 1)
    out = (~counted & some).unsqueeze(-1)  # a row that none is in keeps its numbers, so that gradients stay finite
    total = torch.logsumexp(scores.masked_fill(out, -torch.inf), dim=1)
    mean = total - counted.sum(-1, keepdim=True).clamp_min(1).log()
    return torch.where(some, mean, -math.log(scores.shape[-1]))
