"""`kuleshov cache`: what the feature store holds."""

from __future__ import annotations

import time

import click

from cache.errors import DamagedError
from pipeline.places import store_place


@click.group()
def cache() -> None:
    """Look into the feature store.

    \b
    Example:
      kuleshov cache ls
    """


@cache.command()
def ls() -> None:
    """List the blocks: items, rows, size, age, key.

    \b
    Example:
      kuleshov cache ls
    """
    from cache.store import Store

    store = Store(store_place())
    click.echo(f"store in {store.root}")
    rows = [("BLOCK", "LEVEL", "ITEMS", "ROWS", "SHARDS", "SIZE", "AGE", "KEY")]
    for info in store.blocks():
        spec = info.spec
        age = _age(time.time() - info.newest) if info.newest else "-"
        counts = (str(info.items), str(info.rows), str(info.shards))
        rows.append((spec.name, spec.level, *counts, _size(info.size), age, spec.key[:16]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@cache.command()
def du() -> None:
    """Say how large the store is.

    \b
    Example:
      kuleshov cache du
    """
    from cache.store import Store

    store = Store(store_place())
    blocks = list(store.blocks())
    click.echo(f"{_size(sum(info.size for info in blocks))} in {len(blocks)} blocks, {store.root}")


@cache.command()
@click.pass_context
def verify(ctx: click.Context) -> None:
    """Compare every shard with the hash that the journal recorded.

    \b
    Example:
      kuleshov cache verify
    """
    from cache.store import Store

    store = Store(store_place())
    damaged = shards = 0
    for info in store.blocks():
        try:
            shards += len(store.open(info.spec).shards)
        except DamagedError as error:
            damaged += 1
            click.echo(f"damaged: {error}", err=True)
    click.echo(f"{shards} shards are as written; {damaged} blocks have damage")
    ctx.exit(1 if damaged else 0)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
