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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache import journal
from cache import notes as notes_of_block
from cache.block import Block
from cache.errors import DamagedError, SchemaError, StorePlaceError
from cache.keys import BlockSpec, canonical_json
from cache.pack import PLAIN_STYLE, Style
from cache.shard import SCHEMA
from cache.writer import BlockWriter


@dataclass(frozen=True)
class BlockInfo:
    """A line of `kuleshov cache ls`: sizes in bytes, `newest` as seconds since the epoch (0 when empty).

    `shared` says that it lies in a store under the user's own, which is only read.
    """

    spec: BlockSpec
    path: Path
    shards: int
    items: int
    rows: int
    size: int
    newest: float
    shared: bool = False


class Store:
    """A folder of blocks, laid over others that are only read.

    Args:
        root: where new rows go; made when it is not there.
        shared: stores of a group or a machine. What they hold is not computed again; nothing in them is changed. One
            that is `root` itself, or stands there twice, counts once.

    Raises:
        StorePlaceError: the folder cannot be made or read, or a shared store is not there.
        SchemaError: a newer version of Kuleshov wrote a store.
    """

    def __init__(self, root: Path, shared: Sequence[Path] = ()) -> None:
        self.root = root
        places = {place.resolve(): place for place in reversed(shared) if place.resolve() != root.resolve()}
        self.shared = tuple(reversed(places.values()))
        try:
            (root / "blocks").mkdir(parents=True, exist_ok=True)
            if not (root / "store.json").exists():
                _write_once(root / "store.json", store_text())
            _check(root)
        except OSError as error:
            raise StorePlaceError(
                f"{root}: the feature store cannot be used ({error.strerror}); mend it, or set KULESHOV_STORE"
            ) from None
        for place in self.shared:
            try:
                _check(place)
            except OSError as error:
                raise StorePlaceError(
                    f"{place / 'store.json'}: no shared feature store ({error.strerror}); mend it, or set "
                    "KULESHOV_STORE_SHARED"
                ) from None

    def place(self, spec: BlockSpec) -> Path:
        """The folder of a block: a name for people and the start of its key."""
        return self.root / _folder(spec)

    def places(self, spec: BlockSpec) -> list[Path]:
        """The folders that a block has, or would have: here, and in each shared store."""
        folder = _folder(spec)
        return [root / folder for root in (self.root, *self.shared)]

    def open(self, spec: BlockSpec) -> Block:
        """A block as it is recorded now, here and in the shared stores. A block that nobody wrote is empty."""
        own, *shared = self.places(spec)
        return Block(own, spec, shared)

    def note(self, spec: BlockSpec, name: str) -> bytes | None:
        """As `Block.note`, without opening the block's shards."""
        return notes_of_block.read(self.places(spec), name)

    def writer(
        self,
        spec: BlockSpec,
        style: Style = PLAIN_STYLE,
        *,
        notes: Mapping[str, bytes] | None = None,
        **limits: float,
    ) -> BlockWriter:
        """A writer of new items; `limits` are `flush_rows`, `flush_bytes`, `flush_seconds`.

        Args:
            notes: name -> bytes of small files that say something of the whole block (see `cache.notes`). They are
                there before the first row is; one that this store has is left as it is.

        Raises:
            StorePlaceError: the store may not be written.
        """
        place = self.place(spec)
        try:
            place.mkdir(parents=True, exist_ok=True)
            _write_once(place / "block.json", describe(spec))
            notes_of_block.write(place, notes or {})
        except OSError as error:
            raise StorePlaceError(
                f"{place}: cannot be written ({error.strerror}); mend it, or set KULESHOV_STORE"
            ) from None
        return BlockWriter(place, spec, style=style, **limits)

    def blocks(self, *, shared: bool = False, damaged: list[DamagedError] | None = None) -> Iterator[BlockInfo]:
        """Every block in the store, by name.

        Args:
            shared: also those of the shared stores, after them.
            damaged: takes the errors of blocks whose description or journal is damaged, which are left out.

        Raises:
            DamagedError: of the first such block, without a list for them.
        """
        for root in (self.root, *(self.shared if shared else ())):
            if root != self.root and not (root / "blocks").is_dir():
                continue  # nothing was pushed to it yet
            for path in sorted((root / "blocks").iterdir()):
                try:
                    info = _info(path, shared=root != self.root)
                except DamagedError as error:
                    if damaged is None:
                        raise
                    damaged.append(error)
                else:
                    if info is not None:
                        yield info


def _folder(spec: BlockSpec) -> Path:
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{spec.source}-{spec.tap}-{spec.level}")
    return Path("blocks") / f"{safe}-{spec.key[:16]}"


def _info(path: Path, *, shared: bool) -> BlockInfo | None:
    """What is recorded of the block in a folder; None where the folder is not a block."""
    spec = read_spec(path)
    if spec is None:
        return None
    records = journal.read(path / "journal")
    newest = max((p.stat().st_mtime for p in (path / "journal").glob("*.json")), default=0.0)
    return BlockInfo(
        spec=spec,
        path=path,
        shards=len(records),
        items=sum(r.items for r in records),
        rows=sum(r.rows for r in records),
        size=sum(r.size for r in records),
        newest=newest,
        shared=shared,
    )


def read_spec(place: Path) -> BlockSpec | None:
    """The spec of the block in a folder, or None where the folder is not a block.

    Raises:
        DamagedError: `block.json` is not what was written.
        StorePlaceError: it cannot be read.
    """
    try:
        content = (place / "block.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorePlaceError(f"{place / 'block.json'}: cannot be read ({error.strerror}); mend it") from None
    return parse_spec(content, place / "block.json")


def describe(spec: BlockSpec) -> str:
    """The text of a block's `block.json`."""
    return json.dumps({"key": spec.key, **spec.as_dict()}, indent=1, sort_keys=True) + "\n"


def parse_spec(content: bytes, place: Path | str) -> BlockSpec:
    """The spec in the content of a `block.json`; `place` is what an error names.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        fields = json.loads(content)
        key = fields.pop("key")
        spec = BlockSpec.from_dict(fields)
        fits = spec.key == key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{place}: damaged; delete this file and run the stage again") from None
    if not fits:
        raise DamagedError(f"{place}: its key does not fit its fields; delete it and run the stage again")
    return spec


def check_schema(content: bytes, place: Path | str) -> None:
    """Refuse the content of a `store.json` that this version does not read; `place` is what an error names.

    Raises:
        DamagedError: it is not a store's description.
        SchemaError: a newer version of Kuleshov wrote the store.
    """
    try:
        schema = int(json.loads(content)["schema"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError(f"{place}: not readable as a store's description; restore or delete this file") from None
    if schema > SCHEMA:
        raise SchemaError(f"{place}: schema {schema}, this version reads up to {SCHEMA}; upgrade kuleshov")


def _check(root: Path) -> None:
    check_schema((root / "store.json").read_bytes(), root / "store.json")


def store_text() -> str:
    """The text of `store.json`."""
    return canonical_json({"schema": SCHEMA}) + "\n"


def _write_once(path: Path, text: str) -> None:
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
