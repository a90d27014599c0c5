"""`kuleshov cache push` and `kuleshov cache pull`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from pipeline.commands.shared import block_option, size_text
from pipeline.places import open_store

if TYPE_CHECKING:
    from pipeline.remote import Moved


@click.command()
@click.argument("url", metavar="URL")
@block_option
@click.option("--dry-run", is_flag=True, help="Say what would be sent, send nothing.")
@click.pass_context
def push(ctx: click.Context, url: str, names: tuple[str, ...], dry_run: bool) -> None:
    """Send blocks to a store in another place: all of them, or those that --block names.

    URL is a folder, s3://BUCKET/FOLDER (pip install s3fs) or ssh://USER@HOST/FOLDER (pip install paramiko). What is
    there already is not sent again; run it again after it was cut short. Features, boxes and crops of faces are
    personal data: send them only where they may go.

    \b
    Example:
      kuleshov cache push /mnt/shared/features --block resnet29/embedding
    """
    from pipeline.remote import push as send

    moved = send(open_store(), url, names, dry_run=dry_run)
    ctx.exit(_say(moved, "would be sent" if dry_run else "sent", "there already"))


@click.command()
@click.argument("url", metavar="URL")
@block_option
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, fetch nothing.")
@click.pass_context
def pull(ctx: click.Context, url: str, names: tuple[str, ...], dry_run: bool) -> None:
    """Fetch blocks from a store in another place: all of them, or those that --block names.

    URL is as for push. Every shard is compared with its record before it is recorded here, and items that are here
    already are not taken twice. Pull from places that you trust: a record proves that nothing was damaged on the way,
    not who computed it.

    \b
    Example:
      kuleshov cache pull /mnt/shared/features --block resnet29/embedding
    """
    from pipeline.remote import pull as fetch

    moved = fetch(open_store(), url, names, dry_run=dry_run)
    ctx.exit(_say(moved, "would be received" if dry_run else "received", "here already"))


def _say(blocks: Iterable[Moved], verb: str, already: str) -> int:
    """Print what became of each block as it is done, and the sums; the exit status."""
    count = shards = size = skipped = problems = 0
    for one in blocks:
        for problem in one.problems:
            click.echo(f"left out: {problem}", err=True)
        click.echo(
            f"{one.block} {one.key[:16]}: {_shards(one.shards)}{_notes(one.notes)} {verb} "
            f"({size_text(one.size)}, {one.items} items), {one.skipped} {already}"
        )
        count += 1
        shards += one.shards
        size += one.size
        skipped += one.skipped
        problems += len(one.problems)
    click.echo(
        f"{_shards(shards)} of {count} block{'' if count == 1 else 's'} {verb}, {size_text(size)} ({size} bytes); "
        f"{skipped} {already}; {problems} left out"
    )
    return 1 if problems else 0


def _shards(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'}"


def _notes(count: int) -> str:
    return f" and {count} note{'' if count == 1 else 's'}" if count else ""
