"""What a fine-tune says of itself in its weights files: one key in the metadata of each."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stages.errors import WeightsError

KEY = "kuleshov"


def read_about(path: Path) -> dict[str, object]:
    """What the fine-tune that wrote this file said of itself; the weights are not read.

    Raises:
        WeightsError: the file is missing or damaged, or no fine-tune wrote it.
    """
    try:
        with safe_open(path, "np") as file:
            return dict(json.loads((file.metadata() or {})[KEY]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is missing, damaged, or not of a fine-tune: run that fine-tune again") from error


def require_backbone(path: Path, name: str, where: str) -> None:
    """Refuse a fine-tune's weights of another backbone.

    Args:
        path: `PART.safetensors`; what the fine-tune said of PART is the backbone's name.
        name: of the backbone that they are wanted for.
        where: the setting that wants them.

    Raises:
        WeightsError: as `read_about`; or they are another backbone's.
    """
    found = read_about(path).get(path.stem)
    if found != name:
        raise WeightsError(f"{path} is of {found}, and {where} wants {name}: give it that backbone, or other weights")
