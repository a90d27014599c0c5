"""Heads are files of this folder: `FILE:VARIANT` names one, and only that file is imported."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Literal, Protocol

from torch import nn

from stages.errors import SettingError

_OTHERS = {"__init__", "batch", "margin_settings", "margins", "registry"}


Level = Literal["face", "global"]
"""Features that a head reads: of the faces, of the whole photo."""


class HeadFile(Protocol):
    """The module of a paper's heads.

    Attributes:
        VARIANTS: their names.
        NEEDS: variant -> the levels that it reads; `build` is given width 0 for a level that it does not.
        SCHEDULES: variant -> `epochs`, and the `step` in epochs after which the learning rate falls.
        SOURCES: variant -> where it is from, as docs/heads.md has it.
    """

    VARIANTS: tuple[str, ...]
    NEEDS: dict[str, tuple[Level, ...]]
    SCHEDULES: dict[str, dict[str, int]]
    SOURCES: dict[str, str]

    def build(self, variant: str, face_dim: int, global_dim: int, classes: int, dropout: float) -> nn.Module:
        """A head whose forward maps a HeadBatch to a HeadOutput."""
        ...


def names() -> list[str]:
    """Every head, as `FILE:VARIANT`."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _OTHERS)
    return [f"{file}:{variant}" for file in files for variant in _module(file).VARIANTS]


def find(name: str) -> tuple[HeadFile, str]:
    """The module and variant of a head.

    Raises:
        SettingError: there is no such head.
    """
    file, _, variant = name.partition(":")
    if (Path(__file__).parent / f"{file}.py").exists() and file not in _OTHERS and file.isidentifier():
        module = _module(file)
        if variant in module.VARIANTS:
            return module, variant
    raise SettingError(f"head kind {name!r}: use one of {', '.join(names())}")


def _module(file: str) -> HeadFile:
    return importlib.import_module(f"stages.heads.{file}")  # pyright: ignore[reportReturnType]
