"""Whether a file of the user's fits a network, before it is taken in."""

from __future__ import annotations

from pathlib import Path

from stages.backbones import families


def is_backbone(name: str) -> bool:
    """Whether an entry of the catalogue is of a backbone; a detector's networks are loaded elsewhere."""
    return families.split(name)[0] in families.families()


def check(name: str, path: Path) -> None:
    """Read a file as the network would, into one without memory.

    Args:
        name: of a backbone.
        path: of the file.

    Raises:
        SettingError: for an unknown name.
        WeightsError: the file is damaged, holds code, or has other keys or shapes; lists the first of them.
    """
    from stages.backbones.shapes import without_memory  # not at the top: it imports torch

    family, variant = families.find(name)
    spec = family.spec(variant)
    with without_memory():
        module = family.build(spec)
    family.load_state(module, path)
