"""`kuleshov cache`: what the feature store holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache.errors import DamagedError
from pipeline.commands.cache_import import import_
from pipeline.commands.cache_remote import pull, push
from pipeline.commands.shared import Number
from pipeline.commands.shared import block_option as _block
from pipeline.commands.shared import size_text as _size
from pipeline.places import open_store

if TYPE_CHECKING:
    from pipeline.verify import Amount


@click.group()
def cache() -> None:
    """Look into the feature store.

    \b
    Example:
      kuleshov cache ls
    """


cache.add_command(import_)
cache.add_command(push)
cache.add_command(pull)


@cache.command()
def ls() -> None:
    """List the blocks: items, rows, size, age, key.

    \b
    Example:
      kuleshov cache ls
    """
    store = open_store()
    click.echo(f"store in {store.root}")
    rows = [("BLOCK", "LEVEL", "ITEMS", "ROWS", "SHARDS", "SIZE", "AGE", "KEY", "")]
    damaged: list[DamagedError] = []
    for info in store.blocks(shared=True, damaged=damaged):
        spec = info.spec
        age = _age(time.time() - info.newest) if info.newest else "-"
        counts = (str(info.items), str(info.rows), str(info.shards))
        place = "shared" if info.shared else ""
        rows.append((spec.name, spec.level, *counts, _size(info.size), age, spec.key[:16], place))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for error in damaged:
        click.echo(f"damaged: {error}", err=True)


@cache.command()
def du() -> None:
    """Say how large the store is.

    \b
    Example:
      kuleshov cache du
    """
    store = open_store()
    blocks = list(store.blocks())
    click.echo(f"{_size(sum(info.size for info in blocks))} in {len(blocks)} blocks, {store.root}")


@cache.command()
@click.option(
    "--sample",
    metavar="N|P%",
    help="Also compute so many of the project's samples again (20, or 1%), and compare their rows with the store's.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Which samples are drawn.  [default: 0]")
@click.option(
    "--tolerance",
    type=Number(min=0, max=1),
    help="How far floats may be apart, as a part of a row's largest value.  [default: 0.005; of bfloat16 0.01]",
)
@click.pass_context
def verify(ctx: click.Context, sample: str | None, seed: int | None, tolerance: float | None) -> None:
    """Compare every shard, of shared stores as well, with the hash that the journal recorded.

    With --sample, photos drawn from the project are detected, aligned and extracted again, into a temporary store, and
    every item that the store has of them is compared: same status, same number of rows, and values within a tolerance,
    because float16 rounds (0.0005) and another processor or batch changes about as much. Floats: the largest difference
    is at most --tolerance times the row's largest value. A detector's boxes: times the longer side of the box. Crops
    (0 to 255): 1 in the mean of a row. Ends with status 1 when an item is off.

    \b
    Example:
      kuleshov cache verify
      kuleshov cache verify --sample 1%
    """
    if sample is None and (seed is not None or tolerance is not None):
        raise click.UsageError("--seed and --tolerance say how --sample works: give it too")
    amount = _amount(sample) if sample is not None else None
    store = open_store()
    damaged: list[DamagedError] = []
    shards = 0
    for spec in {info.spec.key: info.spec for info in store.blocks(shared=True, damaged=damaged)}.values():
        try:
            shards += len(store.open(spec).shards)
        except DamagedError as error:
            damaged.append(error)
    said = list(dict.fromkeys(map(str, damaged)))  # the same block may lie in several stores
    for line in said:
        click.echo(f"damaged: {line}", err=True)
    click.echo(f"{shards} shards are as written; {len(said)} blocks have damage")
    if amount is not None and not said:
        ctx.exit(_verify_sample(ctx.obj, amount, seed or 0, tolerance))
    ctx.exit(1 if said else 0)


def _amount(sample: str) -> Amount:
    from pipeline.verify import Amount

    return Amount.parse(sample)


def _verify_sample(folder: Path, amount: Amount, seed: int, tolerance: float | None) -> int:
    """Say what `verify_sample` found; the exit status."""
    import tempfile

    from pipeline.project import Project
    from pipeline.verify import verify_sample

    with tempfile.TemporaryDirectory(prefix="kuleshov-") as scratch:
        found = verify_sample(Project(folder), amount, seed, tolerance, Path(scratch))
    for line in found.off:
        click.echo(f"off: {line}", err=True)
    for line in found.lines:
        click.echo(line)
    return 1 if found.off else 0


@cache.command()
@click.argument("target", metavar="SAMPLE|BLOCK")
@click.pass_obj
def why(folder: Path, target: str) -> None:
    """Say whether a sample is cached, and if not, which field of the key differs.

    SAMPLE is a sample_id of the project: each block that its settings ask for is a hit or a miss, and a miss names the
    fields that differ from the nearest block in the store. BLOCK is a block's folder, SOURCE/TAP or the first digits of
    its key: what made it, and what differs from the block that the project asks for.

    \b
    Example:
      kuleshov cache why resnet29/embedding
    """
    from pipeline.cache_tools import why as explain
    from pipeline.project import Project

    for line in explain(Project(folder), target):
        click.echo(line)


@cache.command()
@_block
@click.option("--older-than", type=Number(min=0), metavar="DAYS", help="Drop blocks not written to for so many days.")
@click.option("--dry-run", is_flag=True, help="Say what would go, delete nothing.")
def gc(names: tuple[str, ...], older_than: float | None, dry_run: bool) -> None:
    """Delete what no reader uses: shards without a record, temporary files and locks older than an hour.

    Whole blocks go only when asked for: --block names them, --older-than takes those that were not written to for so
    many days, both together those of the named that are so old. Rows of a dropped block are computed again when a stage
    wants them. Run it while no stage uses these blocks.

    \b
    Example:
      kuleshov cache gc --dry-run
      kuleshov cache gc --block resnet29/embedding --older-than 30
    """
    from cache import collect
    from cache.why import select

    store = open_store()
    pieces = list(collect.debris(store))
    if names or older_than is not None:
        chosen = select(store, names)
        dropped = [
            collect.whole(info) for info in (chosen if older_than is None else collect.older(chosen, older_than))
        ]
        folders = {piece.path for piece in dropped}
        pieces = [piece for piece in pieces if folders.isdisjoint(piece.path.parents)] + dropped
    for piece in pieces:
        if not dry_run:
            collect.remove(piece)
        click.echo(f"{'would remove' if dry_run else 'removed'} {piece.path}: {piece.what}, {_size(piece.size)}")
    size = sum(piece.size for piece in pieces)
    click.echo(f"{_size(size)} ({size} bytes) {'would be' if dry_run else 'were'} freed in {store.root}")


@cache.command()
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@_block
@click.option("--force", is_flag=True, help="Replace OUT where it is there already.")
@click.option("--samples", is_flag=True, help="Add which items each sample of the project has (OUT.h5 only).")
@click.pass_obj
def export(folder: Path, out: Path, names: tuple[str, ...], force: bool, samples: bool) -> None:
    """Write blocks to one file: all of them, or those that --block names.

    OUT.h5 holds every row, a group per block, items in the order of their keys, so that equal contents give equal
    datasets. OUT.npz and OUT.parquet hold features pooled over each item's rows (the mean of a photo's faces); parquet
    needs pyarrow.

    \b
    Example:
      kuleshov cache export features.h5 --block resnet29/embedding
    """
    from pipeline.cache_tables import export as write

    items = None
    if samples:
        from pipeline.cache_tools import project_items
        from pipeline.project import Project

        items = project_items(Project(folder))
    click.echo(write(out, open_store(), names, overwrite=force, samples=items))


@cache.command()
@_block
def retry(names: tuple[str, ...]) -> None:
    """Forget failed items, so that the next run of their stage tries them again.

    Items that are ok or without a face stay as they are. A photo that failed in detection is remembered in two blocks,
    media/size and the detector's boxes: without --block both forget it. Run it while no stage uses these blocks.

    \b
    Example:
      kuleshov cache retry
    """
    from collections import Counter

    from cache.retry import forget_failed
    from cache.why import select

    store = open_store()
    blocks = select(store, names)
    total = 0
    for info in blocks:
        if found := forget_failed(info):
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(found.values()).items()))
            count = f"{len(found)} failed item{'s' if len(found) > 1 else ''}"
            click.echo(f"{info.spec.name} {info.spec.key[:16]}: {count} forgotten ({reasons})")
        total += len(found)
    if total:
        click.echo(f"{total} item{'s are' if total > 1 else ' is'} tried again by the next run")
    else:
        click.echo(f"nothing failed in {len(blocks)} block{'s' if len(blocks) != 1 else ''}")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
