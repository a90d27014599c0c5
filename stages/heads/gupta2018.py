"""Heads of Gupta et al. 2018, "An Attention Model for group-level emotion recognition", sections 2.4 and 3.2, figure 2.

Each attention head maps the photo's vector and the faces' vectors through linear layers, pools the faces with weights,
normalises both vectors (batch norm without affine parameters, section 3.2.3), concatenates them and classifies. They
differ in where the weights come from:

- average: every face counts the same (2.4.1)
- attention_a: dot product with the photo's vector (2.4.2)
- attention_b: dot product with a 64-d intermediate vector of the photo (2.4.3)
- attention_c: a score of the face itself, 256 to 64 to 1 (2.4.4)

Where the authors' code does otherwise than the text, it is a head of its own:

- average_published: no linear layer but the last, see `PublishedAverage`
- attention_a_published, attention_b_published: other scores, see `PublishedHead`

`faces` has no attention and no photo: class scores of each face, averaged (3.2.2), see `FacesHead`.

Linear layers start from Kaiming normal weights and a bias of 0.01, as in the authors' code; there is no non-linearity
between them. The paper trains the backbones too; here they are frozen and their features cached.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.heads.registry import Level, Shapes
from stages.settings import Settings

GLOBAL_DIM = 256
FACE_DIMS = {"average": 256, "attention_a": 256, "attention_b": 64, "attention_c": 256}
"""The heads of `GuptaHead`, and the width of a face in each."""

INTERMEDIATE_DIM = 64
SLOTS = 15
"""Places for faces in the authors' code, which leaves those that a photo does not fill to a black picture each."""

PUBLISHED = {"attention_a_published": "attention_a", "attention_b_published": "attention_b"}
"""The heads of `PublishedHead`, and which head of `GuptaHead` each is but for the scores."""

VARIANTS = (*FACE_DIMS, "average_published", *PUBLISHED, "faces")

_BOTH: tuple[Level, ...] = ("face", "global")
NEEDS: dict[str, tuple[Level, ...]] = {**dict.fromkeys(VARIANTS, _BOTH), "faces": ("face",)}

SCHEDULES = {variant: {"epochs": 27, "step": 9} for variant in VARIANTS} | {
    "average": {"epochs": 16, "step": 5},
    "average_published": {"epochs": 16, "step": 5},
    "faces": {"epochs": 12, "step": 4},
}
"""Sections 3.2.2 and 3.2.3: epochs, and after how many the learning rate is divided by 10."""

_SECTIONS = {
    "average": "2.4.1",
    "attention_a": "2.4.2",
    "attention_b": "2.4.3",
    "attention_c": "2.4.4",
    "faces": "3.2.2",
}
SOURCES = {
    variant: f"Gupta et al. 2018, {_SECTIONS[variant.removesuffix('_published')]}"
    + (", their code" if variant.endswith("_published") else "")
    for variant in VARIANTS
}


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """A head of this paper; see `GuptaHead`, `PublishedHead`, `PublishedAverage` and `FacesHead`."""
    if variant == "faces":
        return FacesHead(shapes.faces, classes, dropout)
    if variant == "average_published":
        return PublishedAverage(shapes.faces, shapes.global_, classes, dropout)
    if variant in PUBLISHED:
        return PublishedHead(PUBLISHED[variant], shapes.faces, shapes.global_, classes, dropout)
    return GuptaHead(variant, shapes.faces, shapes.global_, classes, dropout)


class GuptaHead(nn.Module):
    """One of the four heads.

    Args:
        variant: one of `FACE_DIMS`.
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
        attention = masked_softmax(self._scores(faces, photo, batch.face_mask), batch.face_mask)  # (B, N)
        pooled = torch.einsum("bn,bnd->bd", attention, faces)
        joined = torch.cat([self.face_norm(pooled), self.global_norm(photo)], dim=-1)
        return HeadOutput(self.classify(joined), attention)

    def _scores(self, faces: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
        """(B, N) scores before the softmax."""
        if self.variant == "average":
            return faces.new_zeros(faces.shape[:2])
        if self.variant == "attention_c":
            return self.score(self.dropout(self.score_hidden(faces))).squeeze(-1)
        return torch.einsum("bnd,bd->bn", faces, self._query(photo))

    def _query(self, photo: Tensor) -> Tensor:
        """What faces are compared with in A and B, (B, width)."""
        return self.dropout(self.intermediate(photo)) if self.variant == "attention_b" else photo


class PublishedHead(GuptaHead):
    """Attention A or B with the scores of the authors' code, which reshapes a matrix where a transpose is meant.

    The code holds a photo's faces as a matrix F of 15 rows of `width` numbers: one for each face, and after them rows
    of empty pictures. The text's score of face n is the sum over w of q[w] F[n, w]. The code reads F's numbers, row
    after row, as a matrix of `width` rows and 15 columns, and so computes

        score[n] = sum over w of q[w] f[15 w + n],  f[width i + w] = F[i, w]

    Each score mixes numbers of all faces and of the empty rows, and the order of faces matters. The weights are the
    softmax of the scores of the real faces, and it is their own vectors that are pooled, as in the text.

    An empty row is what the linear layer and dropout make of a vector of zeros, where the code has the face network's
    vector of a black picture, which is not cached. A sample with more than 15 faces has as many rows as faces. All
    samples are computed at once, each by its own number of rows, so padding changes nothing.

    Args:
        variant: `attention_a` or `attention_b`.
        face_dim, global_dim, classes, dropout: see `GuptaHead`.
    """

    def _scores(self, faces: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
        size, most, width = faces.shape
        empty = self.dropout(self.face.bias.repeat(size, SLOTS)).view(size, SLOTS, width)
        rows = max(most, SLOTS)
        real, faces, empty = (_longer(part, rows) for part in (mask.unsqueeze(-1), faces, empty))
        numbers = torch.where(real, faces, empty).flatten(1)  # (B, rows * width)
        own = mask.sum(1).clamp_min(SLOTS)  # (B,) rows of each sample
        place = torch.arange(width, device=own.device)[:, None] * own[:, None, None]  # (B, width, 1)
        place = place + torch.arange(most, device=own.device)  # (B, width, N), beyond a sample's own faces any number
        mixed = numbers.gather(1, place.flatten(1)).view(size, width, most)
        return torch.einsum("bw,bwn->bn", self._query(photo), mixed)


class PublishedAverage(nn.Module):
    """The average as in the authors' code: the mean of the faces' vectors and the photo's vector, each normalised, are
    joined and classified. Only that last layer is trained; a sample without a face has the mean 0.

    Args:
        face_dim: D of the batch's faces, at least 1.
        global_dim: G of the batch's global features, at least 1.
        classes: K.
        dropout: probability before the last layer.
    """

    def __init__(self, face_dim: int, global_dim: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.face_norm = nn.BatchNorm1d(face_dim, affine=False)
        self.global_norm = nn.BatchNorm1d(global_dim, affine=False)
        self.classify = _linear(face_dim + global_dim, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), and equal weights of the faces (B, N)."""
        share = _equal(batch)
        mean = torch.einsum("bn,bnd->bd", share, batch.faces)
        joined = torch.cat([self.face_norm(mean), self.global_norm(batch.global_)], dim=-1)
        return HeadOutput(self.classify(self.dropout(joined)), share)


class FacesHead(nn.Module):
    """Class scores of each face, a linear layer of its vector; the sample's logits are their mean (section 3.2.2).

    All faces count the same. A sample without a face has logits 0, as in the authors' code. The paper's networks of
    faces are trained without dropout; `dropout: 0` is theirs.

    Args:
        face_dim: D of the batch's faces, at least 1.
        classes: K.
        dropout: probability before the linear layer.
    """

    def __init__(self, face_dim: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.classify = _linear(face_dim, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), and equal weights of the faces (B, N)."""
        scores = self.classify(self.dropout(batch.faces))  # (B, N, K)
        share = _equal(batch)
        return HeadOutput(torch.einsum("bn,bnk->bk", share, scores), share)


def _equal(batch: HeadBatch) -> Tensor:
    """The same weight for all faces of a sample, (B, N)."""
    return masked_softmax(torch.zeros_like(batch.face_mask, dtype=batch.faces.dtype), batch.face_mask)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.constant_(layer.bias, 0.01)
    return layer


def _longer(rows: Tensor, length: int) -> Tensor:
    """(B, n, W) with zeros after the last row: (B, length, W)."""
    return nn.functional.pad(rows, (0, 0, 0, length - rows.shape[1]))
