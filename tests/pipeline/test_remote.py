"""`kuleshov cache push` and `pull`: between folders, to memory, cut short, and with a remote that lies."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cache import journal, shard
from cache.errors import MissingRowsError, SchemaError, StorePlaceError
from cache.keys import BlockSpec, item_key
from cache.lock import commit_lock
from cache.pack import Style
from cache.store import Store, describe
from pipeline import remote_files
from pipeline.remote import Moved, RemoteError, pull, push
from pipeline.remote_files import RemoteFiles, without_password
from stages.errors import SettingError

Run = Callable[..., tuple[int, str, str]]
SPEC = BlockSpec("net", "embedding", "face", (4,), 1, numerics={"dtype": "float16"})
OTHER = replace(SPEC, tap="pooled")
ROOT = Path(__file__).parent.parent.parent


def key(i: int) -> bytes:
    return item_key(f"{i:02x}")


def values(i: int) -> np.ndarray:
    return np.random.default_rng(i).normal(size=(i % 3, 4)).astype(np.float16)


def fill(store: Store, items: range, spec: BlockSpec = SPEC, style: Style | None = None) -> Store:
    """A shard per three items."""
    for start in range(items.start, items.stop, 3):
        with store.writer(spec, style or Style()) as writer:
            for i in range(start, min(start + 3, items.stop)):
                writer.add(key(i), values(i), status="ok" if i % 3 else "no_face", detail="" if i % 3 else f"item {i}")
    return store


def check(store: Store, items: range, spec: BlockSpec = SPEC) -> None:
    """These items are there with their own rows, each recorded once, and no other."""
    block = store.open(spec)
    assert {k.ljust(16, b"\0") for k in block.keys.tolist()} == {key(i) for i in items}
    for i in items:
        rows, status, detail = block.item(key(i))
        assert np.array_equal(rows, values(i))
        assert (status, detail) == (("ok", "") if i % 3 else ("no_face", f"item {i}"))
    assert sum(record.items for record in journal.read(store.place(spec) / "journal")) == len(items)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def shards(store: Store, spec: BlockSpec = SPEC) -> list[str]:
    return sorted(path.name for path in (store.place(spec) / "shards").iterdir())


def problems(moved: list[Moved]) -> list[str]:
    return [problem for one in moved for problem in one.problems]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Nine items in three shards, and another block."""
    return fill(fill(Store(tmp_path / "own"), range(9)), range(3), OTHER)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.fixture
def url(tmp_path: Path, store: Store) -> str:
    """A folder to which the store was pushed."""
    assert problems(list(push(store, str(tmp_path / "there")))) == []
    return str(tmp_path / "there")


def test_what_is_pushed_is_a_store_byte_by_byte(store: Store, url: str) -> None:
    assert tree(Path(url)) == tree(store.root)
    check(Store(Path(url)), range(9))
    check(Store(Path(url)), range(3), OTHER)


def test_a_pushed_folder_serves_as_a_shared_store(url: str, other: Store) -> None:
    block = Store(other.root, [Path(url)]).open(SPEC)
    assert np.array_equal(block.item(key(5))[0], values(5))
    with h5py.File(next((Path(url) / "blocks").glob("net-embedding-*/shards/*.h5"))) as file:
        assert set(file) == {"rows", "offsets", "item_keys", "item_status", "item_detail"}


def test_what_is_there_is_not_sent_again(store: Store, url: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(url).rglob("*") if path.is_file()}
    fill(store, range(9, 12))
    sent = {one.block: one for one in push(store, url)}
    assert (sent["net/embedding"].shards, sent["net/embedding"].skipped) == (1, 3)
    assert (sent["net/pooled"].shards, sent["net/pooled"].skipped) == (0, 1)
    after = {path: path.stat().st_mtime_ns for path in Path(url).rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    check(Store(Path(url)), range(12))


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_there_and_back(tmp_path: Path, store: Store, other: Store, scheme: str) -> None:
    place = f"{scheme}{tmp_path}/mit Leerzeichen [1] 感情/deep"
    assert problems(list(push(store, place))) == []
    got = list(pull(other, place))
    assert problems(got) == []
    assert sum(one.size for one in got) == sum(info.size for info in store.blocks())
    assert sum(one.items for one in got) == 12
    check(other, range(9))
    check(other, range(3), OTHER)
    assert shards(other) == shards(store)
    assert [one.skipped for one in pull(other, place)] == [3, 1]
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("style", [Style(), Style("gzip", (("licence", "MIT"),))], ids=["plain", "gzip"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_items_that_are_here_are_not_taken_twice(tmp_path: Path, other: Store, dtype: str, style: Style) -> None:
    spec = replace(SPEC, numerics={"dtype": dtype})
    store = fill(Store(tmp_path / "own"), range(9), spec, style)
    whole = {i: store.open(spec).item(key(i)) for i in range(9)}
    list(push(store, str(tmp_path / "there")))
    fill(other, range(2, 6), spec)
    own = set(shards(other, spec))  # item 2 of (0, 1, 2), all of (3, 4, 5), none of (6, 7, 8)
    [got] = pull(other, str(tmp_path / "there"))
    assert (got.shards, got.items, got.skipped, got.problems) == (2, 5, 1, [])
    block = other.open(spec)
    for i, (rows, status, detail) in whole.items():
        mine = block.item(key(i))
        assert mine[0].tobytes() == rows.tobytes()
        assert mine[1:] == (status, detail)
    assert sum(record.items for record in journal.read(other.place(spec) / "journal")) == 9
    came, made = (
        set(shards(other, spec)) & set(shards(store, spec)),
        set(shards(other, spec)) - own - set(shards(store, spec)),
    )
    assert (len(came), len(made)) == (1, 1)
    for name in (*came, *made):
        with h5py.File(other.place(spec) / "shards" / name) as file:
            assert file.attrs.get("licence") == dict(style.made_by).get("licence")
            assert getattr(file["rows"], "compression", None) == (style.compression if style.made_by else None)
    before = tree(other.root)
    [again] = pull(other, str(tmp_path / "there"))
    assert (again.shards, again.skipped) == (0, 3)
    assert tree(other.root) == before


def test_keys_that_end_in_zeros_are_told_apart(tmp_path: Path, other: Store) -> None:
    """numpy strips them where keys are taken out of an array one by one."""
    keys = [key(0)[:15] + b"\0", key(1)[:14] + b"\0\0", key(2)]
    there = Store(tmp_path / "there")
    with there.writer(SPEC) as writer:
        for i, one in enumerate(keys):
            writer.add(one, values(i + 1))
    with other.writer(SPEC) as writer:
        writer.add(keys[0], values(1))
    list(pull(other, str(there.root)))
    assert [info.items for info in other.blocks()] == [3]
    block = other.open(SPEC)
    for i, one in enumerate(keys):
        assert block.item(one)[0].tobytes() == there.open(SPEC).item(one)[0].tobytes(), i
    list(pull(other, str(there.root)))
    assert [info.items for info in other.blocks()] == [3]


def test_only_the_named_block_moves(store: Store, other: Store, tmp_path: Path, url: str) -> None:
    [sent] = push(store, str(tmp_path / "less"), ["net/pooled"])
    assert sent.block == "net/pooled"
    assert [info.spec for info in Store(tmp_path / "less").blocks()] == [OTHER]
    [got] = pull(other, url, [SPEC.key[:8]])
    assert got.key == SPEC.key
    assert [info.spec for info in other.blocks()] == [SPEC]
    with pytest.raises(MissingRowsError, match="no block 'net/nothing'"):
        list(push(store, url, ["net/nothing"]))
    with pytest.raises(MissingRowsError, match="no block 'net/nothing' at"):
        list(pull(other, url, ["net/nothing"]))


def test_a_dry_run_writes_nothing(store: Store, other: Store, tmp_path: Path, url: str) -> None:
    before = tree(tmp_path), sorted(tmp_path.rglob("*"))
    assert [one.shards for one in push(store, str(tmp_path / "new"), dry_run=True)] == [3, 1]
    assert [one.shards for one in push(store, url, dry_run=True)] == [0, 0]
    assert [one.shards for one in pull(other, url, dry_run=True)] == [3, 1]
    assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == before


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("scheme", ["file://", "memory://"])
def test_a_push_cut_short_at_any_step_leaves_a_store_and_is_ended_by_another(
    store: Store, other: Store, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{scheme}{tmp_path}/cut"
    fs = MemoryFileSystem if scheme == "memory://" else remote_files.LocalFileSystem
    calls = 0
    for step in range(100):
        count = iter(range(100))

        def cut(name: str, count: object = count, step: int = step) -> Callable[..., object]:
            real = getattr(fs, name)

            def run(*arguments: object, **options: object) -> object:
                if next(count) == step:  # type: ignore[call-overload]
                    raise Cut
                return real(*arguments, **options)

            return run

        with monkeypatch.context() as patch:
            for name in ("put_file", "pipe_file", "mv"):
                patch.setattr(fs, name, cut(name))
            try:
                list(push(store, url, ["net/embedding"]))
            except Cut:
                calls += 1
            else:
                break
        pulled = Store(tmp_path / f"pulled-{step}")
        if step >= (2 if scheme == "file://" else 1):  # store.json is there
            assert problems(list(pull(pulled, url))) == [], "what is recorded is whole"
    # of the nth attempt all but the last n calls were made by those before: each ends a little more
    assert calls > 3
    list(pull(other, url))
    check(other, range(9))
    assert not list(tmp_path.rglob("cut/**/*.tmp"))
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("step", ["fetch", "rename", "record"])
def test_a_pull_cut_short_at_any_step_records_nothing_half_and_is_ended_by_another(
    store: Store, other: Store, url: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(files: RemoteFiles, name: str, to: Path) -> None:
        to.write_bytes((Path(url) / name).read_bytes()[:100])
        raise Cut

    def refuse(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        if step == "fetch":
            patch.setattr(RemoteFiles, "fetch", half)
        elif step == "record":
            patch.setattr(journal, "append", refuse)
        else:
            patch.setattr(os, "replace", refuse)
        with pytest.raises(Cut):
            list(pull(other, url, ["net/embedding"]))
    for info in other.blocks():
        assert info.shards == 0
    assert not list(other.root.rglob("*.lock"))
    assert problems(list(pull(other, url))) == []
    check(other, range(9))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_first_push_that_was_killed_is_ended_by_another(store: Store, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / ".123-0a1b2c3d4e5f.tmp").write_text("")  # before store.json got its name
    assert problems(list(push(store, str(tmp_path / "there")))) == []
    check(Store(tmp_path / "there"), range(9))


def test_a_damaged_shard_does_not_leave_and_the_others_do(store: Store, tmp_path: Path) -> None:
    name = shards(store)[1]
    flip(store.place(SPEC) / "shards" / name)
    shard._checked.clear()
    [sent] = push(store, str(tmp_path / "there"), ["net/embedding"])
    assert sent.shards == 2
    assert len(sent.problems) == 1
    assert name in sent.problems[0]
    assert name not in shards(Store(tmp_path / "there"))


def test_a_shard_damaged_there_is_not_recorded_here_and_the_others_are(url: str, store: Store, other: Store) -> None:
    name = shards(store)[1]
    flip(Path(url) / "blocks" / store.place(SPEC).name / "shards" / name)
    [got] = pull(other, url, ["net/embedding"])
    assert got.shards == 2
    assert len(got.problems) == 1
    assert f"/shards/{name}: its bytes do not hash to" in got.problems[0]
    assert "nothing of it was recorded here" in got.problems[0]
    assert name not in shards(other)
    assert len(other.open(SPEC)) == 6
    assert not list(other.root.rglob("*.tmp"))


def test_a_push_mends_what_was_damaged_there(url: str, store: Store, other: Store) -> None:
    place = Path(url) / "blocks" / store.place(SPEC).name
    first, second, _ = sorted((place / "journal").iterdir())
    first.write_bytes(first.read_bytes()[:50])
    (place / "shards" / f"{second.stem}.h5").unlink()
    assert len(problems(list(pull(other, url)))) == 2
    assert [(one.shards, one.skipped) for one in push(store, url)] == [(2, 1), (0, 1)]
    assert tree(Path(url)) == tree(store.root)


def forge(url: str, name: str, content: bytes, **changed: object) -> None:
    """Put a shard and a record of it, whose check fits, into the first block of a pushed folder."""
    place = next((Path(url) / "blocks").glob("net-embedding-*"))
    fields = {"shard": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "items": 1, "rows": 1}
    record = journal.Record(**{**fields, **changed})  # type: ignore[arg-type]
    (place / "journal" / f"{Path(name).stem}.json").write_text(journal.encode(record))
    target = place / "shards" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (f"../../../{'a' * 24}.h5", {}),
        (f"sub/{'a' * 24}.h5", {}),
        ("mine.h5", {}),
        (f"{'a' * 24}.h5", {"sha256": "../x"}),
        (f"{'a' * 24}.h5", {"size": "12"}),
        (f"{'a' * 24}.h5", {"rows": -1}),
        (f"{'a' * 24}.h5", {"shard": f"{'b' * 24}.h5"}),
        (f"{'a' * 24}.h5", {"shard": None}),
    ],
)
def test_a_record_that_names_no_shard_is_left_out(
    url: str, other: Store, tmp_path: Path, name: str, changed: dict[str, object]
) -> None:
    forge(url, name, b"content", **changed)
    before = {place for place in tree(tmp_path) if not place.startswith("other/")}
    [got] = pull(other, url, ["net/embedding"])
    assert len(got.problems) == 1
    assert "its fields are not those of a shard" in got.problems[0]
    assert {place for place in tree(tmp_path) if not place.startswith("other/")} == before
    check(other, range(9))


def test_a_shard_of_another_size_or_not_there_is_left_out(url: str, other: Store) -> None:
    forge(url, f"{'a' * 24}.h5", b"content", size=8)
    assert "7 bytes, its record says 8" in problems(list(pull(other, url)))[0]
    next((Path(url) / "blocks").glob(f"*/shards/{'a' * 24}.h5")).unlink()
    assert "recorded, but not there" in problems(list(pull(other, url)))[0]
    check(other, range(9))


def hdf5(tmp_path: Path, **changed: object) -> bytes:
    """A well-formed shard of one item with one row, but for what is changed."""
    path = tmp_path / "forged.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"schema": changed.get("schema", 1), "key": changed.get("key", SPEC.key)})
        tables = {
            "rows": np.ones((1, 4), np.float16),
            "offsets": np.array([0, 1]),
            "item_keys": np.frombuffer(key(77), np.uint8).reshape(1, 16),
            "item_status": np.array([b"ok"], "S16"),
            "item_detail": np.frombuffer(b"{}", np.uint8),
        }
        for name, table in {**tables, **changed}.items():
            if isinstance(table, h5py.ExternalLink):
                file[name] = table
            elif isinstance(table, np.ndarray):
                file.create_dataset(name, data=table)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schema": 99}, "schema 99, this version reads up to"),
        ({"key": "f" * 64}, "a shard of another block"),
        ({"rows": np.ones((1, 5), np.float16)}, "its datasets do not fit"),
        ({"rows": np.ones((1, 4), np.float32)}, "its datasets do not fit"),
        ({"rows": np.ones((2, 4), np.float16)}, "its datasets do not fit"),
        ({"offsets": np.array([0, 2])}, "its datasets do not fit"),
        ({"offsets": np.array([-1, 1])}, "its datasets do not fit"),
        ({"offsets": np.array([0.0, 1.0])}, "its datasets do not fit"),
        ({"item_status": np.array([1])}, "its datasets do not fit"),
        ({"item_status": np.array([[b"ok"]], "S16")}, "its datasets do not fit"),
        ({"item_status": np.array([b"\xff"], "S16")}, "its datasets do not fit"),
        ({"item_status": np.array([b"\x1b[2J"], "S16")}, "its datasets do not fit"),
        ({"item_detail": np.frombuffer(b'{"0":5}', np.uint8)}, "its datasets do not fit"),
        ({"item_keys": np.zeros((1, 8), np.uint8)}, "be read as a shard"),
        ({"item_detail": np.frombuffer(b"[]", np.uint8)}, "be read as a shard"),
        ({"rows": None}, "its datasets do not fit"),
        ({"rows": h5py.ExternalLink("elsewhere.h5", "rows")}, "its datasets do not fit"),
    ],
)
def test_a_file_that_is_no_shard_of_the_block_is_left_out(
    url: str, other: Store, tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["rows"] = np.ones((1, 4), np.float16)
    forge(url, f"{'a' * 24}.h5", hdf5(tmp_path, **changed))
    [problem] = problems(list(pull(other, url)))
    assert said in problem
    assert "\n" not in problem
    check(other, range(9))


def test_offsets_that_go_back_are_left_out(url: str, other: Store, tmp_path: Path) -> None:
    tables = {
        "offsets": np.array([0, 5, 1]),
        "item_keys": np.frombuffer(key(77) + key(78), np.uint8).reshape(2, 16),
        "item_status": np.array([b"ok", b"ok"], "S16"),
    }
    forge(url, f"{'a' * 24}.h5", hdf5(tmp_path, **tables), items=2)
    assert "its datasets do not fit" in problems(list(pull(other, url)))[0]
    check(other, range(9))


def test_a_file_that_is_no_hdf5_is_left_out_and_the_forger_s_own_shard_is_well_formed(
    url: str, other: Store, tmp_path: Path
) -> None:
    forge(url, f"{'a' * 24}.h5", b"no HDF5")
    assert "cannot be read as a shard" in problems(list(pull(other, url)))[0]
    forge(url, f"{'a' * 24}.h5", hdf5(tmp_path))
    assert problems(list(pull(other, url))) == []
    assert other.open(SPEC).item(key(77))[0].tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (replace(SPEC, source="a\x1b[2Jb"), None),
        (replace(SPEC, shape=("4",)), None),  # type: ignore[arg-type]
        (replace(SPEC, numerics={"dtype": "nonsense"}), None),
        (replace(SPEC, numerics={"dtype": "O"}), None),
        (replace(SPEC, numerics={"dtype": "(x,)f4"}), None),
        (replace(SPEC, preprocessing={"\x1b[2J": 1}), None),
        (replace(SPEC, preprocessing={"sizes": [{"name": "\x9b2J"}]}), None),
        (replace(SPEC, weights={"net.pt": "\ud800"}), None),
        (replace(SPEC, extractor_version="1"), None),  # type: ignore[arg-type]
        (SPEC, describe(SPEC).replace('"tap": "embedding"', '"tap": "other"')),
        (SPEC, "{"),
        (SPEC, "[" * 100_000),
        (SPEC, describe(replace(SPEC, tap="long")) + " " * (2 << 20)),
    ],
)
def test_a_description_that_is_none_is_left_out_and_other_blocks_are_not(
    url: str, other: Store, spec: BlockSpec, text: str | None
) -> None:
    place = Path(url) / "blocks" / "forged"
    place.mkdir()
    (place / "block.json").write_text(describe(spec) if text is None else text)
    [problem] = problems(list(pull(other, url)))
    assert f"{url}/blocks/forged/block.json" in problem
    assert problem.isprintable()
    assert [info.spec for info in other.blocks()] == [SPEC, OTHER]
    assert problems(list(pull(other, url, ["net/embedding"]))) == [], "nobody asked for it"


def test_a_block_whose_name_climbs_stays_in_the_store(tmp_path: Path, other: Store) -> None:
    spec = replace(SPEC, source="../../up", tap="../x")
    list(push(fill(Store(tmp_path / "own"), range(3), spec), str(tmp_path / "there")))
    list(pull(other, str(tmp_path / "there")))
    check(other, range(3), spec)
    assert {path.name for path in tmp_path.iterdir()} == {"own", "there", "other"}
    assert len(list((other.root / "blocks").iterdir())) == 1


def test_another_block_in_its_place_there_is_left_alone(store: Store, url: str) -> None:
    path = Path(url) / "blocks" / store.place(SPEC).name / "block.json"
    path.write_text(describe(OTHER))
    fill(store, range(9, 12))
    before = tree(Path(url))
    [sent] = push(store, url, ["net/embedding"])
    assert (sent.shards, len(sent.problems)) == (0, 1)
    assert "is another block" in sent.problems[0]
    assert tree(Path(url)) == before


def test_another_shard_under_the_same_name_is_left_alone(store: Store, url: str, other: Store) -> None:
    list(pull(other, url))
    name = shards(store)[0]
    forge(url, name, b"other content")
    before = tree(Path(url))
    assert "records another shard as" in problems(list(push(store, url)))[0]
    assert tree(Path(url)) == before
    assert "differs from that of the same shard here" in problems(list(pull(other, url)))[0]
    check(other, range(9))


def test_a_store_of_a_newer_schema_there_is_refused(store: Store, other: Store, url: str) -> None:
    (Path(url) / "store.json").write_text('{"schema": 99}')
    for move in (push, pull):
        with pytest.raises(SchemaError, match="99"):
            list(move(store, url))


def test_places_that_cannot_be_meant_are_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("a photo")
    for move, place, said in (
        (push, str(tmp_path / "photos"), "is not empty and no store"),
        (pull, str(tmp_path / "photos"), "is no store"),
        (pull, str(tmp_path / "nothing"), "is no store"),
        (push, str(store.root), "lies in this store itself"),
        (push, str(store.root / "blocks"), "lies in this store itself"),
        (push, "nowhere://x/y", "use a folder, s3://"),
        (push, " ", "URL is empty"),
        (push, "s3:bucket/x", "s3:bucket/x is no URL; use s3://BUCKET/FOLDER"),
        (pull, "me@host:x", r"or for a folder \./me@host:x$"),
        (push, str(tmp_path / "photos" / "a.jpg"), r"a\.jpg is a file; name a folder"),
        (pull, str(tmp_path / "photos" / "a.jpg"), r"a\.jpg is a file; name a folder"),
    ):
        with pytest.raises(SettingError, match=said) as error:
            list(move(store, place))
        assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteError, match="cannot take"):
        list(push(store, str(tmp_path / "file" / "there")))


@pytest.mark.parametrize(
    ("url", "package"), [("s3://b/f", "s3fs"), ("ssh://h/f", "paramiko"), ("sftp://h/f", "paramiko")]
)
def test_a_missing_package_is_named(store: Store, url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    monkeypatch.delitem(sys.modules, "pipeline.remote_ssh", raising=False)
    with pytest.raises(SettingError, match=rf"{url}: it needs a package that is not here: pip install {package}$"):
        list(push(store, url))


def test_no_message_shows_a_password() -> None:
    assert without_password("ssh://me:se@cret@host:22/a b") == "ssh://me@host:22/a b"
    assert without_password("/a/b@c") == "/a/b@c"
    assert without_password("ssh://host/a@b") == "ssh://host/a@b"


def test_a_store_that_cannot_be_written_is_an_error_of_the_store(url: str, other: Store) -> None:
    (other.root / "blocks" / Path(next((Path(url) / "blocks").glob("net-embedding-*"))).name).write_text("a file")
    with pytest.raises(StorePlaceError):
        list(pull(other, url, ["net/embedding"]))


def test_two_pulls_and_a_writer_at_once_record_no_item_twice(url: str, other: Store) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom cache.store import Store\nfrom pipeline.remote import pull\n"
        "assert not [p for one in pull(Store(Path(sys.argv[1])), sys.argv[2]) for p in one.problems]\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(other.root), url], cwd=ROOT) for _ in range(2)]
    fill(other, range(1, 6))
    assert [process.wait() for process in started] == [0, 0]
    check(other, range(9))


def test_a_pull_records_nothing_while_a_writer_commits(url: str, other: Store) -> None:
    place = other.place(SPEC)
    place.mkdir()
    thread = threading.Thread(target=lambda: list(pull(other, url, ["net/embedding"])))
    with commit_lock(place / "commit.lock"):
        thread.start()
        time.sleep(0.5)
        assert journal.names(place / "journal") == []
    thread.join()
    check(other, range(9))


def test_the_commands_say_how_many_shards_and_bytes(
    store: Store, other: Store, tmp_path: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(info.size for info in store.blocks())
    monkeypatch.setenv("KULESHOV_STORE", str(store.root))
    there = tmp_path / "there"
    status, out, err = kuleshov("cache", "push", there, "--dry-run")
    assert (status, err, there.exists()) == (0, "", False)
    assert out.endswith(
        f"4 shards of 2 blocks would be sent, {size / 1000:.1f} kB ({size} bytes); 0 there already; 0 left out\n"
    )
    status, out, err = kuleshov("cache", "push", there)
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith(f"net/embedding {SPEC.key[:16]}: 3 shards sent (")
    assert out.endswith(f"({size} bytes); 0 there already; 0 left out\n")
    assert "0 shards of 2 blocks sent, 0 B (0 bytes); 4 there already" in kuleshov("cache", "push", there)[1]
    monkeypatch.setenv("KULESHOV_STORE", str(other.root))
    flip(there / "blocks" / store.place(SPEC).name / "shards" / shards(store)[0])
    status, out, err = kuleshov("cache", "pull", there)
    assert status == 1
    assert len(err.splitlines()) == 1
    assert err.startswith(f"left out: {there}/blocks/")
    assert "3 shards of 2 blocks received, " in out
    assert out.endswith("; 0 here already; 1 left out\n")
    status, out, err = kuleshov("cache", "pull", there, "--block", "nobody")
    assert (status, out, len(err.splitlines())) == (1, "", 1)


def test_the_package_list_of_the_extras_is_that_of_the_messages() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for protocol, package in remote_files.PACKAGES.items():
        extra = "s3" if protocol.startswith("s3") else "ssh"
        assert extras[extra].strip().startswith(package)


@pytest.mark.parametrize("content", [b"[1]", b"{}", b'{"check": 1}', b"[" * 100_000, b"\xff", b'{"check": ""}'])
def test_content_that_is_no_record_is_left_out(url: str, other: Store, content: bytes) -> None:
    (next((Path(url) / "blocks").glob("net-embedding-*")) / "journal" / f"{'a' * 24}.json").write_bytes(content)
    [problem] = problems(list(pull(other, url)))
    assert f"{'a' * 24}.json: damaged journal record" in problem
    check(other, range(9))
