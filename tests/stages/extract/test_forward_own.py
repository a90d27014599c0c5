"""Forward passes of the networks whose weights no package has, with random weights added as a user's own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.backbones import registry, weights
from stages.engines import TORCH_CPU, Engine
from stages.extract.forward import load_forward

# Those that differ from another in depth or not at all are left to the soak.
SOAK = (
    *("resnet_small:101", "resnet_small:34", "sphereface:64", "vgg19_44:emotion"),
    *("narrow:resnet101", "narrow:resnet18", "narrow:resnet34_48", "narrow:sphereface64", "narrow:bn_inception"),
    *("narrow:vgg19_44", "narrow:vgg_face", "narrow:densenet161"),
)
OWN = [name for name, entry in weights.catalogue().items() if isinstance(entry.source, weights.Own)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.soak if name in SOAK else ()) for name in OWN])
def test_openvino_gives_what_torch_gives(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert name in registry.names()
    torch.manual_seed(0)
    torch.save(registry.build(name).state_dict(), tmp_path / "random.pth")
    folder = tmp_path / "weights"
    weights.add(name, tmp_path / "random.pth", folder, trust=True)
    spec = registry.get_spec(name)
    rows = np.random.default_rng(0).integers(0, 256, (2, *spec.pixels_size, 3), dtype=np.uint8)
    expected = load_forward(name, folder, TORCH_CPU)(rows)
    found = load_forward(name, folder, Engine("openvino", "cpu"))(rows)
    assert list(found) == [tap.name for tap in spec.taps]
    for tap, values in expected.items():
        assert np.abs(found[tap] - values).max() <= 1e-4 * np.abs(values).max()
        assert not np.array_equal(values[0], values[1])
