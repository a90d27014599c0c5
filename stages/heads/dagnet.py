"""Heads of DAG-Net ("DAG-Net: Dual Attention Graph Network for Emotion Recognition in the Wild"), and of Kosti et al.

Each person of a photo is answered from their body and from what is around them, by up to three streams:

- BAM, body attention (equations 1, 2): the vector of the body, times a weight that the body's pixels give
- GSAM, global spatial attention (equation 3): a map of the photo without the person, times an attention map
- LSAM, local spatial attention (equation 4): patches of that photo, mixed by a graph, or each by itself

Streams are joined and one linear layer classifies them. The variants are the rows of the paper's table 2, and:

- lsam_no_gcn: patches alone, without the graph
- no_gcn: all three, the patches without the graph
- kosti: two branches, of Kosti et al. 2020, "Context Based Emotion Recognition Using EMOTIC Dataset"

A sample's logits are the mean of its persons'. Of EMOTIC every row is one person, as in the paper. A sample without a
person gets the bias of the last layer.

Trained here: the body's weight, both branches of GSAM, the patches' convolutions and the graph. What is below comes
from the cache; the paper trains that too: ResNet-50 (`body`, pooled) and ResNet-18 up to layer3 (`context`, a map
(256, 14, 14)). The context is the photo with this person masked, for GSAM by the text; what LSAM reads the text calls
the input image, and here it is the same one. The paper's jitter and flips are not part of a head.

The paper names a learning rate of 0.0001, a batch of 32, and no epochs, no optimiser, no dropout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.registry import Input, Level, NoOptions, Shapes
from stages.settings import Settings

STREAMS: dict[str, tuple[str, ...]] = {
    "dagnet": ("bam", "gsam", "lsam"),
    "bam": ("bam",),
    "gsam": ("gsam",),
    "lsam": ("lsam",),
    "bam_gsam": ("bam", "gsam"),
    "no_gcn": ("bam", "gsam", "patches"),
    "lsam_no_gcn": ("patches",),
}
"""Variant -> its streams; `patches` is LSAM without the graph."""

VARIANTS = (*STREAMS, "kosti")
NEEDS: dict[str, tuple[Level, ...]] = dict.fromkeys(VARIANTS, ())

_READ: dict[str, dict[str, Input]] = {
    "bam": {"body": Input("person", "vector"), "body_pixels": Input("person", "pixels")},
    "gsam": {"context": Input("person", "map")},
    "lsam": {"context_pixels": Input("person", "pixels")},
    "patches": {"context_pixels": Input("person", "pixels")},
}
INPUTS = {
    variant: {name: one for stream in streams for name, one in _READ[stream].items()}
    for variant, streams in STREAMS.items()
} | {"kosti": {"body": Input("person", "vector"), "context": Input("person", "features")}}

ALONE = tuple(STREAMS)

SCHEDULES = {variant: {"epochs": 20, "step": 20} for variant in VARIANTS}
"""Ours: the paper names neither. With a step of all epochs the learning rate stays as it is."""

SOURCES = {
    "dagnet": "DAG-Net, table 2, BAM + GSAM + LSAM",
    "bam": "DAG-Net, table 2, BAM, equations 1, 2",
    "gsam": "DAG-Net, table 2, GSAM, equation 3",
    "lsam": "DAG-Net, table 2, LSAM, equation 4",
    "bam_gsam": "DAG-Net, table 2, BAM + GSAM",
    "no_gcn": "DAG-Net, table 2, LSAM w/o GCN",
    "lsam_no_gcn": "DAG-Net, 4.3.2, LSAM alone w/o GCN",
    "kosti": "Kosti et al. 2020, two branches",
}

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, 0 to 255, red, green, blue."""

BODY_HIDDEN = 16
"""Channels between the two 1x1 convolutions of BAM; ours, the paper names none."""

CHANNELS, POOLED = 64, 4
"""Of a patch: channels of its convolutions, side to which they are pooled: 64 * 4 * 4 = 1024 numbers."""

NODE, LOCAL = CHANNELS * POOLED * POOLED, 512
"""Width of a node of the graph, and of what LSAM gives."""

FUSED = 256
"""Width of the layer that fuses the two branches of Kosti et al."""


class GlobalOptions(Settings):
    """Of a head with GSAM.

    Attributes:
        branch_loss: weight of the loss of the attention branch's own answer; 0: it has none.
        width: channels of the trained residual layers of both branches; ResNet-18's layer4 has 512.
    """

    branch_loss: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    width: int = Field(default=512, ge=8)


class LocalOptions(Settings):
    """Of a head with LSAM.

    Attributes:
        patches: N, patches to a side of the photo; the paper tries 2 to 9.
    """

    patches: int = Field(default=4, ge=2, le=9)


class AllOptions(GlobalOptions, LocalOptions):
    """Of a head with both."""


def _options(streams: tuple[str, ...]) -> type[Settings]:
    local = "lsam" in streams or "patches" in streams
    if "gsam" in streams:
        return AllOptions if local else GlobalOptions
    return LocalOptions if local else NoOptions


OPTIONS = {variant: _options(streams) for variant, streams in STREAMS.items()}


def build(variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
    """`DagNet` or `KostiHead`."""
    if variant == "kosti":
        return KostiHead(shapes.inputs["body"][0], shapes.inputs["context"][0], classes, dropout)
    return DagNet(STREAMS[variant], shapes, classes, dropout, options)


class _Found(NamedTuple):
    """What a stream gives for M persons: vectors (M, D); a weight (M, ...) to look at; logits (M, K) of its own."""

    vectors: Tensor
    look: Tensor | None = None
    logits: Tensor | None = None


class DagNet(nn.Module):
    """The streams of a variant, joined and classified by one linear layer.

    Batch norm sees real persons only: they are taken out of the padded batch, and their answers put back. That hangs on
    the masks' values, so these heads are not mapped by torch.func (`ALONE`).

    Args:
        streams: of `STREAMS`.
        shapes: of the inputs that they read.
        classes: K.
        dropout: probability before the last layer; the paper names none.
        options: of the variant's type.
    """

    def __init__(
        self, streams: tuple[str, ...], shapes: Shapes, classes: int, dropout: float, options: Settings
    ) -> None:
        super().__init__()
        width = 0
        self.branch_loss = 0.0
        self.body = self.context = self.local = None
        if "bam" in streams:
            self.body = BodyAttention()
            width += shapes.inputs["body"][0]
        if isinstance(options, GlobalOptions):
            self.branch_loss = options.branch_loss
            self.context = AttentionBranch(shapes.inputs["context"][0], options.width, classes, options.branch_loss > 0)
            width += options.width
        if isinstance(options, LocalOptions):
            self.local = LocalAttention(options.patches, "lsam" in streams)
            width += LOCAL
        self.width, self.classes = width, classes
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(width, classes)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), the mean over persons.

        `looks` has `body` (B, P, 1), the weight lambda of equation 1, and `context` (B, P, H, W), the map M of equation
        3, both in (0, 1). With a branch loss `answers` are the logits and the attention branch's, with shares 1 and
        `branch_loss` (0 for a sample without a person).
        """
        mask = batch.masks["person"]  # (B, P)
        found: dict[str, _Found] = {}
        if mask.any():
            real = {name: rows[mask] for name, rows in batch.inputs.items()}  # (M, ...)
            if self.body is not None:
                found["body"] = self.body(real["body"], normalised(real["body_pixels"]))
            if self.context is not None:
                found["context"] = self.context(real["context"])
            if self.local is not None:
                found["local"] = self.local(normalised(real["context_pixels"]))
        vectors = [one.vectors for one in found.values()]
        joined = torch.cat(vectors, dim=1) if vectors else self.classify.weight.new_zeros(0, self.width)
        # the last layer is linear: of the mean it gives the mean
        logits = self.classify(self.dropout(_mean_of(joined, mask)))
        looks = {name: _put_back(one.look, mask) for name, one in found.items() if one.look is not None}
        if not found:
            looks = self._no_looks(batch)
        attention = torch.zeros_like(batch.face_mask, dtype=logits.dtype)
        if not self.branch_loss:
            return HeadOutput(logits, attention, looks)
        own = found["context"].logits if found else None
        branch = _mean_of(logits.new_zeros(0, self.classes) if own is None else own, mask)
        share = mask.any(1).to(logits.dtype) * self.branch_loss
        shares = torch.stack([torch.ones_like(share), share], dim=1)
        return HeadOutput(logits, attention, looks, answers=torch.stack([logits, branch], dim=1), shares=shares)

    def _no_looks(self, batch: HeadBatch) -> dict[str, Tensor]:
        """Where no sample has a person."""
        mask = batch.masks["person"]
        shapes: dict[str, tuple[int, ...]] = {"body": (1,)} if self.body is not None else {}
        if self.context is not None:
            shapes["context"] = tuple(batch.inputs["context"].shape[-2:])
        return {name: self.classify.weight.new_zeros(*mask.shape, *shape) for name, shape in shapes.items()}


class BodyAttention(nn.Module):
    """Equations 1 and 2: lambda = sigmoid(mean over places of W_2 relu(W_1 x)), and lambda times the body's vector.

    The paper has two 1x1 convolutions, a global mean and a sigmoid, and names nothing between the convolutions. Without
    a non-linearity they are one linear map, whose mean over places is that map of the mean colour: the weight would
    tell no more of a photo than that. With the ReLU here it tells which colours there are and how much of each,
    wherever they are: a 1x1 convolution sees no shapes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, BODY_HIDDEN, 1), nn.Conv2d(BODY_HIDDEN, 1, 1)

    def forward(self, body: Tensor, pixels: Tensor) -> _Found:
        """Of vectors (M, D) and pixels (M, 3, H, W); the look is lambda (M, 1)."""
        weight = torch.sigmoid(self.second(torch.relu(self.first(pixels))).mean((2, 3)))
        return _Found(weight * body, weight)


class AttentionBranch(nn.Module):
    """Equation 3 by an attention branch network (Fukui et al. 2019, the paper's reference 18).

    Attention branch: two residual blocks as ResNet-18's layer4 but without its stride, so that the attention map has
    the map's own size, as in that paper; a 1x1 convolution to a map for each class, batch norm, ReLU; then a 1x1
    convolution to one, batch norm and a sigmoid, M. Its own answer is the mean over places of a 1x1 convolution of the
    classes' maps. Perception branch: M * g by equation 3 (Fukui et al. also have (1 + M) * g), two residual blocks
    as layer4 with its stride, mean over places. Both start untrained.

    Args:
        channels: of the map g.
        width: of the residual blocks.
        classes: K.
        answers: whether the attention branch answers too.
    """

    def __init__(self, channels: int, width: int, classes: int, answers: bool) -> None:
        super().__init__()
        self.attend, self.perceive = _residual(channels, width, 1), _residual(channels, width, 2)
        self.of_classes = nn.Sequential(nn.Conv2d(width, classes, 1, bias=False), nn.BatchNorm2d(classes), nn.ReLU())
        self.to_map = nn.Sequential(nn.Conv2d(classes, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid())
        self.answer = nn.Conv2d(classes, classes, 1) if answers else None

    def forward(self, maps: Tensor) -> _Found:
        """Of maps (M, C, H, W): vectors (M, width), the look M (M, H, W), and the attention branch's logits (M, K)."""
        of_classes = self.of_classes(self.attend(maps))  # (M, K, H, W)
        weights = self.to_map(of_classes)  # (M, 1, H, W)
        own = None if self.answer is None else self.answer(of_classes).mean((2, 3))
        return _Found(self.perceive(weights * maps).mean((2, 3)), weights.squeeze(1), own)


class LocalAttention(nn.Module):
    """Equation 4: patches as nodes of a graph, H = relu(A H W) three times, and the mean over the nodes.

    A photo is cut into N x N patches. Where N does not divide its side, the photo is first enlarged (bilinear) to the
    next multiple of N, so that all patches have one size and nothing is cut off: 224 px become 225 for N = 3, 5 and 9,
    and 228 for 6. Two 3x3 convolutions (zero padding, ReLU after each) and a mean pooling to 4 x 4 make 1024 numbers of
    a patch.

    A, (N^2, N^2), is a parameter that starts as the identity: at first every patch is by itself. The layers have no
    bias, as in the equation. How nodes become one vector the paper leaves open; here it is their mean. Nothing in the
    head is a weight of a patch, so none is shown.

    Without the graph (4.3.2): a linear layer for each patch, summed.

    Args:
        patches: N.
        graph: whether there is one.
    """

    def __init__(self, patches: int, graph: bool) -> None:
        super().__init__()
        self.patches = patches
        self.features = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(POOLED),
            nn.Flatten(),
        )
        self.mix = Graph(patches**2) if graph else PatchSum(patches**2)

    def forward(self, pixels: Tensor) -> _Found:
        """Of pixels (M, 3, H, W): vectors (M, 512)."""
        nodes = self.features(cut(pixels, self.patches)).unflatten(0, (len(pixels), -1))  # (M, N^2, 1024)
        return _Found(self.mix(nodes))


class Graph(nn.Module):
    """Three layers of a graph with a learned adjacency, and the mean over its nodes; see `LocalAttention`.

    Args:
        nodes: N^2.
    """

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(torch.eye(nodes))
        self.layers = nn.ModuleList(nn.Linear(NODE, width, bias=False) for width in (NODE, NODE, LOCAL))

    def forward(self, nodes: Tensor) -> Tensor:
        """(M, 512) of nodes (M, N^2, 1024)."""
        for layer in self.layers:
            nodes = torch.relu(self.adjacency @ layer(nodes))
        return nodes.mean(1)


class PatchSum(nn.Module):
    """A linear layer for each patch, summed: one linear layer of all patches' numbers in a row, which is the same.

    Args:
        nodes: N^2.
    """

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.layers = nn.Linear(nodes * NODE, LOCAL)

    def forward(self, nodes: Tensor) -> Tensor:
        """(M, 512) of nodes (M, N^2, 1024)."""
        return self.layers(nodes.flatten(1))


class KostiHead(nn.Module):
    """Two branches fused by a linear layer of 256 with ReLU, then the classes.

    It has Kosti et al.'s way to fuse two pooled networks. It has not: their networks (trained with it, one of them on
    Places), continuous dimensions beside the classes and their weighted loss; and their second network sees the whole
    photo. Which photo it is here is a matter of the blocks that `context` names.

    Args:
        body: width of the body's vector.
        context: width of the context's vector, or channels of its map, which is averaged over places.
        classes: K.
        dropout: probability after the fusing layer.
    """

    def __init__(self, body: int, context: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.fuse = nn.Linear(body + context, FUSED)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(FUSED, classes)

    def forward(self, batch: HeadBatch) -> HeadOutput:
        """Logits (B, K), the mean over persons."""
        mask, context = batch.masks["person"], batch.inputs["context"]
        context = context if context.dim() == 3 else context.mean((-2, -1))  # (B, P, C)
        fused = torch.relu(self.fuse(torch.cat([batch.inputs["body"], context], dim=-1)))
        kept = self.dropout(fused).masked_fill(~mask[..., None], 0)
        logits = self.classify(kept.sum(1) / mask.sum(1, keepdim=True).clamp_min(1))
        return HeadOutput(logits, torch.zeros_like(batch.face_mask, dtype=logits.dtype))


def normalised(pixels: Tensor) -> Tensor:
    """(M, 3, H, W) float32 of uint8 (M, H, W, 3) RGB, with ImageNet's mean and deviation."""
    values = pixels.float()
    return ((values - values.new_tensor(MEAN)) / values.new_tensor(DEVIATION)).permute(0, 3, 1, 2)


def cut(pixels: Tensor, patches: int) -> Tensor:
    """(M * N^2, 3, h, w): N x N patches of each photo, row after row; see `LocalAttention`.

    Args:
        pixels: (M, 3, H, W).
        patches: N.
    """
    height, width = (-(-side // patches) * patches for side in pixels.shape[2:])
    if (height, width) != tuple(pixels.shape[2:]):
        pixels = nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    grid = pixels.unflatten(3, (patches, -1)).unflatten(2, (patches, -1))  # (M, 3, N, h, N, w)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _residual(channels: int, width: int, stride: int) -> nn.Sequential:
    """Two residual blocks, as ResNet-18's layer4."""
    shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(channels, width, stride, shortcut), BasicBlock(width, width))


def _mean_of(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, D): the mean of each sample's persons; 0 without one.

    Args:
        rows: (M, D) of the real persons, in their order.
        mask: (B, P) bool, M of them True.
    """
    sums = rows.new_zeros(len(mask), rows.shape[1]).index_add(0, mask.nonzero()[:, 0], rows)
    return sums / mask.sum(1, keepdim=True).clamp_min(1)


def _put_back(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, P, ...) of the real persons' rows (M, ...), 0 elsewhere."""
    return rows.new_zeros(*mask.shape, *rows.shape[1:]).index_put((mask,), rows)
