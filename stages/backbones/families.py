"""Finding a backbone family's file by its name; only the one asked for is imported.

A family is a file of this folder with three functions (see `Family`). A family with a closed set of variants lists them
in a module-level `VARIANTS = ("a", "b")`; one with an open set writes `VARIANTS = "*"`. Both are read from the source
text, so that a listing imports no network. A family whose spec needs no torch keeps its network in `networks/`, so that
a run that finds everything in the store does not wait for torch.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from stages.errors import SettingError

if TYPE_CHECKING:
    from torch import nn

    from stages.backbones.spec import BackboneSpec

FOLDER = Path(__file__).parent
# The files of this folder that are no family.
HELPERS = frozenset(
    {
        "__init__",
        "about",
        "catalogue",
        "dlib_file",
        "families",
        "fetching",
        "fitting",
        "layers",
        "preprocess",
        "registry",
        "shapes",
        "spec",
        "states",
        "weights",
    }
)
_FAMILY = re.compile(r"[a-z][a-z0-9_]*")


class Family(Protocol):
    """What each family file offers."""

    def spec(self, variant: str | None) -> BackboneSpec:
        """The description of a variant, or SettingError."""
        ...

    def build(self, spec: BackboneSpec) -> nn.Module:
        """The network with random weights; forward: float32 (B, C, H, W) -> dict of tap name -> float32 (B, ...), the
        spec's taps at least."""
        ...

    def load_state(self, module: nn.Module, path: Path) -> None:
        """Fill the network from a verified file, strictly, or WeightsError."""
        ...


def split(name: str) -> tuple[str, str | None]:
    """`family:variant` -> (family, variant); `family` -> (family, None)."""
    family, colon, variant = name.partition(":")
    return family, variant if colon else None


def families() -> list[str]:
    """The families of this folder, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def variants(family: str) -> tuple[str, ...] | str:
    """What the family's source writes as VARIANTS: names, `"*"` for an open set, () when it has none."""
    for node in ast.parse((FOLDER / f"{family}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "VARIANTS" for t in node.targets):
            return ast.literal_eval(node.value)
    return ()


def names() -> list[str]:
    """Every name that can be listed, sorted; families with an open set of variants are left out."""
    found: list[str] = []
    for family in families():
        known = variants(family)
        if known != "*":
            found.extend([f"{family}:{variant}" for variant in known] or [family])
    return sorted(found)


def known() -> str:
    """The names for an error message, with `family:MODEL` for the families with an open set."""
    open_sets = [f"{family}:MODEL" for family in families() if variants(family) == "*"]
    return ", ".join(names() + open_sets)


def find(name: str) -> tuple[Family, str | None]:
    """Import the family of a backbone's name.

    Raises:
        SettingError: for a name whose family has no file here; lists the names there are.
    """
    family, variant = split(name)
    if not _FAMILY.fullmatch(family) or family not in families():
        raise SettingError(f"backbone {name!r} is unknown: choose one of {known()}")
    module = importlib.import_module(f"{__package__}.{family}")
    return cast("Family", module), variant


def no_variant(family: str, variant: str | None) -> None:
    """Refuse a variant for a family that has none.

    Raises:
        SettingError: names the backbone without it.
    """
    if variant is not None:
        raise SettingError(f"backbone '{family}:{variant}' is unknown: {family} has no variants, write {family!r}")


def need_variant(family: str, variant: str | None, variants: tuple[str, ...]) -> str:
    """The whole name of a family's variant.

    Raises:
        SettingError: there is no such variant, or none is given; names those there are.
    """
    if variant in variants:
        return f"{family}:{variant}"
    names = " or ".join(repr(f"{family}:{known}") for known in variants)
    asked = family if variant is None else f"{family}:{variant}"
    raise SettingError(f"backbone {asked!r} is unknown: write {names}")
