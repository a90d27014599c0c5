"""`kuleshov cache import`: somebody's own features into the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.project import Project
    from stages.extract.imported import Imported
    from stages.extract.imported_file import Level


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", required=True, metavar="NAME", help="What heads call them: imported/NAME.")
@click.option(
    "--level",
    type=click.Choice(["global", "frame", "face"]),
    required=True,
    help="What a row is: a sample, a frame of it (frame_index), or one of its stored faces (face_index).",
)
@click.pass_obj
def import_(folder: Path, file: Path, name: str, level: Level) -> None:
    """Bring your own features: FILE is .npz or .csv, with sample_id and the numbers of each row.

    They become a block that heads read as imported/NAME, in faces (level face) or global (level global). The key of the
    block holds the file's hash: import a changed file again, and put the line that is printed into params.yaml. docs/
    says what a file looks like.

    \b
    Example:
      kuleshov cache import voice.npz --name voice --level global
    """
    from pipeline.project import Project
    from stages.detect.run import read
    from stages.extract.imported import FaceItems, run

    project = Project(folder)
    settings, manifest = project.params.detect, project.manifest
    faces = FaceItems(read(manifest, project.store, settings), settings.faces) if level == "face" else None
    for line in _lines(project, run(file, name, level, manifest, project.store, faces)):
        click.echo(line)


def _lines(project: Project, done: Imported) -> list[str]:
    from stages.extract.imported import KEY_DIGITS

    spec, settings = done.spec, project.params.extract
    key = spec.key[:KEY_DIGITS]
    counts = f"{_count(done.samples, 'sample')}, {_count(done.rows, 'row')} of {_count(spec.shape[0], 'number')}"
    lines = [f"{spec.name} ({spec.level}): {counts}, key {key}"]
    for names, what in (
        (done.unknown, "left out, as not in the manifest"),
        (done.undetected, "left out, as without detections (kuleshov detect says why)"),
        (done.without, "in the manifest without a row, so left out of heads that read this"),
    ):
        if names:
            lines.append(f"  {what}: {_count(len(names), 'sample')} ({_some(names)})")
    if settings.imported.get(spec.tap) == key:
        return [*lines, "  params.yaml asks for this block already"]
    wanted = ", ".join(f'{_word(name)}: "{value}"' for name, value in {**settings.imported, spec.tap: key}.items())
    verb = "replace the line of" if settings.imported else "add to"
    lines += [f"  {verb} extract in params.yaml:", f"  imported: {{{wanted}}}"]
    return [*lines, f"  a head reads it as {spec.name} in {_READ_IN[spec.level]}"]


_READ_IN = {"global": "global", "face": "faces", "frame": "inputs, such as frames: of aminbeidokhti2019:temporal"}


def _word(name: str) -> str:
    """A name as YAML takes it: in quotes where it would be read as a number, a date, true or null."""
    import yaml

    return name if yaml.safe_load(name) == name else f'"{name}"'


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _some(names: Sequence[str], most: int = 3) -> str:
    from stages.index.manifest import printable

    shown = ", ".join(f"'{printable(name)}'" for name in names[:most])
    return f"{shown}, ..." if len(names) > most else shown
