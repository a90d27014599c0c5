"""Heads are files of this folder: `FILE:VARIANT` names one, and only that file is imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import ValidationError
from torch import Tensor, nn

from stages.errors import SettingError
from stages.heads.batch import HeadBatch
from stages.settings import Settings

_OTHERS = {"__init__", "batch", "loss_settings", "losses", "margin_settings", "margins", "registry", "shares"}


Level = Literal["face", "global"]
"""Features that a head reads: of the faces, of the whole photo."""


class Input(NamedTuple):
    """What else a head reads, by a name of its own.

    Attributes:
        level: `frame`: a row for each frame, of one face in it; `person`: a row for each person.
        kind: `vector` (D,), `map` (C, H, W) or `pixels` (H, W, 3) uint8; `features`: a vector or a map.
    """

    level: Literal["frame", "person"]
    kind: Literal["vector", "map", "pixels", "features"]


@dataclass(frozen=True)
class Shapes:
    """Shapes of what a head is given.

    Attributes:
        faces, global_: width of a face's and of the photo's vector, 0 where it reads none.
        inputs: name -> shape of a row.
    """

    faces: int = 0
    global_: int = 0
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class NoOptions(Settings):
    """Of a head that has nothing to choose but its dropout."""


class Fitter(Protocol):
    """Solves a head over all of its training samples at once."""

    def __call__(
        self,
        head: nn.Module,
        batches: Iterable[HeadBatch],
        labels: Tensor,
        weights: Tensor | None,
        options: Settings,
        seed: int,
    ) -> float:
        """Give `head` its parameters, in place.

        Args:
            head: that `build` made.
            batches: the n training samples, already standardized where wanted, some in each; they are read once.
            labels: (n,) int64 classes.
            weights: (n,) float32, what each sample counts; None: all the same.
            options: of the head.
            seed: of what is drawn while solving.

        Returns:
            The mean training loss: cross entropy of the head's logits.

        Raises:
            DataError: fewer than two classes among the labels.
        """
        ...


class HeadFile(Protocol):
    """The module of a paper's heads.

    Attributes:
        VARIANTS: their names.
        NEEDS: variant -> the levels that it reads; `build` is given width 0 for a level that it does not.
        INPUTS: variant -> name -> what else it reads, of one level: frames or persons. A file without it reads nothing
            else.
        OPTIONS: variant -> the settings of `train.heads.NAME.options`. A file without it has none.
        ALONE: variants that are trained one at a time, not mapped over members by torch.func: those whose forward hangs
            on values, as where masked rows are kept out of batch norm. A file without it has none.
        fit: a `Fitter`, in a file whose heads are solved as a whole and not trained by steps. Most have none.
        SCHEDULES: variant -> `epochs`, and the `step` in epochs after which the learning rate falls.
        SOURCES: variant -> where it is from, as docs/heads.md has it.
    """

    VARIANTS: tuple[str, ...]
    NEEDS: dict[str, tuple[Level, ...]]
    SCHEDULES: dict[str, dict[str, int]]
    SOURCES: dict[str, str]

    def build(self, variant: str, shapes: Shapes, classes: int, dropout: float, options: Settings) -> nn.Module:
        """A head whose forward maps a HeadBatch to a HeadOutput.

        Args:
            options: of the type that OPTIONS has.
        """
        ...


def inputs_of(name: str) -> dict[str, Input]:
    """What a head reads beside faces' and photos' vectors.

    Raises:
        SettingError: there is no such head.
    """
    module, variant = find(name)
    return getattr(module, "INPUTS", {}).get(variant, {})


def alone(name: str) -> bool:
    """Whether a head is trained one at a time; see `HeadFile.ALONE`.

    Raises:
        SettingError: there is no such head.
    """
    module, variant = find(name)
    return variant in getattr(module, "ALONE", ())


def fitter(name: str) -> Fitter | None:
    """How a head is solved; None: it is trained by steps.

    Raises:
        SettingError: there is no such head.
    """
    module, _ = find(name)
    return getattr(module, "fit", None)


def options_of(name: str, given: Mapping[str, Any]) -> Settings:
    """A head's options, those that are not given as its file has them.

    Raises:
        SettingError: there is no such head, or it has no such option, or the value is wrong.
    """
    module, variant = find(name)
    kind: type[Settings] = getattr(module, "OPTIONS", {}).get(variant, NoOptions)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields) or "none"
        said = f"{first['msg']}, and {first['input']!r} is given"
        raise SettingError(f"options.{where} of head {name}: {said}; it has {known}") from None


def build(
    name: str, shapes: Shapes, classes: int, dropout: float, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """An untrained head; torch draws its weights.

    Raises:
        SettingError: as `options_of`, or the head cannot take these shapes.
    """
    module, variant = find(name)
    return module.build(variant, shapes, classes, dropout, options_of(name, options or {}))


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
        raise SettingError(f"head kind {name!r}: use one of {', '.join(f'{file}:{one}' for one in module.VARIANTS)}")
    files = dict.fromkeys(one.partition(":")[0] for one in names())
    raise SettingError(f"head kind {name!r}: use one of {', '.join(f'{one}:...' for one in files)} (docs/heads.md)")


def _module(file: str) -> HeadFile:
    return importlib.import_module(f"stages.heads.{file}")  # pyright: ignore[reportReturnType]
