"""What stops a training early, and what is said then: Ctrl-C, a loss that is no number, too little memory."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from stages.finetune.settings import FinetuneSettings


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; what runs is not torn apart. A second one raises KeyboardInterrupt at once.

    Where Ctrl-C means something else already, or in another than the main thread, it always says no.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's or numpy's says that memory was not enough."""
    words = ("not enough memory", "can't allocate memory", "CUDA out of memory", "CUDA error: out of memory")
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in words)


def hint_for_memory(settings: FinetuneSettings, device: str) -> str:
    """One line with a smaller batch size."""
    size = settings.batch_size
    said = f"batch_size {size} does not fit into the memory of {device}"
    if size == 2:
        return f"{said}, and it is the smallest: take a smaller backbone"
    half = max(2, size // 2)
    return f"{said}: use {half}, and accumulate {-(-size * settings.accumulate // half)} for steps as large"


def hint_for_nan(settings: FinetuneSettings, what: str, path: Path, saved: int | None) -> str:
    """One line with the last good checkpoint and what to change.

    Args:
        what: what is no number, and where.
        saved: steps done in the checkpoint at `path`; None: there is none.
    """
    kept = "there is no checkpoint yet" if saved is None else f"the last good checkpoint is {path}, of step {saved}"
    lower = f"learning_rate ({settings.learning_rate})"
    if settings.head_learning_rate is not None:
        lower += f" or head_learning_rate ({settings.head_learning_rate})"
    hint = f"lower {lower}"
    if settings.classifier.kind != "softmax":
        hint += ", or raise classifier.schedule.floor"
    if settings.compute == "float16":
        hint += ", or compute in bfloat16"
    return f"{what}; {kept}; {hint}"
