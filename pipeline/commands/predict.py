"""`kuleshov predict`: a trained model on new photos."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for tables and pictures."
)
@click.option("--batch-size", type=click.IntRange(1, 4096), show_default="auto", help="Rows a forward pass.")
@click.option(
    "--max-failures",
    metavar="N|P%",
    default="5%",
    show_default=True,
    help="Photos and clips that may fail before the command does.",
)
@click.pass_obj
def predict(
    folder: Path, model: Path, inputs: tuple[str, ...], out: Path, batch_size: int | None, max_failures: str
) -> None:
    """Predict photos and clips with a trained MODEL folder.

    INPUT is a photo, a clip, a folder, or a pattern. Writes predictions.csv, predictions.jsonl and a picture each with
    the faces found and their attention weights; of a clip, the frame whose faces weigh most. Features are not kept.

    \b
    Example:
      kuleshov predict artifacts/models/fused/all_heads photos/ --out predicted
    """
    from cache.store import Store
    from pipeline.project import Project
    from stages.backbones.weights import weights_dir
    from stages.index.contents import ContentIndex
    from stages.ledger import Allowance, Ledger
    from stages.predict.inputs import find_photos, manifest_of
    from stages.predict.run import run, write
    from stages.train.models import load

    allowance = Allowance.parse(max_failures)
    ensemble = load(folder / model)
    photos = find_photos([str(folder / given) for given in inputs])
    ledger = Ledger("predict")
    with tempfile.TemporaryDirectory(prefix="kuleshov-") as scratch:
        manifest = manifest_of(photos, ContentIndex(Path(scratch) / "contents.sqlite"), ledger)
        store, rows = Store(Path(scratch)), batch_size or "auto"
        predictions = run(ensemble, manifest, store, weights_dir(), rows, ledger, Project(folder).finetunes)
    out = folder / out
    pictures = sum(path.suffix == ".jpg" for path in write(predictions, ensemble.members[0].classes, out, ledger))
    ledger.write(out / "failures.csv")
    faces = sum(len(one.faces) for one in predictions)
    what = "photos and clips" if any(one.times_us is not None for one in predictions) else "photos"
    click.echo(f"predict: {len(predictions)} {what}, {faces} faces, {pictures} pictures in {out}")
    if len(ledger):
        reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.reasons().items())
        click.echo(f"  {len(ledger)} of {len(photos)} failed ({reasons}); see {out / 'failures.csv'}")
    ledger.enforce(allowance, len(photos), out / "failures.csv")
