"""Heads of Gupta et al. 2018, "An Attention Model for group-level emotion recognition", section 2.4 and figure 2.

Each maps the photo's vector and the faces' vectors through linear layers, pools the faces with weights, normalises both
vectors (batch norm without affine parameters, section 3.2.3), concatenates them and classifies. They differ in where
the weights come from:

- average: every face counts the same (2.4.1)
- attention_a: dot product with the photo's vector (2.4.2)
- attention_b: dot product with a 64-d intermediate vector of the photo (2.4.3)
- attention_c: a score of the face itself, 256 to 64 to 1 (2.4.4)

Linear layers start from Kaiming normal weights and a bias of 0.01, as in the authors' code; there is no non-linearity
between them. The paper trains the backbones too; here they are frozen and their features cached.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax

GLOBAL_DIM = 256
FACE_DIMS = {"average": 256, "attention_a": 256, "attention_b": 64, "attention_c": 256}
VARIANTS = tuple(FACE_DIMS)
INTERMEDIATE_DIM = 64

SCHEDULES = {variant: {"epochs": 27, "step": 9} for variant in VARIANTS} | {"average": {"epochs": 16, "step": 5}}
"""Section 3.2.3: epochs, and after how many the learning rate is divided by 10."""


def build(variant: str, face_dim: int, global_dim: int, classes: int, dropout: float) -> nn.Module:
    """A head of this paper; see `GuptaHead`."""
    return GuptaHead(variant, face_dim, global_dim, classes, dropout)


class GuptaHead(nn.Module):
    """One of the four heads.

    Args:
        variant: one of `VARIANTS`.
        face_dim: D of the batch's faces, at least 1.
        global_dim: G of the batch's global features, at least 1.
        classes: K.
        dropout: probability after every linear layer but the last.
    """

    def __init__(self, variant: str, face_dim: int, global_dim: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.variant = variant
        width = FACE_DIMS[variant]
        self.face = _linear(face_dim, width)
        self.global_ = _linear(global_dim, GLOBAL_DIM)
        if variant == "attention_b":
            self.intermediate = _linear(GLOBAL_DIM, INTERMEDIATE_DIM)
        if variant == "attention_c":
            self.score_hidden = _linear(width, 64)
            self.score = _linear(64, 1)
        self.face_norm = nn.BatchNorm1d(width, affine=False)
        self.global_norm = nn.BatchNorm1d(GLOBAL_DIM, affine=False)
        self.classify = _linear(width + GLOBAL_DIM, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K) and the faces' weights (B, N)."""
        faces = self.dropout(self.face(batch.faces))  # (B, N, width)
        photo = self.dropout(self.global_(batch.global_))  # (B, 256)
        attention = masked_softmax(self._scores(faces, photo), batch.face_mask)  # (B, N)
        pooled = torch.einsum("bn,bnd->bd", attention, faces)
        joined = torch.cat([self.face_norm(pooled), self.global_norm(photo)], dim=-1)
        return HeadOutput(self.classify(joined), attention)

    def _scores(self, faces: Tensor, photo: Tensor) -> Tensor:
        """(B, N) scores before the softmax."""
        if self.variant == "average":
            return faces.new_zeros(faces.shape[:2])
        if self.variant == "attention_c":
            return self.score(self.dropout(self.score_hidden(faces))).squeeze(-1)
        query = self.dropout(self.intermediate(photo)) if self.variant == "attention_b" else photo
        return torch.einsum("bnd,bd->bn", faces, query)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.constant_(layer.bias, 0.01)
    return layer
