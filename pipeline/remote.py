"""`kuleshov cache push` and `pull`: shards of a block to and from a store in another place.

The other place is a store of the same layout. What its journal has recorded is there; a block's notes go before its
shards, and a shard before its record, so a transfer that was cut short is ended by running it again. What comes from
there is checked before it is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from cache import dtypes, journal, notes
from cache.adopt import Adopter
from cache.collect import SHARD_NAME
from cache.errors import DamagedError, MissingRowsError, SchemaError
from cache.keys import BlockSpec
from cache.shard import check_bytes
from cache.store import BlockInfo, Store, check_schema, describe, parse_spec, store_text
from cache.why import names_block, select
from pipeline.remote_files import RemoteError, RemoteFiles
from stages.errors import SettingError

__all__ = ["Moved", "RemoteError", "pull", "push"]

_SMALL = 1 << 20  # bytes of the largest block.json or journal record that is read
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DTYPE = re.compile(r"(bfloat|float|u?int)\d{1,3}")  # numpy reads other texts as expressions


@dataclass
class Moved:
    """What became of one block.

    Attributes:
        block: its name for people; where its description cannot be read, its folder.
        key: of the block, or empty.
        shards, size, items: how many were moved (with a dry run: would be), their bytes, and the items taken in.
        skipped: shards that were there already, or of which every item was.
        notes: how many of the block's notes were moved (or would be).
        problems: one line each; what they name was left out.
    """

    block: str
    key: str = ""
    shards: int = 0
    size: int = 0
    items: int = 0
    skipped: int = 0
    notes: int = 0
    problems: list[str] = field(default_factory=list)


def push(store: Store, url: str, names: Sequence[str] = (), *, dry_run: bool = False) -> Iterator[Moved]:
    """Send the blocks that `names` mean (all without a name) to the store at `url`, one after another.

    A shard is compared with the journal's hash before it leaves. Nothing is deleted or replaced there.

    Raises:
        MissingRowsError: a name means no block.
        SettingError: the URL cannot be used, its package is missing, or it is a folder of something else.
        SchemaError: the store there is of a newer schema.
        RemoteError: the place cannot be reached or written; what was recorded there stays.
    """
    chosen = select(store, names)
    remote = RemoteFiles(url)
    _refuse_itself(remote, store)
    found = remote.names()
    if "store.json" in found:
        check_schema(remote.read("store.json"), f"{remote.shown}/store.json")
    elif any(not (name.startswith(".") and name.endswith(".tmp")) for name in found):  # those a killed push left
        raise SettingError(f"{remote.shown} is not empty and no store (no store.json); name an empty or new folder")
    elif not dry_run:
        remote.write("store.json", store_text().encode())
    for info in chosen:
        yield _push_block(remote, info, store, dry_run)


def pull(store: Store, url: str, names: Sequence[str] = (), *, dry_run: bool = False) -> Iterator[Moved]:
    """Fetch the blocks that `names` mean (all without a name) from the store at `url`, one after another.

    Items that the block here has are not taken twice. A record or shard that is not what was written is a problem of
    its block; the others go on.

    Raises:
        MissingRowsError: a name means no block there.
        SettingError: the URL cannot be used, its package is missing, or no store is there.
        SchemaError: the store there is of a newer schema.
        StorePlaceError: this store cannot be written; what was recorded stays.
        RemoteError: the place cannot be reached or read; what was recorded stays.
    """
    remote = RemoteFiles(url)
    _refuse_itself(remote, store)
    if "store.json" not in remote.names():
        raise SettingError(f"{remote.shown} is no store (no store.json); kuleshov cache push makes one")
    check_schema(remote.read("store.json"), f"{remote.shown}/store.json")
    blocks, broken = _blocks(remote)
    for name in names:
        if name not in broken and not any(names_block(name, spec, folder) for folder, spec in blocks.items()):
            raise MissingRowsError(
                f"no block {name!r} at {remote.shown}; without --block, --dry-run lists what is there"
            )
    for folder, problem in broken.items():
        if not names or folder in names:
            yield Moved(folder, problems=[problem])
    for folder, spec in blocks.items():
        if not names or any(names_block(name, spec, folder) for name in names):
            yield _pull_block(remote, folder, spec, store, dry_run)


def _refuse_itself(remote: RemoteFiles, store: Store) -> None:
    if remote.local is None:
        return
    if remote.local.exists() and not remote.local.is_dir():
        raise SettingError(f"{remote.shown} is a file; name a folder")
    if remote.local.resolve().is_relative_to(store.root.resolve()):
        raise SettingError(f"{remote.shown} lies in this store itself; name another place")


def _push_block(remote: RemoteFiles, info: BlockInfo, store: Store, dry_run: bool) -> Moved:
    moved = Moved(info.spec.name, info.spec.key)
    folder = f"blocks/{info.path.name}"
    try:
        if (there := _description(remote, folder)) is not None:
            if there.key != info.spec.key:
                raise DamagedError(f"{remote.shown}/{folder} is another block, {there.key[:16]}; move it away")
        elif not dry_run:
            remote.write(f"{folder}/block.json", describe(info.spec).encode())
    except DamagedError as error:
        moved.problems.append(str(error))
        return moved
    _push_notes(remote, folder, store.places(info.spec), moved, dry_run)
    recorded, _ = _records(remote, folder)  # a damaged record is sent again
    sizes = remote.names(f"{folder}/shards")
    for record in journal.read(info.path / "journal"):
        twin = recorded.get(record.shard)
        if twin == record and sizes.get(record.shard) == record.size:
            moved.skipped += 1
        elif twin not in (None, record):
            moved.problems.append(
                f"{remote.shown}/{folder}/journal: records another shard as {record.shard}; it was left as it is"
            )
        else:
            _push_shard(remote, folder, info, record, moved, dry_run)
    return moved


def _push_notes(remote: RemoteFiles, folder: str, places: Sequence[Path], moved: Moved, dry_run: bool) -> None:
    """Send the notes that the block there does not have, which may be an older push's."""
    there = remote.names(folder)
    for name in notes.names(places):
        if name not in there and (content := notes.read(places, name)) is not None:
            if not dry_run:
                remote.write(f"{folder}/{name}", content)
            moved.notes += 1


def _push_shard(
    remote: RemoteFiles, folder: str, info: BlockInfo, record: journal.Record, moved: Moved, dry_run: bool
) -> None:
    path = info.path / "shards" / record.shard
    if not dry_run:
        try:
            check_bytes(path, record.sha256)
        except DamagedError as error:
            moved.problems.append(str(error))
            return
        remote.send(path, f"{folder}/shards/{record.shard}")
        remote.write(f"{folder}/journal/{path.stem}.json", journal.encode(record).encode())
    moved.shards += 1
    moved.size += record.size
    moved.items += record.items


def _pull_block(remote: RemoteFiles, folder: str, spec: BlockSpec, store: Store, dry_run: bool) -> Moved:
    folder = f"blocks/{folder}"
    records, problems = _records(remote, folder)
    moved = Moved(spec.name, spec.key, problems=problems)
    own = {record.shard: record for record in journal.read(store.place(spec) / "journal")}
    sizes = remote.names(f"{folder}/shards")
    missing: list[journal.Record] = []
    for record in records.values():
        place = f"{remote.shown}/{folder}/shards/{record.shard}"
        if record.shard in own:
            moved.skipped += 1
            if own[record.shard].sha256 != record.sha256:
                problems.append(f"{place}: its record differs from that of the same shard here; it was left out")
        elif record.shard not in sizes:
            problems.append(f"{place}: recorded, but not there; push it again from where it is")
        elif sizes[record.shard] != record.size:
            problems.append(f"{place}: {sizes[record.shard]} bytes, its record says {record.size}; it was left out")
        else:
            missing.append(record)
    _pull_notes(remote, folder, spec, store, moved, dry_run)
    if missing and dry_run:
        moved.shards, moved.size = len(missing), sum(record.size for record in missing)
        moved.items = sum(record.items for record in missing)
    elif missing:
        with Adopter(store, spec) as adopter:
            for record in missing:
                _pull_shard(remote, folder, record, adopter, moved, look=bool(own))
    return moved


def _pull_notes(remote: RemoteFiles, folder: str, spec: BlockSpec, store: Store, moved: Moved, dry_run: bool) -> None:
    """Fetch the notes that the block here does not have, before its rows, and also where all of them are here."""
    own = notes.names([store.place(spec)])
    for name, size in sorted(remote.names(folder).items()):
        if not notes.is_note(name) or name in own:
            continue
        if size is None or size > notes.LIMIT:
            moved.problems.append(f"{remote.shown}/{folder}/{name}: too large for a note; it was left out")
            continue
        try:
            if not dry_run:
                store.writer(spec, notes={name: remote.read(f"{folder}/{name}")})
            moved.notes += 1
        except FileNotFoundError:
            moved.problems.append(f"{remote.shown}/{folder}/{name}: it went away meanwhile; run it again")


def _pull_shard(
    remote: RemoteFiles, folder: str, record: journal.Record, adopter: Adopter, moved: Moved, *, look: bool
) -> None:
    name = f"{folder}/shards/{record.shard}"
    if look and (keys := _item_keys(remote, name)) and adopter.here(keys):
        moved.skipped += 1
        return
    file = adopter.temporary()
    try:
        remote.fetch(name, file)
        taken = adopter.take(file, record)
    except FileNotFoundError:
        moved.problems.append(f"{remote.shown}/{name}: it went away meanwhile; run it again")
    except (DamagedError, SchemaError) as error:
        moved.problems.append(f"{remote.shown}/{folder}/shards/{error}; nothing of it was recorded here")
    else:
        moved.shards += 1
        moved.size += record.size
        moved.items += taken
    finally:
        file.unlink(missing_ok=True)


def _item_keys(remote: RemoteFiles, name: str) -> set[bytes]:
    """The items of a shard there, without fetching its rows; none where they cannot be read.

    They are not checked against the hash: a wrong key is no key of an item here, and then the shard is fetched.
    """
    try:
        with remote.opened(name) as handle, h5py.File(handle, "r") as file:
            return {key.tobytes() for key in np.asarray(file["item_keys"])}
    except (RemoteError, OSError, KeyError, ValueError, TypeError, RuntimeError):
        return set()


def _blocks(remote: RemoteFiles) -> tuple[dict[str, BlockSpec], dict[str, str]]:
    """Folder -> spec of the blocks there, and folder -> what is wrong with its description."""
    blocks: dict[str, BlockSpec] = {}
    broken: dict[str, str] = {}
    for folder in sorted(remote.names("blocks")):
        try:
            spec = _description(remote, f"blocks/{folder}")
        except DamagedError as error:
            broken[folder] = str(error)
        else:
            if spec is not None:
                blocks[folder] = spec
    return blocks, broken


def _description(remote: RemoteFiles, folder: str) -> BlockSpec | None:
    """The spec of the block in a folder there, or None where none is.

    Raises:
        DamagedError: it is not what a store writes.
    """
    place = f"{remote.shown}/{folder}/block.json"
    try:
        size = remote.names(folder).get("block.json", 0)
        if size is None or size > _SMALL:
            raise DamagedError(f"{place}: too large for a block's description; it was left out")
        spec = parse_spec(remote.read(f"{folder}/block.json"), place)
    except FileNotFoundError:
        return None
    if not _sane(spec):
        raise DamagedError(f"{place}: describes no block that this version reads; it was left out")
    return spec


def _sane(spec: BlockSpec) -> bool:
    """Whether its fields are of their types, so that nothing read from it surprises a reader or a terminal."""
    words = (spec.source, spec.tap)
    mappings = (spec.weights, spec.preprocessing, spec.inputs, spec.numerics)
    if not all(isinstance(one, dict) for one in mappings) or not _DTYPE.fullmatch(dtypes.name(spec)):
        return False
    try:
        dtypes.stored(spec)
    except TypeError:
        return False
    return (
        all(isinstance(word, str) and word.isprintable() and 0 < len(word) <= 100 for word in words)
        and all(type(length) is int and length >= 0 for length in spec.shape)
        and type(spec.extractor_version) is int
        and all(text.isprintable() for text in _texts(mappings))
    )


def _texts(values: Sequence[object]) -> Iterator[str]:
    """Every text in JSON values, names too."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def _records(remote: RemoteFiles, folder: str) -> tuple[dict[str, journal.Record], list[str]]:
    """Shard -> its record in the journal of a block there, and a line for each record that is not as written."""
    folder = f"{folder}/journal"
    found = {n: size for n, size in sorted(remote.names(folder).items()) if n.endswith(".json") and n[0] != "."}
    problems = [f"{remote.shown}/{folder}/{n}: too large for a record" for n, s in found.items() if (s or 0) > _SMALL]
    names = [name for name, size in found.items() if (size or 0) <= _SMALL]
    records: dict[str, journal.Record] = {}
    for name, content in zip(names, remote.read_many([f"{folder}/{name}" for name in names]), strict=True):
        try:
            record = journal.decode(content)
            if not _sound(record, name):
                raise ValueError("its fields are not those of a shard")
            records[record.shard] = record
        except ValueError as error:
            problems.append(f"{remote.shown}/{folder}/{name}: damaged journal record ({error}); its shard was left out")
    return records, problems


def _sound(record: journal.Record, name: str) -> bool:
    """Whether a record from another place names a shard as stores name them, and nothing else."""
    counts = (record.size, record.items, record.rows)
    return (
        isinstance(record.shard, str)
        and len(record.shard) <= 100
        and SHARD_NAME.fullmatch(record.shard) is not None
        and name == f"{record.shard.removesuffix('.h5')}.json"
        and isinstance(record.sha256, str)
        and _SHA256.fullmatch(record.sha256) is not None
        and all(type(count) is int and count >= 0 for count in counts)
    )
