"""Heads of Aminbeidokhti et al. 2019, "Emotion Recognition with Spatial Attention and Temporal Softmax Pooling".

A clip is T frames with one face each; a photo is one frame. Frame f has class scores o[f] = W v[f] + b, where v[f] is
its vector, or the mean of its map over places, or what spatial attention takes from its map. They are pooled:

- temporal (equations 5 and 6): the softmax runs over frames and classes together,

      p(c, f) = exp(o[f, c]) / (sum over all frames and classes of exp o),

  and p(c) is its sum over frames. The logits are log(sum_f exp o[f, c]), whose softmax is p(c); frames weigh
  p(f) = sum_c p(c, f).
- average ("VGG + AVG" as the authors' code has it): the logits are the mean of the scores, and the loss is theirs.
- independent (equation 7): trained as if every frame were a sample of the clip's class; it answers as `average`. The
  loss is the mean of the frames' and not their sum, so that a clip counts as much as a photo and the learning rate
  means the same for any number of frames; with the paper's 16 frames the sum is 16 times as much.
- lstm ("VGG + LSTM"): the state after the last frame is classified.

Spatial attention, pooled as `temporal`:

- attention (equations 2 to 4): a map's L places are the rows of R, (L, C). N attentions look at them,

      A = softmax over places of W_s2 tanh(W_s1 R^T),  v = A R as one vector,

  W_s1 (U, C) and W_s2 (N, U); the text's "R x L" for W_s2 does not fit its equation. The penalty is the Frobenius norm
  of A A^T - I, as the text says; Lin et al. 2017, whom it follows, square it. A sample's is the mean over its frames,
  so that it does not grow with their number.
- shift (attention clusters, Long et al. 2018): instead of A R, attention n gives
  (w_n a_n R + b_n) / (sqrt(N) ||w_n a_n R + b_n||), w_n and b_n numbers. The scores are equation 4's too, so that
  nothing but the shift differs; the authors' code has one linear layer and tanh there.

Dropout is before the scores. The text names none.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.errors import SettingError
from stages.heads.batch import HeadBatch, HeadOutput, masked_softmax
from stages.heads.registry import Input, Level, Shapes
from stages.settings import Settings

VARIANTS = ("temporal", "average", "independent", "lstm", "attention", "shift")
NEEDS: dict[str, tuple[Level, ...]] = dict.fromkeys(VARIANTS, ())
_MAPS = ("attention", "shift")
INPUTS = {variant: {"frames": Input("frame", "map" if variant in _MAPS else "features")} for variant in VARIANTS}

SCHEDULES = {variant: {"epochs": 30, "step": 30} for variant in VARIANTS}
"""30 epochs as in the paper, whose learning rate restarts: `schedule: {kind: restarts, ...}`. Without that it does not
fall."""

SOURCES = {
    "temporal": "Aminbeidokhti et al. 2019, equations 5, 6",
    "average": "Aminbeidokhti et al. 2019, AVG, their code",
    "independent": "Aminbeidokhti et al. 2019, equation 7",
    "lstm": "Aminbeidokhti et al. 2019, LSTM",
    "attention": "Aminbeidokhti et al. 2019, equations 2 to 6",
    "shift": "Aminbeidokhti et al. 2019, SHIFT; Long et al. 2018",
}


class ShiftOptions(Settings):
    """Of `shift`.

    Attributes:
        attentions: N; the paper compares 1, 2 and 4, and 2 are its best.
        hidden: U, which the paper does not tell: half of VGG-16's 512 channels, about the share that Lin et al. 2017
            have (350 of 600).
    """

    attentions: int = Field(default=2, ge=1, le=64)
    hidden: int = Field(default=256, ge=1, le=4096)


class AttentionOptions(ShiftOptions):
    """Of `attention`.

    Attributes:
        penalty: what the Frobenius norm is multiplied by; the paper compares 0, 0.1 and 1, and 1 is its best.
    """

    penalty: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class LstmOptions(Settings):
    """Of `lstm`.

    Attributes:
        hidden: numbers of its state; half of VGG-16's 512 channels, as the paper does not tell.
    """

    hidden: int = Field(default=256, ge=1, le=4096)


OPTIONS: dict[str, type[Settings]] = {"lstm": LstmOptions, "attention": AttentionOptions, "shift": ShiftOptions}


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """`PooledHead`, `LstmHead` or `AttentionHead`.

    Raises:
        SettingError: spatial attention over vectors.
    """
    shape = shapes.inputs["frames"]
    if variant in _MAPS and len(shape) != 3:
        raise SettingError(
            f"head aminbeidokhti2019:{variant}: frames have rows of shape {shape}; give it a block of maps (C, H, W)"
        )
    if isinstance(options, LstmOptions):
        return LstmHead(shape[0], classes, dropout, options.hidden)
    if isinstance(options, ShiftOptions):
        penalty = options.penalty if isinstance(options, AttentionOptions) else 0.0
        shift = variant == "shift"
        return AttentionHead(shape[0], classes, dropout, options.attentions, options.hidden, penalty, shift)
    return PooledHead(variant, shape[0], classes, dropout)


class PooledHead(nn.Module):
    """A linear layer of each frame's vector, or of its map's mean over places; pooled over frames.

    Args:
        variant: `temporal`, `average` or `independent`.
        width: D or C of the frames.
        classes: K.
        dropout: probability before the linear layer.
    """

    def __init__(self, variant: str, width: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.variant = variant
        self.classify = nn.Linear(width, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K); looks: `frames` (B, T)."""
        mask = batch.masks["frame"]
        scores = self.classify(self.dropout(_vectors(batch.inputs["frames"])))  # (B, T, K)
        if self.variant == "temporal":
            logits, weights = temporal_softmax(scores, mask)
        else:
            weights = masked_softmax(torch.zeros_like(mask, dtype=scores.dtype), mask)
            logits = torch.einsum("bt,btk->bk", weights, scores)
        output = HeadOutput(logits, _no_faces(batch, logits), looks={"frames": weights})
        if self.variant == "independent":
            return HeadOutput(logits, output.attention, output.looks, answers=scores, shares=weights)
        return output


class LstmHead(nn.Module):
    """An LSTM over the frames' vectors, or their maps' means over places; its last state is classified.

    With x a frame's vector, h and c the state, and the four parts of one linear layer of x plus one of h,

        i, f, o = sigmoid of three of them, g = tanh of the fourth;  c = f c + i g;  h = o tanh(c)

    (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000, whose bias starts at 1). Written out
    because torch's own layer cannot be stacked. It has no weights of frames to show.

    Args:
        width: D or C of the frames.
        classes: K.
        dropout: probability before the classifying layer.
        hidden: numbers of h and of c.
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.5, hidden: int = 256) -> None:
        super().__init__()
        self.hidden = hidden
        self.frame = nn.Linear(width, 4 * hidden)
        self.state = nn.Linear(hidden, 4 * hidden, bias=False)
        self.classify = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.frame.bias[hidden : 2 * hidden] = 1

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K)."""
        mask = batch.masks["frame"]
        gates = self.frame(_vectors(batch.inputs["frames"]))  # (B, T, 4H)
        state = cell = gates.new_zeros(len(mask), self.hidden)
        for now, real in zip(gates.unbind(1), mask.unbind(1), strict=True):
            enter, forget, leave, new = (now + self.state(state)).chunk(4, dim=-1)
            next_cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            next_state = torch.sigmoid(leave) * torch.tanh(next_cell)
            cell = torch.where(real[:, None], next_cell, cell)
            state = torch.where(real[:, None], next_state, state)
        logits = self.classify(self.dropout(state)) * mask.any(-1, keepdim=True)  # without a frame 0 for every class
        return HeadOutput(logits, _no_faces(batch, logits))


class AttentionHead(nn.Module):
    """Spatial attention over each frame's map, then temporal softmax pooling; see the module.

    w_n starts at 1, and b_n is drawn from -1/sqrt(C) to 1/sqrt(C): at 0 the length would not depend on w_n.

    Args:
        channels: C of the frames' maps.
        classes: K.
        dropout: probability before the linear layer.
        attentions: N.
        hidden: U.
        penalty: what the Frobenius norm is multiplied by.
        shift: whether to shift and normalise what each attention takes.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        dropout: float = 0.5,
        attentions: int = 2,
        hidden: int = 256,
        penalty: float = 1.0,
        shift: bool = False,
    ) -> None:
        super().__init__()
        self.penalty, self.shift = penalty, shift
        self.score_hidden = nn.Linear(channels, hidden, bias=False)  # W_s1
        self.score = nn.Linear(hidden, attentions, bias=False)  # W_s2
        self.classify = nn.Linear(attentions * channels, classes)
        self.dropout = nn.Dropout(dropout)
        if shift:
            self.shift_weight = nn.Parameter(torch.ones(attentions))
            self.shift_bias = nn.Parameter(torch.empty(attentions).uniform_(-1, 1) / channels**0.5)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K); looks: `frames` (B, T), `regions` (B, T, N, H, W), each attention's summing to 1."""
        maps, mask = batch.inputs["frames"], batch.masks["frame"]
        places = maps.flatten(3)  # (B, T, C, L)
        scores = self.score(torch.tanh(self.score_hidden(places.transpose(2, 3))))  # (B, T, L, N)
        regions = torch.softmax(scores, dim=2).transpose(2, 3)  # A, (B, T, N, L)
        seen = regions @ places.transpose(2, 3)  # (B, T, N, C)
        if self.shift:
            seen = seen * self.shift_weight[:, None] + self.shift_bias[:, None]
            seen = nn.functional.normalize(seen, dim=-1) / seen.shape[2] ** 0.5
        logits, weights = temporal_softmax(self.classify(self.dropout(seen.flatten(2))), mask)
        shown = (regions * mask[..., None, None]).unflatten(3, maps.shape[3:])
        penalty = self.penalty * _mean_over(alikeness(regions), mask) if self.penalty else None
        looks = {"frames": weights, "regions": shown}
        return HeadOutput(logits, _no_faces(batch, logits), looks, penalty)


def temporal_softmax(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K) whose softmax is p(c), and p(f) (B, T): equations 5 and 6. Without a frame both are 0.

    Args:
        scores: (B, T, K) o.
        mask: (B, T) bool, True = a real frame.
    """
    some = mask.any(-1, keepdim=True)  # (B, 1)
    out = (~mask & some).unsqueeze(-1)  # a row that none is in keeps its numbers, so that gradients stay finite
    logits = torch.logsumexp(scores.masked_fill(out, -torch.inf), dim=1)
    return torch.where(some, logits, 0), masked_softmax(torch.logsumexp(scores, dim=-1), mask)


def alikeness(regions: Tensor) -> Tensor:
    """Frobenius norm of A A^T - I, (...), of attentions A (..., N, L): 0 where each has one place of its own."""
    products = regions @ regions.transpose(-1, -2)
    return torch.linalg.vector_norm(products - torch.eye(regions.shape[-2], device=regions.device), dim=(-2, -1))


def _vectors(frames: Tensor) -> Tensor:
    """(B, T, D) of vectors as they are, of maps (B, T, C, H, W) their means over places."""
    return frames.flatten(3).mean(3) if frames.dim() > 3 else frames


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean of (B, T) values where mask is True; 0 where it is nowhere."""
    return (values * mask).sum(1) / mask.sum(1).clamp_min(1)


def _no_faces(batch: HeadBatch, logits: Tensor) -> Tensor:
    """(B, N) weights of faces, of a head that reads none."""
    return torch.zeros_like(batch.face_mask, dtype=logits.dtype)
