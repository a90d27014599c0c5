"""Forward passes: the same rows whatever is beside them, and the same from every engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import engines
from stages.backbones import weights
from stages.backbones.preprocess import preprocess
from stages.backbones.registry import get_spec
from stages.engines import TORCH_CPU, Engine
from stages.errors import SettingError
from stages.extract.forward import _guarded, batch_rows, load_forward
from stages.loops import Loops

OPENVINO = Engine("openvino", "cpu")
load = cache(load_forward)
"""Once for all tests, for as many threads as there are at that time."""

BACKBONES = ("resnet29", "expression", "mini_xception", "effnet_lite0")


@pytest.fixture(params=[TORCH_CPU, OPENVINO], ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param.runtime == "openvino":
        pytest.importorskip("openvino")
    return request.param


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest, weights_folder: Path) -> str:
    if not weights.status(get_spec(request.param).weights, weights_folder).present:
        pytest.skip(f"the weights of {request.param} are not here")
    return request.param


def rows_of(name: str, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *get_spec(name).input_size, 3), dtype=np.uint8)


def filled(rows: np.ndarray, batch: int) -> np.ndarray:
    """As the engine fills up its last batch."""
    return np.concatenate([rows, np.zeros((batch - len(rows), *rows.shape[1:]), np.uint8)])


def test_bits_of_a_row_depend_neither_on_its_neighbours_nor_its_place(
    backbone: str, engine: Engine, weights_folder: Path
) -> None:
    forward = load(backbone, weights_folder, engine)
    rows = rows_of(backbone, 4)
    together = forward(rows)
    for tap in get_spec(backbone).taps:
        assert together[tap.name].shape == (4, *tap.shape)
        assert together[tap.name].dtype == np.float32
    turned = forward(np.ascontiguousarray(rows[::-1]))
    for i in range(4):
        alone = forward(filled(rows[i : i + 1], 4))
        for tap, found in together.items():
            assert alone[tap][0].tobytes() == found[i].tobytes()
            assert turned[tap][3 - i].tobytes() == found[i].tobytes()


def test_bits_do_not_depend_on_the_threads(backbone: str, engine: Engine, weights_folder: Path) -> None:
    rows = filled(rows_of(backbone, 6), 16)
    one = load(backbone, weights_folder, engine)(rows)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - threads if threads in {1, 2} else 1)
    try:
        # torch asks for the threads each time, OpenVINO once
        other = (load if engine == TORCH_CPU else load_forward)(backbone, weights_folder, engine)(rows)
    finally:
        torch.set_num_threads(threads)
    for tap, found in one.items():
        assert other[tap].tobytes() == found.tobytes()


def test_openvino_gives_what_torch_gives(backbone: str, weights_folder: Path) -> None:
    pytest.importorskip("openvino")
    rows = rows_of(backbone, 3)
    expected = load(backbone, weights_folder, TORCH_CPU)(rows)
    forward = load(backbone, weights_folder, OPENVINO)
    found = forward(rows)
    assert list(found) == list(expected)
    for tap, values in expected.items():
        assert np.abs(found[tap] - values).max() <= 1e-4 * np.abs(values).max()
        assert forward(rows[:2])[tap].tobytes() == found[tap][:2].tobytes()


def test_bfloat16_is_near_float32(engine: Engine, weights_folder: Path) -> None:
    if not engines.processor() & engines._BFLOAT16:
        pytest.skip("the processor has no bfloat16")
    rows = rows_of("resnet29", 2)
    expected = load("resnet29", weights_folder, engine)(rows)["embedding"]
    rounded = load_forward("resnet29", weights_folder, Engine(engine.runtime, "cpu", "bfloat16"))(rows)["embedding"]
    assert rounded.dtype == np.float32
    assert 1e-4 < np.abs(rounded - expected).max() / np.abs(expected).max() < 0.05


def test_a_processor_without_bfloat16(engine: Engine, weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "processor", lambda: frozenset({"avx2"}))
    with pytest.raises(SettingError, match=r"^extract\.compute is bfloat16, and the processor of"):
        load_forward("resnet29", weights_folder, Engine(engine.runtime, "cpu", "bfloat16"))


def test_read_only_crops_are_taken_and_outputs_stay(
    engine: Engine, weights_folder: Path, pixels: Callable[[int, int], np.ndarray]
) -> None:
    forward = load("resnet29", weights_folder, engine)
    crops = pixels(0, 1)
    crops.flags.writeable = False  # as a map of a shard: torch would warn, and warnings are errors here
    found = forward(crops)["embedding"]
    assert np.isfinite(found).all()
    kept = found.copy()
    assert not np.array_equal(forward(pixels(1, 1))["embedding"], kept)
    assert np.array_equal(found, kept)


def test_a_gpu_that_is_not_there(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingError, match=r"^extract\.device is cuda, .*; set it to cpu$"):
        load_forward("resnet29", weights_folder, Engine("torch", "cuda"))


def test_a_runtime_that_is_not_there(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed", lambda: False)
    with pytest.raises(SettingError, match=r"^extract\.engine is openvino, which is not installed on .* pip install"):
        load_forward("resnet29", weights_folder, OPENVINO)


def test_a_batch_that_does_not_fit(
    weights_folder: Path, pixels: Callable[[int, int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = load_forward("resnet29", weights_folder, TORCH_CPU)

    def full(self: torch.nn.Module, pixels: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "__call__", full)
    with pytest.raises(SettingError, match=r"resnet29: extract\.batch_size 2 does not fit the memory of cpu; lower it"):
        forward(pixels(0, 2))


def test_a_network_that_cannot_be_compiled() -> None:
    def broken(images: torch.Tensor) -> dict[str, torch.Tensor]:
        raise RuntimeError("\nTritonMissing: Cannot find a working triton installation.\nSet TORCHDYNAMO_VERBOSE")

    spec = get_spec("mini_xception")
    images = torch.tensor(rows_of("mini_xception", 1))
    with pytest.raises(SettingError, match=r"^mini_xception: torch\.compile fails here \(TritonMissing: [^\n]*false$"):
        _guarded(broken, spec, Engine("torch", "cpu", compile=True))(images)
    with pytest.raises(RuntimeError, match="TritonMissing"):
        _guarded(broken, spec, TORCH_CPU)(images)


def test_a_network_that_openvino_cannot_run() -> None:
    pytest.importorskip("openvino")
    from stages.extract.forward_openvino import OpenVinoForward

    class Inverse(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {tap.name: torch.linalg.eigvals(images[:, 0]).abs() for tap in get_spec("mini_xception").taps}

    with pytest.raises(SettingError, match=r"^mini_xception: OpenVINO cannot run it \(.*\); set extract\.engine"):
        OpenVinoForward(get_spec("mini_xception"), Inverse(), "float32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_a_gpu_gives_what_the_cpu_gives(
    compute: engines.ComputeName, weights_folder: Path, pixels: Callable[[int, int], np.ndarray]
) -> None:
    batches = [pixels(seed, 4) for seed in range(5)]
    expected = [load_forward("resnet29", weights_folder, TORCH_CPU)(batch)["embedding"] for batch in batches]
    forward = load_forward("resnet29", weights_folder, Engine("torch", "cuda", compute))
    waiting = [forward.submit(batch.copy()) for batch in batches]  # pyright: ignore[reportFunctionMemberAccess]
    most = 1e-4 if compute == "float32" else 0.05
    for values, outputs, batch in zip(expected, waiting, batches, strict=True):
        found = outputs()["embedding"]
        assert np.abs(found - values).max() <= most * np.abs(values).max()
        assert forward(batch)["embedding"].tobytes() == found.tobytes()


@pytest.mark.parametrize("name", ["resnet29", "effnet_lite0", "expression", "sphereface:20", "mini_xception"])
def test_pixels_are_prepared_alike_with_and_without_compiled_loops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are BGR or grey are left to torch."""
    pytest.importorskip("openvino")
    from stages.extract import forward_openvino

    spec, rows = get_spec(name), rows_of(name, 3)
    forward = object.__new__(forward_openvino.OpenVinoForward)
    forward._spec, forward._levels = spec, forward_openvino._levels(spec)
    assert (forward._levels is None) == (spec.colour != "RGB")
    monkeypatch.setattr(forward_openvino, "_LOOPS", Loops("stages.extract.plane_loops", after=0))
    rows.flags.writeable = False  # as maps are
    found = forward._prepared(rows)
    assert found.flags.c_contiguous
    assert np.array_equal(found, preprocess(torch.tensor(rows), spec).numpy())


def test_how_many_rows_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = get_spec("resnet29"), get_spec("effnet_lite0")
    assert batch_rows(5, large, OPENVINO) == 5
    assert [batch_rows("auto", small, Engine("torch", device)) for device in ("cpu", "cuda")] == [16, 64]
    for threads, expected in ((1, (8, 1)), (4, (8, 4)), (12, (12, 12))):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert (batch_rows("auto", small, OPENVINO), batch_rows("auto", large, OPENVINO)) == expected
