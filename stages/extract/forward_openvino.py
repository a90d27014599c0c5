"""A backbone's forward pass in OpenVINO: its torch network converted, preprocessing left to torch.

The converter is called below `openvino.convert_model`, which takes twice as long.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.backbones.preprocess import preprocess
from stages.backbones.spec import BackboneSpec
from stages.engines import ComputeName
from stages.errors import SettingError
from stages.extract.forward import as_tensor
from stages.loops import Loops
from stages.runtime import FrontEndManager, Run, TorchScriptPythonDecoder, compiled, openvino

_LOOPS = Loops("stages.extract.plane_loops", after=16)
"""A batch of 16 rows of 150 x 150 px takes 3.7 ms less with them, and importing them 0.4 s more."""


class _Listed(nn.Module):
    """A backbone whose outputs are in the order of its taps, without names: what the converter takes."""

    def __init__(self, model: nn.Module, taps: list[str]) -> None:
        super().__init__()
        self.model, self.taps = model, taps

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(images)
        return tuple(outputs[tap] for tap in self.taps)


class OpenVinoForward:
    """uint8 (batch, H, W, 3) -> tap -> float32 (batch, ...).

    A row's bits are the same at each place of a batch and in batches of any size (checked by tests). For each size of a
    batch the graph is compiled once; the engine sends batches of one size.
    """

    def __init__(self, spec: BackboneSpec, model: nn.Module, compute: ComputeName) -> None:
        """Convert a network.

        Args:
            spec: of the backbone; only its taps are in the graph.
            model: in eval mode, on the CPU.

        Raises:
            SettingError: OpenVINO cannot run this network.
        """
        self._spec = spec
        self._levels = _levels(spec)
        self._compute: ComputeName = compute
        self._taps = [tap.name for tap in spec.taps]
        example = torch.zeros(1, spec.channels, *spec.input_size)
        try:
            # the graph's constants are the network's own memory, which the decoder keeps
            self._decoder, self._graph = _converted(_Listed(model, self._taps), example)
        except Exception as error:  # the converter's own kinds have no base in common
            raise _refused(spec, error) from error
        self._runs: dict[int, Run] = {}

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        images = self._prepared(pixels)
        if len(images) not in self._runs:
            self._runs[len(images)] = self._compiled(images.shape)
        return dict(zip(self._taps, self._runs[len(images)](images), strict=True))

    def _prepared(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) -> float32 (B, C, H, W), one channel after the other in memory."""
        loops = _LOOPS.get() if self._levels is not None and pixels.shape[1:3] == self._spec.input_size else None
        if loops is not None:
            return loops.planes(pixels, self._levels)
        return preprocess(as_tensor(pixels), self._spec).contiguous().numpy()

    def _compiled(self, shape: tuple[int, ...]) -> Run:
        try:
            self._graph.reshape(openvino.PartialShape(list(shape)))
            return compiled(self._graph, self._compute)
        except RuntimeError as error:
            raise _refused(self._spec, error) from error


def _converted(model: nn.Module, example: torch.Tensor) -> tuple[Any, openvino.Model]:
    """The graph of a network, and what must live as long as it."""
    with warnings.catch_warnings(), torch.no_grad():
        # that tracing will go, and that it takes sizes for constants: inputs have one size here
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
        traced = torch.jit.trace(model, example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return decoder, frontend.convert(frontend.load(decoder))


def _levels(spec: BackboneSpec) -> np.ndarray | None:
    """What `preprocess` makes of each value of each channel, float32 (3, 256); None where it changes the channels."""
    if spec.colour != "RGB":
        return None
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None] for values in (spec.mean, spec.std))
    return torch.arange(256, dtype=torch.float32).repeat(3, 1).sub_(mean).div_(std).numpy()


def _refused(spec: BackboneSpec, error: Exception) -> SettingError:
    reason = " ".join(str(error).split())[:160]
    return SettingError(f"{spec.name}: OpenVINO cannot run it ({reason}); set extract.engine to torch")
