"""Heads beyond the papers: gated attention over faces, and a transformer over faces and the photo.

gated: the pooling of Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning", arXiv:1802.04712, equation 9,
beside the photo's vector. With h_n the embedded face n, V and U matrices and w a vector,

    a_n = softmax over n of w^T (tanh(V h_n) * sigmoid(U h_n))

transformer: self-attention (Vaswani et al. 2017, "Attention Is All You Need", equation 1) over the faces and one token
made of the photo's vector, which is classified. Layer norm comes before each half of a layer (Xiong et al. 2020, "On
Layer Normalization in the Transformer Architecture", arXiv:2002.04745).

Epochs and steps are those of the attention heads in `gupta2018`, so that they compare at the same cost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.heads.registry import Level, Shapes
from stages.settings import Settings

VARIANTS = ("gated", "transformer")
NEEDS: dict[str, tuple[Level, ...]] = dict.fromkeys(VARIANTS, ("face", "global"))
SCHEDULES = {variant: {"epochs": 27, "step": 9} for variant in VARIANTS}
SOURCES = {"gated": "ours; Ilse et al. 2018, equation 9", "transformer": "ours; Vaswani et al. 2017, equation 1"}

EMBEDDED, HIDDEN = 256, 128
"""Of the gated head: width of an embedded face or photo, rows of V and U."""

WIDTH, INNER, ASKING, LAYERS = 128, 256, 4, 2
"""Of the transformer: width of a token, of the hidden layer between two linear ones, attention heads, layers."""


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """`GatedHead` or `TransformerHead`."""
    made = GatedHead if variant == "gated" else TransformerHead
    return made(shapes.faces, shapes.global_, classes, dropout)


class GatedHead(nn.Module):
    """Faces and photo through a linear layer and ReLU each; faces pooled by gated attention; both joined, classified.

    V, U and w have no bias, as in the equation.

    Args:
        face_dim: D of the batch's faces, at least 1.
        global_dim: G of the batch's global features, at least 1.
        classes: K.
        dropout: probability after the linear layers of faces and photo.
    """

    def __init__(self, face_dim: int, global_dim: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.face = nn.Linear(face_dim, EMBEDDED)
        self.global_ = nn.Linear(global_dim, EMBEDDED)
        self.content = nn.Linear(EMBEDDED, HIDDEN, bias=False)  # V
        self.gate = nn.Linear(EMBEDDED, HIDDEN, bias=False)  # U
        self.score = nn.Linear(HIDDEN, 1, bias=False)  # w
        self.classify = nn.Linear(2 * EMBEDDED, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K) and the faces' weights (B, N)."""
        faces = self.dropout(torch.relu(self.face(batch.faces)))  # (B, N, 256)
        photo = self.dropout(torch.relu(self.global_(batch.global_)))  # (B, 256)
        gated = torch.tanh(self.content(faces)) * torch.sigmoid(self.gate(faces))  # (B, N, 128)
        attention = masked_softmax(self.score(gated).squeeze(-1), batch.face_mask)
        pooled = torch.einsum("bn,bnd->bd", attention, faces)
        return HeadOutput(self.classify(torch.cat([pooled, photo], dim=-1)), attention)


class TransformerHead(nn.Module):
    """Two layers of self-attention over a photo token and the faces; the photo token is classified.

    A face's token is the sum of a linear layer of its vector and one of its box (centre and size, relative to the
    photo's). A sample without a face has the photo token alone.

    The faces' weights are those with which the photo token looks at them in the last layer, averaged over the attention
    heads and divided by their sum: its look at itself is left out.

    Args:
        face_dim: D of the batch's faces, at least 1.
        global_dim: G of the batch's global features, at least 1.
        classes: K.
        dropout: probability after the first linear layers, and of what each half of a layer adds.
    """

    def __init__(self, face_dim: int, global_dim: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.face = nn.Linear(face_dim, WIDTH)
        self.box = nn.Linear(4, WIDTH, bias=False)
        self.global_ = nn.Linear(global_dim, WIDTH)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.classify = nn.Linear(WIDTH, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K) and the faces' weights (B, N)."""
        faces = self.face(batch.faces) + self.box(centre_and_size(batch.boxes))  # (B, N, W)
        tokens = self._dropped(torch.cat([self.global_(batch.global_).unsqueeze(1), faces], dim=1))  # (B, 1 + N, W)
        real = nn.functional.pad(batch.face_mask, (1, 0), value=True)  # (B, 1 + N)
        looks = tokens
        for layer in self.layers:
            asking = 1 if layer is self.layers[-1] else tokens.shape[1]  # at the end only the photo token counts
            tokens, looks = layer(tokens, real, asking, self._dropped)
        return HeadOutput(self.classify(self.norm(tokens[:, 0])), among_faces(looks[:, :, 0, 1:], batch.face_mask))

    def _dropped(self, tokens: Tensor) -> Tensor:
        """Dropout of the photo token and of the faces, each in a call: populations deal numbers to real faces only."""
        photo = self.dropout(tokens[:, 0]).unsqueeze(1)
        return torch.cat([photo, self.dropout(tokens[:, 1:])], dim=1) if tokens.shape[1] > 1 else photo


class _Layer(nn.Module):
    """A layer: attention, then two linear layers with a GELU between; each half adds to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.inner_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)  # a bias adds the same to all scores of a query
        self.out = nn.Linear(WIDTH, WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(
        self, tokens: Tensor, real: Tensor, asking: int, dropped: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The first tokens, (B, asking, W), and the logs of their attention's weights, (B, heads, asking, T).

        Args:
            tokens: (B, T, W).
            real: (B, T) bool, which tokens may be looked at, at least one of each sample.
            asking: how many tokens look at others, the first ones.
            dropped: dropout of tokens.
        """
        found, looks = self._attend(tokens, real, asking)
        tokens = tokens[:, :asking] + dropped(found)
        thought = self.outer(nn.functional.gelu(self.inner(self.inner_norm(tokens))))
        return tokens + dropped(thought), looks

    def _attend(self, tokens: Tensor, real: Tensor, asking: int) -> tuple[Tensor, Tensor]:
        """What attention adds, and the logs of its weights; see `forward`."""
        tokens = self.attention_norm(tokens)
        query, key, value = (
            part.unflatten(-1, (ASKING, -1)).transpose(1, 2)  # (B, heads, tokens, W / heads)
            for part in (self.query(tokens[:, :asking]), self.key(tokens), self.value(tokens))
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        # The lowest number in place of -inf: its weight is 0 all the same, and no gradient is NaN.
        scores = scores.masked_fill(~real[:, None, None], torch.finfo(scores.dtype).min)
        weights = torch.log_softmax(scores, dim=-1)
        return self.out((weights.exp() @ value).transpose(1, 2).flatten(2)), weights


def among_faces(looks: Tensor, mask: Tensor) -> Tensor:
    """Weights averaged over attention heads and divided by their sum over real faces, (B, N).

    In logs, so that they sum to 1 however small they are beside the photo token's look at itself.

    Args:
        looks: (B, heads, N) logs of weights.
        mask: (B, N) bool, True = a real face.
    """
    return masked_softmax(torch.logsumexp(looks, dim=1), mask)


def centre_and_size(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, y, width and height of (..., 4) x1 y1 x2 y2."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
