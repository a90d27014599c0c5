"""What a fine-tune's weights file says it is of, and refusing it for another backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.backbones.about import KEY, read_about, require_backbone
from stages.errors import WeightsError


def written(path: Path, about: object) -> Path:
    save_file({"w": torch.ones(1)}, path, {KEY: json.dumps(about)})
    return path


def test_each_file_is_of_the_network_that_it_is_called_after(tmp_path: Path) -> None:
    about = {"backbone": "sphereface:20", "photos": "torchvision:densenet161"}
    backbone, photos = (written(tmp_path / f"{part}.safetensors", about) for part in about)
    assert read_about(photos) == about
    require_backbone(backbone, "sphereface:20", "extract.backbones.a")
    require_backbone(photos, "torchvision:densenet161", "extract.backbones.a")
    with pytest.raises(WeightsError, match=r"photos\.safetensors is of torchvision:densenet161, and x wants"):
        require_backbone(photos, "sphereface:20", "x")


@pytest.mark.parametrize("about", [1, [1], "text", None])
def test_what_is_no_description(tmp_path: Path, about: object) -> None:
    with pytest.raises(WeightsError, match="not of a fine-tune: run that fine-tune again"):
        read_about(written(tmp_path / "backbone.safetensors", about))
