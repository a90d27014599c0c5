"""The feature store: blocks of rows, found by key, grown shard by shard.

store = Store(Path("..."))
with store.writer(spec) as writer:
    writer.add(item_key(content), rows)
block = store.open(spec)
rows, offsets = block.rows([item_key(content)])
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cache import journal
from cache.block import Block
from cache.errors import DamagedError, SchemaError, StorePlaceError
from cache.keys import BlockSpec, canonical_json
from cache.shard import SCHEMA
from cache.writer import BlockWriter


@dataclass(frozen=True)
class BlockInfo:
    """A line of `kuleshov cache ls`: sizes in bytes, `newest` as seconds since the epoch (0 when empty)."""

    spec: BlockSpec
    path: Path
    shards: int
    items: int
    rows: int
    size: int
    newest: float


class Store:
    """A folder of blocks.

    Raises:
        StorePlaceError: the folder cannot be made or written.
        SchemaError: a newer version of Kuleshov wrote the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            (root / "blocks").mkdir(parents=True, exist_ok=True)
            self._check_schema()
        except OSError as error:
            raise StorePlaceError(
                f"{root}: the feature store cannot be used ({error.strerror}); mend it, or set KULESHOV_STORE"
            ) from None

    def _check_schema(self) -> None:
        place = self.root / "store.json"
        if not place.exists():
            _write_once(place, canonical_json({"schema": SCHEMA}))
        try:
            schema = int(json.loads(place.read_text())["schema"])
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"{place}: not readable as a store's description; restore or delete this file") from None
        if schema > SCHEMA:
            raise SchemaError(f"{self.root}: schema {schema}, this version reads up to {SCHEMA}; upgrade kuleshov")

    def place(self, spec: BlockSpec) -> Path:
        """The folder of a block: a name for people and the start of its key."""
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{spec.source}-{spec.tap}-{spec.level}")
        return self.root / "blocks" / f"{safe}-{spec.key[:16]}"

    def open(self, spec: BlockSpec) -> Block:
        """A block as it is recorded now. A block that nobody wrote is empty."""
        return Block(self.place(spec), spec)

    def writer(self, spec: BlockSpec, **limits: float) -> BlockWriter:
        """A writer of new items; `limits` are `flush_rows`, `flush_bytes`, `flush_seconds`."""
        place = self.place(spec)
        place.mkdir(parents=True, exist_ok=True)
        _write_once(place / "block.json", json.dumps({"key": spec.key, **spec.as_dict()}, indent=1, sort_keys=True))
        return BlockWriter(place, spec, **limits)

    def blocks(self) -> Iterator[BlockInfo]:
        """Every block in the store, by name."""
        for path in sorted((self.root / "blocks").iterdir()):
            spec = read_spec(path)
            if spec is None:
                continue
            records = journal.read(path / "journal")
            newest = max((p.stat().st_mtime for p in (path / "journal").glob("*.json")), default=0.0)
            yield BlockInfo(
                spec=spec,
                path=path,
                shards=len(records),
                items=sum(r.items for r in records),
                rows=sum(r.rows for r in records),
                size=sum(r.size for r in records),
                newest=newest,
            )


def read_spec(place: Path) -> BlockSpec | None:
    """The spec of the block in a folder, or None where the folder is not a block.

    Raises:
        DamagedError: `block.json` is not what was written.
    """
    try:
        fields = json.loads((place / "block.json").read_text())
        key = fields.pop("key")
        spec = BlockSpec.from_dict(fields)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{place / 'block.json'}: damaged; delete this file and run the stage again") from None
    if spec.key != key:
        raise DamagedError(
            f"{place / 'block.json'}: its key does not fit its fields; delete it and run the stage again"
        )
    return spec


def _write_once(path: Path, text: str) -> None:
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
