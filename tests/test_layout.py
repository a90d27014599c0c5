"""The folders are the data's way: imports point one way, and rooms only to rooms above them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    *("index", "detect", "align", "backbones", "heads", "extract", "finetune", "train"),
    *("fuse", "evaluate", "report", "predict"),
)
COMMON = ("decoding",)
"""Packages directly in stages/ that are common ground, as its modules are."""
LAYERS = ("cache", "stages", "pipeline")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """The room of `stages.ROOM...`; None for a module directly in stages/, and for a package of `COMMON`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "stages" and parts[1] in ROOMS else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    layer = LAYERS.index(relative.parts[0])
    own = room(".".join(relative.with_suffix("").parts))
    for module in imports(path):
        top = module.split(".")[0]
        if top in LAYERS:
            assert LAYERS.index(top) <= layer, f"{relative} imports {module}"
        other = room(module)
        if relative.parts[0] == "stages" and other:
            assert own is not None, f"{relative} is common ground and imports the room {other}"
            assert ROOMS.index(other) <= ROOMS.index(own), f"{relative} imports {module}, a room below it"


def test_the_store_knows_numpy_and_h5py_only() -> None:
    import sys

    tops = {module.split(".")[0] for path in (ROOT / "cache").rglob("*.py") for module in imports(path)}
    assert tops - set(sys.stdlib_module_names) - {"__future__"} == {"cache", "numpy", "h5py"}


def test_every_room_is_known_and_none_is_empty() -> None:
    found = {p.name for p in (ROOT / "stages").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert found <= {*ROOMS, *COMMON}
    for name in found:
        assert any(p.name != "__init__.py" for p in (ROOT / "stages" / name).glob("*.py")), f"stages/{name} is empty"


def test_init_files_stay_empty() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            assert path.read_text() == "", path


def test_tests_have_no_init_files() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_top_level_is_as_the_user_fixed_it() -> None:
    for name in ("pipeline", "stages", "cache", "tests", "setup.cfg", "dvc.yaml"):
        assert (ROOT / name).exists()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable_in_a_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420
