"""`kuleshov demo`: the drawn data set."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--scenes", type=click.IntRange(1, 1_000_000), default=240, show_default=True, help="Group scenes to draw."
)
@click.option("--clips", type=click.IntRange(0, 100_000), default=0, show_default=True, help="Clips to draw.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same bytes.")
@click.pass_obj
def demo(folder: Path, directory: Path, scenes: int, clips: int, seed: int) -> None:
    """Draw labelled group scenes into DIRECTORY, their every box, landmark and label known.

    Besides plain scenes, where the crowd decides, there are scenes where one marked face, the setting, or the largest
    faces decide (column subset of labels.csv). DIRECTORY/predict holds a few real photos for `kuleshov predict`.

    \b
    Example:
      kuleshov demo data/demo --scenes 240
    """
    from stages.index.drawn.dataset import draw_dataset

    summary = draw_dataset(folder / directory, scenes=scenes, clips=clips, seed=seed)
    click.echo(f"demo: {summary.scenes} scenes, {summary.faces} faces, {summary.clips} clips in {folder / directory}")
    for name in ("subsets", "labels", "splits"):
        counts = ", ".join(f"{key} {count}" for key, count in getattr(summary, name).items())
        click.echo(f"  {name}: {counts}")
    for note in summary.notes:
        click.echo(f"  note: {note}")
