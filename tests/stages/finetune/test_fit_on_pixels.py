"""Training on pixels of a real store and real files: it goes on in the middle of an epoch to the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.backbones.registry import get_spec
from stages.backbones.spec import Tap
from stages.finetune.answers import answer, outputs
from stages.finetune.batch import Draw, PixelBatch
from stages.finetune.loop import Every, fit
from stages.finetune.network import Backbone, Finetuned
from stages.finetune.pixels import Pixels, face_pixels, photo_pixels
from stages.finetune.settings import AugmentSettings, FinetuneSettings
from stages.heads.margins import Softmax
from stages.ledger import Ledger

FACE = replace(get_spec("vgg19_44:emotion"), taps=(Tap("pooled", "face", (4,)),))
SCENE = replace(
    get_spec("torchvision:resnet18"), input_size=(40, 32), resize_to=48, taps=(Tap("pooled", "global", (4,)),)
)
DRAWN = AugmentSettings(flip=True, crop="random", jitter=0.2)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, stride=3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.norm(self.conv(x)).relu().mean((2, 3))}


class Stopped(Exception):
    """In place of a power cut."""


class UntilBatch:
    """The same set, until the second epoch's second batch."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels, self.labels = pixels, pixels.labels

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, order: np.ndarray, size: int, draw: Draw | None, skip: int = 0) -> Iterator[PixelBatch]:
        for number, batch in enumerate(self.pixels.batches(order, size, draw, skip)):
            if draw is not None and draw.epoch == 1 and number == 1:
                raise Stopped
            yield batch


def network(unit: Any, spec: Any) -> Finetuned:
    torch.manual_seed(0)
    return Finetuned(Backbone(Tiny(), spec, spec.taps[0]), Softmax(4, 3), unit, ("calm", "glad", "sad"), 0.5)


@pytest.mark.parametrize("unit", ["face", "faces", "photo"])
def test_it_goes_on_to_the_same_weights(corpus: Any, tmp_path: Path, unit: Any) -> None:
    source = corpus.source()
    spec = SCENE if unit == "photo" else FACE
    if unit == "photo":
        pixels = photo_pixels(source, corpus.manifest.samples, spec, DRAWN)
    else:
        pixels = face_pixels(source, corpus.manifest.samples, spec, DRAWN, unit=unit, max_faces=3)
    settings = FinetuneSettings(
        backbone=spec.name, unit=unit, epochs=3, batch_size=3, learning_rate=0.05, augment=DRAWN, device="cpu"
    )
    whole = network(unit, spec)
    fit(whole, pixels, pixels, settings, tmp_path / "whole", shown=False)
    cut = network(unit, spec)
    with pytest.raises(Stopped):
        fit(cut, UntilBatch(pixels), pixels, settings, tmp_path / "cut", every=Every(iterations=1), shown=False)
    again = network(unit, spec)
    fit(again, pixels, pixels, settings, tmp_path / "cut", shown=False)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert not torch.equal(state["last_layer.weight"], cut.state_dict()["last_layer.weight"])
    assert not source.ledger.entries
    found = answer(outputs(whole, pixels, 4), Ledger("finetune"), most=2 if unit == "face" else None)
    assert found.probabilities.shape == (8, 3)
    assert found.answered.sum() == (8 if unit == "photo" else 7)
