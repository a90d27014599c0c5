"""Pillow without its process-wide limits and warnings, while photos are being opened."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from PIL import Image

_MODULES = r"PIL(\.|$)"


class _State:
    """How many threads are inside, and what to put back when the last one leaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.limits: list[int] = []
        self.found: int | None = None


_state = _State()


def _quiet_libtiff() -> None:
    """Take from libtiff the habit of printing to standard error. It is the copy that Pillow brings along."""
    core = getattr(Image.core, "__file__", None)
    with suppress(OSError, AttributeError, TypeError):  # not every build of Pillow lets it be reached
        library = ctypes.CDLL(core)  # a look-up in it also searches the libraries that it was linked with
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = library[name]
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


_quiet_libtiff()


@contextmanager
def unhindered(max_pixels: int) -> Iterator[None]:
    """Silence Pillow's warnings and put `max_pixels` in place of `Image.MAX_IMAGE_PIXELS`.

    Both are global to the process, so threads share the change: it comes with the first, goes with the last, and the
    highest limit among them holds. `warnings.catch_warnings` would not do: it puts back the whole list of filters, and
    threads that leave in another order than they came would put back each other's.
    """
    with _state.lock:
        if not _state.limits:
            _state.found = Image.MAX_IMAGE_PIXELS
            warnings.filterwarnings("ignore", module=_MODULES)
        _state.limits.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = max(_state.limits)
    try:
        yield
    finally:
        with _state.lock:
            _state.limits.remove(max_pixels)
            if _state.limits:
                Image.MAX_IMAGE_PIXELS = max(_state.limits)
            else:
                _put_back()


def _put_back() -> None:
    Image.MAX_IMAGE_PIXELS = _state.found
    filters = cast(list[Any], warnings.filters)
    ours = [entry for entry in filters if getattr(entry[3], "pattern", None) == _MODULES]
    for entry in ours:
        with suppress(ValueError):  # another thread may have put back filters of its own
            filters.remove(entry)


def _begin_anew() -> None:
    """After a fork the child has none of the threads that were inside, and the lock as they left it."""
    _state.lock = threading.Lock()
    if _state.limits:
        _state.limits.clear()
        _put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
