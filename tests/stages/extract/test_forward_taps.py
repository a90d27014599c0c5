"""Taps that nobody asked for are not handed out, and those that were have the same bits without them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cache.store import Store
from stages.backbones import registry, weights
from stages.engines import TORCH_CPU, Engine
from stages.extract import run as stage
from stages.extract.forward import load_forward
from stages.extract.passes import Job
from stages.extract.plan import RolePlan, plan_role
from stages.extract.settings import BackboneSettings, ExtractSettings

OPENVINO = Engine("openvino", "cpu")
OWN = ("torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:densenet121", "vgg19_44:emotion")
SOAK = OWN[2:]


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For weights of the user's."""
    return tmp_path_factory.mktemp("own")


def _added(name: str, folder: Path) -> Path:
    """The folder, with random weights of a backbone and statistics that are not the initial ones, made once."""
    if not weights.status(name, folder).present:
        torch.manual_seed(0)
        module = registry.build(name)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                part.running_var = torch.rand(part.num_features) + 0.5
        torch.save(module.state_dict(), folder / "random.pth")
        weights.add(name, folder / "random.pth", folder, trust=True)
    return folder


@pytest.mark.parametrize("engine", [TORCH_CPU, OPENVINO], ids=lambda engine: engine.name)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.soak if name in SOAK else ())
        for name in ("expression", "mini_xception", "resnet29", "effnet_lite0", *OWN)
    ],
)
def test_bits_do_not_depend_on_the_other_taps(
    name: str, engine: Engine, weights_folder: Path, own_folder: Path
) -> None:
    if engine == OPENVINO:
        pytest.importorskip("openvino")
    folder = _added(name, own_folder) if name in OWN else weights_folder
    spec = registry.get_spec(name)
    rows = np.random.default_rng(0).integers(0, 256, (2, *spec.pixels_size, 3), dtype=np.uint8)
    taps = [tap.name for tap in spec.taps]
    whole = load_forward(name, folder, engine)(rows)
    assert list(whole) == taps
    fewer = [*combinations(taps, 1), *([tuple(taps[1:])] if len(taps) > 2 else [])]
    for some in fewer:
        found = load_forward(name, folder, engine, some[::-1])(rows)
        assert list(found) == list(some)
        for tap, values in found.items():
            assert values.shape == (2, *spec.tap(tap).shape)
            assert values.tobytes() == whole[tap].tobytes(), (some, tap)
    assert not np.array_equal(whole[taps[0]][0], whole[taps[0]][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_on_a_gpu(compute: str, own_folder: Path) -> None:
    name, engine = OWN[0], Engine("torch", "cuda", compute)  # pyright: ignore[reportArgumentType]
    rows = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    whole = load_forward(name, _added(name, own_folder), engine)(rows)
    found = load_forward(name, own_folder, engine, ["pooled"])(rows)
    assert list(found) == ["pooled"]
    assert found["pooled"].tobytes() == whole["pooled"].tobytes()


def test_only_the_taps_of_the_graph_are_computed(own_folder: Path) -> None:
    pytest.importorskip("openvino")
    from stages.extract.forward_openvino import OpenVinoForward

    _added(OWN[1], own_folder)

    def operations(*taps: str) -> int:
        forward = load_forward(OWN[1], own_folder, OPENVINO, taps)
        assert isinstance(forward, OpenVinoForward)
        assert len(forward._graph.outputs) == len(taps)
        return len(forward._graph.get_ops())

    assert operations("map") < operations("pooled")


def test_a_tap_that_is_not_there(weights_folder: Path) -> None:
    with pytest.raises(KeyError):
        load_forward("expression", weights_folder, TORCH_CPU, ["embedding"])


@pytest.mark.parametrize("load", ["_load", "_kept"])
def test_a_run_asks_for_the_taps_that_it_writes(
    load: str, weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*taps: str) -> tuple[Job, RolePlan]:
        role = BackboneSettings(backbone="expression", taps=taps)
        settings = ExtractSettings(backbones={"face": role}, device="cpu", engine="torch")
        found = plan_role("face", settings, weights_folder, "0" * 64, "found")
        return Job(tmp_path, Store(tmp_path / "store"), (found,), settings, weights_folder), found

    monkeypatch.setattr(stage, "_networks", {})
    rows = np.zeros((1, 112, 112, 3), np.uint8)
    for taps in (("feature",), ("map",), ("probabilities", "feature")):
        assert set(getattr(stage, load)(*plan(*taps))(rows)) == set(taps)
