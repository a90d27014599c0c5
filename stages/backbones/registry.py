"""Backbones by name: the spec, the network, and the network with its verified weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from stages.backbones import families, weights
from stages.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


def names() -> list[str]:
    """The backbones that can be listed, sorted. `torchvision:MODEL` and `timm:MODEL` take any of theirs besides."""
    return families.names()


def get_spec(name: str) -> BackboneSpec:
    """The description of a backbone.

    Args:
        name: `family` or `family:variant`, such as `resnet29` or `torchvision:resnet50`.

    Raises:
        SettingError: for an unknown name; lists the names there are.
    """
    family, variant = families.find(name)
    return family.spec(variant)


def build(name: str) -> nn.Module:
    """The network with random weights, as its family makes it.

    forward takes normalised float32 (B, C, H, W), see `preprocess.preprocess`, and returns a dict of tap name ->
    float32 (B, *tap.shape).

    Raises:
        SettingError: for an unknown name.
    """
    family, variant = families.find(name)
    return family.build(family.spec(variant))


def load(
    name: str,
    *,
    weights_dir: Path,
    device: str | torch.device = "cpu",
    taps: Collection[str] | None = None,
    file: Path | None = None,
) -> nn.Module:
    """The network with its weights: their SHA-256 verified, in eval mode, without gradients, on `device`.

    The global random state is left as it was.

    Args:
        name: of the backbone.
        weights_dir: where weights are.
        device: where the network goes.
        taps: those that are wanted; None: all. The network gives these at least: others where they come for nothing.
        file: of the weights, such as fine-tuning wrote; None: the catalogue's.

    Raises:
        SettingError: for an unknown name.
        WeightsError: when the weights are missing, have another hash, or do not fit.
        KeyError: for a tap that the backbone does not have.
    """
    import torch  # not at the top: what is cached is planned without it

    family, variant = families.find(name)
    spec = family.spec(variant) if taps is None else family.spec(variant).only(taps)
    path = weights.locate(spec.weights, weights_dir) if file is None else file
    with torch.random.fork_rng(devices=[]):  # the random weights that are about to be overwritten
        module = family.build(spec)
    family.load_state(module, path)
    return module.eval().requires_grad_(False).to(device)
