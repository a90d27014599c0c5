"""A graph of OpenVINO, compiled for this machine's processor. Imports OpenVINO: only for who computes with it.

It is imported here and nowhere else. Of itself it reports over the network that it was imported, and what it converts,
and keeps a number for this user in the home folder; where its package for that cannot be imported it does neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stages.engines import ComputeName

_REPORTS = "openvino_telemetry"
_imported = sys.modules.get(_REPORTS)
sys.modules[_REPORTS] = None  # pyright: ignore[reportArgumentType] - how Python is told that there is none
try:
    import openvino
    import openvino.opset13 as ops
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
finally:
    del sys.modules[_REPORTS]
    if _imported is not None:
        sys.modules[_REPORTS] = _imported

__all__ = ["FrontEndManager", "Run", "TorchScriptPythonDecoder", "compiled", "graph", "openvino", "ops"]

Run = Callable[[np.ndarray], list[np.ndarray]]
"""The graph's one input -> its outputs, in arrays that no later call writes to."""

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def graph(outputs: list[Any], inputs: list[Any]) -> openvino.Model:
    """A graph from its operations."""
    return openvino.Model(outputs, inputs)  # pyright: ignore[reportGeneralTypeIssues] - its own stubs do not fit


def compiled(model: openvino.Model, compute: ComputeName = "float32") -> Run:
    """Compile a graph of one input, for as many threads as torch uses now.

    Left alone, OpenVINO would compute in bfloat16 where the processor has it, and tie its threads to cores: those of
    two processes to the same ones.
    """
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[compute],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    outputs = len(model.outputs)

    def run(values: np.ndarray) -> list[np.ndarray]:
        request.infer({0: np.ascontiguousarray(values)}, share_inputs=True)
        return [np.array(request.get_output_tensor(i).data) for i in range(outputs)]

    return run
