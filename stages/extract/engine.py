"""The engine: pixels of many items packed into full batches, forwarded, and handed back item by item."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from stages.device import full_float32, require
from stages.errors import SettingError
from stages.extract.plan import LAYOUTS

Forward = Callable[[np.ndarray], dict[str, np.ndarray]]
"""uint8 (batch, H, W, 3) -> tap -> float32 (batch, ...)."""


def load_forward(name: str, folder: Path, device: str) -> Forward:
    """A backbone's forward pass on numpy arrays, in inference mode, float32.

    Args:
        name: of the backbone.
        folder: where weights are.
        device: `cpu` or `cuda`.

    Raises:
        SettingError: torch cannot use the device; later, from the forward pass: a batch does not fit its memory.
        WeightsError: see `stages.backbones.registry.load`.
    """
    require(device)
    import torch

    from stages.backbones import registry
    from stages.backbones.preprocess import preprocess

    spec = registry.get_spec(name)
    layout = LAYOUTS[device]
    model = registry.load(name, weights_dir=folder, device=device).to(memory_format=getattr(torch, layout))

    def forward(pixels: np.ndarray) -> dict[str, np.ndarray]:
        try:
            with torch.inference_mode(), full_float32():
                # a copy: cached crops are read-only maps, which torch does not take
                images = preprocess(torch.tensor(pixels, device=device), spec)
                outputs = model(images.contiguous(memory_format=getattr(torch, layout)))
            return {tap: value.float().cpu().numpy() for tap, value in outputs.items()}
        except torch.OutOfMemoryError:
            raise SettingError(
                f"{name}: extract.batch_size {len(pixels)} does not fit the memory of {device}; lower it"
            ) from None

    return forward


def packed(
    items: Iterable[tuple[bytes, np.ndarray]], forward: Forward, batch: int
) -> Iterator[tuple[bytes, dict[str, np.ndarray]]]:
    """Forward the rows of many items in batches of exactly `batch` rows, whatever the items' sizes.

    The last batch is padded with black rows, so that every forward pass has one shape and a row's bits do not depend
    on how many rows came with it.

    Args:
        items: (key, uint8 (n, H, W, 3)) with n >= 1. Read ahead by as much as fills a batch.
        batch: rows of each forward pass, at least 1.

    Yields:
        (key, tap -> (n, ...)) in the order of `items`.
    """
    waiting: deque[tuple[bytes, int]] = deque()
    pixels: list[np.ndarray] = []
    done: dict[str, list[np.ndarray]] = {}
    n_pixels = n_done = 0
    for key, rows in items:
        waiting.append((key, len(rows)))
        pixels.append(rows)
        n_pixels += len(rows)
        while n_pixels >= batch:
            joined = np.concatenate(pixels) if len(pixels) > 1 else pixels[0]
            _collect(done, forward(np.ascontiguousarray(joined[:batch])))
            pixels, n_pixels, n_done = [joined[batch:]], n_pixels - batch, n_done + batch
        while waiting and waiting[0][1] <= n_done:
            key, count = waiting.popleft()
            n_done -= count
            yield key, _take(done, count)
    if n_pixels:
        joined = np.concatenate(pixels)
        padding = np.zeros((batch - n_pixels, *joined.shape[1:]), joined.dtype)
        _collect(done, {k: v[:n_pixels] for k, v in forward(np.concatenate([joined, padding])).items()})
    for key, count in waiting:
        yield key, _take(done, count)


def _collect(done: dict[str, list[np.ndarray]], outputs: dict[str, np.ndarray]) -> None:
    for tap, value in outputs.items():
        done.setdefault(tap, []).append(value)


def _take(done: dict[str, list[np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The first `count` rows of what is done, removed from it."""
    taken = {}
    for tap, parts in done.items():
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        taken[tap] = joined[:count]
        done[tap] = [joined[count:]]
    return taken
