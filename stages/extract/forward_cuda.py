"""A backbone's forward pass on a GPU: while it computes a batch, the next one is copied to it.

Three streams: pixels go up on one, networks run on torch's own, outputs come down on the third. With one stream for
both ways the next batch's pixels would wait for the outputs of the batch before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stages.extract.forward import Network, Taps

_SLOTS = 2
"""Batches whose pixels wait in pinned memory: one is on its way up while the next is filled."""


class _Slot:
    """Pinned memory for the pixels of a batch."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.sent = torch.cuda.Event()
        """After it the memory may be filled again. One that was never recorded is over."""


class CudaForward:
    """uint8 (batch, H, W, 3) -> tap -> float32 (batch, ...), one batch ahead for those who `submit`."""

    def __init__(self, network: Network) -> None:
        """Set up the streams.

        Args:
            network: uint8 (B, H, W, 3) on the GPU -> tap -> float32 (B, ...) there.
        """
        self._network = network
        self._up, self._down = torch.cuda.Stream(), torch.cuda.Stream()
        self._slots: list[_Slot] = []
        self._turn = 0

    def __call__(self, pixels: np.ndarray) -> Taps:
        return self.submit(pixels)()

    def submit(self, pixels: np.ndarray) -> Callable[[], Taps]:
        """Take a batch and return at once; the result waits for its outputs.

        Raises:
            SettingError: the batch does not fit the memory of the device.
        """
        outputs = self._network(self._uploaded(pixels))
        computed = torch.cuda.current_stream()
        self._down.wait_stream(computed)
        held: Taps = {}
        with torch.cuda.stream(self._down):
            for tap, value in outputs.items():
                value.record_stream(self._down)  # its memory is not given away before it is copied
                host = torch.empty(value.shape, dtype=torch.float32, pin_memory=True)
                host.copy_(value, non_blocking=True)
                held[tap] = host.numpy()
            arrived = self._down.record_event()

        def wait() -> Taps:
            arrived.synchronize()
            return held

        return wait

    def _uploaded(self, pixels: np.ndarray) -> torch.Tensor:
        """The pixels on the GPU, there before torch's own stream goes on."""
        slot = self._slot(pixels.shape)
        slot.sent.synchronize()
        np.copyto(slot.pixels.numpy(), pixels)
        computing = torch.cuda.current_stream()
        with torch.cuda.stream(self._up):
            images = slot.pixels.to("cuda", non_blocking=True)
            slot.sent.record()
        computing.wait_stream(self._up)
        images.record_stream(computing)
        return images

    def _slot(self, shape: tuple[int, ...]) -> _Slot:
        """The next of the slots, which are made anew for batches of another shape."""
        if not self._slots or tuple(self._slots[0].pixels.shape) != shape:
            for slot in self._slots:
                slot.sent.synchronize()
            self._slots = [_Slot(shape) for _ in range(_SLOTS)]
        self._turn = (self._turn + 1) % _SLOTS
        return self._slots[self._turn]
