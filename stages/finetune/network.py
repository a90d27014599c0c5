"""What is trained: a backbone below a last layer, or one or two backbones below a head.

Backbones compute in the number format of the caller's autocast; last layers and heads always in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.backbones.preprocess import preprocess
from stages.backbones.spec import BackboneSpec, Tap
from stages.errors import SettingError
from stages.finetune.batch import PixelBatch
from stages.finetune.settings import Unit
from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.margins import Classifier

_VECTORS = ""  # in the place of an input's name


def choose_tap(spec: BackboneSpec, name: str | None) -> Tap:
    """The tap of that name; None: the first of one dimension, else the first.

    Raises:
        SettingError: there is no such tap.
    """
    for tap in spec.taps:
        if tap.name == name or (name is None and len(tap.shape) == 1):
            return tap
    if name is None:
        return spec.taps[0]
    raise SettingError(f"tap is {name!r}, and {spec.name} has {', '.join(tap.name for tap in spec.taps)}")


class Backbone(nn.Module):
    """A backbone from pixels to vectors.

    Args:
        net: as `registry.build` makes it.
        spec: of it.
        tap: one of the spec's; a map (C, H, W) is averaged over its places.
        freeze: it keeps all parameters and statistics, and its dropout does nothing.
        freeze_norm: batch norm layers keep their statistics and their parameters.
    """

    def __init__(
        self, net: nn.Module, spec: BackboneSpec, tap: Tap, *, freeze: bool = False, freeze_norm: bool = False
    ) -> None:
        super().__init__()
        self.net, self.spec, self.tap = net.requires_grad_(not freeze), spec, tap
        self.freeze, self.freeze_norm = freeze, freeze_norm
        if freeze_norm:
            for layer in _norms(self.net):
                layer.requires_grad_(False)
        self.train(self.training)

    @property
    def width(self) -> int:
        """D of the vectors."""
        return self.tap.shape[0]

    @property
    def needs_two(self) -> bool:
        """Whether it has batch norm that is being trained, which one picture may be too few for."""
        return _trained_norm(self.net)

    def train(self, mode: bool = True) -> Backbone:
        """As of every module; what is frozen stays in eval mode."""
        super().train(mode and not self.freeze)
        if self.freeze_norm:
            for layer in _norms(self.net):
                layer.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors (n, D) float32.

        Args:
            pixels: uint8 (n, H, W, 3) RGB on any device, of the input's or the crops' size.

        Raises:
            SettingError: pixels of another size.
        """
        found = self.read(pixels, (self.tap,))[self.tap.name]
        return found.flatten(2).mean(-1) if found.dim() > 2 else found

    def read(self, pixels: Tensor, taps: Iterable[Tap]) -> dict[str, Tensor]:
        """What the taps give, (n, *shape) float32 each, by their names; see `forward`."""
        if not len(pixels):
            return {tap.name: torch.zeros(0, *tap.shape, device=self._device) for tap in taps}
        size = (int(pixels.shape[1]), int(pixels.shape[2]))
        if size not in (self.spec.input_size, self.spec.pixels_size):
            high, wide = self.spec.pixels_size
            template = self.spec.template
            raise SettingError(
                f"backbone {self.spec.name} sees pictures of {high}x{wide} (height x width), and these have "
                f"{size[0]}x{size[1]}: use {f'crops of template {template}' if template else 'photos fitted to it'}"
            )
        values = preprocess(pixels.to(self._device), self.spec)
        if values.device.type == "cpu":
            # Channels last ends the process in the backward of a strided 1x1 convolution of 8 channels (double free in
            # torch 2.14.1 with AVX-512), and is no faster. `contiguous` would leave a single channel as it is.
            values = values.clone(memory_format=torch.contiguous_format)
        given = self.net(values)
        found = {}
        for tap in taps:
            one = given[tap.name]
            if isinstance(one, tuple):  # torchvision's networks with auxiliary classifiers, while they are trained
                one = one[0]
            found[tap.name] = cast(Tensor, one).float()
        return found

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device


class Network(nn.Module):
    """What `loop.fit` trains. `forward(batch, labels)` gives the logits of R answers, `targets(batch)` their classes.

    Attributes:
        classes: K names, the order of the logits.
    """

    classes: tuple[str, ...]

    def forward(self, batch: PixelBatch, labels: Tensor | None = None) -> Tensor:
        """Logits (R, K) float32.

        Args:
            batch: of B samples.
            labels: int64 (B,), for the margin of a last layer that has one; None: plain logits.
        """
        raise NotImplementedError

    def learns(self, batch: PixelBatch, labels: Tensor) -> HeadOutput:
        """What training is about: logits (R, K), and what a head asks for beside their loss; see `forward`."""
        logits = self(batch, labels)
        return HeadOutput(logits, logits.new_zeros(len(logits), 0))

    def targets(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Of each answer its class, int64 (R,), and whether it counts, bool (R,); both on the batch's device."""
        raise NotImplementedError

    def shares(self, batch: PixelBatch) -> Tensor | None:
        """Of each answer the shares of the classes that are wanted, float32 (R, K); None: its class is."""
        return batch.shares

    def parts(self) -> dict[str, nn.Module]:
        """What is saved as a file each: backbones with their own keys, and `last_layer` or `head`."""
        raise NotImplementedError

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Trained parameters of the backbones, and of the last layer or head."""
        above = {
            id(p) for name in ("last_layer", "head") if name in self.parts() for p in self.parts()[name].parameters()
        }
        trained = [p for p in self.parameters() if p.requires_grad]
        return [p for p in trained if id(p) not in above], [p for p in trained if id(p) in above]


class Finetuned(Network):
    """A backbone below a last layer.

    `unit`: `face` has an answer for each face of the batch, with the label of the sample it is of. `photo` has one for
    each sample. `faces` has one for each sample too, the mean of its faces' logits; a last layer with a margin sees
    each face with its sample's label, and the mean is taken of what comes out (in the code of Gupta et al. 2018 the
    margin is lost, and the mean is that of plain logits). A sample without a face has logits 0 and does not count.

    Args:
        backbone, last_layer: of the same width.
        unit: see above.
        classes: names of the last layer's classes.
        dropout: probability before the last layer.

    Raises:
        SettingError: the unit is not what the backbone sees.
    """

    def __init__(
        self, backbone: Backbone, last_layer: Classifier, unit: Unit, classes: tuple[str, ...], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if (backbone.spec.input == "image") != (unit == "photo"):
            fits = "photo" if backbone.spec.input == "image" else "face or faces"
            raise SettingError(
                f"unit is {unit}, and backbone {backbone.spec.name} sees {backbone.spec.input}s: use {fits}"
            )
        self.backbone, self.last_layer = backbone, last_layer
        self.unit, self.classes = unit, classes
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: PixelBatch, labels: Tensor | None = None) -> Tensor:
        """Logits (F, K) for unit `face`, else (B, K); see `Network.forward`."""
        vectors = self.backbone(batch.photos if self.unit == "photo" else batch.faces)
        owner = batch.owner.to(vectors.device)
        if labels is not None and self.unit != "photo":
            labels = labels[owner]
        with full_precision(vectors.device):
            logits = self.last_layer(self.dropout(vectors), labels)
            return _mean_by_owner(logits, owner, len(batch)) if self.unit == "faces" else logits

    def targets(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """See `Network.targets`. One face alone does not count where batch norm is trained."""
        labels = batch.labels[batch.owner] if self.unit == "face" else batch.labels
        counts = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        if self.unit == "faces":
            counts = torch.bincount(batch.owner, minlength=len(batch)) > 0
        pictures = len(batch.photos if self.unit == "photo" else batch.faces)
        return labels, counts & (pictures > 1 or not self.backbone.needs_two)

    def shares(self, batch: PixelBatch) -> Tensor | None:
        """See `Network.shares`."""
        return batch.shares[batch.owner] if batch.shares is not None and self.unit == "face" else batch.shares

    def parts(self) -> dict[str, nn.Module]:
        """`backbone` and `last_layer`."""
        return {"backbone": self.backbone.net, "last_layer": self.last_layer}


class EndToEnd(Network):
    """A face network and a photo network, or one of them, below a head of `stages/heads/`.

    Args:
        head: maps a HeadBatch to a HeadOutput, with the dropout of its own.
        faces, photos: the networks; None: the head is given vectors of width 0.
        classes: names of the head's classes.
        reads: what the head reads of each frame in place of faces' vectors, by its name: a tap of the network of faces,
            or None for the pixels themselves, as that network sees them. The faces are frames then.
    """

    def __init__(
        self,
        head: nn.Module,
        faces: Backbone | None,
        photos: Backbone | None,
        classes: tuple[str, ...],
        reads: Mapping[str, Tap | None] | None = None,
    ) -> None:
        super().__init__()
        self.head, self.faces, self.photos, self.classes = head, faces, photos, classes
        self.reads = dict(reads or {})

    def forward(self, batch: PixelBatch, labels: Tensor | None = None) -> Tensor:
        """Logits (B, K); heads have no margin, so labels change nothing."""
        return self.answer(batch).logits

    def learns(self, batch: PixelBatch, labels: Tensor) -> HeadOutput:
        """See `Network.learns`: the head's penalty and answers of its own count as in `train`."""
        return self.answer(batch)

    def answer(self, batch: PixelBatch) -> HeadOutput:
        """The head's answer."""
        device = next(self.head.parameters()).device
        owner, count = batch.owner, len(batch)
        rows = self._rows(batch.faces, device)
        photos = self.photos(batch.photos) if self.photos else torch.zeros(count, 0, device=device)
        counts = torch.bincount(owner, minlength=count)
        place = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]  # of its sample's
        most = max(1, int(counts.max()))
        at = (owner.to(device), place.to(device))
        with full_precision(device):
            padded = {name: one.new_zeros(count, most, *one.shape[1:]).index_put(at, one) for name, one in rows.items()}
            vectors = padded.pop(_VECTORS, torch.zeros(count, most, 0, device=device))
            mask = torch.zeros(count, most, dtype=torch.bool, device=device)
            mask[at] = True
            where = torch.zeros(count, most, 4, device=device)
            where[at] = batch.boxes.to(device)
            return self.head(HeadBatch(vectors, mask, where, photos, padded, {"frame": mask} if padded else {}))

    def _rows(self, faces: Tensor, device: torch.device) -> dict[str, Tensor]:
        """What the head is given of each face, (F, ...), by the names of `reads`, or of their vectors."""
        if not self.reads:
            return {_VECTORS: self.faces(faces)} if self.faces else {}
        taps = [tap for tap in self.reads.values() if tap is not None]
        found = self.faces.read(faces, taps) if self.faces else {}
        return {name: faces.to(device) if tap is None else found[tap.name] for name, tap in self.reads.items()}

    def targets(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """See `Network.targets`: every sample counts, but in a batch with one where batch norm is trained."""
        lonely = self.faces is not None and len(batch.faces) == 1 and self.faces.needs_two
        lonely |= len(batch) == 1 and _trained_norm(self)
        return batch.labels, torch.full_like(batch.labels, not lonely, dtype=torch.bool)

    def parts(self) -> dict[str, nn.Module]:
        """`backbone`, the network of faces or where there is none that of photos; `photos`, beside one of faces; and
        `head`."""
        nets = [one.net for one in (self.faces, self.photos) if one is not None]
        return dict(zip(("backbone", "photos"), nets, strict=False)) | {"head": self.head}


def _norms(net: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]


def _trained_norm(net: nn.Module) -> bool:
    return any(layer.training for layer in _norms(net))


def full_precision(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Autocast turned off, on devices that know it (`meta` does not)."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """n / (K n_c) of each class, float32 (K,); their mean over the samples is 1.

    Args:
        labels: int64 (n,); each class occurs.
    """
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * counts)).float()


def _mean_by_owner(logits: Tensor, owner: Tensor, count: int) -> Tensor:
    """(count, K): means of the rows of each owner, 0 without any. A product of matrices, so that CUDA sums in order."""
    of = (owner == torch.arange(count, device=owner.device).unsqueeze(1)).to(logits.dtype)  # (count, F)
    return of @ logits / of.sum(1, keepdim=True).clamp_min(1)
