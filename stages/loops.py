"""Loops over pixels that numba compiles, where it is installed (the extra `fast`).

What they compute is to the bit what the plain code beside them computes, so they are part of no key. Importing numba
and what it has compiled takes some tenths of a second: a process does so once enough was asked of it, see `Loops`.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Loops:
    """A module of compiled loops, for who has plain code as well.

    Args:
        module: its full name; it imports numba.
        after: how much is left to the plain code before the module is imported: what the import costs.
    """

    def __init__(self, module: str, after: int) -> None:
        self._name, self._after = module, after
        self._module: ModuleType | None = None

    def get(self) -> Any:
        """The module; None where numba is not installed, or little was asked so far. Each call counts."""
        if self._module is None and self._after >= 0:
            self._after -= 1
            if self._after < 0 and installed():
                self._module = importlib.import_module(self._name)
        return self._module


@functools.cache
def installed() -> bool:
    """Whether numba can be imported, which refuses a numpy that it does not know. With `NUMBA_DISABLE_JIT`, which would
    run its loops in Python, it counts as missing."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        import numba  # noqa: F401 - whether it can be
    except ImportError:
        return False
    return True


def compiled(function: F) -> F:
    """Compile a function for each kind of arguments when it is first called; kept on disk for the next process."""
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(function)  # pyright: ignore[reportReturnType] - called as it is
    except RuntimeError:  # no folder that may be written to: neither this package's nor the user's
        return numba.njit(nogil=True)(function)  # pyright: ignore[reportReturnType]
