"""`kuleshov reproduce`: the tables of the papers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from stages.errors import SettingError

_small = click.option(
    "--small",
    is_flag=True,
    help="A trial without the data sets, the papers' weights and a GPU: drawn stand-ins, packaged or narrow networks, "
    "fewer epochs. The table says what stands for what.",
)


@click.group()
def reproduce() -> None:
    """Run the tables of the papers: each is a recipe, settings of the ordinary stages.

    \b
    Examples:
      kuleshov reproduce ls
      kuleshov reproduce show gupta2018-table1
      kuleshov reproduce run gupta2018-table1 --root gaf=~/data/GAF2 --root emotic=~/data/EMOTIC
      kuleshov reproduce run gupta2018-table1 --small
    """


@reproduce.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def ls(as_json: bool) -> None:
    """List the recipes: the paper, the table, and the data sets that it reads.

    \b
    Example:
      kuleshov reproduce ls
    """
    from pipeline.reproduce.projects import jobs_of
    from pipeline.reproduce.recipe import load, names

    found = []
    for name in names():
        recipe = load(name)
        data_sets = sorted({one for job in jobs_of(name, small=False) for one in job.data_sets})
        found.append((name, recipe.table, len(recipe.rows), data_sets, recipe.title))
    if as_json:
        keys = ("name", "table", "rows", "data_sets", "title")
        click.echo(json.dumps([dict(zip(keys, one, strict=True)) for one in found], indent=2))
        return
    lines = [("recipe", "table", "rows", "data sets", "")]
    lines += [(name, table, str(rows), ", ".join(of), title) for name, table, rows, of, title in found]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    for line in lines:
        click.echo(
            "  ".join((*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[4])).rstrip()
        )


@reproduce.command()
@click.argument("name")
@_small
def show(name: str, small: bool) -> None:
    """Say what a recipe runs: its rows with the paper's numbers, how the data sets are laid out, and all settings.

    With --small the stand-ins and the settings that a trial has instead.

    \b
    Example:
      kuleshov reproduce show gupta2018-table1 --small
    """
    from pipeline.reproduce.showing import lines_of

    for line in lines_of(name, small=small):
        click.echo(line)


@reproduce.command()
@click.argument("name")
@click.option("--root", "roots", multiple=True, metavar="DATASET=DIR", help="Where a data set is. Once for each.")
@_small
@click.option(
    "--set",
    "told",
    multiple=True,
    metavar="PROJECT.KEY=VALUE",
    help="A setting of your own, as params.yaml of that project would have it; wins over the recipe's, and the table "
    "says so. May be given several times.",
)
@click.option(
    "--to",
    "place",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the projects and the tables go. [default: reproduced, with --small reproduced-small]",
)
@click.pass_obj
def run(
    folder: Path, name: str, roots: tuple[str, ...], small: bool, told: tuple[str, ...], place: Path | None
) -> None:
    """Make the projects of a recipe, run `dvc repro` in each, and write the table beside the paper's.

    A run that was stopped goes on from there. Recipes in one DIR share projects, stand-ins and what was trained;
    features are shared by all projects that have one store.

    \b
    Examples:
      kuleshov reproduce run gupta2018-table1 --root gaf=~/data/GAF2 --root emotic=~/data/EMOTIC
      kuleshov reproduce run gupta2018-table1 --small
    """
    from pipeline.reproduce.run import run as run_recipe

    place = folder / (place or Path("reproduced-small" if small else "reproduced"))
    for line in run_recipe(name, _roots(roots, folder), place, small=small, say=click.echo, told=told):
        click.echo(line)


def _roots(given: tuple[str, ...], folder: Path) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for one in given:
        data_set, equals, root = one.partition("=")
        if not (data_set and equals and root):
            raise SettingError(f"--root {one!r}: write DATASET=DIR, such as gaf=~/data/GAF2")
        if data_set in roots:
            raise SettingError(f"--root {data_set} is given twice")
        roots[data_set] = folder / Path(root).expanduser()
    return roots
