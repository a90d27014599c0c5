"""P-Net in OpenVINO keeps kernels for so many sizes and no more."""

from __future__ import annotations

import pytest
import torch

from stages.detect import mtcnn
from stages.detect.settings import DetectSettings

pytest.importorskip("openvino")

from stages.detect.cascade import graphs


def test_kernels_of_many_sizes_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    compiled = graphs.compiled

    def counting(model: object) -> object:
        made.append(model)
        return compiled(model)  # pyright: ignore[reportArgumentType]

    detector = mtcnn.load(DetectSettings(device="cpu", engine="openvino"), "cpu")
    net = detector._cascade._proposal
    monkeypatch.setattr(graphs, "compiled", counting)
    monkeypatch.setattr(graphs, "SHAPES", 3)
    torch.manual_seed(0)
    pictures = [torch.randn(1, 20 + i, 30, 3) for i in (0, 1, 2, 0, 3, 4, 0, 5, 6)]
    first = [net(picture) for picture in pictures]
    assert len(made) == 2, "for the fourth and for the seventh size; a size that is known costs nothing"
    again = [net(picture) for picture in pictures]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
