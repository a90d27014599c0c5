"""`kuleshov init`: a new project of the user's own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from stages.errors import DataError, SettingError
from stages.index.registry import data_set, data_sets, names


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--adapter",
    type=click.Choice(names()),
    required=True,
    help="folder: one folder per class, optionally under train/val/test. csv: a table with columns path and label. "
    "Others: a published data set as it was unpacked.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="The data set: a folder, or the csv file.",
)
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="csv: what its paths are relative to. [default: the csv's folder]",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    help="csv: the name of a column there; ours are path, label, sample_id, split, group, subset, x1, y1, x2, y2, "
    "box_kind. May be given several times.",
)
@click.option(
    "--faces",
    type=click.Choice(["found", "given", "whole"]),
    help="Faces are found by the detector, given by the data's boxes, or each image is one face. "
    "[default: found; of a published data set what it has]",
)
@click.pass_obj
def init(
    folder: Path,
    directory: Path,
    adapter: str,
    root: Path,
    images: Path | None,
    columns: tuple[str, ...],
    faces: str | None,
) -> None:
    """Make a project in DIRECTORY that `dvc repro` runs at once.

    Writes dvc.yaml, params.yaml, .gitignore and .dvcignore, makes a git repository where there is none, and
    initialises DVC. Photos are read where they are; nothing is copied.

    \b
    Examples:
      kuleshov init mine --adapter folder --root photos/
      kuleshov init faces --adapter csv --root labels.csv --images images/ \\
        --column path=image --column label=emotion --column group=identity
      kuleshov init gaf --adapter gaf --root ~/data/GAF2
    """
    from pipeline.scaffold.write import ProjectData, write_project

    directory = folder / directory
    if adapter != "csv" and (images is not None or columns):
        raise SettingError("--images and --column belong to --adapter csv; leave them out, or use that adapter")
    data = ProjectData(
        adapter=adapter,
        root=_place(folder / root, directory, is_file=adapter == "csv"),
        images=_place(folder / images, directory, is_file=False) if images is not None else None,
        columns=_columns(columns),
        faces=faces or (data_set(adapter).FACES if adapter in data_sets() else "found"),
        title=f"Kuleshov: {directory.absolute().name}",
    )
    for line in write_project(directory, data):
        click.echo(line)
    click.echo("next: kuleshov weights fetch")
    click.echo(f"      cd {shlex.quote(str(directory))} && dvc repro")
    click.echo('      git add -A && git commit -m "First run"  # dvc exp run wants a commit to start from')


def _place(path: Path, directory: Path, *, is_file: bool) -> str:
    """The path as params.yaml has it: relative when it is inside the project, else absolute."""
    if is_file and not path.is_file():
        raise DataError(f"--root {path}: no such file; the csv adapter wants a table")
    if not is_file and not path.is_dir():
        raise DataError(f"{path}: no such folder")
    absolute = path.absolute()
    home = directory.absolute()
    return os.path.relpath(absolute, home) if absolute.is_relative_to(home) else str(absolute)


def _columns(pairs: tuple[str, ...]) -> dict[str, str]:
    from stages.index.table import OURS

    columns: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise SettingError(f"--column {pair!r}: write OURS=THEIRS, such as label=emotion")
        if ours not in OURS:
            raise SettingError(f"--column {pair!r}: there is no {ours!r} to map; ours are {', '.join(OURS)}")
        if ours in columns:
            raise SettingError(f"--column {ours} is given twice ({columns[ours]!r} and {theirs!r})")
        columns[ours] = theirs
    return columns
