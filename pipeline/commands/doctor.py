"""`kuleshov doctor`: what is here, and what is missing with how to get it."""

from __future__ import annotations

import shutil

import click

from cache.errors import CacheError
from pipeline.places import open_store, shared_places, store_place


@click.command()
def doctor() -> None:
    """Say what is on this machine: torch, device and engine, decoders, weights, the store, versions.

    \b
    Example:
      kuleshov doctor
    """
    from pipeline.provenance import versions

    click.echo("versions")
    for name, version in versions().items():
        click.echo(f"  {name}: {version}")
    click.echo("device")
    click.echo(f"  {_device()}")
    click.echo("engine")
    click.echo(f"  {_engine()}")
    click.echo("image decoders")
    click.echo(f"  {_decoders()}")
    click.echo("programs")
    for name in ("git", "npm"):
        click.echo(f"  {name}: {shutil.which(name) or 'missing' + _PROGRAM_HELP[name]}")
    click.echo("weights")
    _weights()
    click.echo("store")
    click.echo(f"  {_store()}")


_PROGRAM_HELP = {
    "git": " (needed by kuleshov init: install git)",
    "npm": " (the expression network is then fetched with npm out of a pip package)",
}


def _device() -> str:
    import torch

    from stages.device import resolve

    if resolve("auto") == "cuda" and not torch.cuda.is_available():
        return "the driver offers a CUDA device but this torch cannot use it; set device: cpu, or install another torch"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"auto is {resolve('auto')} ({name})"


def _engine() -> str:
    from stages.engines import INSTALL, installed, resolve

    found = "openvino is installed" if installed() else f"openvino, faster on a CPU, is not installed: {INSTALL}"
    return f"auto is {resolve('extract', 'auto', 'auto').name}; {found}"


def _decoders() -> str:
    from PIL import features

    parts = {"jpg": "JPEG", "zlib": "PNG", "webp": "WebP", "libtiff": "TIFF"}
    return ", ".join(f"{label} {'yes' if features.check(name) else 'no'}" for name, label in parts.items())


def _weights() -> None:
    from stages.backbones.weights import catalogue, status, weights_dir

    folder = weights_dir()
    click.echo(f"  folder: {folder}")
    for name in catalogue():
        found = status(name, folder)
        click.echo(f"  {name}: {found.path if found.verified else found.detail}")


def _store() -> str:
    place = store_place()
    if not place.exists():
        return f"{place} (not made yet; KULESHOV_STORE names another place)"
    try:
        blocks = list(open_store().blocks(shared=True))
    except CacheError as error:
        return str(error)
    under = f", over {', '.join(map(str, shared_places()))}" if shared_places() else ""
    return f"{place}{under}: {len(blocks)} blocks, {sum(b.size for b in blocks) / 1e6:.1f} MB"
