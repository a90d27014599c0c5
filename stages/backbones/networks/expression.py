"""face-api's expression network in torch, and reading its TensorFlow.js weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from stages.backbones.expression import EMOTIONS, FEATURES
from stages.backbones.layers import pad_same
from stages.backbones.states import load_strictly
from stages.errors import WeightsError

MANIFEST = "face_expression_model-weights_manifest.json"
WIDTHS = (32, 64, 128, FEATURES)
_ITEM = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1")}


class _Separable(nn.Module):
    """A 3x3 depthwise and a 1x1 pointwise convolution with TensorFlow's `same` padding."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(pad_same(x, 3, self.stride)))


class _Entry(nn.Module):
    """The first block's first layer: a full 3x3 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.full = nn.Conv2d(inputs, outputs, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.full(pad_same(x, 3, 2))


class _Dense(nn.Module):
    """Four convolutions, each on the rectified sum of all before it; the first halves the side."""

    def __init__(self, inputs: int, outputs: int, is_first: bool) -> None:
        super().__init__()
        self.conv0 = _Entry(inputs, outputs) if is_first else _Separable(inputs, outputs, 2)
        self.conv1 = _Separable(outputs, outputs)
        self.conv2 = _Separable(outputs, outputs)
        self.conv3 = _Separable(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = F.relu(self.conv0(x))
        total = total + self.conv1(total)
        total = total + self.conv2(F.relu(total))
        return F.relu(total + self.conv3(F.relu(total)))


class ExpressionNet(nn.Module):
    """Normalised float32 (B, 3, 112, 112) -> {"feature": (B, 256), "probabilities": (B, 7), rows sum to 1, "map":
    (B, 256, 7, 7), after ReLU}."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        for i, (before, after) in enumerate(zip(inputs, WIDTHS, strict=True)):
            self.add_module(f"dense{i}", _Dense(before, after, i == 0))
        self.fc = nn.Linear(WIDTHS[-1], len(EMOTIONS))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for i in range(len(WIDTHS)):
            x = self.get_submodule(f"dense{i}")(x)  # sides 56, 28, 14, 7
        feature = F.avg_pool2d(x, 7, 2).flatten(1)
        return {"feature": feature, "probabilities": self.fc(feature).softmax(1), "map": x}


def fill(module: nn.Module, path: Path) -> None:
    """Fill the network from face-api's .bin and the weights manifest beside it.

    Raises:
        WeightsError: for a damaged file or other tensors.
    """
    tensors = read_tensors(path, path.with_name(MANIFEST))
    state = {_rename(name): torch.from_numpy(_reorder(name, value)) for name, value in tensors.items()}
    load_strictly(cast("ExpressionNet", module), state, path)


def _rename(name: str) -> str:
    """`dense0/conv1/depthwise_filter` -> `dense0.conv1.depthwise.weight`, and so on."""
    for ending, own in (
        ("/depthwise_filter", ".depthwise.weight"),
        ("/pointwise_filter", ".pointwise.weight"),
        ("/filters", ".full.weight"),
        ("fc/weights", "fc.weight"),
        ("fc/bias", "fc.bias"),
        ("dense0/conv0/bias", "dense0.conv0.full.bias"),
        ("/bias", ".pointwise.bias"),
    ):
        if name.endswith(ending):
            return name.removesuffix(ending).replace("/", ".") + own
    return name


def _reorder(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """From TensorFlow's order (height, width, in, out or multiplier) to torch's (out, in, height, width)."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 0, 1) if name.endswith("depthwise_filter") else value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.T
    return np.ascontiguousarray(value)


def read_tensors(path: Path, manifest: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a TensorFlow.js weights file: name -> float32 in TensorFlow's order.

    Raises:
        WeightsError: when the manifest cannot be read, or asks for more or fewer bytes than the file has.
    """
    try:
        groups = json.loads(manifest.read_text(encoding="utf-8"))
        listed = [item for group in groups for item in group["weights"]]
        plans = [_plan(item) for item in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{manifest} cannot be read as a weights manifest ({type(error).__name__}: {error}); "
            "run `kuleshov weights fetch expression`"
        ) from error
    data = path.read_bytes()
    needed = sum(count * stored.itemsize for _, _, count, stored, _, _ in plans)
    if needed != len(data):
        raise WeightsError(
            f"{path} has {len(data)} bytes, its manifest asks for {needed}; run `kuleshov weights fetch expression`"
        )
    tensors: dict[str, NDArray[np.float32]] = {}
    at = 0
    for name, shape, count, stored, scale, offset in plans:
        raw = np.frombuffer(data, stored, count, at).reshape(shape)
        at += count * stored.itemsize
        # In double precision and rounded once, as TensorFlow.js does it.
        tensors[name] = (raw.astype(np.float64) * scale + offset).astype(np.float32)
    return tensors


def _plan(item: dict[str, object]) -> tuple[str, tuple[int, ...], int, np.dtype, float, float]:
    """(name, shape, count, stored type, scale, offset) of one listed tensor; ValueError for another kind."""
    shape = tuple(int(side) for side in cast("list[int]", item["shape"]))
    packed = cast("dict[str, float | str] | None", item.get("quantization"))
    stored = "float32" if packed is None else str(packed["dtype"])
    if item["dtype"] != "float32" or stored not in _ITEM or any(side < 1 for side in shape):
        raise ValueError(f"tensor {item['name']} is {item['dtype']} {shape} stored as {stored}")
    scale, offset = (1.0, 0.0) if packed is None else (float(packed["scale"]), float(packed["min"]))
    return str(item["name"]), shape, int(np.prod(shape, dtype=np.int64)), _ITEM[stored], scale, offset
