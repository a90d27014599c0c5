"""Shapes of a network's outputs, read without memory: its parameters lie on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are built in here have parameters without memory, and the random state is left as it was.

    Only `torch.empty` goes to the meta device, not all of torch: some models compute their widths with tensors while
    they are built, or draw numbers.
    """
    with torch.random.fork_rng(devices=[]), _ParametersOnMeta():
        yield


def output_shapes(network: nn.Module, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What a network gives for one item, tap -> shape without the batch.

    Args:
        network: built `without_memory`; goes to the meta device and into eval mode.
        size: of its input, (C, H, W).
    """
    network = network.eval().to("meta")
    with torch.inference_mode():
        outputs: dict[str, torch.Tensor] = network(torch.empty(1, *size, device="meta"))
    return {tap: tuple(value.shape[1:]) for tap, value in outputs.items()}


class _ParametersOnMeta(TorchFunctionMode):
    """Sends `torch.empty` to the meta device: what parameters are made by."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
