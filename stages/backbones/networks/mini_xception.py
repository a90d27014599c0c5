"""mini_XCEPTION in torch, and reading its Keras weights."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import h5py
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones.layers import pad_same
from stages.backbones.mini_xception import EMOTIONS, FEATURES
from stages.backbones.states import load_strictly
from stages.errors import WeightsError

WIDTHS = (16, 32, 64, FEATURES)
_STEM = 8
_EPSILON = 1e-3
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


class _Separable(nn.Module):
    """A 3x3 depthwise and a 1x1 pointwise convolution without biases, padded to keep the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class _Module(nn.Module):
    """Two separable convolutions and a pooling, beside a strided 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut, self.shortcut_norm = nn.Conv2d(inputs, outputs, 1, 2, bias=False), _norm(outputs)
        self.first, self.first_norm = _Separable(inputs, outputs), _norm(outputs)
        self.second, self.second_norm = _Separable(outputs, outputs), _norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        y = F.max_pool2d(pad_same(y, 3, 2, value=float("-inf")), 3, 2)
        return y + self.shortcut_norm(self.shortcut(x))


class MiniXception(nn.Module):
    """Normalised float32 (B, 1, 64, 64) -> {"feature": (B, 128), "probabilities": (B, 7), rows sum to 1, "map":
    (B, 128, 4, 4)}."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1, self.stem1_norm = nn.Conv2d(1, _STEM, 3, bias=False), _norm(_STEM)
        self.stem2, self.stem2_norm = nn.Conv2d(_STEM, _STEM, 3, bias=False), _norm(_STEM)
        pairs = zip((_STEM, *WIDTHS[:-1]), WIDTHS, strict=True)
        self.modules_ = nn.ModuleList([_Module(before, after) for before, after in pairs])
        self.classes = nn.Conv2d(WIDTHS[-1], len(EMOTIONS), 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.relu(self.stem1_norm(self.stem1(x)))
        x = F.relu(self.stem2_norm(self.stem2(x)))  # (B, 8, 60, 60)
        for module in self.modules_:
            x = module(x)  # sides 30, 15, 8, 4
        logits = self.classes(x).mean((2, 3))
        return {"feature": x.mean((2, 3)), "probabilities": logits.softmax(1), "map": x}


def fill(module: nn.Module, path: Path) -> None:
    """Fill the network from Keras's HDF5 file.

    Raises:
        WeightsError: for a damaged file or other layers.
    """
    state: dict[str, torch.Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            for own, keras in _names().items():
                layer, _, value = keras.partition("/")
                dataset = file[f"model_weights/{layer}/{layer}_1/{value}:0"]
                state[own] = torch.from_numpy(_reorder(keras, np.asarray(dataset, dtype=np.float32)))
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{path} is no whole mini_XCEPTION file ({reason}); run `kuleshov weights fetch mini_xception`"
        ) from error
    load_strictly(cast("MiniXception", module), state, path)


def _names() -> dict[str, str]:
    """Own parameter name -> Keras's `layer/value`, by Keras's numbering of layers in the order they were made."""
    convs = {"stem1": "conv2d_1", "stem2": "conv2d_2", "classes": "conv2d_7"}
    norms = {"stem1_norm": 1, "stem2_norm": 2}
    names: dict[str, str] = {"classes.bias": "conv2d_7/bias"}
    for i in range(len(WIDTHS)):
        here = f"modules_.{i}"
        convs[f"{here}.shortcut"] = f"conv2d_{3 + i}"
        for offset, part in enumerate(("shortcut", "first", "second")):
            norms[f"{here}.{part}_norm"] = 3 + 3 * i + offset
        for offset, part in enumerate(("first", "second")):
            layer = f"separable_conv2d_{2 * i + offset + 1}"
            names[f"{here}.{part}.depthwise.weight"] = f"{layer}/depthwise_kernel"
            names[f"{here}.{part}.pointwise.weight"] = f"{layer}/pointwise_kernel"
    names |= {f"{own}.weight": f"{layer}/kernel" for own, layer in convs.items()}
    for own, number in norms.items():
        names |= {f"{own}.{ours}": f"batch_normalization_{number}/{theirs}" for ours, theirs in _NORM.items()}
    return names


def _reorder(keras: str, value: np.ndarray) -> np.ndarray:
    """From Keras's order (height, width, in, out or multiplier) to torch's (out, in, height, width)."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 0, 1) if keras.endswith("depthwise_kernel") else value.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(value)
