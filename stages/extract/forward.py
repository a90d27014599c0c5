"""A backbone's forward pass on numpy arrays, by the engine that its plan names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.device import full_float32
from stages.engines import ComputeName, Engine, require
from stages.errors import SettingError

if TYPE_CHECKING:
    import torch

    from stages.backbones.spec import BackboneSpec
    from stages.extract.settings import BatchSize

Taps = dict[str, np.ndarray]
"""Tap -> its rows, float32 (n, ...)."""

Forward = Callable[[np.ndarray], Taps]
"""uint8 (batch, H, W, 3) -> tap -> float32 (batch, ...), in arrays that no later call writes to.

One that works beside this thread also has `submit(pixels) -> outputs`: it has taken the pixels when it returns, and
`outputs()` waits for what it would have given."""

Network = Callable[["torch.Tensor"], dict[str, "torch.Tensor"]]
"""Normalised images (B, C, H, W) -> tap -> (B, ...), on their device."""


def load_forward(
    name: str, folder: Path, engine: Engine, taps: Collection[str] | None = None, file: Path | None = None
) -> Forward:
    """A backbone's forward pass, without gradients.

    Args:
        name: of the backbone.
        folder: where weights are.
        engine: that computes; a row's bits depend on it.
        taps: those that are handed out, in the spec's order; None: all. A row's bits do not depend on it.
        file: of the weights; None: the catalogue's.

    Raises:
        SettingError: this machine cannot compute with the engine, or the engine not this network; later, from the
            forward pass: a batch does not fit the device's memory, or the network cannot be compiled.
        WeightsError: see `stages.backbones.registry.load`.
    """
    require("extract", engine)
    from stages.backbones import registry

    spec = registry.get_spec(name)
    spec = spec if taps is None else spec.only(taps)
    model = registry.load(name, weights_dir=folder, device=engine.device, taps=taps, file=file)
    if engine.runtime == "openvino":
        from stages.extract.forward_openvino import OpenVinoForward

        return OpenVinoForward(spec, model, engine.compute)
    import torch

    network: Network = model.to(memory_format=getattr(torch, str(engine.layout)))
    if engine.compile:
        network = torch.compile(network, dynamic=False)
    network = _guarded(network, spec, engine)
    if engine.device == "cuda":
        from stages.extract.forward_cuda import CudaForward

        return CudaForward(network)

    def forward(pixels: np.ndarray) -> Taps:
        outputs = network(as_tensor(pixels))
        return {tap: value.numpy() for tap, value in outputs.items()}

    return forward


_LARGE = 200 * 200
"""Px of a network's input, from which on OpenVINO is fastest row by row: 9.2 ms a row for EfficientNet-Lite0 at 224 px
instead of 12.3 in batches of 16. Networks of 112 to 160 px take 3 % less in eights than in sixteens."""


def batch_rows(given: BatchSize, spec: BackboneSpec, engine: Engine) -> int:
    """How many rows go through a network at once: as it is given, or by a rule over the engine and the input's size.

    `auto` is 64 on a GPU and 16 for torch on a CPU; for OpenVINO 8, and 1 from 200 x 200 px on, but one for each thread
    at least.
    """
    if given != "auto":
        return given
    if engine.runtime == "torch":
        return 64 if engine.device == "cuda" else 16
    import torch  # OpenVINO has as many threads as it

    height, width = spec.input_size
    return max(1 if height * width >= _LARGE else 8, torch.get_num_threads())


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor; a copy of read-only maps, which torch does not take."""
    import torch

    return torch.from_numpy(pixels) if pixels.flags.writeable else torch.tensor(pixels)


def _guarded(network: Network, spec: BackboneSpec, engine: Engine) -> Network:
    """A network on uint8 pixels (B, H, W, 3), and the spec's taps of it in float32; what users can mend is a
    SettingError."""
    import torch

    from stages.backbones.preprocess import preprocess

    layout = getattr(torch, str(engine.layout))

    def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        try:
            with torch.inference_mode(), full_float32(), precision(engine.device, engine.compute):
                outputs = network(preprocess(pixels, spec).contiguous(memory_format=layout))
                return {tap.name: outputs[tap.name].float() for tap in spec.taps}
        except torch.OutOfMemoryError:
            raise SettingError(
                f"{spec.name}: extract.batch_size {len(pixels)} does not fit the memory of {engine.device}; lower it"
            ) from None
        except RuntimeError as error:
            if not engine.compile:
                raise
            raise _uncompiled(spec.name, error) from error

    return run


def precision(device: str, compute: ComputeName) -> AbstractContextManager[object]:
    """Layers compute in this; those that need float32 keep it (torch's autocast)."""
    if compute == "float32":
        return nullcontext()
    import torch

    return torch.autocast(device, dtype=getattr(torch, compute))


def _uncompiled(name: str, error: RuntimeError) -> SettingError:
    """What torch.compile says when it fails: a compiler that does not work, no Triton for a GPU."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return SettingError(
        f"{name}: torch.compile fails here ({reason[:160]}); mend what it says, or set extract.compile to false"
    )
